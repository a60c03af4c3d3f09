/** What attention and model in jax-js share. */
import { numpy as np } from "@jax-js/jax";

/** Numbers as an array of that shape. */
export function array(data: Float32Array | Int32Array, shape: readonly number[]): np.Array {
  return np.array(data as Float32Array<ArrayBuffer>).reshape([...shape]);
}

/** The numbers of arrays, which are freed. */
export function read(arrays: np.Array[]): Promise<Float32Array[]> {
  return Promise.all(arrays.map(async (x) => await x.data() as Float32Array));
}

/** M_ij = e^(−slope · (i−j)) for i ≥ j, else 0; slopes [.., 1, 1] → [.., n, n]. */
export function decayMask(slopes: np.Array, n: number): np.Array {
  const at = np.arange(n).astype(np.float32);
  const distance = at.ref.reshape([n, 1]).sub(at.reshape([1, n]));
  const weight = np.exp(np.maximum(distance.ref, 0).mul(slopes).neg());
  return np.where(distance.greaterEqual(0), weight, 0);
}

/**
 * Large tensors of random numbers that repeat after a million: to draw a billion on the host would take longer
 * than what is measured, and zeros would be no load.
 */
import { type Device, randn, type Tensor, tidy } from "../../mod.ts";
import { sizeOf } from "../../src/shape.ts";

const PERIOD = 2 ** 20;

/** Normal numbers of standard deviation `std`. */
export function noise(
  shape: readonly number[],
  { seed, std = 1, dtype = "f32", device }: {
    seed: number;
    std?: number;
    dtype?: "f32" | "f16";
    device: Device;
  },
): Tensor {
  return tidy(() => {
    const size = sizeOf(shape);
    if (size <= PERIOD) return randn(shape, { seed, dtype, device }).mul(std);
    const times = Math.ceil(size / PERIOD);
    const one = randn([1, PERIOD], { seed, dtype, device }).mul(std);
    return one.expand([times, PERIOD]).reshape([-1]).slice([0, size]).reshape(shape);
  });
}

/**
 * Gradient clipping.
 *
 * @module
 */
import { noGrad } from "../autograd.ts";
import { LevinError } from "../errors.ts";
import { tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";

/**
 * Scales the gradients of all parameters so that their global norm, √Σ g² over all of them, is at most
 * `maxNorm`. Nothing is read back: the scale stays on the device.
 *
 * @returns The norm before, a float32 scalar.
 * @throws {LevinError} if no parameter has a gradient.
 */
export function clipGradNorm(
  parameters: Readonly<Record<string, Tensor>>,
  maxNorm: number,
): Tensor {
  const withGrad = Object.values(parameters).filter((p) => p.grad !== null);
  if (withGrad.length === 0) throw new LevinError("clipGradNorm: no parameter has a gradient");
  return tidy(() =>
    noGrad(() => {
      const squares = withGrad.map((p) => p.grad!.to("f32").square().sum());
      const norm = squares.reduce((a, b) => a.add(b)).sqrt();
      const factor = norm.add(1e-6).reciprocal().mul(maxNorm).minimum(1);
      for (const p of withGrad) p.grad = p.grad!.mul(factor.to(p.dtype));
      return norm;
    })
  );
}

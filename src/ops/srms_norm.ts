/**
 * SRMSNorm, the simple root-mean-square norm of TransNormerLLM (arXiv 2307.14995), over the last axis:
 *
 *     y = x · r, r = 1 / √(mean x² + ε)        dx = r · (g − y · mean(g · y))
 *
 * Saves x; the gradient is one fused pass, itself an operation with a gradient.
 *
 * @module
 */
import type { CpuView, Dispatch, GpuContext, View } from "../backend/contract.ts";
import { isFloat } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { grad } from "../grad.ts";
import { defineOp } from "../operation.ts";
import { sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import shader from "../../shaders/srms_norm.wgsl" with { type: "text" };
import { floatBits } from "../backend/contract.ts";
import { grid } from "./pointwise_program.ts";
import { rowsJob } from "./rows.ts";

interface NormOptions {
  readonly epsilon: number;
}

/** x → y. */
const normOp = defineOp<NormOptions>({
  name: "srmsNorm",
  output: ([{ shape, dtype }]) => ({ shape, dtype }),
  cpu: ([x], [y], { epsilon }) => {
    forEachRow(x, (start, length) => {
      const r = inverseRms(x, start, length, epsilon);
      for (let i = start; i < start + length; i++) y.data[i] = x.data[i] * r;
    });
  },
  wasm: ([x], [y], { epsilon }) =>
    rowsJob("srmsNorm", x.shape, [x, y], { before: [floatBits(epsilon)] }),
  gpu: ([x], [y], { epsilon }, context) => plan(x, x, y, epsilon, false, context),
  cuts: ([x]) => x.shape.slice(0, -1).map((_, axis) => [axis, axis]),
  saves: { inputs: [0] },
  backward: [({ grads: [g], inputs: [x], options }) => gradientOp(g, x, options)],
});

/** g, x → dx. */
const gradientOp = defineOp<NormOptions>({
  name: "srmsNormGradient",
  output: ([{ shape, dtype }]) => ({ shape, dtype }),
  cpu: ([g, x], [dx], { epsilon }) => {
    forEachRow(x, (start, length) => {
      const r = inverseRms(x, start, length, epsilon);
      let product = 0;
      for (let i = start; i < start + length; i++) product += g.data[i] * x.data[i];
      const pull = r * r * product / length;
      for (let i = start; i < start + length; i++) dx.data[i] = r * (g.data[i] - x.data[i] * pull);
    });
  },
  wasm: ([g, x], [dx], { epsilon }) =>
    rowsJob("srmsNormGradient", x.shape, [g, x, dx], { before: [floatBits(epsilon)] }),
  gpu: ([g, x], [dx], { epsilon }, context) => plan(g, x, dx, epsilon, true, context),
  cuts: ([g]) => g.shape.slice(0, -1).map((_, axis) => [axis, axis, axis]),
  // The same in single operations, for the gradient of the gradient.
  backward: ({ grads: [u], inputs: [g, x], options: { epsilon } }) =>
    grad(([g, x]: Tensor[]) => {
      const r = x.square().mean(-1, { keepDims: true }).add(epsilon).rsqrt();
      const y = x.mul(r);
      const dx = g.sub(y.mul(g.mul(y).mean(-1, { keepDims: true }))).mul(r);
      return dx.mul(u).sum();
    })([g, x]),
});

/**
 * x / √(mean x² + ε) over the last axis.
 *
 * @throws {ShapeError} if `x` has no axis.
 * @throws {DTypeError} if its dtype is not floating.
 */
export function srmsNorm(x: Tensor, epsilon = 1e-6): Tensor {
  if (x.rank === 0) throw new ShapeError("srmsNorm: expected at least one axis, found a scalar");
  if (!isFloat(x.dtype)) throw new DTypeError(`srmsNorm: expected f32 or f16, found ${x.dtype}`);
  return normOp(x, { epsilon });
}

function inverseRms({ data }: CpuView, start: number, length: number, epsilon: number): number {
  let sum = 0;
  for (let i = start; i < start + length; i++) sum += data[i] * data[i];
  return 1 / Math.sqrt(sum / length + epsilon);
}

function forEachRow(
  { data, shape }: CpuView,
  visit: (start: number, length: number) => void,
): void {
  const length = shape.at(-1)!;
  for (let start = 0; start < data.length; start += length) visit(start, length);
}

function plan(
  g: View,
  x: View,
  out: View,
  epsilon: number,
  gradient: boolean,
  context: GpuContext,
): Dispatch {
  const length = x.shape.at(-1)!;
  const rows = sizeOf(x.shape) / length;
  return {
    shader,
    constants: { Stored: x.dtype, GRADIENT: gradient },
    bindings: [x, g, out],
    params: [rows, length, x.offset, g.offset, out.offset, floatBits(epsilon)],
    workgroups: grid(rows, context),
  };
}

/**
 * SRMSNorm, the simple root-mean-square norm of TransNormerLLM (arXiv 2307.14995), over the last axis:
 *
 *     y = x · r, r = 1 / √(mean x² + ε)        dx = r · (g − y · mean(g · y))
 *
 * Saves x; the gradient is one fused pass, itself an operation with a gradient. Where x goes past the norm as well, as
 * in x + f(norm(x)), that pass adds the other gradient, b.
 *
 * @module
 */
import {
  addressOf,
  type CpuView,
  type Dispatch,
  floatBits,
  type GpuContext,
  type View,
} from "../backend/contract.ts";
import { isFloat, type KernelArray } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { grad } from "../grad.ts";
import { defineOp } from "../operation.ts";
import { format, sameShape, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import text from "../../shaders/srms_norm.wgsl" with { type: "text" };
import { grid } from "./pointwise_program.ts";
import { rowsJob, walkRows, withRows } from "./rows.ts";

const shader = withRows(text);

interface NormOptions {
  readonly epsilon: number;
}

/** x → y. */
const normOp = defineOp<NormOptions>({
  name: "srmsNorm",
  output: ([{ shape, dtype }]) => ({ shape, dtype }),
  cpu: ([x], [y], { epsilon }) => {
    forEachRow(x, (start, length) => {
      const r = inverseRms(x.data, start, length, epsilon);
      for (let i = start; i < start + length; i++) y.data[i] = x.data[i] * r;
    });
  },
  wasm: ([x], [y], { epsilon }) =>
    rowsJob("srmsNorm", x.shape, [x, y], { before: [floatBits(epsilon)] }),
  gpu: ([x], [y], { epsilon }, context) => plan([x, x], y, epsilon, false, context),
  cuts: ([x]) => x.shape.slice(0, -1).map((_, axis) => [axis, axis]),
  saves: { inputs: [0] },
  adds: [0],
  backward: ({ grads: [g], inputs: [x], before: [b], options }) => [
    b === undefined ? gradientOp(g, x, options) : gradientOp(g, x, b, options),
  ],
});

/** g, x and, if there is one, b → dx, or b + dx. */
const gradientOp = defineOp<NormOptions>({
  name: "srmsNormGradient",
  output: ([{ shape, dtype }]) => ({ shape, dtype }),
  cpu: ([g, x, b], [dx], { epsilon }) => {
    forEachRow(x, (start, length) => {
      const r = inverseRms(x.data, start, length, epsilon);
      let product = 0;
      for (let i = start; i < start + length; i++) product += g.data[i] * x.data[i];
      const pull = r * r * product / length;
      for (let i = start; i < start + length; i++) {
        dx.data[i] = r * (g.data[i] - x.data[i] * pull) + (b === undefined ? 0 : b.data[i]);
      }
    });
  },
  wasm: ([g, x, b], [dx], { epsilon }) =>
    rowsJob("srmsNormGradient", x.shape, [g, x, dx], {
      before: [floatBits(epsilon)],
      after: [b === undefined ? 0 : addressOf(b)],
    }),
  gpu: (inputs, [dx], { epsilon }, context) => plan(inputs, dx, epsilon, true, context),
  cuts: (inputs) =>
    inputs[0].shape.slice(0, -1).map((_, axis) => [...inputs.map(() => axis), axis]),
  // The same in single operations, for the gradient of the gradient.
  saves: { inputs: [0, 1] },
  backward: ({ grads: [u], inputs: [g, x], options: { epsilon } }) => [
    ...grad(([g, x]: Tensor[]) => {
      const r = x.square().mean(-1, { keepDims: true }).add(epsilon).rsqrt();
      const y = x.mul(r);
      const dx = g.sub(y.mul(g.mul(y).mean(-1, { keepDims: true }))).mul(r);
      return dx.mul(u).sum();
    })([g, x]),
    u,
  ],
});

/**
 * x / √(mean x² + ε) over the last axis.
 *
 * @throws {ShapeError} if `x` has no axis.
 * @throws {DTypeError} if its dtype is not floating.
 */
export function srmsNorm(x: Tensor, epsilon = 1e-6): Tensor {
  checkNorm("srmsNorm", x);
  return normOp(x, { epsilon });
}

/** Refuses x without an axis or of no floating dtype, and a gate of another shape or dtype. */
export function checkNorm(operation: string, x: Tensor, u: Tensor = x): void {
  if (x.rank === 0) {
    throw new ShapeError(`${operation}: expected at least one axis, found a scalar`);
  }
  if (!sameShape(x.shape, u.shape)) {
    const found = `${format(x.shape)} and ${format(u.shape)}`;
    throw new ShapeError(`${operation}: expected x and its gate of one shape, found ${found}`);
  }
  if (!isFloat(x.dtype) || u.dtype !== x.dtype) {
    const found = u === x ? x.dtype : `${x.dtype} and ${u.dtype}`;
    throw new DTypeError(`${operation}: expected f32 or f16, found ${found}`);
  }
}

/** 1 / √(mean x² + ε) of `length` elements. */
export function inverseRms(
  data: KernelArray,
  start: number,
  length: number,
  epsilon: number,
): number {
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
  [g, x, b = x]: View[],
  out: View,
  epsilon: number,
  gradient: boolean,
  context: GpuContext,
): Dispatch {
  const length = x.shape.at(-1)!;
  const rows = sizeOf(x.shape) / length;
  const bindings = [x, g, b, out];
  const { width, constants } = walkRows(bindings, context);
  const offsets = bindings.map((view) => view.offset / width);
  return {
    shader: shader(context),
    constants: { ...constants, GRADIENT: gradient, ADD: b !== x },
    bindings,
    params: [rows, length / width, ...offsets, floatBits(epsilon)],
    workgroups: grid(rows, context),
  };
}

/**
 * Softmax and its logarithm along one axis:
 *
 *     p = exp(x − m) / Σ exp(x − m), m = max x        dx = p · (g − Σ g · p)
 *     l = x − m − log Σ exp(x − m)                    dx = g − exp(l) · Σ g
 *
 * Each saves its result. The axis is made the last one and dense; a row is one workgroup's, or, where it outgrows
 * a binding, a matter of reductions, which are cut.
 *
 * @module
 */
import {
  type CpuView,
  type Dispatch,
  floatBits,
  type GpuContext,
  type View,
  type WasmView,
} from "../backend/contract.ts";
import { isFloat } from "../dtype.ts";
import { DTypeError } from "../errors.ts";
import { defineOp } from "../operation.ts";
import { tidy } from "../scope.ts";
import { resolveAxis, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import text from "../../shaders/softmax.wgsl" with { type: "text" };
import { loadInto } from "./pointwise.ts";
import { grid } from "./pointwise_program.ts";
import { rowsJob, walkRows, withRows } from "./rows.ts";

const shader = withRows(text);

function program(name: string, logarithm: boolean) {
  return {
    name,
    saves: { outputs: [0] },
    output: ([{ shape, dtype }]: readonly Tensor[]) => {
      if (!isFloat(dtype)) {
        throw new DTypeError(
          `${name}: expected dtype f32 or f16, found ${dtype}; convert with to()`,
        );
      }
      return { shape, dtype };
    },
    cpu: ([x]: CpuView[], [out]: CpuView[]) => normaliseRows(x, out, logarithm),
    wasm: ([x]: WasmView[], [out]: WasmView[]) =>
      rowsJob("softmax", x.shape, [x, out], { after: [logarithm ? 1 : 0] }),
    gpu: ([x]: View[], [out]: View[], _: unknown, context: GpuContext): Dispatch => {
      const length = x.shape.at(-1)!;
      const rows = sizeOf(x.shape) / length;
      const { width, constants } = walkRows([x, out], context);
      const counts = [length, x.offset, out.offset].map((elements) => elements / width);
      return {
        shader: shader(context),
        constants: { ...constants, LOG: logarithm },
        params: [rows, ...counts, floatBits(Infinity)],
        workgroups: grid(rows, context),
      };
    },
    // The first axis longer than 1 is cut, so that what was dense stays dense.
    cuts: ([x]: readonly View[]) => x.shape.slice(0, -1).map((_, axis) => [axis, axis]),
    // Two walks of 256 threads and more, four units a turn, and two of a subgroup over what they have.
    loopTurns: ([x]: readonly View[]) => 512 + x.shape.at(-1)! / 512,
    inPieces: ([x]: readonly Tensor[], [out]: readonly Tensor[]) => {
      const wide = x.to("f32");
      const shifted = wide.sub(wide.max(-1, { keepDims: true }));
      const powers = shifted.exp();
      const sum = powers.sum(-1, { keepDims: true });
      loadInto([[logarithm ? shifted.sub(sum.log()) : powers.div(sum), out]]);
    },
  };
}

const softmaxOp = defineOp({
  ...program("softmax", false),
  backward: [({ grads: [g], outputs: [p] }) => p.mul(g.sub(g.mul(p).sum(-1, { keepDims: true })))],
});

const logSoftmaxOp = defineOp({
  ...program("logSoftmax", true),
  backward: [({ grads: [g], outputs: [l] }) => g.sub(l.exp().mul(g.sum(-1, { keepDims: true })))],
});

/** exp(x) / Σ exp(x) along `axis`. */
export function softmax(x: Tensor, axis = -1): Tensor {
  return alongLast(softmaxOp, "softmax", x, axis);
}

/** x − log Σ exp(x) along `axis`. */
export function logSoftmax(x: Tensor, axis = -1): Tensor {
  return alongLast(logSoftmaxOp, "logSoftmax", x, axis);
}

function alongLast(op: (x: Tensor) => Tensor, name: string, x: Tensor, axis: number): Tensor {
  const at = resolveAxis(axis, x.rank, name);
  if (at === x.rank - 1) return op(x);
  return tidy(() => op(x.transpose(at, -1)).transpose(at, -1));
}

function normaliseRows(x: CpuView, out: CpuView, logarithm: boolean): void {
  const length = x.shape.at(-1)!;
  const [from, to] = [x.data, out.data];
  for (let start = 0; start < from.length; start += length) {
    const end = start + length;
    let largest = -Infinity;
    for (let i = start; i < end; i++) if (from[i] > largest) largest = from[i];
    let sum = 0;
    for (let i = start; i < end; i++) sum += Math.exp(from[i] - largest);
    const log = Math.log(sum);
    if (logarithm) { for (let i = start; i < end; i++) to[i] = from[i] - largest - log; }
    else for (let i = start; i < end; i++) to[i] = Math.exp(from[i] - largest) / sum;
  }
}

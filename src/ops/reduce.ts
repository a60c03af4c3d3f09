/**
 * Reductions over any axes: sum and max, and what follows from them.
 *
 *     out[kept] = Σ x[kept, reduced]          dx[kept, reduced] = g[kept]
 *     out[kept] = max x[kept, reduced]        dx = g / ties where x = out, else 0
 *
 * Nothing is saved for a sum. The CPU and WebAssembly add in float64; the GPU adds in float32, as a tree or by subgroups.
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
  type WasmJob,
  type WasmView,
} from "../backend/contract.ts";
import { bytesOf, type DType, isFloat } from "../dtype.ts";
import { DTypeError, LimitError, ShapeError } from "../errors.ts";
import type { ReduceOptions } from "../methods.ts";
import { defineOp } from "../operation.ts";
import { tidy } from "../scope.ts";
import { type Axes, collapse, format, resolveAxes, type Shape, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import text from "../../shaders/reduce.wgsl" with { type: "text" };
import { split } from "./views.ts";
import { arange } from "./create.ts";
import { where } from "./pointwise.ts";
import { grid } from "./pointwise_program.ts";
import { withReductions } from "./rows.ts";

const shader = withReductions(text);

interface ReduceAxes {
  /** The reduced axes, ascending. */
  readonly axes: readonly number[];
}

interface ReduceRule {
  readonly cpu: (a: number, b: number) => number;
  readonly wgsl: string;
  /** The same of the four elements of a unit. */
  readonly wgslOfFour: string;
  /** The same of what all threads of a workgroup have. */
  readonly wgslOfAll: string;
  /** What leaves every element unchanged. */
  readonly identity: Readonly<Record<DType, number>>;
}

const SUM: ReduceRule = {
  cpu: (a, b) => a + b,
  wgsl: "a + b",
  wgslOfFour: "(unit.x + unit.y) + (unit.z + unit.w)",
  wgslOfAll: "workgroup_sum(t, value)",
  identity: { f32: 0, f16: 0, i32: 0, u32: 0, bool: 0 },
};

const MAX: ReduceRule = {
  cpu: Math.max,
  wgsl: "max(a, b)",
  wgslOfFour: "max(max(unit.x, unit.y), max(unit.z, unit.w))",
  wgslOfAll: "workgroup_max(t, value)",
  identity: { f32: -Infinity, f16: -Infinity, i32: -(2 ** 31), u32: 0, bool: 0 },
};

function reduction(name: string, rule: ReduceRule) {
  return {
    name,
    strided: true,
    output: ([x]: readonly Tensor[], { axes }: ReduceAxes) => {
      if (x.dtype === "bool") {
        throw new DTypeError(`Cannot ${name} a bool tensor: convert it first, say with to("i32")`);
      }
      return { shape: x.shape.filter((_, i) => !axes.includes(i)), dtype: x.dtype };
    },
    cpu: ([x]: CpuView[], [out]: CpuView[], { axes }: ReduceAxes) => {
      reduceOnCpu(rule.cpu, x, out, axes, rule.identity[x.dtype]);
    },
    wasm: ([x]: WasmView[], [out]: WasmView[], { axes }: ReduceAxes) => planJob(rule, x, out, axes),
    gpu: ([x]: View[], [out]: View[], { axes }: ReduceAxes, context: GpuContext) =>
      plan(rule, x, out, axes, context),
    // Only kept axes can be cut: axis i of the output is the i-th of them.
    cuts: ([x]: readonly View[], _: readonly View[], { axes }: ReduceAxes) =>
      keptAxes(x.shape, axes).map((axis, i) => [axis, i]),
  };
}

const sumOp = defineOp<ReduceAxes>({
  ...reduction("sum", SUM),
  saves: {},
  backward: [
    ({ grads: [g], specs: [{ shape }], options: { axes } }) =>
      restoreAxes(g, shape, axes).expand(shape),
  ],
});

const maxOp = defineOp<ReduceAxes>({
  ...reduction("max", MAX),
  backward: [({ grads: [g], inputs: [x], outputs: [out], options: { axes } }) => {
    const winners = x.equal(restoreAxes(out, x.shape, axes)).to(x.dtype);
    const share = restoreAxes(g, x.shape, axes).div(winners.sum(axes, { keepDims: true }));
    return winners.mul(share);
  }],
});

/** Σ x over the axes. */
export function sum(x: Tensor, axes?: Axes, options?: ReduceOptions): Tensor {
  return reduce("sum", sumOp, x, axes, options);
}

/** Σ x / count over the axes. */
export function mean(x: Tensor, axes?: Axes, options?: ReduceOptions): Tensor {
  if (!isFloat(x.dtype)) {
    throw new DTypeError(`Cannot take the mean of dtype ${x.dtype}: convert it with to("f32")`);
  }
  const count = sizeOf(resolveAxes(axes, x.rank, "mean").map((axis) => x.shape[axis]));
  return tidy(() => sum(x, axes, options).mul(1 / count));
}

/** max x over the axes. Throws ShapeError when there is nothing to choose from. */
export function max(x: Tensor, axes?: Axes, options?: ReduceOptions): Tensor {
  return most("max", x, (t) => t, axes, options);
}

/** min x over the axes. Throws ShapeError when there is nothing to choose from. */
export function min(x: Tensor, axes?: Axes, options?: ReduceOptions): Tensor {
  // −1 − x turns the whole range of integers around; −x the unsigned have not, nor has the least of the signed.
  const turned = (t: Tensor) => {
    return isFloat(t.dtype) ? t.neg() : t.mul(t.dtype === "u32" ? 2 ** 32 - 1 : -1).sub(1);
  };
  return tidy(() => turned(most("min", x, turned, axes, options)));
}

/** The largest of what `f` makes of x. */
function most(
  what: string,
  x: Tensor,
  f: (x: Tensor) => Tensor,
  axes?: Axes,
  options?: ReduceOptions,
): Tensor {
  if (x.dtype === "bool") {
    throw new DTypeError(
      `Cannot take the ${what} of a bool tensor: convert it first, say with to("i32")`,
    );
  }
  const empty = resolveAxes(axes, x.rank, what).find((axis) => x.shape[axis] === 0);
  if (empty !== undefined) {
    throw new ShapeError(
      `Cannot take the ${what} of ${format(x.shape)}: axis ${empty} has no entries`,
    );
  }
  return reduce("max", maxOp, f(x), axes, options);
}

/** The position of the first largest element along one axis, or among all. */
export function argmax(x: Tensor, axis?: number, options?: ReduceOptions): Tensor {
  return tidy(() => {
    if (axis === undefined) {
      const found = argmax(x.reshape([-1]), 0);
      return options?.keepDims ? found.reshape(x.shape.map(() => 1)) : found;
    }
    const [at] = resolveAxes(axis, x.rank, "argmax");
    const length = x.shape[at];
    const positions = arange(length, { dtype: "i32", device: x.device })
      .reshape(x.shape.map((n, i) => i === at ? n : 1));
    const best = x.detach().equal(max(x.detach(), at, { keepDims: true }));
    // No element equals a NaN maximum; then the last position is as good as any.
    return min(where(best, positions, length - 1), at, options);
  });
}

/** How the reductions of two parts become that of both. */
const JOIN = {
  sum: (x: Tensor, y: Tensor) => x.add(y),
  max: (x: Tensor, y: Tensor) => x.maximum(y),
};

function reduce(
  name: keyof typeof JOIN,
  op: (x: Tensor, options: ReduceAxes) => Tensor,
  x: Tensor,
  wanted: Axes | undefined,
  { keepDims = false }: ReduceOptions = {},
): Tensor {
  const axes = resolveAxes(wanted, x.rank, name);
  return tidy(() => {
    const result = inPieces(name, op, x, axes) ?? op(x, { axes });
    return keepDims ? restoreAxes(result, x.shape, axes) : result;
  });
}

/** The reduction of a tensor that no cut along kept axes makes small enough for a binding. */
function inPieces(
  name: keyof typeof JOIN,
  op: (x: Tensor, options: ReduceAxes) => Tensor,
  x: Tensor,
  axes: readonly number[],
): Tensor | undefined {
  const { bindingBytes } = x.device.engine;
  const [axis] = axes;
  if (axes.length > 1 && x.size * bytesOf(x.dtype) > bindingBytes) {
    // Axis by axis, so that all but the last step have kept axes.
    return reduce(name, op, reduce(name, op, x, axes.slice(-1)), axes.slice(0, -1));
  }
  const length = x.shape[axis];
  const isLong = length * Math.abs(x.strides[axis]) * bytesOf(x.dtype) > bindingBytes;
  if (axes.length !== 1 || length < 2 || !isLong) return undefined;
  const middle = Math.ceil(length / 2);
  const [first, second] = split(x, [middle, length - middle], axis)
    .map((half) => reduce(name, op, half, axes));
  return JOIN[name](first, second);
}

/** `x`, from which `axes` of `shape` were reduced, with them again, of size 1. */
function restoreAxes(x: Tensor, shape: Shape, axes: readonly number[]): Tensor {
  return x.reshape(shape.map((n, i) => axes.includes(i) ? 1 : n));
}

function keptAxes(shape: Shape, axes: readonly number[]): number[] {
  return shape.map((_, i) => i).filter((i) => !axes.includes(i));
}

interface Split {
  readonly kept: { shape: number[]; strides: number[][] };
  readonly reduced: { shape: number[]; strides: number[][] };
}

/** The axes of `x` in two groups, each merged as far as its strides allow. */
function grouped(x: { shape: Shape; strides: readonly number[] }, axes: readonly number[]): Split {
  const group = (list: readonly number[]) =>
    collapse(list.map((i) => x.shape[i]), [list.map((i) => x.strides[i])]);
  return { kept: group(keptAxes(x.shape, axes)), reduced: group(axes) };
}

function reduceOnCpu(
  combine: (a: number, b: number) => number,
  x: CpuView,
  out: CpuView,
  axes: readonly number[],
  identity: number,
): void {
  const { kept, reduced } = grouped(x, axes);
  const length = reduced.shape.pop() ?? 1;
  const step = reduced.strides[0].pop() ?? 0;
  const runs = offsets(reduced);
  const { data } = x;
  offsets(kept).forEach((base, row) => {
    let total = identity;
    for (const run of runs) {
      const start = x.offset + base + run;
      if (combine === SUM.cpu) { for (let i = 0; i < length; i++) total += data[start + i * step]; }
      else for (let i = 0; i < length; i++) total = combine(total, data[start + i * step]);
    }
    out.data[out.offset + row] = total;
  });
}

/** Elements that are worth a task. */
const TASK = 2 ** 14;

/** WebAssembly: four outputs at a time where floats lie side by side, else one after the other. */
function planJob(
  rule: ReduceRule,
  x: WasmView,
  out: WasmView,
  axes: readonly number[],
): WasmJob {
  const { kept, reduced } = grouped(x, axes);
  const outputs = sizeOf(kept.shape);
  const length = reduced.shape.pop() ?? 1;
  const step = reduced.strides[0].pop() ?? 1;
  const columns = step !== 1 && kept.strides[0].at(-1) === 1 && kept.shape.at(-1)! % 4 === 0;
  const each = length * sizeOf(reduced.shape);
  const perTask = 4 * Math.ceil(Math.max(1, TASK / Math.max(each, 1)) / 4);
  const bytes = (list: readonly number[]) => list.map((elements) => 4 * elements);
  const kernel = columns ? "reduceColumns" : "reduceRows";
  const unsigned = x.dtype === "u32";
  return {
    kernel: isFloat(x.dtype) ? kernel : "reduceIntegers",
    params: [
      ...[addressOf(x), addressOf(out), rule === SUM ? 0 : unsigned ? 2 : 1, outputs, perTask],
      ...[length, 4 * step, kept.shape.length, reduced.shape.length],
      ...[...kept.shape, ...bytes(kept.strides[0])],
      ...[...reduced.shape, ...bytes(reduced.strides[0])],
    ],
    tasks: Math.ceil(outputs / perTask),
  };
}

/** The offsets of all entries of a group of axes, in row-major order. */
function offsets({ shape, strides: [strides] }: Split["kept"]): Float64Array {
  const list = new Float64Array(sizeOf(shape));
  let filled = Math.min(1, list.length);
  shape.forEach((length, axis) => {
    for (let i = filled - 1; i >= 0; i--) {
      for (let entry = length - 1; entry >= 0; entry--) {
        list[i * length + entry] = list[i] + entry * strides[axis];
      }
    }
    filled *= length;
  });
  return list;
}

const THREADS = 256;
/** Units that a lane reads in one turn. */
const TURN = 4;
/** Entries that one lane adds up before it pays to give the row more workgroups. */
const LONG = 64;
const STORED = { f32: "f32", f16: "f16", i32: "i32", u32: "u32", bool: "u32" };
const VALUE = { ...STORED, f16: "f32" };

/** The same with four neighbours for an element, where rows lie so densely and begin and end at multiples of four. */
function inFours({ kept, reduced }: Split, offset: number): Split | undefined {
  const [steps] = reduced.strides;
  const last = steps.length - 1;
  const others = [...kept.strides[0], ...steps.slice(0, last)];
  const counts = [reduced.shape[last], offset, ...others];
  if (steps[last] !== 1 || counts.some((x) => x % 4 !== 0)) return undefined;
  const byFours = (list: readonly number[]) => list.map((x) => x / 4);
  return {
    kept: { shape: kept.shape, strides: [byFours(kept.strides[0])] },
    reduced: {
      shape: reduced.shape.with(last, reduced.shape[last] / 4),
      strides: [byFours(steps).with(last, 1)],
    },
  };
}

function plan(
  rule: ReduceRule,
  x: View,
  out: View,
  axes: readonly number[],
  context: GpuContext,
): Dispatch[] {
  const elements = grouped(x, axes);
  const fours = inFours(elements, x.offset);
  const width = fours ? 4 : 1;
  const { kept, reduced } = fours ?? elements;
  const rows = sizeOf(kept.shape);
  const length = sizeOf(reduced.shape);
  if (Math.max(kept.shape.length, reduced.shape.length) > 8) {
    throw new LimitError(
      `Cannot reduce ${format(x.shape)} on the GPU: more than 8 axes cannot be merged; make it ` +
        `contiguous() first`,
    );
  }
  const dense = (reduced.strides[0].at(-1) ?? 1) <= (kept.strides[0].at(-1) ?? Infinity);
  const wanted = 2 ** Math.ceil(Math.log2(Math.max(1, dense ? length / TURN : length)));
  const lanes = Math.min(THREADS, dense ? wanted : Math.ceil(wanted / LONG));
  // A second pass when there are few rows and each is long.
  const busy = Math.ceil(rows * lanes / THREADS);
  const segments = Math.max(
    1,
    Math.min(Math.floor(length * width / (lanes * LONG)), Math.floor(512 / busy)),
  );
  const target = segments === 1
    ? out
    : context.scratch(rows * segments, x.dtype === "f16" ? "f32" : x.dtype);
  const unitOf = (types: typeof STORED) => fours ? `vec4<${types[x.dtype]}>` : types[x.dtype];
  const padded = (list: readonly number[]) => [...list, ...Array(8 - list.length).fill(0)];
  const { identity } = rule;
  const first: Dispatch = {
    shader: shader(context),
    constants: {
      Stored: unitOf(STORED),
      Unit: unitOf(VALUE),
      StoredOut: STORED[target.dtype],
      Value: VALUE[x.dtype],
      LANES: lanes,
      LANES_ADJACENT: dense,
      KEPT_RANK: kept.shape.length,
      REDUCED_RANK: reduced.shape.length,
      combine: rule.wgsl,
      combine_units: rule.wgsl,
      ...(fours ? { within: rule.wgslOfFour } : {}),
      combine_all: rule.wgslOfAll,
    },
    bindings: [x, target],
    params: [
      ...padded(kept.shape),
      ...padded(kept.strides[0]),
      ...padded(reduced.shape),
      ...padded(reduced.strides[0]),
      x.offset / width,
      target.offset,
      rows,
      length,
      segments,
      Math.ceil(length / segments),
      isFloat(x.dtype) ? floatBits(identity[x.dtype]) : identity[x.dtype],
    ],
    workgroups: grid(Math.ceil(rows * segments * lanes / THREADS), context),
  };
  if (segments === 1) return [first];
  const partial = { ...target, shape: [rows, segments], strides: [segments, 1] };
  return [first, ...plan(rule, partial, { ...out, shape: [rows], strides: [1] }, [1], context)];
}

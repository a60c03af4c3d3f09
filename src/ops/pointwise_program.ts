/**
 * The program behind every pointwise operation: one loop nest for the CPU, one kernel for WebAssembly and one
 * shader for the GPU, all over strided operands of one shape.
 *
 * @module
 */
import {
  addressOf,
  type CpuView,
  type Dispatch,
  floatBits,
  type GpuContext,
  type Program,
  type View,
  type WasmContext,
  type WasmJob,
  type WasmView,
} from "../backend/contract.ts";
import type { Device } from "../device.ts";
import { type DType, isFloat, type KernelArray } from "../dtype.ts";
import { LimitError } from "../errors.ts";
import { runInPlace } from "../operation.ts";
import { collapse, format, isContiguous, sizeOf } from "../shape.ts";
import { Tensor, type TensorSpec } from "../tensor.ts";
import strided from "../../shaders/pointwise.wgsl" with { type: "text" };
import dense from "../../shaders/pointwise_dense.wgsl" with { type: "text" };
import rules from "../../shaders/pointwise_rules.wgsl" with { type: "text" };

const stridedShader = `${strided}\n${rules}`;
const denseShader = `${dense}\n${rules}`;

/** How a pointwise operation computes one element from up to three. */
export interface PointwiseRule {
  /** In TypeScript. */
  readonly cpu: (x: number, y: number, z: number) => number;
  /** In WGSL, over `x`, `y` and `z`. */
  readonly wgsl: string;
  /**
   * In WebAssembly: the name of a `map_` function in `src/backend/wasm/assembly/`, whatever the dtypes. Default: the
   * operation's own name, with `_i32` or, for bool too, `_u32` behind it where operands are integers. Without such a
   * function the CPU's loop runs.
   */
  readonly wasm?: string;
  /** For integers, where that is another function: in TypeScript, */
  readonly integers?: (x: number, y: number, z: number) => number;
  /** and in WGSL. */
  readonly wgslOfIntegers?: string;
  /**
   * The inner loop written out for floats: ten times faster than calling `cpu` for every element, and
   * worth a row's second line where training spends its time.
   */
  readonly loop?: InnerLoop;
}

/** A number in place of the first or the second operand. */
export interface ScalarOperand {
  /** Which operand it replaces. */
  readonly at: 0 | 1;
  /** Its value. */
  readonly value: number;
}

/** Axes that the shader's parameter block has room for. */
const MOST_AXES = 8;

/** The program that applies `rule` to every element. */
export function pointwiseProgram(
  name: string,
  rule: PointwiseRule,
): Program<unknown> & { readonly strided: true } {
  return {
    name,
    strided: true,
    cpu: (inputs, [out], options) => walk(rule, inputs, out, scalarOf(options)),
    wasm: (inputs, [out], options, context) =>
      planJob(
        rule.wasm ?? `${name}${SUFFIXES[(inputs[0] ?? out).dtype]}`,
        inputs,
        out,
        scalarOf(options),
        context,
      ),
    gpu: (inputs, [out], options, context) => plan(rule, inputs, out, scalarOf(options), context),
    cuts: (inputs, [out]) => out.shape.map((_, axis) => [...inputs.map(() => axis), axis]),
  };
}

function scalarOf(options: unknown): ScalarOperand | undefined {
  return options !== undefined && "at" in (options as ScalarOperand)
    ? options as ScalarOperand
    : undefined;
}

/** A new tensor whose elements are all `value`. */
export function filled(device: Device, spec: TensorSpec, value: number): Tensor {
  const result = Tensor.allocate(device, spec);
  fill(result, value);
  return result;
}

/** x · y, as a part of other operations. */
export const productProgram: Program<unknown> = pointwiseProgram("mul", {
  cpu: (x, y) => x * y,
  wgsl: "x * y",
});

/** Writes a number, given as option, into every element. */
export const fillProgram: Program<unknown> = pointwiseProgram("fill", {
  cpu: (x) => x,
  wgsl: "Out(x)",
  wasm: "copy",
});

/** Writes `value` into every element of `target`. */
export function fill(target: Tensor, value: number): void {
  runInPlace(fillProgram, [], [target], { at: 0, value });
}

/** What WebAssembly functions of the dtypes have behind their names. */
const SUFFIXES: Record<DType, string> = {
  f32: "",
  f16: "",
  i32: "_i32",
  u32: "_u32",
  bool: "_u32",
};

/** Elements that are worth a task. */
const TASK = 2 ** 14;

/** WebAssembly: stretches of the last axis, many to a task; undefined for what has no function. */
function planJob(
  name: string,
  inputs: readonly WasmView[],
  out: WasmView,
  scalar: ScalarOperand | undefined,
  context: WasmContext,
): WasmJob | undefined {
  const apply = context.kernel(`map_${name}`);
  const operands: (WasmView | undefined)[] = [out, ...inputs];
  if (scalar !== undefined) operands.splice(scalar.at + 1, 0, undefined);
  if (apply === undefined) return undefined;
  const present = operands.filter((v) => v !== undefined);
  const { shape, strides } = collapse(out.shape, present.map((v) => v.strides));
  const length = shape.pop() ?? 1;
  const last = strides.map((list) => list.pop() ?? 0);
  // One element has a dense axis, whatever its stride.
  if (length === 1) last.fill(1);
  const stepsOf = (v: WasmView | undefined) => v === undefined ? undefined : present.indexOf(v);
  const places = [0, 1, 2, 3].flatMap((i) => {
    const at = stepsOf(operands[i]);
    return at === undefined ? [0, 0] : [addressOf(present[at]), 4 * last[at]];
  });
  const outer = operands.flatMap((v) => {
    const at = stepsOf(v);
    return shape.map((_, axis) => at === undefined ? 0 : 4 * strides[at][axis]);
  });
  const rows = sizeOf(shape);
  const chunk = Math.min(length, TASK);
  const perTask = Math.max(1, Math.floor(TASK / length));
  const type = (inputs[0] ?? out).dtype;
  return {
    kernel: "pointwise",
    params: [
      ...[apply, operands.length - 1, length, chunk, rows, perTask, shape.length],
      scalar === undefined ? 0 : isFloat(type) ? floatBits(scalar.value) : scalar.value,
      ...places,
      ...shape,
      ...outer,
    ],
    tasks: Math.ceil(length / chunk) * Math.ceil(rows / perTask),
    scratchBytes: 5 * 4096,
  };
}

/** The CPU: an inner loop along the last axis for each entry of the axes before it. */
function walk(
  rule: PointwiseRule,
  inputs: readonly CpuView[],
  out: CpuView,
  scalar: ScalarOperand | undefined,
): void {
  const operands = [out, ...inputs];
  if (scalar !== undefined) {
    operands.splice(scalar.at + 1, 0, constant(scalar.value, out, inputs[0]));
  }
  const { shape, strides } = collapse(out.shape, operands.map((v) => v.strides));
  const length = shape.pop() ?? 1;
  const steps = strides.map((s) => s.pop() ?? 0);
  const at = operands.map((v) => v.offset);
  const data = operands.map((v) => v.data);
  const entries = shape.map(() => 0);
  const integers = !(data[1] instanceof Float32Array);
  const f = integers && rule.integers ? rule.integers : rule.cpu;
  const inner = (!integers && rule.loop) || LOOPS[operands.length - 2];
  for (let row = 0, rows = sizeOf(shape); row < rows; row++) {
    inner(length, at, steps, data, f);
    // The next row: like an odometer, the last axis first.
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const turn = ++entries[axis] === shape[axis];
      if (turn) entries[axis] = 0;
      const count = turn ? 1 - shape[axis] : 1;
      for (let i = 0; i < at.length; i++) at[i] += count * strides[i][axis];
      if (!turn) break;
    }
  }
}

/** One element, repeated, in an array of the type that the other operand has. */
function constant(value: number, out: CpuView, other: CpuView | undefined): CpuView {
  const data = other?.data ?? out.data;
  const repeated = data.slice(0, 1).fill(value);
  return { ...out, data: repeated, strides: out.shape.map(() => 0), offset: 0 };
}

/**
 * An inner loop: `length` elements of each operand, the output first, where element i of operand o is
 * `data[o][at[o] + i * steps[o]]`.
 */
export type InnerLoop = (
  length: number,
  at: readonly number[],
  steps: readonly number[],
  data: readonly KernelArray[],
  f: PointwiseRule["cpu"],
) => void;

/** The inner loops that call a rule, by the number of operands. */
const LOOPS: readonly InnerLoop[] = [
  (length, [o, a], [os, as], [out, x], f) => {
    for (let i = 0; i < length; i++) out[o + i * os] = f(x[a + i * as], 0, 0);
  },
  (length, [o, a, b], [os, as, bs], [out, x, y], f) => {
    for (let i = 0; i < length; i++) out[o + i * os] = f(x[a + i * as], y[b + i * bs], 0);
  },
  (length, [o, a, b, c], [os, as, bs, cs], [out, x, y, z], f) => {
    for (let i = 0; i < length; i++) {
      out[o + i * os] = f(x[a + i * as], y[b + i * bs], z[c + i * cs]);
    }
  },
];

const STORED = { f32: "f32", f16: "f16", i32: "i32", u32: "u32", bool: "u32" };
const VALUE = { f32: "f32", f16: "f32", i32: "i32", u32: "u32", bool: "bool" };

/** The GPU: one thread an element, or four neighbours where all operands are dense. */
function plan(
  rule: PointwiseRule,
  inputs: View[],
  out: View,
  scalar: ScalarOperand | undefined,
  context: GpuContext,
): Dispatch {
  const slots = [...inputs];
  if (scalar !== undefined) {
    // The shader declares three inputs; a slot that nobody reads still needs something to hold.
    slots.splice(scalar.at, 0, inputs[0] ?? scalarSlot(out, context));
  }
  const [x, y = x, z = x] = slots;
  const bindings = [x, y, z, out];
  const size = sizeOf(out.shape);
  const type = scalar?.at === 0 ? (inputs[0] ?? out).dtype : x.dtype;
  const number = scalar === undefined ? 0 : isFloat(type) ? floatBits(scalar.value) : scalar.value;
  const offsets = bindings.map((v) => v.offset);
  const isDense = [...inputs, out].every((v) => isContiguous(v.shape, v.strides));
  if (isDense && [size, ...offsets].every((count) => count % 4 === 0)) {
    return {
      shader: denseShader,
      constants: variant(rule, bindings, type, scalar?.at),
      bindings,
      params: [...offsets.map((offset) => offset / 4), size / 4, number],
      workgroups: grid(Math.ceil(size / 4 / 256), context),
    };
  }
  const { shape, strides } = collapse(out.shape, bindings.map((v) => v.strides));
  if (shape.length > MOST_AXES) {
    throw new LimitError(
      `Cannot walk ${
        format(out.shape)
      } on the GPU: ${shape.length} axes cannot be merged and its ` +
        `kernels take ${MOST_AXES}; make the operands contiguous() first`,
    );
  }
  // As the shader's block lies: the shape, four times the strides, the offsets.
  const params = Array<number>(5 * MOST_AXES).fill(0);
  for (let axis = 0; axis < shape.length; axis++) {
    params[axis] = shape[axis];
    for (let o = 0; o < 4; o++) params[(o + 1) * MOST_AXES + axis] = strides[o][axis];
  }
  return {
    shader: stridedShader,
    constants: variant(rule, bindings, type, scalar?.at, shape.length),
    bindings,
    params: [...params, ...offsets, size, number],
    workgroups: grid(Math.ceil(size / 256), context),
  };
}

/** The constants of each rule's shaders, made once: there are few, and training asks for them again and again. */
const variants = new WeakMap<PointwiseRule, Map<string, Dispatch["constants"]>>();

function variant(
  rule: PointwiseRule,
  [x, y, z, out]: readonly View[],
  type: DType,
  scalarAt: 0 | 1 | undefined,
  rank?: number,
): Dispatch["constants"] {
  let known = variants.get(rule);
  if (known === undefined) variants.set(rule, known = new Map());
  const key = `${x.dtype} ${y.dtype} ${z.dtype} ${out.dtype} ${type} ${scalarAt} ${rank}`;
  let constants = known.get(key);
  if (constants === undefined) {
    constants = Object.freeze({
      StoredX: STORED[x.dtype],
      StoredY: STORED[y.dtype],
      StoredZ: STORED[z.dtype],
      StoredOut: STORED[out.dtype],
      X: VALUE[x.dtype],
      Y: VALUE[y.dtype],
      Z: VALUE[z.dtype],
      Out: VALUE[out.dtype],
      Scalar: STORED[type] === "f16" ? "f32" : STORED[type],
      SCALAR: scalarAt === undefined ? 0 : scalarAt + 1,
      rule: isFloat(x.dtype) ? rule.wgsl : rule.wgslOfIntegers ?? rule.wgsl,
      ...(rank === undefined ? {} : { RANK: rank }),
    });
    known.set(key, constants);
  }
  return constants;
}

function scalarSlot(like: View, { scratch }: GpuContext): View {
  return { ...scratch(4, like.dtype), shape: like.shape, strides: like.shape.map(() => 0) };
}

/** `count` workgroups as a rectangle, for a shader that numbers them row by row. */
export function grid(count: number, { workgroupsPerAxis }: GpuContext): [number, number] {
  const rows = Math.ceil(count / workgroupsPerAxis);
  return [Math.ceil(count / Math.max(rows, 1)), rows];
}

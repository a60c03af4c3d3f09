/**
 * What TransNormerLLM's attention takes from its one projection (arXiv 2307.14995), a quarter of each row each:
 *
 *     q = silu(x₀)    k = silu(x₁)    v = x₂    u = x₃        dx = (dq silu′(x₀), dk silu′(x₁), dv, du)
 *
 * Shapes: x [.., 4 · size]; q, k, v, u [.., size]. v and u are views of x. Saved: x. The gradient is one fused pass,
 * itself an operation with a gradient.
 *
 * @module
 */
import type {
  CpuView,
  Program,
  View,
  WasmContext,
  WasmJob,
  WasmView,
} from "../backend/contract.ts";
import { ShapeError } from "../errors.ts";
import { grad } from "../grad.ts";
import { defineOp, type Op, type ResultSpec } from "../operation.ts";
import { tidy } from "../scope.ts";
import { format, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import gradientShader from "../../shaders/qkvu_gradient.wgsl" with { type: "text" };
import shader from "../../shaders/qkvu.wgsl" with { type: "text" };
import { copyProgram, siluGradient, siluGradientProgram, siluProgram } from "./pointwise.ts";
import { filled, grid } from "./pointwise_program.ts";
import { inEvenRows, inUnits, rowStep } from "./rows.ts";
import { concat, split } from "./views.ts";

/** x → q, k, v, u. */
const partsOp: Op<undefined, ResultSpec[]> = defineOp<undefined, ResultSpec[]>({
  name: "qkvu",
  strided: true,
  output: ([x]) => {
    const [{ shape }, , v, u] = [0, 1, 2, 3].map((part) => placeOf(x, part));
    const own = { shape, dtype: x.dtype };
    return [own, own, { ...own, view: { of: 0, ...v } }, { ...own, view: { of: 0, ...u } }];
  },
  cpu: ([x], [q, k]) => {
    siluProgram.cpu!([quarter(x, 0)], [q], undefined);
    siluProgram.cpu!([quarter(x, 1)], [k], undefined);
  },
  wasm: ([x], [q, k], _, context) => [
    ...jobs(siluProgram, [quarter(x, 0)], q, context),
    ...jobs(siluProgram, [quarter(x, 1)], k, context),
  ],
  gpu: ([x], [q, k], _, context) => {
    const { constants, counts } = inUnits(x.dtype, [
      ...[q.shape.at(-1)!, 2 * sizeOf(q.shape), rowStep(x)!],
      ...[x.offset, q.offset, k.offset],
    ]);
    return {
      shader,
      constants,
      bindings: [x, q, k],
      params: counts,
      workgroups: grid(Math.ceil(counts[1] / 256), context),
    };
  },
  cuts: ([x]) => x.shape.slice(0, -1).map((_, axis) => [axis, axis, axis]),
  saves: { inputs: [0] },
  backward: ({ grads, inputs: [x] }) => {
    const spec = { ...placeOf(x, 0), dtype: x.dtype };
    const rows = [0, 1, 2, 3].map((part) =>
      grads[part] === undefined ? filled(x.device, spec, 0) : inEvenRows(grads[part])
    );
    return [gradientOp(x, ...rows)];
  },
});

/** x, dq, dk, dv, du → dx. */
const gradientOp: Op = defineOp({
  name: "qkvuGradient",
  strided: true,
  output: ([{ shape, dtype }]) => ({ shape, dtype }),
  cpu: ([x, dq, dk, dv, du], [dx]) => {
    siluGradientProgram.cpu!([dq, quarter(x, 0)], [quarter(dx, 0)], undefined);
    siluGradientProgram.cpu!([dk, quarter(x, 1)], [quarter(dx, 1)], undefined);
    copyProgram.cpu!([dv], [quarter(dx, 2)], undefined);
    copyProgram.cpu!([du], [quarter(dx, 3)], undefined);
  },
  wasm: ([x, dq, dk, dv, du], [dx], _, context) => [
    ...jobs(siluGradientProgram, [dq, quarter(x, 0)], quarter(dx, 0), context),
    ...jobs(siluGradientProgram, [dk, quarter(x, 1)], quarter(dx, 1), context),
    ...jobs(copyProgram, [dv], quarter(dx, 2), context),
    ...jobs(copyProgram, [du], quarter(dx, 3), context),
  ],
  gpu: ([x, ...gradients], [dx], _, context) => {
    const { constants, counts } = inUnits(x.dtype, [
      ...[gradients[0].shape.at(-1)!, sizeOf(dx.shape), rowStep(x)!, x.offset],
      ...gradients.map((g) => rowStep(g)!),
      ...gradients.map((g) => g.offset),
      dx.offset,
    ]);
    return {
      shader: gradientShader,
      constants,
      params: counts,
      workgroups: grid(Math.ceil(counts[1] / 256), context),
    };
  },
  cuts: ([x]) => x.shape.slice(0, -1).map((_, axis) => Array<number>(6).fill(axis)),
  // In single operations, for the gradient of the gradient.
  backward: ({ grads: [w], inputs: [x, dq, dk, dv, du] }) =>
    grad(([x, dq, dk, dv, du]: Tensor[]) => {
      const [q, k] = split(x, 4, -1);
      const dx = concat([siluGradient(dq, q), siluGradient(dk, k), dv, du], -1);
      return dx.mul(w).sum();
    })([x, dq, dk, dv, du]),
});

/**
 * The quarters of rows x [.., 4 · size], the first two through SiLU: queries, keys, values and gates.
 *
 * @throws {ShapeError} if the rows cannot be quartered.
 */
export function qkvu(x: Tensor): Tensor[] {
  const size = x.shape.at(-1);
  if (size === undefined || size % 4 !== 0) {
    throw new ShapeError(`qkvu: expected rows of four equal parts, found ${format(x.shape)}`);
  }
  return tidy(() => partsOp(inEvenRows(x)));
}

/** Where part `part` of four of every row lies. */
function placeOf(
  { shape, strides, offset }: Pick<View, "shape" | "strides" | "offset">,
  part: number,
): Pick<View, "shape" | "strides" | "offset"> {
  const size = shape.at(-1)! / 4;
  return { shape: shape.with(-1, size), strides, offset: offset + part * size * strides.at(-1)! };
}

/** A view of part `part` of four of every row. */
function quarter<V extends CpuView | WasmView>(view: V, part: number): V {
  return { ...view, ...placeOf(view, part) };
}

/** The jobs of a program that is part of another. */
function jobs(
  program: Program,
  inputs: WasmView[],
  output: WasmView,
  context: WasmContext,
): WasmJob[] {
  return [program.wasm!(inputs, [output], undefined, context)!].flat();
}

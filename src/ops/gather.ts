/**
 * Gathering entries along one axis, as an embedding does, and its transpose, scattering with addition.
 *
 *     out[o, j, i] = x[o, indices[j], i]
 *     dx[o, e, i] = Σ { g[o, j, i] : indices[j] = e }
 *
 * Saves the indices. Scattering walks the indices in order for every entry, so that its sums are the
 * same from run to run; WGSL has no atomic addition of floats that would be.
 *
 * @module
 */
import {
  addressOf,
  type CpuView,
  floatBits,
  type Program,
  type View,
  type WasmJob,
  type WasmView,
} from "../backend/contract.ts";
import { bytesOf, type DType, isFloat } from "../dtype.ts";
import { DTypeError } from "../errors.ts";
import { defineOp, type Op, runInPlace } from "../operation.ts";
import { tidy } from "../scope.ts";
import { resolveAxis, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import gatherShader from "../../shaders/gather.wgsl" with { type: "text" };
import scatterShader from "../../shaders/scatter_add.wgsl" with { type: "text" };
import { fillProgram, grid } from "./pointwise_program.ts";

/** x [outer, length, inner], indices [count] → [outer, count, inner]. */
const gatherOp: Op = defineOp({
  name: "gather",
  strided: true,
  output: ([x, indices]) => ({
    shape: [x.shape[0], indices.shape[0], x.shape[2]],
    dtype: x.dtype,
  }),
  // Window by window along the gathered axis, so that a table may be larger than a binding.
  compose: ([x, indices], [out]) => {
    for (const [first, part] of windows(x)) {
      runInPlace(gatherWindow, [part, indices], [out], { first });
    }
  },
  saves: { inputs: [1] },
  backward: ({ grads: [g], inputs: [, indices], specs: [x] }) => [
    scatterOp(g, indices, { length: x.shape[1] }),
    null,
  ],
});

/** Entries `first` and on of the axis. The first window writes all rows, the others their own. */
const gatherWindow: Program<{ first: number }> = {
  name: "gather",
  cpu: ([x, indices], [out], { first }) => {
    const missing = isFloat(x.dtype) ? NaN : 0;
    forEachRow(out, indices, (to, index, o) => {
      const found = index >= first && index < first + x.shape[1];
      const from = x.offset + o * x.strides[0] + (index - first) * x.strides[1];
      if (!found && first > 0) return;
      for (let i = 0; i < out.shape[2]; i++) {
        out.data[to + i * out.strides[2]] = found ? x.data[from + i * x.strides[2]] : missing;
      }
    });
  },
  wasm: ([x, indices], [out], { first }) => {
    const [outer, count, inner] = out.shape;
    const perTask = Math.max(1, Math.floor(TASK / Math.max(1, inner)));
    const missing = isFloat(x.dtype) ? floatBits(NaN) : 0;
    return {
      kernel: "gather",
      params: [...windowParams(out, x, indices, first), perTask, missing],
      tasks: Math.ceil(outer * count / perTask),
    };
  },
  gpu: ([x, indices], [out], { first }, context) => ({
    shader: gatherShader,
    constants: { Stored: storedAs(x.dtype), FLOAT: isFloat(x.dtype) },
    params: [...extents(out, x.shape[1]), ...places(x, out, indices), first],
    workgroups: grid(Math.ceil(sizeOf(out.shape) / 256), context),
  }),
  cuts: () => [[0, -1, 0], [-1, 0, 1], [2, -1, 2]],
};

/** g [outer, count, inner], indices [count] → [outer, length, inner]. */
const scatterOp: Op<{ length: number }> = defineOp<{ length: number }>({
  name: "scatterAdd",
  strided: true,
  output: ([g], { length }) => ({ shape: [g.shape[0], length, g.shape[2]], dtype: g.dtype }),
  compose: ([g, indices], [out]) => {
    for (const [first, target] of windows(out)) {
      // All rows may be one entry's, each a turn of its loop.
      for (const [start, rows] of windows(g, Math.floor(g.device.engine.loopTurns / 2))) {
        const own = indices.slice([start, start + rows.shape[1]]);
        runInPlace(scatterWindow, [rows, own], [target], { first, add: start > 0 });
      }
    }
  },
  saves: { inputs: [1] },
  backward: ({ grads: [gg], inputs: [, indices] }) => [gatherOp(gg, indices), null],
});

/** Into entries `first` and on of the axis; `add` to what is there, or begin from zero. */
const scatterWindow: Program<{ first: number; add: boolean }> = {
  name: "scatterAdd",
  cpu: ([g, indices], [out], { first, add }) => {
    if (!add) fillView(out, 0);
    forEachRow(g, indices, (from, index, o) => {
      if (index < first || index >= first + out.shape[1]) return;
      const to = out.offset + o * out.strides[0] + (index - first) * out.strides[1];
      for (let i = 0; i < g.shape[2]; i++) {
        out.data[to + i * out.strides[2]] += g.data[from + i * g.strides[2]];
      }
    });
  },
  wasm: ([g, indices], [out], { first, add }, context) => {
    const [outer, count, inner] = g.shape;
    // Whole lines of a cache.
    const perTask = 16 * Math.ceil(TASK / 16 / Math.max(1, count));
    const zeros = fillProgram.wasm!([], [out], { at: 0, value: 0 }, context) as WasmJob;
    const sums = {
      kernel: "scatterAdd",
      params: [...windowParams(g, out, indices, first), perTask],
      tasks: outer * Math.ceil(inner / perTask),
    };
    return add ? sums : [zeros, sums];
  },
  gpu: ([g, indices], [out], { first, add }, context) => ({
    shader: scatterShader,
    constants: { Stored: g.dtype, ADD: add },
    params: [...extents(g, out.shape[1]), ...places(g, out, indices), first],
    workgroups: grid(out.shape[0] * out.shape[1] * Math.ceil(out.shape[2] / 64), context),
  }),
  cuts: () => [[0, -1, 0], [2, -1, 2]],
};

/** `x` [outer, length, inner] in pieces along its middle axis that each fit a binding, of so many rows at most. */
function* windows(x: Tensor, most = Infinity): Generator<[first: number, part: Tensor]> {
  const [, length, inner] = x.shape;
  const [, step, within] = x.strides.map(Math.abs);
  const elements = Math.floor(x.device.engine.bindingBytes / bytesOf(x.dtype));
  const fit = 1 + Math.floor((elements - 1 - Math.max(inner - 1, 0) * within) / Math.max(step, 1));
  const rows = Math.max(Math.min(fit, most), 1);
  for (let first = 0; first < Math.max(length, 1); first += rows) {
    yield [first, x.slice(null, [first, first + rows])];
  }
}

function fillView(view: CpuView, value: number): void {
  const [outer, length, inner] = view.shape;
  for (let o = 0; o < outer; o++) {
    for (let j = 0; j < length; j++) {
      const row = view.offset + o * view.strides[0] + j * view.strides[1];
      for (let i = 0; i < inner; i++) view.data[row + i * view.strides[2]] = value;
    }
  }
}

/** Visits every row of `rows` [outer, count, inner] with the place of its first element. */
function forEachRow(
  rows: CpuView,
  indices: CpuView,
  visit: (place: number, index: number, o: number) => void,
): void {
  const [outer, count] = rows.shape;
  for (let o = 0; o < outer; o++) {
    for (let j = 0; j < count; j++) {
      const index = indices.data[indices.offset + j * indices.strides[0]];
      visit(rows.offset + o * rows.strides[0] + j * rows.strides[1], index, o);
    }
  }
}

/** Elements that are worth a task in WebAssembly. */
const TASK = 2 ** 14;

/** The head of both kernels' params, for rows [outer, count, inner] and entries `first` and on of a table's axis. */
function windowParams(rows: WasmView, table: WasmView, indices: WasmView, first: number): number[] {
  const place = (view: WasmView) => [addressOf(view), ...view.strides.map((step) => 4 * step)];
  return [
    ...[addressOf(indices), 4 * indices.strides[0], ...rows.shape, table.shape[1], first],
    ...[first === 0 ? 1 : 0, ...place(rows), ...place(table)],
  ];
}

/** The head of both shaders' parameters: [outer, count, inner] and the length of the gathered axis. */
function extents(rows: View, length: number): number[] {
  return [...rows.shape, length];
}

/** Strides and offsets of source, target and indices. */
function places(source: View, target: View, indices: View): number[] {
  return [
    ...[...source.strides, source.offset],
    ...[...target.strides, target.offset],
    ...[...indices.strides, indices.offset],
  ];
}

function storedAs(dtype: DType): string {
  return dtype === "bool" ? "u32" : dtype;
}

/** The entries of `x` along `axis` that `indices` names; its shape takes the axis's place. */
export function gather(x: Tensor, indices: Tensor, axis = 0): Tensor {
  if (indices.dtype !== "i32" && indices.dtype !== "u32") {
    throw new DTypeError(
      `gather: expected indices of dtype i32 or u32, found ${indices.dtype}; convert with to("i32")`,
    );
  }
  const at = resolveAxis(axis, x.rank, "gather");
  const [before, after] = [x.shape.slice(0, at), x.shape.slice(at + 1)];
  return tidy(() =>
    gatherOp(x.reshape([sizeOf(before), x.shape[at], sizeOf(after)]), indices.reshape([-1]))
      .reshape([...before, ...indices.shape, ...after])
  );
}

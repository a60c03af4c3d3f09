/**
 * Operations on dense rows: how far apart the rows lie, how the threads of a GPU's workgroup reduce one together, and
 * how WebAssembly runs them, many rows to a task.
 *
 * @module
 */
import { addressOf, type GpuContext, type WasmJob, type WasmView } from "../backend/contract.ts";
import { collapse, type Shape, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import reductions from "../../shaders/reductions.wgsl" with { type: "text" };
import bySubgroups from "../../shaders/subgroup_reductions.wgsl" with { type: "text" };
import byTrees from "../../shaders/workgroup_reductions.wgsl" with { type: "text" };

/** The whole of a shader that goes on from the reductions over a workgroup, for a device with subgroups or without. */
export function withReductions(text: string): (context: Pick<GpuContext, "subgroups">) => string {
  // What `enable`s comes first.
  const [withSubgroups, without] = [bySubgroups, byTrees].map((first) =>
    [first, reductions, text].join("\n")
  );
  return ({ subgroups }) => subgroups ? withSubgroups : without;
}

/** Elements that are worth a task. */
const TASK = 2 ** 13;

/** A job over the rows of `shape`, with what else the kernel takes before and after the views' addresses. */
export function rowsJob(
  kernel: string,
  shape: Shape,
  views: readonly WasmView[],
  { before = [], after = [] }: { before?: readonly number[]; after?: readonly number[] } = {},
): WasmJob {
  const length = shape.at(-1)!;
  const rows = sizeOf(shape.slice(0, -1));
  const perTask = Math.max(1, Math.floor(TASK / Math.max(1, length)));
  return {
    kernel,
    params: [rows, perTask, length, ...before, ...views.map(addressOf), ...after],
    tasks: Math.ceil(rows / perTask),
  };
}

/** Elements from one row, over the last axis, to the next; undefined unless rows are dense and lie evenly. */
export function rowStep(
  { shape, strides }: { readonly shape: Shape; readonly strides: readonly number[] },
): number | undefined {
  if (shape[shape.length - 1] > 1 && strides[strides.length - 1] !== 1) return undefined;
  const rows = collapse(shape.slice(0, -1), [strides.slice(0, -1)]);
  return rows.shape.length > 1 ? undefined : rows.strides[0][0] ?? 0;
}

/** `t` itself, or a dense copy if its rows do not lie evenly. */
export function inEvenRows(t: Tensor): Tensor {
  return rowStep(t) === undefined ? t.contiguous() : t.alias();
}

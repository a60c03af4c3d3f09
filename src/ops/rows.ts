/**
 * Operations on dense rows: how far apart the rows lie, how the threads of a GPU's workgroup reduce one together, and
 * how WebAssembly runs them, many rows to a task.
 *
 * @module
 */
import {
  addressOf,
  type GpuContext,
  type View,
  type WasmJob,
  type WasmView,
} from "../backend/contract.ts";
import type { DType } from "../dtype.ts";
import { collapse, type Shape, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { isInGroups } from "./tiles.ts";
import reductions from "../../shaders/reductions.wgsl" with { type: "text" };
import bySubgroups from "../../shaders/subgroup_reductions.wgsl" with { type: "text" };
import rows from "../../shaders/rows.wgsl" with { type: "text" };
import byTrees from "../../shaders/workgroup_reductions.wgsl" with { type: "text" };

/** The whole of a shader that goes on from the reductions over a workgroup, for a device with subgroups or without. */
export function withReductions(text: string): (context: Pick<GpuContext, "subgroups">) => string {
  // What `enable`s comes first.
  const [withSubgroups, without] = [bySubgroups, byTrees].map((first) =>
    [first, reductions, text].join("\n")
  );
  return ({ subgroups }) => subgroups ? withSubgroups : without;
}

/** The whole of a shader that goes on from rows.wgsl. */
export function withRows(text: string): (context: Pick<GpuContext, "subgroups">) => string {
  return withReductions(`${rows}\n${text}`);
}

/** Units that a thread reads in one turn: shaders/rows.wgsl. */
const TURN = 4;
/** Where a row is shorter, four neighbours at once would leave most of a subgroup without work. */
const WIDE = 512;

/** How the workgroups of a GPU walk along the last axis of `views`, all of one shape and of even rows. */
export function walkRows(views: readonly View[], context: GpuContext): {
  /** Elements of a unit, which a row's length, its offset and the step to it are multiples of. */
  readonly width: number;
  readonly constants: Readonly<Record<string, string | number | boolean>>;
} {
  const [{ shape, dtype }] = views;
  const length = shape[shape.length - 1];
  const wide = length >= WIDE && views.every((view) => isInGroups(view, -1, 4));
  const width = wide ? 4 : 1;
  const units = length / width;
  // Guaranteed are 256; at least a subgroup of most GPUs.
  const most = 2 **
    Math.floor(Math.log2(Math.min(context.software ? 256 : 1024, context.workgroupThreads)));
  const THREADS = Math.min(most, Math.max(32, 2 ** Math.ceil(Math.log2(units / TURN))));
  const walk = { WIDTH: width, THREADS, ONCE: units <= TURN * THREADS };
  return { width, constants: { ...unitOf(dtype, wide), ...walk, ...(wide ? OF_FOUR : {}) } };
}

/** Types of a unit: how it is stored, and what it is computed in. */
export function unitOf(dtype: DType, wide: boolean): { Stored: string; Unit: string } {
  return wide ? { Stored: `vec4<${dtype}>`, Unit: "vec4f" } : { Stored: dtype, Unit: "f32" };
}

/** The types of a unit, and `counts` in units: of four where all of them, offsets, steps and sizes, are multiples of it. */
export function inUnits(dtype: DType, counts: readonly number[]): {
  readonly constants: { readonly Stored: string; readonly Unit: string };
  readonly counts: number[];
} {
  const wide = counts.every((count) => count % 4 === 0);
  return {
    constants: unitOf(dtype, wide),
    counts: wide ? counts.map((count) => count / 4) : [...counts],
  };
}

const OF_FOUR = {
  sum_of: "(unit.x + unit.y) + (unit.z + unit.w)",
  max_of: "max(max(unit.x, unit.y), max(unit.z, unit.w))",
};

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

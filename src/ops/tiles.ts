/**
 * What kernels that work in tiles share: how their shaders read operands, and the blocks of their CPU twins.
 *
 * @module
 */
import {
  addressOf,
  type CpuView,
  type GpuContext,
  type View,
  type WasmView,
} from "../backend/contract.ts";
import blocks from "../../shaders/blocks.wgsl" with { type: "text" };
import keys from "../../shaders/keys.wgsl" with { type: "text" };
import queries from "../../shaders/queries.wgsl" with { type: "text" };
import scores from "../../shaders/scores.wgsl" with { type: "text" };
import tiles from "../../shaders/tiles.wgsl" with { type: "text" };
import type { Matrix } from "./matmul_cpu.ts";

/** The whole of a shader that goes on from blocks.wgsl. */
export function withBlocks(shader: string): string {
  return `${blocks}\n${shader}`;
}

/** The whole of a shader that goes on from scores.wgsl and further files. */
export function withScores(...texts: string[]): string {
  return withTiles(keys, queries, scores, ...texts);
}

/** The whole of a shader that goes on from tiles.wgsl and further files. */
export function withTiles(...texts: string[]): string {
  return withBlocks([tiles, ...texts].join("\n"));
}

/** Rows of the outputs that a workgroup makes. */
const ROWS = 64;

/**
 * Constants by which tiles of 64 rows are computed, and loaded without looking where d and e end if they are
 * whole tiles; `perTile` entries of d make a tile, 128 entries of e one that is `WIDE`.
 */
export function tiling(
  { software }: GpuContext,
  d: number,
  e: number,
  perTile = 16,
): Record<string, boolean> {
  const WIDE = isWide(e);
  return {
    WIDE,
    // Mesa's compiler takes long over written-out loops, and seconds over every variant.
    UNROLLED: !software,
    WHOLE_D: !software && d % perTile === 0,
    WHOLE_E: !software && e % (WIDE ? 128 : 64) === 0,
  };
}

/**
 * Constants by which shaders read operands, by name: four neighbours along `axis` at once where they lie
 * so.
 */
export function elements(
  views: Readonly<Record<string, View>>,
  axis: -1 | -2 = -1,
): Record<string, string> {
  const constants: Record<string, string> = {};
  for (const [name, view] of Object.entries(views)) {
    const inFours = isInFours(view, axis);
    constants[`Element_${name}`] = inFours ? `vec4<${view.dtype}>` : view.dtype;
    if (inFours) constants[`four_${name}`] = `vec4f(${name}[at / 4u])`;
  }
  return constants;
}

/** d and e as constants of a shader whose tiles are whole: what addresses are made of is known to the compiler. */
export function sizes(
  d: number,
  e: number,
  { WHOLE_D, WHOLE_E }: Record<string, boolean>,
): Record<string, string> {
  return WHOLE_D && WHOLE_E ? { width_d: `${d}u`, width_e: `${e}u` } : {};
}

/** Constants by which shaders store outputs, likewise. */
export function results(out: View): Record<string, string | boolean> {
  const { dtype } = out;
  if (!isInFours(out)) return { Result: dtype, ResultElement: dtype };
  const four_results = "ResultElement(values)";
  return { Result: dtype, ResultElement: `vec4<${dtype}>`, four_results, IN_FOURS: true };
}

function isInFours(view: View, axis: -1 | -2 = -1): boolean {
  return isInGroups(view, axis, 4);
}

/** Whether a view is dense along `axis` and all lines along it begin and end at multiples of `count`. */
export function isInGroups(view: View, axis: -1 | -2, count: number): boolean {
  const steps = stepsOf(view);
  const others = steps.toSpliced(axis, 1);
  return steps.at(axis) === 1 &&
    [view.shape.at(axis)!, view.offset, ...others].every((x) => x % count === 0);
}

/** The view with the order of its entries along `axis` reversed. */
export function reversed<V extends View | CpuView | WasmView>(view: V, axis: number): V {
  const n = view.shape[axis];
  if (n === 0) return view;
  const strides = view.strides.with(axis, -view.strides[axis]);
  return { ...view, strides, offset: view.offset + (n - 1) * view.strides[axis] };
}

/** Strides, 0 along axes of size 1, which are read at entry 0 whatever entry is asked for. */
export function stepsOf({ shape, strides }: Pick<View, "shape" | "strides">): number[] {
  return strides.map((stride, axis) => shape[axis] === 1 ? 0 : stride);
}

/** Params of views of rank 5: steps of batch, group, member and row; columns' strides; offsets. */
export function placesOf(...views: View[]): number[] {
  return [
    ...views.flatMap((view) => stepsOf(view).slice(0, 4)),
    ...views.map((view) => view.strides[4]),
    ...views.map((view) => view.offset),
  ];
}

/** Params of a view of rank 5 for WebAssembly: its address; steps of batch, group, member, row and column. */
export function placeInMemory(view: WasmView): number[] {
  const steps = [...stepsOf(view).slice(0, 4), view.strides[4]];
  return [addressOf(view), ...steps.map((step) => 4 * step)];
}

/**
 * How many columns a tile has, for outputs with so many. On an H200 at 128 columns 64 × 128 was fastest
 * (bench/RESULTS.md); at up to 64, half of it would be idle.
 */
export function tileColumns(length: number): number {
  return length > 64 ? 128 : 64;
}

/** What a tile is called in `device.describe()`. */
export function tileName(columns: number): string {
  return `${ROWS} × ${columns}`;
}

/** Whether tiles along an axis of this length are 128 wide, or 64. */
export function isWide(length: number): boolean {
  return tileColumns(length) === 128;
}

/** How many tiles an axis of this length is cut into. */
function tilesAlong(length: number): number {
  return Math.ceil(length / tileColumns(length));
}

/** At least the turns that loops take over `rows`, by blocks, and in each block over `columns`, by slices. */
export function turnsOf(rows: number, columns: number): number {
  return Math.ceil(rows / ROWS) * (ROWS + columns);
}

/** How many tiles make all `rows` and `columns` of a matrix. */
export function tilesOf(rows: number, columns: number): number {
  return Math.ceil(rows / ROWS) * tilesAlong(columns);
}

/** The matrix over the last two axes of `view` at an entry of the axes before, from row `start` on. */
export function matrixAt(view: CpuView, entry: readonly number[], start = 0): Matrix {
  const steps = stepsOf(view);
  const [row, column] = view.strides.slice(-2);
  const offset = entry.reduce((sum, index, axis) => sum + index * steps[axis], view.offset);
  return { data: view.data, offset: offset + start * row, row, column };
}

/** The matrix with rows and columns exchanged. */
export function transposed({ data, offset, row, column }: Matrix): Matrix {
  return { data, offset, row: column, column: row };
}

/** A new dense matrix of zeros. */
export function denseMatrix(rows: number, columns: number): Matrix {
  return { data: new Float32Array(rows * columns), offset: 0, row: columns, column: 1 };
}

/** All entries of axes of the given sizes, in row-major order. */
export function* entriesOf(shape: readonly number[]): Generator<number[]> {
  const [size, ...rest] = shape;
  if (size === undefined) return yield [];
  for (let i = 0; i < size; i++) for (const entry of entriesOf(rest)) yield [i, ...entry];
}

/**
 * What the tiled quadratic attentions share: how their shaders read operands, and the blocks of their CPU
 * twins.
 *
 * @module
 */
import type { CpuView, View } from "../backend/contract.ts";
import type { Matrix } from "./matmul_cpu.ts";

/** Rows of the outputs that a workgroup makes. */
const ROWS = 64;

/** Constants by which shaders read operands, by name: four neighbours of a row at once where they lie so. */
export function elements(views: Readonly<Record<string, View>>): Record<string, string> {
  const constants: Record<string, string> = {};
  for (const [name, view] of Object.entries(views)) {
    const inFours = isInFours(view);
    constants[`Element_${name}`] = inFours ? `vec4<${view.dtype}>` : view.dtype;
    if (inFours) constants[`four_${name}`] = `vec4f(${name}[at / 4u])`;
  }
  return constants;
}

/** Constants by which shaders store outputs, likewise. */
export function results(out: View): Record<string, string | boolean> {
  const { dtype } = out;
  if (!isInFours(out)) return { Result: dtype, ResultElement: dtype };
  const four_results = "ResultElement(values)";
  return { Result: dtype, ResultElement: `vec4<${dtype}>`, four_results, IN_FOURS: true };
}

/** Whether the rows of a view are dense and start at multiples of four elements. */
function isInFours(view: View): boolean {
  const [column, ...others] = stepsOf(view).reverse();
  const places = [view.shape.at(-1)!, view.offset, ...others];
  return column === 1 && places.every((x) => x % 4 === 0);
}

/** Strides, 0 along axes of size 1, which are read at entry 0 whatever entry is asked for. */
export function stepsOf({ shape, strides }: View | CpuView): number[] {
  return strides.map((stride, axis) => shape[axis] === 1 ? 0 : stride);
}

/** How the columns of the outputs are cut: whether 128 wide, and the workgroups for all `rows`. */
export function tilesOf(rows: number, columns: number): { WIDE: boolean; tiles: number } {
  const WIDE = columns > 64;
  return { WIDE, tiles: Math.ceil(rows / ROWS) * Math.ceil(columns / (WIDE ? 128 : 64)) };
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

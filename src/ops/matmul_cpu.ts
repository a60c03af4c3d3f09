/**
 * The CPU's matrix product: operands are packed into float64 panels of four rows or columns, so that
 * the inner loop reads straight ahead and keeps a 4 × 4 block of sums in registers.
 *
 * @module
 */
import type { KernelArray } from "../dtype.ts";

/** A strided matrix: element (i, j) is `data[offset + i * row + j * column]`. */
export interface Matrix {
  /** The elements. */
  readonly data: KernelArray;
  /** The place of element (0, 0). */
  readonly offset: number;
  /** Elements from one row to the next. */
  readonly row: number;
  /** Elements from one column to the next. */
  readonly column: number;
}

/** Depth and columns of the packed block of y: 2 MB of float64. */
const DEPTH = 256;
const COLUMNS = 1024;

const panelX = new Float64Array(4 * DEPTH);
let panelsY = new Float64Array(0);

/** out = x · y, or out += x · y, with sizes [m, n, k]. */
export function multiply(
  [m, n, k]: readonly [number, number, number],
  x: Matrix,
  y: Matrix,
  out: Matrix,
  accumulate = false,
): void {
  if (!accumulate) clear(m, n, out);
  if (m < 4) return multiplyRows(m, n, k, x, y, out);
  for (let k0 = 0; k0 < k; k0 += DEPTH) {
    const depth = Math.min(DEPTH, k - k0);
    for (let j0 = 0; j0 < n; j0 += COLUMNS) {
      const columns = Math.min(COLUMNS, n - j0);
      packColumns(y, k0, depth, j0, columns);
      for (let i = 0; i < m; i += 4) {
        packRows(x, k0, depth, i, Math.min(4, m - i));
        for (let j = 0; j < columns; j += 4) {
          block(depth, j * depth, out, i, j0 + j, Math.min(4, m - i), Math.min(4, columns - j));
        }
      }
    }
  }
}

function clear(m: number, n: number, { data, offset, row, column }: Matrix): void {
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) data[offset + i * row + j * column] = 0;
  }
}

/** Few rows: packing would cost more than it saves. Walks y along its dense axis. */
function multiplyRows(m: number, n: number, k: number, x: Matrix, y: Matrix, out: Matrix): void {
  const [xs, ys] = [x.data, y.data];
  for (let i = 0; i < m; i++) {
    const x0 = x.offset + i * x.row;
    const o0 = out.offset + i * out.row;
    if (Math.abs(y.row) <= Math.abs(y.column)) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        const y0 = y.offset + j * y.column;
        for (let d = 0; d < k; d++) sum += xs[x0 + d * x.column] * ys[y0 + d * y.row];
        out.data[o0 + j * out.column] += sum;
      }
      continue;
    }
    const sums = new Float64Array(n);
    for (let d = 0; d < k; d++) {
      const factor = xs[x0 + d * x.column];
      const y0 = y.offset + d * y.row;
      for (let j = 0; j < n; j++) sums[j] += factor * ys[y0 + j * y.column];
    }
    for (let j = 0; j < n; j++) out.data[o0 + j * out.column] += sums[j];
  }
}

/** Four rows of x, depth by depth; missing rows are zero. */
function packRows(x: Matrix, k0: number, depth: number, i: number, rows: number): void {
  const { data, row, column } = x;
  const start = x.offset + i * row + k0 * column;
  if (rows < 4) panelX.fill(0);
  for (let r = 0; r < rows; r++) {
    for (let d = 0, from = start + r * row; d < depth; d++, from += column) {
      panelX[4 * d + r] = data[from];
    }
  }
}

/** Columns of y in panels of four, depth by depth; missing columns are zero. */
function packColumns(y: Matrix, k0: number, depth: number, j0: number, columns: number): void {
  const { data, row, column } = y;
  const needed = Math.ceil(columns / 4) * 4 * depth;
  if (panelsY.length < needed) panelsY = new Float64Array(needed);
  for (let j = 0; j < columns; j += 4) {
    const width = Math.min(4, columns - j);
    const panel = j * depth;
    if (width < 4) panelsY.fill(0, panel, panel + 4 * depth);
    for (let d = 0; d < depth; d++) {
      const from = y.offset + (k0 + d) * row + (j0 + j) * column;
      for (let c = 0; c < width; c++) panelsY[panel + 4 * d + c] = data[from + c * column];
    }
  }
}

/** out[i.., j..] += panelX · one panel of y; rows and columns (at most 4) exist in out. */
// deno-fmt-ignore
function block(
  depth: number, panel: number, out: Matrix, i: number, j: number, rows: number, columns: number,
): void {
  let s00 = 0, s01 = 0, s02 = 0, s03 = 0;
  let s10 = 0, s11 = 0, s12 = 0, s13 = 0;
  let s20 = 0, s21 = 0, s22 = 0, s23 = 0;
  let s30 = 0, s31 = 0, s32 = 0, s33 = 0;
  const [px, py] = [panelX, panelsY];
  for (let p = 0, q = panel, end = 4 * depth; p < end; p += 4, q += 4) {
    const y0 = py[q], y1 = py[q + 1], y2 = py[q + 2], y3 = py[q + 3];
    const x0 = px[p], x1 = px[p + 1], x2 = px[p + 2], x3 = px[p + 3];
    s00 += x0 * y0; s01 += x0 * y1; s02 += x0 * y2; s03 += x0 * y3;
    s10 += x1 * y0; s11 += x1 * y1; s12 += x1 * y2; s13 += x1 * y3;
    s20 += x2 * y0; s21 += x2 * y1; s22 += x2 * y2; s23 += x2 * y3;
    s30 += x3 * y0; s31 += x3 * y1; s32 += x3 * y2; s33 += x3 * y3;
  }
  const { data, column } = out;
  let at = out.offset + i * out.row + j * column;
  addRow(data, at, column, columns, s00, s01, s02, s03); at += out.row;
  if (rows > 1) addRow(data, at, column, columns, s10, s11, s12, s13); at += out.row;
  if (rows > 2) addRow(data, at, column, columns, s20, s21, s22, s23); at += out.row;
  if (rows > 3) addRow(data, at, column, columns, s30, s31, s32, s33);
}

// deno-fmt-ignore
function addRow(
  data: KernelArray, at: number, column: number, columns: number,
  s0: number, s1: number, s2: number, s3: number,
): void {
  data[at] += s0;
  if (columns > 1) data[at + column] += s1;
  if (columns > 2) data[at + 2 * column] += s2;
  if (columns > 3) data[at + 3 * column] += s3;
}

// The kernels of matmul.ts: out[b] = x[b] · y[b], one task a tile of one out[b].
import { BLOCK_BYTES, multiplyPanels, packColumns, packRows, rowsBytes } from "./gemm";
import { madd, sumOf } from "./simd";

/** Depth of packed panels: a panel of y, 8 KB, stays in the first cache while those of x pass by. */
const DEPTH: i32 = 256;

// Params: [x, y, out] and for each [row step, column step], then m, n, k, rows and columns of a tile, and the batch:
// its rank, its sizes and for each operand its steps.
const X: usize = 0;
const Y: usize = 4;
const OUT: usize = 8;
const STEPS: usize = 12;
const M: usize = 36;
const N: usize = 40;
const K: usize = 44;
const TILE_ROWS: usize = 48;
const TILE_COLUMNS: usize = 52;
const RANK: usize = 56;
const BATCH: usize = 60;

let x: usize, y: usize, out: usize;
let row: i32, column: i32, rows: i32, columns: i32;

/** Finds the tile of a task: which entry of the batch, which rows and which columns. */
function locate(params: usize, task: i32): void {
  const m = load<i32>(params, M), n = load<i32>(params, N);
  const tileRows = load<i32>(params, TILE_ROWS), tileColumns = load<i32>(params, TILE_COLUMNS);
  const down = (m + tileRows - 1) / tileRows, across = (n + tileColumns - 1) / tileColumns;
  let entry = task / (down * across);
  const tile = task % (down * across);
  row = (tile / across) * tileRows;
  column = (tile % across) * tileColumns;
  rows = min(tileRows, m - row);
  columns = min(tileColumns, n - column);
  x = load<usize>(params, X);
  y = load<usize>(params, Y);
  out = load<usize>(params, OUT);
  const rank = load<i32>(params, RANK);
  for (let axis = rank - 1; axis >= 0; axis--) {
    const at = params + (axis << 2);
    const size = load<i32>(at, BATCH);
    const index = entry % size;
    entry /= size;
    const own = at + (rank << 2);
    x += index * load<i32>(own, BATCH);
    y += index * load<i32>(own + (rank << 2), BATCH);
    out += index * load<i32>(own + (rank << 3), BATCH);
  }
  x += row * load<i32>(params, STEPS);
  y += column * load<i32>(params, STEPS + 12);
  out += row * load<i32>(params, STEPS + 16) + column * load<i32>(params, STEPS + 20);
}

/** Any sizes: packs what the tile needs, 256 deep at a time. */
export function matmul(params: usize, task: i32, scratch: usize): void {
  locate(params, task);
  const k = load<i32>(params, K);
  const xRow = load<usize>(params, STEPS), xColumn = load<usize>(params, STEPS + 4);
  const yRow = load<usize>(params, STEPS + 8), yColumn = load<usize>(params, STEPS + 12);
  const outRow = load<usize>(params, STEPS + 16), outColumn = load<usize>(params, STEPS + 20);
  const panelsX = scratch + BLOCK_BYTES;
  const panelsY = panelsX + rowsBytes(rows, min(DEPTH, k));
  for (let d = 0; d == 0 || d < k; d += DEPTH) {
    const depth = min(DEPTH, k - d);
    packRows(panelsX, x, xRow, xColumn, rows, depth);
    packColumns(panelsY, y, yRow, yColumn, depth, columns);
    multiplyPanels(
      rows,
      columns,
      depth,
      panelsX,
      panelsY,
      out,
      outRow,
      outColumn,
      d > 0,
      scratch,
    );
    x += DEPTH * xColumn;
    y += DEPTH * yRow;
  }
}

/** Few rows, and columns of y that are dense along k: a sum of products for each element. */
export function matmulDots(params: usize, task: i32, _scratch: usize): void {
  locate(params, task);
  const k = load<i32>(params, K);
  const xRow = load<usize>(params, STEPS), yColumn = load<usize>(params, STEPS + 12);
  const outRow = load<usize>(params, STEPS + 16), outColumn = load<usize>(params, STEPS + 20);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      let p = x + i * xRow, q = y + j * yColumn;
      let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
      let d = 0;
      for (; d + 16 <= k; d += 16) {
        s0 = madd(v128.load(p), v128.load(q), s0);
        s1 = madd(v128.load(p, 16), v128.load(q, 16), s1);
        s2 = madd(v128.load(p, 32), v128.load(q, 32), s2);
        s3 = madd(v128.load(p, 48), v128.load(q, 48), s3);
        p += 64;
        q += 64;
      }
      let sum = sumOf(f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3)));
      for (; d < k; d++) {
        sum += load<f32>(p) * load<f32>(q);
        p += 4;
        q += 4;
      }
      store<f32>(out + i * outRow + j * outColumn, sum);
    }
  }
}

/** Few rows, and rows of y and out that are dense: sixteen columns at a time, down the rows of y. */
export function matmulRows(params: usize, task: i32, _scratch: usize): void {
  locate(params, task);
  const k = load<i32>(params, K);
  const xRow = load<usize>(params, STEPS), xColumn = load<usize>(params, STEPS + 4);
  const yRow = load<usize>(params, STEPS + 8);
  const outRow = load<usize>(params, STEPS + 16);
  for (let i = 0; i < rows; i++) {
    let j = 0;
    for (; j + 16 <= columns; j += 16) {
      let p = x + i * xRow, q = y + (j << 2);
      let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
      for (let d = 0; d < k; d++) {
        const factor = v128.load32_splat(p);
        s0 = madd(factor, v128.load(q), s0);
        s1 = madd(factor, v128.load(q, 16), s1);
        s2 = madd(factor, v128.load(q, 32), s2);
        s3 = madd(factor, v128.load(q, 48), s3);
        p += xColumn;
        q += yRow;
      }
      const to = out + i * outRow + (j << 2);
      v128.store(to, s0);
      v128.store(to, s1, 16);
      v128.store(to, s2, 32);
      v128.store(to, s3, 48);
    }
    for (; j < columns; j++) {
      let p = x + i * xRow, q = y + (j << 2);
      let sum: f32 = 0;
      for (let d = 0; d < k; d++) {
        sum += load<f32>(p) * load<f32>(q);
        p += xColumn;
        q += yRow;
      }
      store<f32>(out + i * outRow + (j << 2), sum);
    }
  }
}

// The matrix product out of packed panels. x is packed in panels of 6 rows, y in panels of 8 columns, each depth
// by depth, so that the innermost loop reads straight ahead; missing rows and columns are zero. Steps are in bytes
// throughout.
import { madd } from "./simd";
import { alternate, COLUMNS, halves, ROWS, swapped, turned } from "./tile";

export { COLUMNS, ROWS };

/** Bytes of `rows` × `depth`, packed by rows. */
// @ts-ignore: decorator
@inline
export function rowsBytes(rows: i32, depth: i32): usize {
  return (((rows + ROWS - 1) / ROWS) * ROWS * depth) << 2;
}

/** Bytes of `depth` × `columns`, packed by columns. */
// @ts-ignore: decorator
@inline
export function columnsBytes(columns: i32, depth: i32): usize {
  return (((columns + COLUMNS - 1) / COLUMNS) * COLUMNS * depth) << 2;
}

/** Packs x [rows, depth]. */
export function packRows(
  to: usize,
  from: usize,
  rowStep: usize,
  depthStep: usize,
  rows: i32,
  depth: i32,
): void {
  for (let i = 0; i < rows; i += ROWS) {
    const height = min(ROWS, rows - i);
    packPanel(to, from, rowStep, depthStep, height, depth, ROWS);
    to += (ROWS * depth) << 2;
    from += ROWS * rowStep;
  }
}

/** Packs y [depth, columns]. */
export function packColumns(
  to: usize,
  from: usize,
  depthStep: usize,
  columnStep: usize,
  depth: i32,
  columns: i32,
): void {
  for (let j = 0; j < columns; j += COLUMNS) {
    const width = min(COLUMNS, columns - j);
    if (columnStep == 4 && width == COLUMNS) {
      let source = from;
      for (let p = 0; p < depth; p++) {
        v128.store(to, v128.load(source));
        v128.store(to, v128.load(source, 16), 16);
        to += 32;
        source += depthStep;
      }
    } else {
      packPanel(to, from, columnStep, depthStep, width, depth, COLUMNS);
      to += (COLUMNS * depth) << 2;
    }
    from += COLUMNS * columnStep;
  }
}

/** `count` lines of `depth` entries side by side, in a panel that has room for `size` lines. */
export function packPanel(
  to: usize,
  from: usize,
  lineStep: usize,
  depthStep: usize,
  count: i32,
  depth: i32,
  size: i32,
): void {
  const step = <usize> size << 2;
  if (count < size) memory.fill(to, 0, depth * step);
  let line = 0;
  if (depthStep == 4) {
    // Four lines at a time, transposed in registers.
    for (; line + 4 <= count; line += 4) {
      let a = from + line * lineStep, b = a + lineStep, c = b + lineStep, d = c + lineStep;
      let target = to + (line << 2);
      let p = 0;
      for (; p + 4 <= depth; p += 4) {
        const ra = v128.load(a), rb = v128.load(b), rc = v128.load(c), rd = v128.load(d);
        const ab0 = v128.shuffle<f32>(ra, rb, 0, 4, 1, 5), ab1 = v128.shuffle<f32>(ra, rb, 2, 6, 3, 7);
        const cd0 = v128.shuffle<f32>(rc, rd, 0, 4, 1, 5), cd1 = v128.shuffle<f32>(rc, rd, 2, 6, 3, 7);
        v128.store(target, v128.shuffle<f32>(ab0, cd0, 0, 1, 4, 5));
        v128.store(target + step, v128.shuffle<f32>(ab0, cd0, 2, 3, 6, 7));
        v128.store(target + 2 * step, v128.shuffle<f32>(ab1, cd1, 0, 1, 4, 5));
        v128.store(target + 3 * step, v128.shuffle<f32>(ab1, cd1, 2, 3, 6, 7));
        a += 16;
        b += 16;
        c += 16;
        d += 16;
        target += 4 * step;
      }
      for (; p < depth; p++) {
        store<f32>(target, load<f32>(a));
        store<f32>(target, load<f32>(b), 4);
        store<f32>(target, load<f32>(c), 8);
        store<f32>(target, load<f32>(d), 12);
        a += 4;
        b += 4;
        c += 4;
        d += 4;
        target += step;
      }
    }
    for (; line + 2 <= count; line += 2) {
      let a = from + line * lineStep, b = a + lineStep;
      let target = to + (line << 2);
      let p = 0;
      for (; p + 4 <= depth; p += 4) {
        const ra = v128.load(a), rb = v128.load(b);
        const low = v128.shuffle<f32>(ra, rb, 0, 4, 1, 5);
        const high = v128.shuffle<f32>(ra, rb, 2, 6, 3, 7);
        v128.store_lane<u64>(target, low, 0);
        v128.store_lane<u64>(target + step, low, 1);
        v128.store_lane<u64>(target + 2 * step, high, 0);
        v128.store_lane<u64>(target + 3 * step, high, 1);
        a += 16;
        b += 16;
        target += 4 * step;
      }
      for (; p < depth; p++) {
        store<f32>(target, load<f32>(a));
        store<f32>(target, load<f32>(b), 4);
        a += 4;
        b += 4;
        target += step;
      }
    }
  } else if (lineStep == 4) {
    for (; line + 4 <= count; line += 4) {
      let source = from + (line << 2), target = to + (line << 2);
      for (let p = 0; p < depth; p++) {
        v128.store(target, v128.load(source));
        source += depthStep;
        target += step;
      }
    }
    for (; line + 2 <= count; line += 2) {
      let source = from + (line << 2), target = to + (line << 2);
      for (let p = 0; p < depth; p++) {
        store<u64>(target, load<u64>(source));
        source += depthStep;
        target += step;
      }
    }
  }
  for (; line < count; line++) {
    let source = from + line * lineStep, target = to + (line << 2);
    for (let p = 0; p < depth; p++) {
      store<f32>(target, load<f32>(source));
      source += depthStep;
      target += step;
    }
  }
}

/** A whole 6 × 8 block at `out`, whose rows are dense: x · y over `depth`, added to what is there or not. */
function block(depth: i32, x: usize, y: usize, out: usize, rowStep: usize, accumulate: bool): void {
  let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00;
  let s30 = s00, s31 = s00, s40 = s00, s41 = s00, s50 = s00, s51 = s00;
  while (depth > 0) {
    let y0 = v128.load(y), y1 = v128.load(y, 16);
    let p = v128.load(x);
    s00 = madd(p, y0, s00);
    s01 = madd(p, y1, s01);
    p = turned(p);
    s10 = madd(p, y0, s10);
    s11 = madd(p, y1, s11);
    p = turned(p);
    s20 = madd(p, y0, s20);
    s21 = madd(p, y1, s21);
    p = turned(p);
    s30 = madd(p, y0, s30);
    s31 = madd(p, y1, s31);
    p = v128.load64_splat(x, 16);
    s40 = madd(p, y0, s40);
    s41 = madd(p, y1, s41);
    p = swapped(p);
    s50 = madd(p, y0, s50);
    s51 = madd(p, y1, s51);
    if (--depth == 0) break;
    x += 24;
    y += 32;
    y0 = v128.load(y), y1 = v128.load(y, 16);
    p = v128.load(x);
    s00 = madd(p, y0, s00);
    s01 = madd(p, y1, s01);
    p = turned(p);
    s10 = madd(p, y0, s10);
    s11 = madd(p, y1, s11);
    p = turned(p);
    s20 = madd(p, y0, s20);
    s21 = madd(p, y1, s21);
    p = turned(p);
    s30 = madd(p, y0, s30);
    s31 = madd(p, y1, s31);
    p = v128.load64_splat(x, 16);
    s40 = madd(p, y0, s40);
    s41 = madd(p, y1, s41);
    p = swapped(p);
    s50 = madd(p, y0, s50);
    s51 = madd(p, y1, s51);
    --depth;
    x += 24;
    y += 32;
  }
  const even0 = alternate(s00, s30), odd0 = alternate(s10, s00);
  const last0 = alternate(s20, s10), other0 = alternate(s30, s20);
  const even1 = alternate(s01, s31), odd1 = alternate(s11, s01);
  const last1 = alternate(s21, s11), other1 = alternate(s31, s21);
  storeRow(out, halves(even0, last0), halves(even1, last1), accumulate);
  out += rowStep;
  storeRow(out, halves(odd0, other0), halves(odd1, other1), accumulate);
  out += rowStep;
  storeRow(out, halves(last0, even0), halves(last1, even1), accumulate);
  out += rowStep;
  storeRow(out, halves(other0, odd0), halves(other1, odd1), accumulate);
  out += rowStep;
  storeRow(out, alternate(s40, s50), alternate(s41, s51), accumulate);
  out += rowStep;
  storeRow(out, alternate(s50, s40), alternate(s51, s41), accumulate);
}

// @ts-ignore: decorator
@inline
function storeRow(out: usize, first: v128, second: v128, accumulate: bool): void {
  if (accumulate) {
    first = f32x4.add(first, v128.load(out));
    second = f32x4.add(second, v128.load(out, 16));
  }
  v128.store(out, first);
  v128.store(out, second, 16);
}

/** Bytes that {@linkcode multiplyPanels} needs to work in. */
export const BLOCK_BYTES: usize = 192;

/**
 * out [rows, columns] = x · y over packed panels whose depth is `depth`, or out += x · y. `reach` > 0 says that row r
 * of x has zeros from depth r + reach on, which are not multiplied; `triangle` that only blocks with a column ≤ row
 * are wanted.
 */
export function multiplyPanels(
  rows: i32,
  columns: i32,
  depth: i32,
  x: usize,
  y: usize,
  out: usize,
  rowStep: usize,
  columnStep: usize,
  accumulate: bool,
  spare: usize,
  reach: i32 = 0,
  triangle: bool = false,
): void {
  for (let j = 0; j < columns; j += COLUMNS) {
    const width = min(COLUMNS, columns - j);
    let panel = x;
    for (let i = 0; i < rows; i += ROWS) {
      const height = min(ROWS, rows - i);
      if (!triangle || j < i + height) {
        const deep = reach > 0 ? min(depth, i + height - 1 + reach) : depth;
        const to = out + i * rowStep;
        if (height == ROWS && width == COLUMNS && columnStep == 4) {
          block(deep, panel, y, to, rowStep, accumulate);
        } else {
          block(deep, panel, y, spare, 32, false);
          copyBlock(spare, to, height, width, rowStep, columnStep, accumulate);
        }
      }
      panel += (ROWS * depth) << 2;
    }
    y += (COLUMNS * depth) << 2;
    out += COLUMNS * columnStep;
  }
}

function copyBlock(
  from: usize,
  to: usize,
  height: i32,
  width: i32,
  rowStep: usize,
  columnStep: usize,
  accumulate: bool,
): void {
  for (let i = 0; i < height; i++) {
    let target = to;
    for (let j = 0; j < width; j++) {
      const value = load<f32>(from + (j << 2));
      store<f32>(target, accumulate ? load<f32>(target) + value : value);
      target += columnStep;
    }
    from += 32;
    to += rowStep;
  }
}

// The products of Lightning Attention-2 for one block of tokens, over operands read where they lie. Rows are in sixes,
// columns and depths in eights, what is missing is zero (see `placed` in lightning.ts). A 6 × 8 tile of sums fills 12
// of the 16 vector registers that x86 has, two of columns and one of a row's entry three more. Steps are in bytes.
import { madd } from "./simd";

/** Rows of a tile. */
export const ROWS: i32 = 6;
/** Columns of a tile. */
export const COLUMNS: i32 = 8;

/**
 * p [rows, ≤ rows] = (x yᵀ) ⊙ weights in tiles of 3 × 3 on and below the diagonal, whose sums run in four lanes along
 * d. Where a weight is 0 the product is not read as a number: it may be none. p and weights share their rows' step.
 */
export function scores(
  p: usize,
  weights: usize,
  step: usize,
  x: usize,
  xRow: usize,
  y: usize,
  yRow: usize,
  rows: i32,
  d: i32,
): void {
  for (let r = 0; r < rows; r += 3) {
    for (let t = 0; t <= r; t += 3) {
      let x0 = x + r * xRow, x1 = x0 + xRow, x2 = x1 + xRow;
      let y0 = y + t * yRow, y1 = y0 + yRow, y2 = y1 + yRow;
      let s00 = f32x4.splat(0), s01 = s00, s02 = s00, s10 = s00, s11 = s00, s12 = s00;
      let s20 = s00, s21 = s00, s22 = s00;
      for (let i = d;;) {
        let a0 = v128.load(x0), a1 = v128.load(x1), a2 = v128.load(x2);
        let b = v128.load(y0);
        s00 = madd(a0, b, s00);
        s10 = madd(a1, b, s10);
        s20 = madd(a2, b, s20);
        b = v128.load(y1);
        s01 = madd(a0, b, s01);
        s11 = madd(a1, b, s11);
        s21 = madd(a2, b, s21);
        b = v128.load(y2);
        s02 = madd(a0, b, s02);
        s12 = madd(a1, b, s12);
        s22 = madd(a2, b, s22);
        if ((i -= 4) <= 0) break;
        a0 = v128.load(x0, 16), a1 = v128.load(x1, 16), a2 = v128.load(x2, 16);
        b = v128.load(y0, 16);
        s00 = madd(a0, b, s00);
        s10 = madd(a1, b, s10);
        s20 = madd(a2, b, s20);
        b = v128.load(y1, 16);
        s01 = madd(a0, b, s01);
        s11 = madd(a1, b, s11);
        s21 = madd(a2, b, s21);
        b = v128.load(y2, 16);
        s02 = madd(a0, b, s02);
        s12 = madd(a1, b, s12);
        s22 = madd(a2, b, s22);
        if ((i -= 4) <= 0) break;
        x0 += 32;
        x1 += 32;
        x2 += 32;
        y0 += 32;
        y1 += 32;
        y2 += 32;
      }
      const at = r * step + (t << 2);
      storeScores(p + at, weights + at, s00, s01, s02);
      storeScores(p + at + step, weights + at + step, s10, s11, s12);
      storeScores(p + at + 2 * step, weights + at + 2 * step, s20, s21, s22);
    }
  }
}

/** The weighted sums of the lanes of three, and a zero after them. */
// @ts-ignore: decorator
@inline
function storeScores(to: usize, weights: usize, a: v128, b: v128, c: v128): void {
  const zero = f32x4.splat(0);
  const ab = f32x4.add(v128.shuffle<f32>(a, b, 0, 4, 1, 5), v128.shuffle<f32>(a, b, 2, 6, 3, 7));
  const c0 = f32x4.add(v128.shuffle<f32>(c, zero, 0, 4, 1, 5), v128.shuffle<f32>(c, zero, 2, 6, 3, 7));
  const sums = f32x4.add(v128.shuffle<f32>(ab, c0, 0, 1, 4, 5), v128.shuffle<f32>(ab, c0, 2, 3, 6, 7));
  const weight = v128.load(weights);
  v128.store(to, v128.and(f32x4.mul(sums, weight), f32x4.ne(weight, zero)));
}

/**
 * out [rows, columns] = diag(weights) x S + p v: S in panels of eight columns `panel` bytes apart, p zero above the
 * diagonal. Without a state (`depth` 0) only the second.
 */
export function outputs(
  rows: i32,
  columns: i32,
  depth: i32,
  x: usize,
  xRow: usize,
  state: usize,
  panel: usize,
  weights: usize,
  p: usize,
  pRow: usize,
  v: usize,
  vRow: usize,
  out: usize,
  outRow: usize,
): void {
  for (let i = 0; i < rows; i += ROWS) {
    for (let j = 0; j < columns; j += COLUMNS) {
      let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00;
      let s30 = s00, s31 = s00, s40 = s00, s41 = s00, s50 = s00, s51 = s00;
      let left = depth;
      let x0 = x + i * xRow, row = xRow;
      let y = state + (j >> 3) * panel, yRow: usize = 32;
      for (let last = 0; last < 2; last++) {
        let x1 = x0 + row, x2 = x1 + row, x3 = x2 + row, x4 = x3 + row, x5 = x4 + row;
        while (left > 0) {
          let y0 = v128.load(y), y1 = v128.load(y, 16);
          let a = v128.load32_splat(x0);
          s00 = madd(a, y0, s00);
          s01 = madd(a, y1, s01);
          a = v128.load32_splat(x1);
          s10 = madd(a, y0, s10);
          s11 = madd(a, y1, s11);
          a = v128.load32_splat(x2);
          s20 = madd(a, y0, s20);
          s21 = madd(a, y1, s21);
          a = v128.load32_splat(x3);
          s30 = madd(a, y0, s30);
          s31 = madd(a, y1, s31);
          a = v128.load32_splat(x4);
          s40 = madd(a, y0, s40);
          s41 = madd(a, y1, s41);
          a = v128.load32_splat(x5);
          s50 = madd(a, y0, s50);
          s51 = madd(a, y1, s51);
          if (--left == 0) break;
          y += yRow;
          y0 = v128.load(y), y1 = v128.load(y, 16);
          a = v128.load32_splat(x0, 4);
          s00 = madd(a, y0, s00);
          s01 = madd(a, y1, s01);
          a = v128.load32_splat(x1, 4);
          s10 = madd(a, y0, s10);
          s11 = madd(a, y1, s11);
          a = v128.load32_splat(x2, 4);
          s20 = madd(a, y0, s20);
          s21 = madd(a, y1, s21);
          a = v128.load32_splat(x3, 4);
          s30 = madd(a, y0, s30);
          s31 = madd(a, y1, s31);
          a = v128.load32_splat(x4, 4);
          s40 = madd(a, y0, s40);
          s41 = madd(a, y1, s41);
          a = v128.load32_splat(x5, 4);
          s50 = madd(a, y0, s50);
          s51 = madd(a, y1, s51);
          --left;
          y += yRow;
          x0 += 8;
          x1 += 8;
          x2 += 8;
          x3 += 8;
          x4 += 8;
          x5 += 8;
        }
        if (last != 0) break;
        const w = weights + (i << 2);
        let a = v128.load32_splat(w);
        s00 = f32x4.mul(a, s00);
        s01 = f32x4.mul(a, s01);
        a = v128.load32_splat(w, 4);
        s10 = f32x4.mul(a, s10);
        s11 = f32x4.mul(a, s11);
        a = v128.load32_splat(w, 8);
        s20 = f32x4.mul(a, s20);
        s21 = f32x4.mul(a, s21);
        a = v128.load32_splat(w, 12);
        s30 = f32x4.mul(a, s30);
        s31 = f32x4.mul(a, s31);
        a = v128.load32_splat(w, 16);
        s40 = f32x4.mul(a, s40);
        s41 = f32x4.mul(a, s41);
        a = v128.load32_splat(w, 20);
        s50 = f32x4.mul(a, s50);
        s51 = f32x4.mul(a, s51);
        left = i + ROWS;
        x0 = p + i * pRow;
        row = pRow;
        y = v + (j << 2);
        yRow = vRow;
      }
      let to = out + i * outRow + (j << 2);
      v128.store(to, s00);
      v128.store(to, s01, 16);
      to += outRow;
      v128.store(to, s10);
      v128.store(to, s11, 16);
      to += outRow;
      v128.store(to, s20);
      v128.store(to, s21, 16);
      to += outRow;
      v128.store(to, s30);
      v128.store(to, s31, 16);
      to += outRow;
      v128.store(to, s40);
      v128.store(to, s41, 16);
      to += outRow;
      v128.store(to, s50);
      v128.store(to, s51, 16);
    }
  }
}

/**
 * S [rows, columns] ← λ S + kᵀ v in its panels, over `depth` tokens; if λ is given as its `difference` from one,
 * S + ((λ − 1) S + kᵀ v).
 */
export function addToState(
  state: usize,
  panel: usize,
  rows: i32,
  columns: i32,
  depth: i32,
  k: usize,
  kRow: usize,
  v: usize,
  vRow: usize,
  decay: f32,
  difference: bool,
): void {
  const factor = f32x4.splat(decay);
  for (let j = 0; j < columns; j += COLUMNS) {
    for (let i = 0; i < rows; i += ROWS) {
      let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00;
      let s30 = s00, s31 = s00, s40 = s00, s41 = s00, s50 = s00, s51 = s00;
      let x = k + (i << 2), y = v + (j << 2);
      for (let left = depth;;) {
        let y0 = v128.load(y), y1 = v128.load(y, 16);
        let a = v128.load32_splat(x);
        s00 = madd(a, y0, s00);
        s01 = madd(a, y1, s01);
        a = v128.load32_splat(x, 4);
        s10 = madd(a, y0, s10);
        s11 = madd(a, y1, s11);
        a = v128.load32_splat(x, 8);
        s20 = madd(a, y0, s20);
        s21 = madd(a, y1, s21);
        a = v128.load32_splat(x, 12);
        s30 = madd(a, y0, s30);
        s31 = madd(a, y1, s31);
        a = v128.load32_splat(x, 16);
        s40 = madd(a, y0, s40);
        s41 = madd(a, y1, s41);
        a = v128.load32_splat(x, 20);
        s50 = madd(a, y0, s50);
        s51 = madd(a, y1, s51);
        if (--left == 0) break;
        x += kRow;
        y += vRow;
        y0 = v128.load(y), y1 = v128.load(y, 16);
        a = v128.load32_splat(x);
        s00 = madd(a, y0, s00);
        s01 = madd(a, y1, s01);
        a = v128.load32_splat(x, 4);
        s10 = madd(a, y0, s10);
        s11 = madd(a, y1, s11);
        a = v128.load32_splat(x, 8);
        s20 = madd(a, y0, s20);
        s21 = madd(a, y1, s21);
        a = v128.load32_splat(x, 12);
        s30 = madd(a, y0, s30);
        s31 = madd(a, y1, s31);
        a = v128.load32_splat(x, 16);
        s40 = madd(a, y0, s40);
        s41 = madd(a, y1, s41);
        a = v128.load32_splat(x, 20);
        s50 = madd(a, y0, s50);
        s51 = madd(a, y1, s51);
        if (--left == 0) break;
        x += kRow;
        y += vRow;
      }
      const to = state + (j >> 3) * panel + (i << 5);
      decayAndAdd(to, factor, difference, s00, s01);
      decayAndAdd(to + 32, factor, difference, s10, s11);
      decayAndAdd(to + 64, factor, difference, s20, s21);
      decayAndAdd(to + 96, factor, difference, s30, s31);
      decayAndAdd(to + 128, factor, difference, s40, s41);
      decayAndAdd(to + 160, factor, difference, s50, s51);
    }
  }
}

// @ts-ignore: decorator
@inline
function decayAndAdd(state: usize, factor: v128, difference: bool, a: v128, b: v128): void {
  const first = v128.load(state), second = v128.load(state, 16);
  a = madd(factor, first, a);
  b = madd(factor, second, b);
  v128.store(state, difference ? f32x4.add(first, a) : a);
  v128.store(state, difference ? f32x4.add(second, b) : b, 16);
}

// The products of Lightning Attention-2 for one block of tokens. Rows are in sixes, columns and depths in eights, what is
// missing is zero (see lightning.ts). Steps are in bytes.
import { readLine } from "./ahead";
import { madd } from "./simd";
import { alternate, COLUMNS, halves, ROWS, swapped, turned } from "./tile";

/**
 * p [rows, rows] = (x yᵀ) ⊙ weights in tiles of 3 × 3 on and above the diagonal, whose sums run in four lanes along d;
 * below it zeros as far as tiles of six rows reach.
 * Where a weight is 0 the product is not read as a number: it may be none. p and weights share their rows' step.
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
  for (let t = 0; t < rows; t += 3) {
    if (t % ROWS != 0) {
      const zero = f32x4.splat(0), at = p + t * step + ((t - 3) << 2);
      v128.store(at, zero);
      v128.store(at + step, zero);
      v128.store(at + 2 * step, zero);
    }
    for (let r = t; r < rows; r += 3) {
      let x0 = x + t * xRow, x1 = x0 + xRow, x2 = x1 + xRow;
      let y0 = y + r * yRow, y1 = y0 + yRow, y2 = y1 + yRow;
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
        a0 = v128.load(x0, 32), a1 = v128.load(x1, 32), a2 = v128.load(x2, 32);
        b = v128.load(y0, 32);
        s00 = madd(a0, b, s00);
        s10 = madd(a1, b, s10);
        s20 = madd(a2, b, s20);
        b = v128.load(y1, 32);
        s01 = madd(a0, b, s01);
        s11 = madd(a1, b, s11);
        s21 = madd(a2, b, s21);
        b = v128.load(y2, 32);
        s02 = madd(a0, b, s02);
        s12 = madd(a1, b, s12);
        s22 = madd(a2, b, s22);
        if ((i -= 4) <= 0) break;
        a0 = v128.load(x0, 48), a1 = v128.load(x1, 48), a2 = v128.load(x2, 48);
        b = v128.load(y0, 48);
        s00 = madd(a0, b, s00);
        s10 = madd(a1, b, s10);
        s20 = madd(a2, b, s20);
        b = v128.load(y1, 48);
        s01 = madd(a0, b, s01);
        s11 = madd(a1, b, s11);
        s21 = madd(a2, b, s21);
        b = v128.load(y2, 48);
        s02 = madd(a0, b, s02);
        s12 = madd(a1, b, s12);
        s22 = madd(a2, b, s22);
        if ((i -= 4) <= 0) break;
        x0 += 64;
        x1 += 64;
        x2 += 64;
        y0 += 64;
        y1 += 64;
        y2 += 64;
      }
      const at = t * step + (r << 2);
      storeScores(p + at, weights + at, s00, s01, s02);
      storeScores(p + at + step, weights + at + step, s10, s11, s12);
      storeScores(p + at + 2 * step, weights + at + 2 * step, s20, s21, s22);
    }
  }
}

/** The weighted sums of the lanes of three; what is stored after them is the next tile's, or nobody's. */
// @ts-ignore: decorator
@inline
function storeScores(to: usize, weights: usize, a: v128, b: v128, c: v128): void {
  const zero = f32x4.splat(0);
  const ab = f32x4.add(v128.shuffle<f32>(a, b, 0, 4, 1, 5), v128.shuffle<f32>(a, b, 2, 6, 3, 7));
  const cc = f32x4.add(v128.shuffle<f32>(c, c, 0, 4, 1, 5), v128.shuffle<f32>(c, c, 2, 6, 3, 7));
  const sums = f32x4.add(v128.shuffle<f32>(ab, cc, 0, 1, 4, 5), v128.shuffle<f32>(ab, cc, 2, 3, 6, 7));
  const weight = v128.load(weights);
  v128.store(to, v128.and(f32x4.mul(sums, weight), f32x4.ne(weight, zero)));
}

/**
 * out [rows, columns] = xᵀ S + pᵀ v, x [depth, rows] and S in panels of eight columns `panel` bytes apart, p
 * [rows, rows] as `scores` makes it.
 */
export function outputs(
  rows: i32,
  columns: i32,
  depth: i32,
  x: usize,
  xRow: usize,
  state: usize,
  panel: usize,
  p: usize,
  pRow: usize,
  v: usize,
  vRow: usize,
  out: usize,
  outRow: usize,
): void {
  for (let j = 0; j < columns; j += COLUMNS) {
    for (let i = 0; i < rows; i += ROWS) {
      let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00;
      let s30 = s00, s31 = s00, s40 = s00, s41 = s00, s50 = s00, s51 = s00;
      let a = x + (i << 2), aRow = xRow, left = depth;
      let b = state + (j >> 3) * panel, bRow: usize = 32;
      for (let both = depth == 0; ; both = true) {
        if (both) {
          a = p + (i << 2), aRow = pRow, left = i + ROWS;
          b = v + (j << 2), bRow = vRow;
        }
        for (;;) {
          let y0 = v128.load(b), y1 = v128.load(b, 16);
          let x = v128.load(a);
          s00 = madd(x, y0, s00);
          s01 = madd(x, y1, s01);
          x = turned(x);
          s10 = madd(x, y0, s10);
          s11 = madd(x, y1, s11);
          x = turned(x);
          s20 = madd(x, y0, s20);
          s21 = madd(x, y1, s21);
          x = turned(x);
          s30 = madd(x, y0, s30);
          s31 = madd(x, y1, s31);
          x = v128.load64_splat(a, 16);
          s40 = madd(x, y0, s40);
          s41 = madd(x, y1, s41);
          x = swapped(x);
          s50 = madd(x, y0, s50);
          s51 = madd(x, y1, s51);
          if (--left == 0) break;
          a += aRow;
          b += bRow;
          y0 = v128.load(b), y1 = v128.load(b, 16);
          x = v128.load(a);
          s00 = madd(x, y0, s00);
          s01 = madd(x, y1, s01);
          x = turned(x);
          s10 = madd(x, y0, s10);
          s11 = madd(x, y1, s11);
          x = turned(x);
          s20 = madd(x, y0, s20);
          s21 = madd(x, y1, s21);
          x = turned(x);
          s30 = madd(x, y0, s30);
          s31 = madd(x, y1, s31);
          x = v128.load64_splat(a, 16);
          s40 = madd(x, y0, s40);
          s41 = madd(x, y1, s41);
          x = swapped(x);
          s50 = madd(x, y0, s50);
          s51 = madd(x, y1, s51);
          if (--left == 0) break;
          a += aRow;
          b += bRow;
        }
        readLine();
        if (both) break;
      }
      const even0 = alternate(s00, s30), odd0 = alternate(s10, s00);
      const last0 = alternate(s20, s10), other0 = alternate(s30, s20);
      const even1 = alternate(s01, s31), odd1 = alternate(s11, s01);
      const last1 = alternate(s21, s11), other1 = alternate(s31, s21);
      let to = out + i * outRow + (j << 2);
      v128.store(to, halves(even0, last0));
      v128.store(to, halves(even1, last1), 16);
      to += outRow;
      v128.store(to, halves(odd0, other0));
      v128.store(to, halves(odd1, other1), 16);
      to += outRow;
      v128.store(to, halves(last0, even0));
      v128.store(to, halves(last1, even1), 16);
      to += outRow;
      v128.store(to, halves(other0, odd0));
      v128.store(to, halves(other1, odd1), 16);
      to += outRow;
      v128.store(to, alternate(s40, s50));
      v128.store(to, alternate(s41, s51), 16);
      to += outRow;
      v128.store(to, alternate(s50, s40));
      v128.store(to, alternate(s51, s41), 16);
    }
  }
}

/**
 * S [rows, columns] ← λ S + kᵀ v in its panels, over `depth` tokens; if λ is given as its `difference` from one,
 * S + ((λ − 1) S + kᵀ v). Rows are in sixes, but for four that may be left.
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
    const from = v + (j << 2);
    let to = state + (j >> 3) * panel, i = 0;
    for (; i + ROWS <= rows; i += ROWS) {
      let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00;
      let s30 = s00, s31 = s00, s40 = s00, s41 = s00, s50 = s00, s51 = s00;
      let a = k + (i << 2), b = from;
      const end = a + depth * kRow;
      for (;;) {
        let y0 = v128.load(b), y1 = v128.load(b, 16);
        let x = v128.load(a);
        s00 = madd(x, y0, s00);
        s01 = madd(x, y1, s01);
        x = turned(x);
        s10 = madd(x, y0, s10);
        s11 = madd(x, y1, s11);
        x = turned(x);
        s20 = madd(x, y0, s20);
        s21 = madd(x, y1, s21);
        x = turned(x);
        s30 = madd(x, y0, s30);
        s31 = madd(x, y1, s31);
        x = v128.load64_splat(a, 16);
        s40 = madd(x, y0, s40);
        s41 = madd(x, y1, s41);
        x = swapped(x);
        s50 = madd(x, y0, s50);
        s51 = madd(x, y1, s51);
        a += kRow;
        if (a == end) break;
        b += vRow;
        y0 = v128.load(b), y1 = v128.load(b, 16);
        x = v128.load(a);
        s00 = madd(x, y0, s00);
        s01 = madd(x, y1, s01);
        x = turned(x);
        s10 = madd(x, y0, s10);
        s11 = madd(x, y1, s11);
        x = turned(x);
        s20 = madd(x, y0, s20);
        s21 = madd(x, y1, s21);
        x = turned(x);
        s30 = madd(x, y0, s30);
        s31 = madd(x, y1, s31);
        x = v128.load64_splat(a, 16);
        s40 = madd(x, y0, s40);
        s41 = madd(x, y1, s41);
        x = swapped(x);
        s50 = madd(x, y0, s50);
        s51 = madd(x, y1, s51);
        a += kRow;
        if (a == end) break;
        b += vRow;
      }
      addFour(to, factor, difference, s00, s01, s10, s11, s20, s21, s30, s31);
      if (difference) {
        addChange(to + 128, factor, alternate(s40, s50), alternate(s41, s51));
        addChange(to + 160, factor, alternate(s50, s40), alternate(s51, s41));
      } else {
        addDecayed(to + 128, factor, alternate(s40, s50), alternate(s41, s51));
        addDecayed(to + 160, factor, alternate(s50, s40), alternate(s51, s41));
      }
      to += ROWS << 5;
      readLine();
    }
    if (i < rows) {
      let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00;
      let s30 = s00, s31 = s00;
      let a = k + (i << 2), b = from;
      const end = a + depth * kRow;
      for (;;) {
        const y0 = v128.load(b), y1 = v128.load(b, 16);
        let x = v128.load(a);
        s00 = madd(x, y0, s00);
        s01 = madd(x, y1, s01);
        x = turned(x);
        s10 = madd(x, y0, s10);
        s11 = madd(x, y1, s11);
        x = turned(x);
        s20 = madd(x, y0, s20);
        s21 = madd(x, y1, s21);
        x = turned(x);
        s30 = madd(x, y0, s30);
        s31 = madd(x, y1, s31);
        a += kRow;
        if (a == end) break;
        b += vRow;
      }
      addFour(to, factor, difference, s00, s01, s10, s11, s20, s21, s30, s31);
      readLine();
    }
  }
}

/** Four rows of S ← λ S + sum. */
// @ts-ignore: decorator
@inline
function addFour(
  to: usize,
  factor: v128,
  difference: bool,
  s00: v128,
  s01: v128,
  s10: v128,
  s11: v128,
  s20: v128,
  s21: v128,
  s30: v128,
  s31: v128,
): void {
  const even0 = alternate(s00, s30), odd0 = alternate(s10, s00);
  const last0 = alternate(s20, s10), other0 = alternate(s30, s20);
  const even1 = alternate(s01, s31), odd1 = alternate(s11, s01);
  const last1 = alternate(s21, s11), other1 = alternate(s31, s21);
  if (difference) {
    addChange(to, factor, halves(even0, last0), halves(even1, last1));
    addChange(to + 32, factor, halves(odd0, other0), halves(odd1, other1));
    addChange(to + 64, factor, halves(last0, even0), halves(last1, even1));
    addChange(to + 96, factor, halves(other0, odd0), halves(other1, odd1));
  } else {
    addDecayed(to, factor, halves(even0, last0), halves(even1, last1));
    addDecayed(to + 32, factor, halves(odd0, other0), halves(odd1, other1));
    addDecayed(to + 64, factor, halves(last0, even0), halves(last1, even1));
    addDecayed(to + 96, factor, halves(other0, odd0), halves(other1, odd1));
  }
}

/** Two vectors of S ← S + ((λ − 1) S + sum). */
// @ts-ignore: decorator
@inline
function addChange(state: usize, difference: v128, sum0: v128, sum1: v128): void {
  const s0 = v128.load(state), s1 = v128.load(state, 16);
  v128.store(state, f32x4.add(s0, madd(difference, s0, sum0)));
  v128.store(state, f32x4.add(s1, madd(difference, s1, sum1)), 16);
}

/** Two vectors of S ← λ S + sum. */
// @ts-ignore: decorator
@inline
function addDecayed(state: usize, decay: v128, sum0: v128, sum1: v128): void {
  const s0 = v128.load(state), s1 = v128.load(state, 16);
  v128.store(state, madd(decay, s0, sum0));
  v128.store(state, madd(decay, s1, sum1), 16);
}

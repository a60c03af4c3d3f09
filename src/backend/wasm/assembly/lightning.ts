// Lightning Attention-2, one task a head or some columns of its values: see lightning_core.ts for the formulas, and
// lightning_tiles.ts for the products of a block. Columns of v, of the outputs and of the state never meet, so a part
// of them is the same work.
import * as ahead from "./ahead";
import { addToState, outputs, scores } from "./lightning_tiles";
import { exp } from "./simd";
import { COLUMNS, ROWS } from "./tile";

// Params: sizes; then for each of q, k, v, out, last and initial, and of the pair's r and its out, its address and the
// steps, in bytes, of batch, group, member, row and column; then for g its address and the steps of batch, group,
// member and row. WIDTH: columns of a part. With PAIR, LA(r, v, k) over the same states turned over; TURNED where a job
// of its own is that, whose states then are the same to the last bit. GIVES: where the scores of every block are left
// for a walk the other way, whose scores are the same turned over; TAKES and PAIR_TAKES: where such a walk, and its pair,
// finds them; 0 if they do not.
const GROUPS: usize = 0;
const MEMBERS: usize = 4;
const N: usize = 8;
const D: usize = 12;
const E: usize = 16;
const BLOCK: usize = 20;
const ALPHA: usize = 24;
const BETA: usize = 28;
const DECAY_AFTER: usize = 32;
const HAS_INITIAL: usize = 36;
const WIDTH: usize = 40;
const PAIR: usize = 44;
const TURNED: usize = 48;
const GIVES: usize = 52;
const TAKES: usize = 56;
const PAIR_TAKES: usize = 60;
const VIEWS: usize = 64;
const VIEW_BYTES: usize = 24;

/** A token's strongest decay: its exponential is 0 in float32. */
const STRONGEST: f32 = -127;
/** Rows further apart than this are copied together: those of a block would meet in few places of the cache. */
const FARTHEST: i32 = 1024;

/** Where a head of the view whose fields begin at `view` lies. */
function headOf(params: usize, view: usize, head: i32): usize {
  const members = load<i32>(params, MEMBERS), groups = load<i32>(params, GROUPS);
  return load<usize>(view) +
    (head / members / groups) * load<i32>(view, 4) +
    ((head / members) % groups) * load<i32>(view, 8) +
    (head % members) * load<i32>(view, 12);
}

function up(size: i32, multiple: i32): i32 {
  return ((size + multiple - 1) / multiple) * multiple;
}

/** Whether tiles can read or write rows of so many columns where they lie. */
function inPlace(row: usize, column: usize, rows: i32, columns: i32): bool {
  return column == 4 && rows % ROWS == 0 && columns % COLUMNS == 0 && abs(<i32> row) <= FARTHEST;
}

export function lightningAttention(params: usize, task: i32, scratch: usize): void {
  const n = load<i32>(params, N), d = load<i32>(params, D), width = load<i32>(params, WIDTH);
  const parts = (load<i32>(params, E) + width - 1) / width;
  const head = task / parts, first = (task % parts) * width;
  const e = min(width, load<i32>(params, E) - first);
  const most = load<i32>(params, BLOCK), pair = load<i32>(params, PAIR) != 0;
  const decaysValues = load<i32>(params, TURNED) != 0;
  const qView = params + VIEWS, kView = qView + VIEW_BYTES, vView = kView + VIEW_BYTES;
  const outView = vView + VIEW_BYTES, lastView = outView + VIEW_BYTES;
  const initialView = lastView + VIEW_BYTES, rView = initialView + VIEW_BYTES;
  const turnedView = rView + VIEW_BYTES, gView = turnedView + VIEW_BYTES;
  let q = headOf(params, qView, head), k = headOf(params, kView, head);
  let v = headOf(params, vView, head), out = headOf(params, outView, head);
  let r = headOf(params, rView, head), turnedOut = headOf(params, turnedView, head);
  let g = headOf(params, gView, head);
  const qRow = load<usize>(qView, 16), qColumn = load<usize>(qView, 20);
  const kRow = load<usize>(kView, 16), kColumn = load<usize>(kView, 20);
  const vRow = load<usize>(vView, 16), vColumn = load<usize>(vView, 20);
  const outRow = load<usize>(outView, 16), outColumn = load<usize>(outView, 20);
  const rRow = load<usize>(rView, 16), rColumn = load<usize>(rView, 20);
  const turnedRow = load<usize>(turnedView, 16), turnedColumn = load<usize>(turnedView, 20);
  const gStep = load<usize>(gView, 16);
  v += first * vColumn;
  out += first * outColumn;

  // What lives from one product to the next. A row of scores has room for what a tile stores after its last.
  const tall = up(most, ROWS), deep = up(d, COLUMNS), wide = up(e, COLUMNS);
  const stateRows = deep % ROWS == 4 ? deep : up(deep, ROWS);
  const deepRow = <usize> deep << 2, wideRow = <usize> wide << 2, decayedRow = <usize> stateRows << 2;
  const scoresRow = <usize> up(tall + 1, 4) << 2;
  const panel = <usize> stateRows << 5, turnedPanel = <usize> wide << 5;
  const positions = scratch + 64;
  const fromStart = positions + (<usize> tall << 3) + 32;
  const toEnd = fromStart + (<usize> tall << 2) + 32;
  const between = toEnd + (<usize> tall << 2) + 32;
  const ownP = between + tall * scoresRow;
  const x = ownP + tall * scoresRow;
  const decayedK = x + max(deep, wide) * scoresRow;
  const copyQ = decayedK + tall * decayedRow;
  const copyK = copyQ + tall * deepRow;
  const copyV = copyK + tall * deepRow;
  const copyR = copyV + tall * wideRow;
  const result = copyR + tall * wideRow;
  const state = result + tall * max(deepRow, wideRow);
  const turned = state + panel * (wide >> 3);
  memory.fill(between, 0, 2 * tall * scoresRow);
  memory.fill(state, 0, panel * (wide >> 3));

  // What has columns apart is copied number by number, and there is no line to read.
  const readsAhead = qColumn == 4 && kColumn == 4 && vColumn == 4 && outColumn == 4 &&
    (!pair || rColumn == 4 && turnedColumn == 4);
  let empty = load<i32>(params, HAS_INITIAL) == 0;
  if (!empty) {
    const initial = headOf(params, initialView, head);
    const row = load<usize>(initialView, 16), column = load<usize>(initialView, 20);
    for (let j = 0; j < e; j++) {
      let from = initial + (first + j) * column, to = state + (j >> 3) * panel + ((j & 7) << 2);
      for (let i = 0; i < d; i++, from += row, to += 32) store<f32>(to, load<f32>(from));
    }
  }

  // A walk that takes scores has the blocks of the one that gave them, a short one first: that has its own computed.
  const gives = load<usize>(params, GIVES) != 0 && first == 0;
  const takes = load<usize>(params, TAKES) != 0, pairTakes = load<usize>(params, PAIR_TAKES) != 0;
  const blocks = (n + most - 1) / most, blockScores = tall * scoresRow;
  const shortest = takes || pairTakes ? n - (blocks - 1) * most : most;
  let given = load<usize>(params, GIVES) + head * blocks * blockScores;
  let taken = load<usize>(params, TAKES) + ((head + 1) * blocks - 1) * blockScores;
  let pairTaken = load<usize>(params, PAIR_TAKES) + ((head + 1) * blocks - 1) * blockScores;

  let decayed = 0;
  // A decay that is hardly one is kept as its difference from one: eˢ rounded to float32 would be off by the same bits
  // in every block, and drift.
  let decay: f32 = 1, slight = false;
  for (let start = 0, m = min(shortest, n); start < n; start += m, m = min(most, n - start)) {
    const rows = up(m, ROWS);
    // A step of 0 is one slope for all tokens.
    if (gStep != 0 || decayed != m) {
      const sum = decays(params, g, gStep, m, scoresRow, positions, fromStart, toEnd, between);
      slight = sum > -0.5;
      decay = <f32> (slight ? NativeMath.expm1(sum) : NativeMath.exp(sum));
      decayed = m;
    }
    let qAt = q, qStep = qRow;
    if (!inPlace(qRow, qColumn, m, d)) {
      copyRows(copyQ, deepRow, q, qRow, qColumn, m, d, rows, 0);
      qAt = copyQ, qStep = deepRow;
    }
    let kAt = k, kStep = kRow;
    if (!inPlace(kRow, kColumn, m, d)) {
      copyRows(copyK, deepRow, k, kRow, kColumn, m, d, rows, 0);
      kAt = copyK, kStep = deepRow;
    }
    let vAt = v, vStep = vRow;
    if (!inPlace(vRow, vColumn, m, e)) {
      copyRows(copyV, wideRow, v, vRow, vColumn, m, e, rows, 0);
      vAt = copyV, vStep = wideRow;
    }
    const following = readsAhead ? min(most, n - start - m) : 0;
    ahead.begin(
      following, d, e, q + m * qRow, qRow, k + m * kRow, kRow, v + m * vRow, vRow,
      out + m * outRow, outRow,
    );
    if (pair) ahead.beginPair(r + m * rRow, rRow, turnedOut + m * turnedRow, turnedRow);
    if (takes && pairTakes && following != 0) ahead.beginScores(taken, pairTaken, blockScores);
    // Pᵀ = (k qᵀ) ⊙ decays, o = (α exp(P_r) q) S + P v
    let direct = inPlace(outRow, outColumn, m, e);
    const p = gives ? given : ownP;
    if (takes && m == most) turnScores(p, taken, scoresRow, m);
    else scores(p, between, scoresRow, kAt, kStep, qAt, qStep, rows, deep);
    if (!empty) turnRows(x, scoresRow, qAt, qStep, rows, deep, fromStart);
    outputs(
      rows, wide, empty ? 0 : deep, x, scoresRow, state, panel, p, scoresRow, vAt, vStep,
      direct ? out : result, direct ? outRow : wideRow,
    );
    if (!direct) copyOut(out, outRow, outColumn, result, wideRow, m, e);
    if (pair) {
      let rAt = r, rStep = rRow;
      if (!inPlace(rRow, rColumn, m, e)) {
        copyRows(copyR, wideRow, r, rRow, rColumn, m, e, rows, 0);
        rAt = copyR, rStep = wideRow;
      }
      direct = inPlace(turnedRow, turnedColumn, m, d);
      if (pairTakes && m == most) turnScores(p, pairTaken, scoresRow, m);
      else scores(p, between, scoresRow, vAt, vStep, rAt, rStep, rows, wide);
      if (!empty) {
        turnState(turned, turnedPanel, state, panel, deep, wide);
        turnRows(x, scoresRow, rAt, rStep, rows, wide, fromStart);
      }
      outputs(
        rows, deep, empty ? 0 : wide, x, scoresRow, turned, turnedPanel, p, scoresRow, kAt, kStep,
        direct ? turnedOut : result, direct ? turnedRow : deepRow,
      );
      if (!direct) copyOut(turnedOut, turnedRow, turnedColumn, result, deepRow, m, d);
      r += m * rRow;
      turnedOut += m * turnedRow;
    }
    // S ← exp(P_m) S + (β exp(P_m − P_r) k)ᵀ v
    copyRows(decayedK, decayedRow, kAt, kStep, 4, m, deep, rows, decaysValues ? 0 : toEnd);
    if (decaysValues) {
      copyRows(copyR, wideRow, vAt, vStep, 4, m, wide, rows, toEnd);
      vAt = copyR, vStep = wideRow;
    }
    addToState(state, panel, stateRows, wide, rows, decayedK, decayedRow, vAt, vStep, decay, slight);
    ahead.readRest();
    empty = false;
    q += m * qRow;
    k += m * kRow;
    v += m * vRow;
    out += m * outRow;
    g += m * gStep;
    given += blockScores;
    taken -= blockScores;
    pairTaken -= blockScores;
  }

  const last = headOf(params, lastView, head);
  const row = load<usize>(lastView, 16), column = load<usize>(lastView, 20);
  for (let j = 0; j < e; j++) {
    let from = state + (j >> 3) * panel + ((j & 7) << 2), to = last + (first + j) * column;
    for (let i = 0; i < d; i++, from += 32, to += row) store<f32>(to, load<f32>(from));
  }
}

/**
 * The decays within a block from sums in float64, whose sum P_m it returns: α exp(P_r) and
 * β exp(P_m − P_r); and αβ exp(P_r − P_t) at row t and column r where t ≤ r, elsewhere the 0 that was
 * there, in rows `step` bytes apart.
 */
function decays(
  params: usize,
  g: usize,
  gStep: usize,
  m: i32,
  step: usize,
  positions: usize,
  fromStart: usize,
  toEnd: usize,
  between: usize,
): f64 {
  const after = load<i32>(params, DECAY_AFTER) != 0;
  const alpha = load<f32>(params, ALPHA), beta = load<f32>(params, BETA);
  const factor = f32x4.splat(alpha * beta);
  let sum: f64 = 0;
  for (let r = 0; r < m; r++) {
    // A g of −∞ must not make ∞ − ∞.
    const next = sum + <f64> min<f32>(0, max<f32>(load<f32>(g + r * gStep), STRONGEST));
    store<f64>(positions + (r << 3), after ? sum : next);
    sum = next;
  }
  for (let t = 0; t < m; t++) {
    const position = load<f64>(positions + (t << 3));
    store<f32>(fromStart + (t << 2), alpha * <f32> NativeMath.exp(position));
    store<f32>(toEnd + (t << 2), beta * <f32> NativeMath.exp(sum - position));
    const row = between + t * step;
    const here = f64x2.splat(position);
    for (let r = t & ~3; r < m; r += 4) {
      const at = positions + (r << 3);
      const low = f32x4.demote_f64x2_zero(f64x2.sub(v128.load(at), here));
      const high = f32x4.demote_f64x2_zero(f64x2.sub(v128.load(at, 16), here));
      const exponents = v128.shuffle<f32>(low, high, 0, 1, 4, 5);
      v128.store(row + (r << 2), f32x4.mul(factor, exp(exponents)));
    }
    for (let r = t & ~3; r < t; r++) store<f32>(row + (r << 2), 0);
  }
  return sum;
}

/**
 * Copies x [rows, columns] with its columns side by side, zeros after them and rows of zeros up to `whole`; row r times
 * weights[r], if there are any.
 */
function copyRows(
  to: usize,
  toRow: usize,
  from: usize,
  row: usize,
  column: usize,
  rows: i32,
  columns: i32,
  whole: i32,
  weights: usize,
): void {
  const end = to + whole * toRow;
  for (let r = 0; r < rows; r++) {
    const weight: f32 = weights != 0 ? load<f32>(weights + (r << 2)) : 1;
    let source = from, target = to, left = columns;
    if (column == 4) {
      const factor = f32x4.splat(weight);
      for (; left >= 8; left -= 8) {
        v128.store(target, f32x4.mul(factor, v128.load(source)));
        v128.store(target, f32x4.mul(factor, v128.load(source, 16)), 16);
        source += 32;
        target += 32;
      }
    }
    for (; left > 0; left--) {
      store<f32>(target, weight * load<f32>(source));
      source += column;
      target += 4;
    }
    from += row;
    to += toRow;
    for (; target < to; target += 4) store<f32>(target, 0);
  }
  if (to < end) memory.fill(to, 0, end - to);
}

/** xᵀ [columns, rows] of x [rows, columns], row r times weights[r]: four by four, and what is left. */
function turnRows(
  to: usize,
  toRow: usize,
  from: usize,
  row: usize,
  rows: i32,
  columns: i32,
  weights: usize,
): void {
  for (let r = 0; r < rows; r += 4) {
    const weight = v128.load(weights + (r << 2));
    // Two rows may be left: they are read twice over, and what is written of them again nobody reads.
    const left = r + 4 > rows ? -2 * row : 0;
    let source = from + r * row, target = to + (r << 2);
    for (let j = 0; j < columns; j += 4) {
      turnFour(target, toRow, source, row, left, true, weight);
      source += 16;
      target += toRow << 2;
    }
  }
}

/**
 * The scores of m tokens, a multiple of six, as a walk the other way has them: p_ij ← from_{m−1−j, m−1−i} where i ≤ j, in
 * blocks of 4 × 4, of which the last ones may overlap.
 */
function turnScores(p: usize, from: usize, step: usize, m: i32): void {
  for (let t = m - 4;; t = max(t - 4, 0)) {
    for (let r = m - 4;; r = max(r - 4, t)) {
      const source = from + (t + 3) * step + (r << 2);
      turnFour(p + (m - 1 - r) * step + ((m - 4 - t) << 2), -step, source, -step, 0);
      if (r == t) break;
    }
    if (t == 0) break;
  }
}

function copyOut(
  to: usize,
  row: usize,
  column: usize,
  from: usize,
  fromRow: usize,
  rows: i32,
  columns: i32,
): void {
  for (let r = 0; r < rows; r++) {
    for (let j = 0; j < columns; j++) store<f32>(to + j * column, load<f32>(from + (j << 2)));
    to += row;
    from += fromRow;
  }
}

/** Sᵀ in panels of eight columns out of S [rows, columns] in panels; rows and columns are eights. */
function turnState(
  to: usize,
  toPanel: usize,
  from: usize,
  fromPanel: usize,
  rows: i32,
  columns: i32,
): void {
  for (let j = 0; j < columns; j += 4) {
    let source = from + (j >> 3) * fromPanel + ((j & 4) << 2), target = to + (j << 5);
    for (let i = 0; i < rows; i += 8) {
      turnFour(target, 32, source, 32, 0);
      turnFour(target + 16, 32, source + 128, 32, 0);
      source += 256;
      target += toPanel;
    }
  }
}

/** The transpose of 4 × 4, each column times its weight if it is `weighted`. */
// @ts-ignore: decorator
@inline
function turnFour(
  to: usize,
  toRow: usize,
  from: usize,
  row: usize,
  back: usize,
  weighted: bool = false,
  weight: v128 = f32x4.splat(1),
): void {
  const a = v128.load(from), b = v128.load(from + row);
  const c = v128.load(from + 2 * row + back), d = v128.load(from + 3 * row + back);
  const ab0 = v128.shuffle<f32>(a, b, 0, 4, 1, 5), ab1 = v128.shuffle<f32>(a, b, 2, 6, 3, 7);
  const cd0 = v128.shuffle<f32>(c, d, 0, 4, 1, 5), cd1 = v128.shuffle<f32>(c, d, 2, 6, 3, 7);
  const r0 = v128.shuffle<f32>(ab0, cd0, 0, 1, 4, 5), r1 = v128.shuffle<f32>(ab0, cd0, 2, 3, 6, 7);
  const r2 = v128.shuffle<f32>(ab1, cd1, 0, 1, 4, 5), r3 = v128.shuffle<f32>(ab1, cd1, 2, 3, 6, 7);
  v128.store(to, weighted ? f32x4.mul(weight, r0) : r0);
  v128.store(to + toRow, weighted ? f32x4.mul(weight, r1) : r1);
  v128.store(to + 2 * toRow, weighted ? f32x4.mul(weight, r2) : r2);
  v128.store(to + 3 * toRow, weighted ? f32x4.mul(weight, r3) : r3);
}

// Lightning Attention-2, one task a head or some columns of its values: see lightning_core.ts for the formulas. A block
// of m rows is four products of packed panels; what two of them share is packed once, and the state stays packed from
// block to block. Columns of v, of the outputs and of the state never meet, so a part of them is the same work.
import {
  BLOCK_BYTES,
  COLUMNS,
  columnsBytes,
  multiplyPanels,
  packColumns,
  packPanel,
  packRows,
  ROWS,
  rowsBytes,
} from "./gemm";
import { exp, madd } from "./simd";

// Params: sizes; then for each of q, k, v, out, last and initial its address and the steps, in bytes, of batch, group,
// member, row and column; then for g its address and the steps of batch, group, member and row. WIDTH: columns of a part.
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
const VIEWS: usize = 44;
const VIEW_BYTES: usize = 24;

/** A token's strongest decay: its exponential is 0 in float32. */
const STRONGEST: f32 = -127;

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

export function lightningAttention(params: usize, task: i32, scratch: usize): void {
  const n = load<i32>(params, N), d = load<i32>(params, D), width = load<i32>(params, WIDTH);
  const parts = (load<i32>(params, E) + width - 1) / width;
  const head = task / parts, first = (task % parts) * width;
  const e = min(width, load<i32>(params, E) - first);
  const most = load<i32>(params, BLOCK);
  const alpha = load<f32>(params, ALPHA), beta = load<f32>(params, BETA);
  const qView = params + VIEWS, kView = qView + VIEW_BYTES, vView = kView + VIEW_BYTES;
  const outView = vView + VIEW_BYTES, lastView = outView + VIEW_BYTES;
  const initialView = lastView + VIEW_BYTES, gView = initialView + VIEW_BYTES;
  let q = headOf(params, qView, head), k = headOf(params, kView, head);
  let v = headOf(params, vView, head), out = headOf(params, outView, head);
  let g = headOf(params, gView, head);
  const qRow = load<usize>(qView, 16), qColumn = load<usize>(qView, 20);
  const kRow = load<usize>(kView, 16), kColumn = load<usize>(kView, 20);
  const vRow = load<usize>(vView, 16), vColumn = load<usize>(vView, 20);
  const outRow = load<usize>(outView, 16), outColumn = load<usize>(outView, 20);
  const gStep = load<usize>(gView, 16);
  v += first * vColumn;
  out += first * outColumn;

  // Room for everything that lives from one product to the next.
  const wide = up(most, COLUMNS);
  const spare = scratch;
  const positions = spare + BLOCK_BYTES;
  const fromStart = positions + (wide << 3);
  const toEnd = fromStart + (wide << 2);
  const between = toEnd + (wide << 2);
  const scores = between + ((wide * wide) << 2);
  const packedQ = scores + ((up(most, ROWS) * wide) << 2);
  const packedK = packedQ + rowsBytes(most, d);
  const packedV = packedK + max(columnsBytes(most, d), rowsBytes(d, most));
  const packedP = packedV + columnsBytes(e, most);
  const state = packedP + rowsBytes(most, most);
  const added = state + columnsBytes(e, d);
  const stateRows = up(d, ROWS), stateColumns = up(e, COLUMNS);

  let empty = load<i32>(params, HAS_INITIAL) == 0;
  if (!empty) {
    const initial = headOf(params, initialView, head);
    const row = load<usize>(initialView, 16), column = load<usize>(initialView, 20);
    packColumns(state, initial + first * column, row, column, d, e);
  } else memory.fill(state, 0, columnsBytes(e, d));

  let decayed = 0;
  // A decay that is hardly one is kept as its difference from one: eˢ rounded to float32 would be off by the same bits
  // in every block, and drift.
  let decay: f32 = 1, slight = false;
  for (let start = 0; start < n; start += most) {
    const m = min(most, n - start);
    // A step of 0 is one slope for all tokens.
    if (gStep != 0 || decayed != m) {
      const sum = decays(params, g, gStep, m, wide, positions, fromStart, toEnd, between);
      slight = sum > -0.5;
      decay = <f32> (slight ? NativeMath.expm1(sum) : NativeMath.exp(sum));
      decayed = m;
    }
    // P = (q kᵀ) ⊙ decays
    packRows(packedQ, q, qRow, qColumn, m, d);
    packColumns(packedK, k, kColumn, kRow, d, m);
    multiplyPanels(
      up(m, ROWS),
      up(m, COLUMNS),
      d,
      packedQ,
      packedK,
      scores,
      wide << 2,
      4,
      false,
      spare,
      0,
      true,
    );
    packScores(packedP, scores, between, m, wide);
    // o = P v + (α exp(P_r) q) S
    packColumns(packedV, v, vRow, vColumn, m, e);
    multiplyPanels(m, e, m, packedP, packedV, out, outRow, outColumn, false, spare, 1);
    if (!empty) {
      scaleLines(packedQ, fromStart, m, d, alpha);
      multiplyPanels(m, e, d, packedQ, state, out, outRow, outColumn, true, spare);
    }
    // S ← exp(P_m) S + kᵀ (β exp(P_m − P_r) v)
    packRows(packedK, k, kColumn, kRow, d, m);
    scaleDepth(packedV, toEnd, m, stateColumns, beta);
    multiplyPanels(
      stateRows,
      stateColumns,
      m,
      packedK,
      packedV,
      added,
      32,
      4,
      false,
      spare,
      0,
      false,
      stateRows << 5,
    );
    for (let j = 0; j < stateColumns; j += COLUMNS) {
      addToState(state + ((j * d) << 2), added + ((j * stateRows) << 2), d, decay, slight);
    }
    empty = false;
    q += most * qRow;
    k += most * kRow;
    v += most * vRow;
    out += most * outRow;
    g += most * gStep;
  }

  const last = headOf(params, lastView, head);
  const row = load<usize>(lastView, 16), column = load<usize>(lastView, 20);
  for (let j = 0; j < e; j++) {
    let from = state + (((j / COLUMNS) * COLUMNS * d + j % COLUMNS) << 2);
    let to = last + (first + j) * column;
    for (let i = 0; i < d; i++) {
      store<f32>(to, load<f32>(from));
      from += COLUMNS << 2;
      to += row;
    }
  }
}

/**
 * The decays within a block from sums in float64, whose sum P_m it returns: exp(P_r) and exp(P_m − P_r); and
 * αβ exp(P_r − P_t) where t ≤ r, elsewhere 0.
 */
function decays(
  params: usize,
  g: usize,
  gStep: usize,
  m: i32,
  wide: i32,
  positions: usize,
  fromStart: usize,
  toEnd: usize,
  between: usize,
): f64 {
  const after = load<i32>(params, DECAY_AFTER) != 0;
  const factor = f32x4.splat(load<f32>(params, ALPHA) * load<f32>(params, BETA));
  let sum: f64 = 0;
  for (let r = 0; r < m; r++) {
    // A g of −∞ must not make ∞ − ∞.
    const next = sum + <f64> min<f32>(0, max<f32>(load<f32>(g + r * gStep), STRONGEST));
    store<f64>(positions + (r << 3), after ? sum : next);
    sum = next;
  }
  for (let r = 0; r < m; r++) {
    const position = load<f64>(positions + (r << 3));
    store<f32>(fromStart + (r << 2), <f32> NativeMath.exp(position));
    store<f32>(toEnd + (r << 2), <f32> NativeMath.exp(sum - position));
    const row = between + ((r * wide) << 2);
    const here = f64x2.splat(position);
    for (let t = 0; t <= r; t += 4) {
      const at = positions + (t << 3);
      const low = f32x4.demote_f64x2_zero(f64x2.sub(here, v128.load(at)));
      const high = f32x4.demote_f64x2_zero(f64x2.sub(here, v128.load(at, 16)));
      const exponents = v128.shuffle<f32>(low, high, 0, 1, 4, 5);
      v128.store(row + (t << 2), f32x4.mul(factor, exp(exponents)));
    }
    memory.fill(row + ((r + 1) << 2), 0, (wide - r - 1) << 2);
  }
  return sum;
}

/** Packs scores ⊙ between by rows. Where `between` is 0 the score is not read as a number: it may be none. */
function packScores(to: usize, scores: usize, between: usize, m: i32, wide: i32): void {
  for (let i = 0; i < m; i += ROWS) {
    const height = min(ROWS, m - i), depth = min(m, i + ROWS);
    for (let r = i; r < i + height; r++) {
      const row = (r * wide) << 2;
      for (let t = 0; t < depth; t += 4) {
        const at = row + (t << 2);
        const weight = v128.load(between + at);
        const weighted = f32x4.mul(v128.load(scores + at), weight);
        v128.store(scores + at, v128.and(weighted, f32x4.ne(weight, f32x4.splat(0))));
      }
    }
    packPanel(to, scores + ((i * wide) << 2), wide << 2, 4, height, depth, ROWS);
    to += (ROWS * m) << 2;
  }
}

/** Multiplies row r of x, packed by rows, by factor · weights[r]: six weights, so two depths are three vectors. */
function scaleLines(x: usize, weights: usize, rows: i32, depth: i32, factor: f32): void {
  for (let i = 0; i < rows; i += ROWS) {
    const at = weights + (i << 2);
    // What is made of weights beyond the last row is never stored.
    const w0123 = f32x4.mul(f32x4.splat(factor), v128.load(at));
    const w4567 = f32x4.mul(f32x4.splat(factor), v128.load(at, 16));
    const w4501 = v128.shuffle<f32>(w4567, w0123, 0, 1, 4, 5);
    const w2345 = v128.shuffle<f32>(w0123, w4567, 2, 3, 4, 5);
    let p = 0;
    for (; p + 2 <= depth; p += 2) {
      v128.store(x, f32x4.mul(w0123, v128.load(x)));
      v128.store(x, f32x4.mul(w4501, v128.load(x, 16)), 16);
      v128.store(x, f32x4.mul(w2345, v128.load(x, 32)), 32);
      x += 48;
    }
    if (p < depth) {
      for (let r = 0; r < ROWS; r++) {
        const weight = factor * load<f32>(at + (r << 2));
        store<f32>(x, weight * load<f32>(x));
        x += 4;
      }
    }
  }
}

/** Multiplies row r of y, packed by columns, by factor · weights[r]. */
function scaleDepth(y: usize, weights: usize, depth: i32, columns: i32, factor: f32): void {
  for (let j = 0; j < columns; j += COLUMNS) {
    for (let p = 0; p < depth; p++) {
      const weight = f32x4.splat(factor * load<f32>(weights + (p << 2)));
      v128.store(y, f32x4.mul(weight, v128.load(y)));
      v128.store(y, f32x4.mul(weight, v128.load(y, 16)), 16);
      y += 32;
    }
  }
}

/** S ← λ S + A over a panel; if λ is given as its `difference` from one, S + ((λ − 1) S + A). */
function addToState(state: usize, added: usize, rows: i32, decay: f32, difference: bool): void {
  const factor = f32x4.splat(decay);
  const end = state + (rows << 5);
  if (difference) {
    for (; state < end; state += 32, added += 32) {
      const first = v128.load(state), second = v128.load(state, 16);
      v128.store(state, f32x4.add(first, madd(factor, first, v128.load(added))));
      v128.store(state, f32x4.add(second, madd(factor, second, v128.load(added, 16))), 16);
    }
    return;
  }
  for (; state < end; state += 32, added += 32) {
    v128.store(state, madd(factor, v128.load(state), v128.load(added)));
    v128.store(state, madd(factor, v128.load(state, 16), v128.load(added, 16)), 16);
  }
}

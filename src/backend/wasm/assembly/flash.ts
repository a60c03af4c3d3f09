// Softmax attention in blocks of scores: see flash_attention.ts for the formulas.
import {
  BLOCK_BYTES,
  COLUMNS,
  columnsBytes,
  multiplyPanels,
  packColumns,
  packRows,
  ROWS,
  rowsBytes,
} from "./gemm";
import { exp, maxOf, sumOfPair, wideSumOf } from "./simd";

/** A block of scores: rows that a task owns, and columns that it walks over. */
const OWN: i32 = 72;
const OTHER: i32 = 128;
const SCORE_ROW: usize = <usize> OTHER << 2;

// Params: sizes; then for each of q, k, v, out, L, g, dq, dk and dv its address, 0 for none, and the steps, in bytes,
// of batch, group, member, row and column.
const GROUPS: usize = 0;
const MEMBERS: usize = 4;
const N: usize = 8;
const M: usize = 12;
const D: usize = 16;
const E: usize = 20;
const CAUSAL: usize = 24;
const SCALE: usize = 28;
const VIEWS: usize = 32;
const VIEW_BYTES: usize = 24;
const Q = 0, K = 1, V = 2, OUT = 3, LOGSUM = 4, G = 5, DQ = 6, DK = 7, DV = 8;

// @ts-ignore: decorator
@inline
function viewOf(params: usize, index: i32): usize {
  return params + VIEWS + index * VIEW_BYTES;
}

/** Where row `row` of a view begins, in a batch, group and member. */
function placeOf(params: usize, index: i32, batch: i32, group: i32, member: i32, row: i32): usize {
  const view = viewOf(params, index);
  return load<usize>(view) + batch * load<i32>(view, 4) + group * load<i32>(view, 8) +
    member * load<i32>(view, 12) + row * load<i32>(view, 16);
}

// @ts-ignore: decorator
@inline
function rowStep(params: usize, index: i32): usize {
  return load<usize>(viewOf(params, index), 16);
}

// @ts-ignore: decorator
@inline
function columnStep(params: usize, index: i32): usize {
  return load<usize>(viewOf(params, index), 20);
}

// @ts-ignore: decorator
@inline
function up(size: i32, multiple: i32): i32 {
  return ((size + multiple - 1) / multiple) * multiple;
}

/** Packs rows of a view by rows. */
function packOwn(params: usize, to: usize, index: i32, at: usize, rows: i32, width: i32): void {
  packRows(to, at, rowStep(params, index), columnStep(params, index), rows, width);
}

/** The matrix of scores [own rows, other rows] = x · yᵀ over `width`, x and y packed by rows and columns. */
function scoresOf(own: i32, other: i32, width: i32, x: usize, y: usize, to: usize, spare: usize): void {
  multiplyPanels(up(own, ROWS), up(other, COLUMNS), width, x, y, to, SCORE_ROW, 4, false, spare);
}

/** Packs the transpose of rows of a view by columns. */
function packOther(params: usize, to: usize, index: i32, at: usize, rows: i32, width: i32): void {
  packColumns(to, at, columnStep(params, index), rowStep(params, index), width, rows);
}

/** Packs rows of a view by columns. */
function packValues(params: usize, to: usize, index: i32, at: usize, rows: i32, width: i32): void {
  packColumns(to, at, rowStep(params, index), columnStep(params, index), rows, width);
}

/** Σ g · o of a row. */
function meanOf(params: usize, o: usize, g: usize, e: i32): f32 {
  const oStep = columnStep(params, OUT), gStep = columnStep(params, G);
  let sum: f64 = 0;
  for (let c = 0; c < e; c++) sum += <f64> load<f32>(o + c * oStep) * load<f32>(g + c * gStep);
  return <f32> sum;
}

/** o and L of a block of queries. */
export function flashAttention(params: usize, task: i32, scratch: usize): void {
  const groups = load<i32>(params, GROUPS), members = load<i32>(params, MEMBERS);
  const n = load<i32>(params, N), m = load<i32>(params, M);
  const d = load<i32>(params, D), e = load<i32>(params, E);
  const causal = load<i32>(params, CAUSAL) != 0;
  const scale = f32x4.splat(load<f32>(params, SCALE));
  const blocks = (n + OWN - 1) / OWN;
  const start = (task % blocks) * OWN, head = task / blocks;
  const batch = head / members / groups, group = (head / members) % groups, member = head % members;
  const rows = min(OWN, n - start), shift = m - n;
  const wide = up(e, COLUMNS);

  const spare = scratch;
  const packedQ = spare + BLOCK_BYTES;
  const packedK = packedQ + rowsBytes(OWN, d);
  const packedV = packedK + columnsBytes(OTHER, d);
  const scores = packedV + columnsBytes(e, OTHER);
  const packedP = scores + OWN * SCORE_ROW;
  const sums = packedP + rowsBytes(OWN, OTHER);
  const largest = sums + ((OWN * wide) << 2);
  const total = largest + (OWN << 3);
  memory.fill(sums, 0, (OWN * wide) << 2);
  for (let r = 0; r < rows; r++) {
    store<f32>(largest + (r << 2), -Infinity);
    store<f64>(total + (r << 3), 0);
  }
  packOwn(params, packedQ, Q, placeOf(params, Q, batch, group, member, start), rows, d);
  const end = causal ? start + rows + shift : m;
  for (let from = 0; from < end; from += OTHER) {
    const keys = min(OTHER, end - from);
    packOther(params, packedK, K, placeOf(params, K, batch, group, 0, from), keys, d);
    scoresOf(rows, keys, d, packedQ, packedK, scores, spare);
    for (let r = 0; r < rows; r++) {
      const row = scores + r * SCORE_ROW;
      const seen = causal ? max(0, min(keys, start + r + shift + 1 - from)) : keys;
      for (let j = seen; j < up(keys, COLUMNS); j++) store<f32>(row + (j << 2), -Infinity);
      if (seen > 0) {
        let most = f32x4.splat(-Infinity);
        for (let j = 0; j < seen; j += 4) {
          const at = row + (j << 2);
          // What is not seen must stay −∞ whatever the sign of the scale.
          const some = j + 4 <= seen ? f32x4.mul(v128.load(at), scale) : scaledSome(at, scale, seen - j);
          v128.store(at, some);
          most = f32x4.max(most, some);
        }
        const before = load<f32>(largest + (r << 2));
        const grown = max<f32>(before, maxOf(most));
        const by = f32x4.splat(grown);
        let sum = f64x2.splat(0);
        for (let j = 0; j < seen; j += 4) {
          const at = row + (j << 2);
          const p = exp(f32x4.sub(v128.load(at), by));
          v128.store(at, p);
          sum = f64x2.add(sum, wideSumOf(p));
        }
        const shrink = NativeMath.exp(<f64> before - <f64> grown);
        store<f32>(largest + (r << 2), grown);
        store<f64>(total + (r << 3), shrink * load<f64>(total + (r << 3)) + sumOfPair(sum));
        const factor = f32x4.splat(<f32> shrink);
        const line = sums + ((r * wide) << 2);
        for (let c = 0; c < wide; c += 4) {
          v128.store(line + (c << 2), f32x4.mul(factor, v128.load(line + (c << 2))));
        }
      }
      for (let j = seen; j < up(keys, COLUMNS); j++) store<f32>(row + (j << 2), 0);
    }
    packRows(packedP, scores, SCORE_ROW, 4, rows, keys);
    packValues(params, packedV, V, placeOf(params, V, batch, group, 0, from), keys, e);
    multiplyPanels(up(rows, ROWS), wide, keys, packedP, packedV, sums, wide << 2, 4, true, spare);
  }
  const outColumn = columnStep(params, OUT);
  for (let r = 0; r < rows; r++) {
    const all = load<f64>(total + (r << 3));
    const share: f32 = all > 0 ? <f32> (1 / all) : 0;
    let to = placeOf(params, OUT, batch, group, member, start + r);
    for (let c = 0; c < e; c++) {
      store<f32>(to, share * load<f32>(sums + ((r * wide + c) << 2)));
      to += outColumn;
    }
    const logsum = <f64> load<f32>(largest + (r << 2)) + NativeMath.log(all);
    store<f32>(placeOf(params, LOGSUM, batch, group, member, start + r), <f32> logsum);
  }
}

/** The next `left` < 4 scores, scaled, and −∞ beside them. */
function scaledSome(at: usize, scale: v128, left: i32): v128 {
  const some = f32x4.mul(v128.load(at), scale);
  const lanes = i32x4(0, 1, 2, 3);
  return v128.bitselect(some, f32x4.splat(-Infinity), i32x4.lt_s(lanes, i32x4.splat(left)));
}

/**
 * P = exp(scale · S − L) in place of `row`, and dS = scale · P (dP − D) in place of `products`; `fixed` says that L and D
 * are one number each, else they lie along the row. What is outside first..end becomes 0.
 */
function weigh(
  row: usize,
  products: usize,
  first: i32,
  end: i32,
  count: i32,
  scale: v128,
  logsums: usize,
  means: usize,
  fixed: bool,
): void {
  let l = v128.load32_splat(logsums), mean = v128.load32_splat(means);
  for (let j = 0; j < count; j += 4) {
    const at = j << 2;
    if (!fixed) {
      l = v128.load(logsums + at);
      mean = v128.load(means + at);
    }
    const p = exp(f32x4.sub(f32x4.mul(scale, v128.load(row + at)), l));
    v128.store(row + at, p);
    const change = f32x4.sub(v128.load(products + at), mean);
    v128.store(products + at, f32x4.mul(f32x4.mul(scale, p), change));
  }
  for (let j = 0; j < count; j++) {
    if (j == first) j = max(j, end);
    if (j >= count) break;
    store<f32>(row + (j << 2), 0);
    store<f32>(products + (j << 2), 0);
  }
}

/** dq of a block of queries. */
export function flashQueries(params: usize, task: i32, scratch: usize): void {
  const groups = load<i32>(params, GROUPS), members = load<i32>(params, MEMBERS);
  const n = load<i32>(params, N), m = load<i32>(params, M);
  const d = load<i32>(params, D), e = load<i32>(params, E);
  const causal = load<i32>(params, CAUSAL) != 0;
  const scale = f32x4.splat(load<f32>(params, SCALE));
  const blocks = (n + OWN - 1) / OWN;
  const start = (task % blocks) * OWN, head = task / blocks;
  const batch = head / members / groups, group = (head / members) % groups, member = head % members;
  const rows = min(OWN, n - start), shift = m - n;

  const spare = scratch;
  const packedQ = spare + BLOCK_BYTES;
  const packedG = packedQ + rowsBytes(OWN, d);
  const packedK = packedG + rowsBytes(OWN, e);
  const packedV = packedK + max(columnsBytes(OTHER, d), columnsBytes(d, OTHER));
  const scores = packedV + columnsBytes(OTHER, e);
  const products = scores + OWN * SCORE_ROW;
  const packedP = products + OWN * SCORE_ROW;
  const logsums = packedP + rowsBytes(OWN, OTHER);
  const means = logsums + (OWN << 2);
  packOwn(params, packedQ, Q, placeOf(params, Q, batch, group, member, start), rows, d);
  packOwn(params, packedG, G, placeOf(params, G, batch, group, member, start), rows, e);
  for (let r = 0; r < rows; r++) {
    const o = placeOf(params, OUT, batch, group, member, start + r);
    const g = placeOf(params, G, batch, group, member, start + r);
    store<f32>(means + (r << 2), meanOf(params, o, g, e));
    const at = placeOf(params, LOGSUM, batch, group, member, start + r);
    store<f32>(logsums + (r << 2), load<f32>(at));
  }
  const out = placeOf(params, DQ, batch, group, member, start);
  const outRow = rowStep(params, DQ), outColumn = columnStep(params, DQ);
  const end = causal ? start + rows + shift : m;
  for (let from = 0; from == 0 || from < end; from += OTHER) {
    const keys = max(0, min(OTHER, end - from));
    const k = placeOf(params, K, batch, group, 0, from);
    packOther(params, packedK, K, k, keys, d);
    packOther(params, packedV, V, placeOf(params, V, batch, group, 0, from), keys, e);
    scoresOf(rows, keys, d, packedQ, packedK, scores, spare);
    scoresOf(rows, keys, e, packedG, packedV, products, spare);
    for (let r = 0; r < rows; r++) {
      const at = r * SCORE_ROW;
      const seen = causal ? max(0, min(keys, start + r + shift + 1 - from)) : keys;
      const own = r << 2;
      weigh(scores + at, products + at, 0, seen, up(keys, 4), scale, logsums + own, means + own, true);
    }
    packRows(packedP, products, SCORE_ROW, 4, rows, keys);
    packValues(params, packedK, K, k, keys, d);
    multiplyPanels(rows, d, keys, packedP, packedK, out, outRow, outColumn, from > 0, spare);
  }
}

/** dk and dv, or one of them, of a block of keys, summed over the members of its group. */
export function flashKeys(params: usize, task: i32, scratch: usize): void {
  const groups = load<i32>(params, GROUPS), members = load<i32>(params, MEMBERS);
  const n = load<i32>(params, N), m = load<i32>(params, M);
  const d = load<i32>(params, D), e = load<i32>(params, E);
  const causal = load<i32>(params, CAUSAL) != 0;
  const scale = f32x4.splat(load<f32>(params, SCALE));
  const blocks = (m + OWN - 1) / OWN;
  const start = (task % blocks) * OWN, batch = task / blocks / groups, group = (task / blocks) % groups;
  const rows = min(OWN, m - start), shift = m - n;

  const spare = scratch;
  const packedK = spare + BLOCK_BYTES;
  const packedV = packedK + rowsBytes(OWN, d);
  const packedQ = packedV + rowsBytes(OWN, e);
  const packedG = packedQ + max(columnsBytes(OTHER, d), columnsBytes(d, OTHER));
  const scores = packedG + max(columnsBytes(OTHER, e), columnsBytes(e, OTHER));
  const products = scores + OWN * SCORE_ROW;
  const packedP = products + OWN * SCORE_ROW;
  const logsums = packedP + rowsBytes(OWN, OTHER);
  const means = logsums + (OTHER << 2);
  packOwn(params, packedK, K, placeOf(params, K, batch, group, 0, start), rows, d);
  packOwn(params, packedV, V, placeOf(params, V, batch, group, 0, start), rows, e);
  const wantsK = load<usize>(viewOf(params, DK)) != 0, wantsV = load<usize>(viewOf(params, DV)) != 0;
  const dk = placeOf(params, DK, batch, group, 0, start), dv = placeOf(params, DV, batch, group, 0, start);
  const kRow = rowStep(params, DK), kColumn = columnStep(params, DK);
  const vRow = rowStep(params, DV), vColumn = columnStep(params, DV);
  // Queries before the first one that sees any of these keys have nothing to add.
  const first = causal ? max(0, start - shift) : 0;
  let began = false;
  for (let member = 0; member < members; member++) {
    for (let from = first; from < n || !began; from += OTHER) {
      const queries = max(0, min(OTHER, n - from));
      const q = placeOf(params, Q, batch, group, member, from);
      const g = placeOf(params, G, batch, group, member, from);
      for (let r = 0; r < queries; r++) {
        const o = placeOf(params, OUT, batch, group, member, from + r);
        const own = placeOf(params, G, batch, group, member, from + r);
        store<f32>(means + (r << 2), meanOf(params, o, own, e));
        const at = placeOf(params, LOGSUM, batch, group, member, from + r);
        store<f32>(logsums + (r << 2), load<f32>(at));
      }
      packOther(params, packedQ, Q, q, queries, d);
      packOther(params, packedG, G, g, queries, e);
      scoresOf(rows, queries, d, packedK, packedQ, scores, spare);
      scoresOf(rows, queries, e, packedV, packedG, products, spare);
      for (let j = 0; j < rows; j++) {
        const at = j * SCORE_ROW;
        const sees = causal ? max(0, min(queries, start + j - shift - from)) : 0;
        weigh(scores + at, products + at, sees, queries, up(queries, 4), scale, logsums, means, false);
      }
      if (wantsV) {
        packRows(packedP, scores, SCORE_ROW, 4, rows, queries);
        packValues(params, packedG, G, g, queries, e);
        multiplyPanels(rows, e, queries, packedP, packedG, dv, vRow, vColumn, began, spare);
      }
      if (wantsK) {
        packRows(packedP, products, SCORE_ROW, 4, rows, queries);
        packValues(params, packedQ, Q, q, queries, d);
        multiplyPanels(rows, d, queries, packedP, packedQ, dk, kRow, kColumn, began, spare);
      }
      began = true;
    }
  }
}

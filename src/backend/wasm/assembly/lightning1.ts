// Lightning Attention-1 in blocks of scores, one task a block of rows: see lightning_attention1.ts for the formulas.
import { BLOCK_BYTES, columnsBytes, multiplyPanels, packColumns, packRows, rowsBytes } from "./gemm";

/** Rows and sources of a block, whole panels of both. */
const BLOCK: i32 = 72;
const SCORE_ROW: usize = <usize> BLOCK << 2;

// Params: sizes, scale; then for each of q, k, v and out its address and the steps, in bytes, of batch, group, member,
// row and column; then the address of the slopes and their steps of group and member.
const GROUPS: usize = 0;
const MEMBERS: usize = 4;
const N: usize = 8;
const D: usize = 12;
const E: usize = 16;
const SCALE: usize = 20;
const VIEWS: usize = 24;
const VIEW_BYTES: usize = 24;
const SLOPES: usize = VIEWS + 4 * VIEW_BYTES;

/** Where a head of the view whose fields begin at `view` lies. */
// @ts-ignore: decorator
@inline
function placeOf(view: usize, batch: i32, group: i32, member: i32): usize {
  return load<usize>(view) + batch * load<i32>(view, 4) + group * load<i32>(view, 8) +
    member * load<i32>(view, 12);
}

export function lightningAttention1(params: usize, task: i32, scratch: usize): void {
  const groups = load<i32>(params, GROUPS), members = load<i32>(params, MEMBERS);
  const n = load<i32>(params, N), d = load<i32>(params, D), e = load<i32>(params, E);
  const scale = <f64> load<f32>(params, SCALE);
  const blocks = (n + BLOCK - 1) / BLOCK;
  // The last rows, which have most sources, first.
  const start = (blocks - 1 - task % blocks) * BLOCK, head = task / blocks;
  const batch = head / members / groups, group = (head / members) % groups, member = head % members;
  const rows = min(BLOCK, n - start);

  const qView = params + VIEWS, kView = qView + VIEW_BYTES, vView = kView + VIEW_BYTES;
  const outView = vView + VIEW_BYTES;
  const qRow = load<usize>(qView, 16), kRow = load<usize>(kView, 16), vRow = load<usize>(vView, 16);
  const kColumn = load<usize>(kView, 20), vColumn = load<usize>(vView, 20);
  const outRow = load<usize>(outView, 16), outColumn = load<usize>(outView, 20);
  const q = placeOf(qView, batch, group, member) + start * qRow;
  const out = placeOf(outView, batch, group, member) + start * outRow;
  let k = placeOf(kView, batch, group, member), v = placeOf(vView, batch, group, member);
  // As in lightning1.wgsl: ∞ · 0 would be NaN.
  const slope = <f64> max<f32>(0, min<f32>(127, load<f32>(
    load<usize>(params, SLOPES) + group * load<i32>(params, SLOPES + 4) + member * load<i32>(params, SLOPES + 8),
  )));

  const spare = scratch;
  const packedQ = spare + BLOCK_BYTES;
  const packedK = packedQ + rowsBytes(BLOCK, d);
  const packedV = packedK + columnsBytes(BLOCK, d);
  const scores = packedV + columnsBytes(e, BLOCK);
  const packedP = scores + BLOCK * SCORE_ROW;
  // λ⁷¹ … λ, 1: what the columns of a block decay by until its last one; from λʳ on, what those of row r's own do.
  const decays = packedP + rowsBytes(BLOCK, BLOCK);
  for (let j = 0; j < BLOCK; j++) {
    store<f32>(decays + (j << 2), <f32> NativeMath.exp(slope * (j + 1 - BLOCK)));
  }
  packRows(packedQ, q, qRow, load<usize>(qView, 20), rows, d);
  for (let from = 0; from <= start; from += BLOCK) {
    const own = from == start;
    const sources = own ? rows : BLOCK;
    packColumns(packedK, k, kColumn, kRow, d, sources);
    multiplyPanels(rows, sources, d, packedQ, packedK, scores, SCORE_ROW, 4, false, spare, 0, own);
    for (let r = 0; r < rows; r++) {
      const row = scores + r * SCORE_ROW;
      // Exponents are never above 0: a block before this one has decayed by its last column's distance at least.
      const distance = own ? 0 : start + r - from - (BLOCK - 1);
      const factor = f32x4.splat(<f32> (scale * NativeMath.exp(-slope * distance)));
      const weights = own ? decays + ((BLOCK - 1 - r) << 2) : decays;
      const seen = own ? r + 1 : BLOCK;
      for (let j = 0; j < seen; j += 4) {
        const at = j << 2;
        const weight = f32x4.mul(factor, v128.load(weights + at));
        v128.store(row + at, f32x4.mul(weight, v128.load(row + at)));
      }
      memory.fill(row + (seen << 2), 0, (BLOCK - seen) << 2);
    }
    packRows(packedP, scores, SCORE_ROW, 4, rows, sources);
    packColumns(packedV, v, vRow, vColumn, sources, e);
    const reach = own ? 1 : 0;
    multiplyPanels(rows, e, sources, packedP, packedV, out, outRow, outColumn, from > 0, spare, reach);
    k += BLOCK * kRow;
    v += BLOCK * vRow;
  }
}

// A token or a few of Lightning Attention, one task a head: see lightning_step.ts. The state is written in place.
import { madd } from "./simd";

// Params: heads, key heads, n, d, e, scale; then for each of q, k, v, out and state its address and the steps, in bytes,
// of batch, head, row and column; then for g its address and the steps of batch, head and row. Columns of state are dense.
const HEADS: usize = 0;
const KEY_HEADS: usize = 4;
const N: usize = 8;
const D: usize = 12;
const E: usize = 16;
const SCALE: usize = 20;
const VIEWS: usize = 24;
const VIEW_BYTES: usize = 20;

/** Where a head of the view whose fields begin at `view` lies. */
// @ts-ignore: decorator
@inline
function placeOf(view: usize, batch: i32, head: i32): usize {
  return load<usize>(view) + batch * load<i32>(view, 4) + head * load<i32>(view, 8);
}

export function lightningStep(params: usize, task: i32, scratch: usize): void {
  const heads = load<i32>(params, HEADS), n = load<i32>(params, N);
  const d = load<i32>(params, D), e = load<i32>(params, E);
  const batch = task / heads, head = task % heads;
  const own = head * load<i32>(params, KEY_HEADS) / heads;
  const qView = params + VIEWS, kView = qView + VIEW_BYTES, vView = kView + VIEW_BYTES;
  const outView = vView + VIEW_BYTES, stateView = outView + VIEW_BYTES;
  const gView = stateView + VIEW_BYTES;
  let q = placeOf(qView, batch, head), k = placeOf(kView, batch, own);
  let v = placeOf(vView, batch, own), out = placeOf(outView, batch, head);
  let g = placeOf(gView, batch, head);
  const state = placeOf(stateView, batch, head);
  const qColumn = load<usize>(qView, 16), kColumn = load<usize>(kView, 16);
  const vColumn = load<usize>(vView, 16), outColumn = load<usize>(outView, 16);
  const stateRow = load<usize>(stateView, 12);
  const scale = load<f32>(params, SCALE);
  for (let t = 0; t < n; t++) {
    for (let j = 0; j < e; j++) store<f32>(scratch + (j << 2), load<f32>(v + j * vColumn));
    // As in lightning.ts: a decay that is hardly one is kept as its difference from one.
    const logarithm = <f64> load<f32>(g);
    const slight = logarithm > -0.5;
    const decay = <f32> (slight ? NativeMath.expm1(logarithm) : NativeMath.exp(logarithm));
    let j = 0;
    for (; j + 4 <= e; j += 4) {
      const value = v128.load(scratch + (j << 2));
      let sum = f32x4.splat(0);
      let at = state + (j << 2), query = q, key = k;
      for (let i = 0; i < d; i++) {
        const before = v128.load(at);
        const added = f32x4.mul(v128.load32_splat(key), value);
        const change = madd(f32x4.splat(decay), before, added);
        const after = slight ? f32x4.add(before, change) : change;
        v128.store(at, after);
        sum = madd(v128.load32_splat(query), after, sum);
        at += stateRow;
        query += qColumn;
        key += kColumn;
      }
      v128.store(scratch + (j << 2), f32x4.mul(f32x4.splat(scale), sum));
    }
    for (; j < e; j++) {
      const value = load<f32>(scratch + (j << 2));
      let sum: f32 = 0;
      let at = state + (j << 2), query = q, key = k;
      for (let i = 0; i < d; i++) {
        const before = load<f32>(at);
        const change = decay * before + load<f32>(key) * value;
        const after = slight ? before + change : change;
        store<f32>(at, after);
        sum += load<f32>(query) * after;
        at += stateRow;
        query += qColumn;
        key += kColumn;
      }
      store<f32>(scratch + (j << 2), scale * sum);
    }
    for (let j = 0; j < e; j++) store<f32>(out + j * outColumn, load<f32>(scratch + (j << 2)));
    q += load<usize>(qView, 12);
    k += load<usize>(kView, 12);
    v += load<usize>(vView, 12);
    out += load<usize>(outView, 12);
    g += load<usize>(gView, 12);
  }
}

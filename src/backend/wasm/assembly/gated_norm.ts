// SRMSNorm behind a gate: see gated_norm.ts in src/ops for the formulas. Sums in float64.
import { sumOfPair, wideSumOf } from "./simd";
import { loadSome, storeSome } from "./rows";

// Params: rows, how many are one task, their length, ε; then for each of x, u, (g,) and the results its address and the
// bytes from one row to the next.
const ROWS: usize = 0;
const ROWS_PER_TASK: usize = 4;
const LENGTH: usize = 8;
const EPSILON: usize = 12;
const PLACES: usize = 16;

/** Where a row of view number `view` begins. */
// @ts-ignore: decorator
@inline
function rowOf(params: usize, view: usize, row: i32): usize {
  const place = params + PLACES + (view << 3);
  return load<usize>(place) + row * load<i32>(place, 4);
}

/** … x, u, y. */
export function gatedNorm(params: usize, task: i32, _scratch: usize): void {
  const length = load<i32>(params, LENGTH), perTask = load<i32>(params, ROWS_PER_TASK);
  const epsilon = <f64> load<f32>(params, EPSILON);
  const end = min(load<i32>(params, ROWS), (task + 1) * perTask);
  for (let row = task * perTask; row < end; row++) {
    const x = rowOf(params, 0, row), u = rowOf(params, 1, row), y = rowOf(params, 2, row);
    let squares = f64x2.splat(0);
    for (let i = 0; i < length; i += 4) {
      const some = loadSome(x + (i << 2), length - i, 0);
      squares = f64x2.add(squares, wideSumOf(f32x4.mul(some, some)));
    }
    const r = f32x4.splat(<f32> (1 / Math.sqrt(sumOfPair(squares) / length + epsilon)));
    for (let i = 0; i < length; i += 4) {
      const left = length - i, at = i << 2;
      const normed = f32x4.mul(loadSome(x + at, left, 0), r);
      storeSome(y + at, left, f32x4.mul(loadSome(u + at, left, 0), normed));
    }
  }
}

/** … x, u, g, dx, du. */
export function gatedNormGradient(params: usize, task: i32, _scratch: usize): void {
  const length = load<i32>(params, LENGTH), perTask = load<i32>(params, ROWS_PER_TASK);
  const epsilon = <f64> load<f32>(params, EPSILON);
  const end = min(load<i32>(params, ROWS), (task + 1) * perTask);
  for (let row = task * perTask; row < end; row++) {
    const x = rowOf(params, 0, row), u = rowOf(params, 1, row), g = rowOf(params, 2, row);
    const dx = rowOf(params, 3, row), du = rowOf(params, 4, row);
    let squares = f64x2.splat(0), products = f64x2.splat(0);
    for (let i = 0; i < length; i += 4) {
      const left = length - i, at = i << 2;
      const some = loadSome(x + at, left, 0);
      const gated = f32x4.mul(loadSome(g + at, left, 0), loadSome(u + at, left, 0));
      squares = f64x2.add(squares, wideSumOf(f32x4.mul(some, some)));
      products = f64x2.add(products, wideSumOf(f32x4.mul(gated, some)));
    }
    const inverse = 1 / Math.sqrt(sumOfPair(squares) / length + epsilon);
    const r = f32x4.splat(<f32> inverse);
    const pull = f32x4.splat(<f32> (inverse * inverse * sumOfPair(products) / length));
    for (let i = 0; i < length; i += 4) {
      const left = length - i, at = i << 2;
      const some = loadSome(x + at, left, 0), gradient = loadSome(g + at, left, 0);
      const gated = f32x4.mul(gradient, loadSome(u + at, left, 0));
      storeSome(dx + at, left, f32x4.mul(r, f32x4.sub(gated, f32x4.mul(some, pull))));
      storeSome(du + at, left, f32x4.mul(gradient, f32x4.mul(some, r)));
    }
  }
}

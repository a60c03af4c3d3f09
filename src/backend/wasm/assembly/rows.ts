// Operations on dense rows: softmax, SRMSNorm and cross-entropy. Exponentials in float32, sums in float64.
import { exp, maxOf, sumOfPair, wideSumOf } from "./simd";

// Params: rows, how many are one task, their length, then what the kernel says.
const ROWS: usize = 0;
const ROWS_PER_TASK: usize = 4;
const LENGTH: usize = 8;

let row: i32, end: i32, length: i32;

function begin(params: usize, task: i32): void {
  const perTask = load<i32>(params, ROWS_PER_TASK);
  row = task * perTask;
  end = min(load<i32>(params, ROWS), row + perTask);
  length = load<i32>(params, LENGTH);
}

/** The next up to four elements of a row that has `left` of them left; `rest` where it has none. */
// @ts-ignore: decorator
@inline
export function loadSome(at: usize, left: i32, rest: f32): v128 {
  if (left >= 4) return v128.load(at);
  let some = f32x4.replace_lane(f32x4.splat(rest), 0, load<f32>(at));
  if (left > 1) some = f32x4.replace_lane(some, 1, load<f32>(at, 4));
  if (left > 2) some = f32x4.replace_lane(some, 2, load<f32>(at, 8));
  return some;
}

// @ts-ignore: decorator
@inline
export function storeSome(at: usize, left: i32, values: v128): void {
  if (left >= 4) {
    v128.store(at, values);
    return;
  }
  store<f32>(at, f32x4.extract_lane(values, 0));
  if (left > 1) store<f32>(at, f32x4.extract_lane(values, 1), 4);
  if (left > 2) store<f32>(at, f32x4.extract_lane(values, 2), 8);
}

function largestOf(x: usize): f32 {
  let largest = f32x4.splat(-Infinity);
  for (let i = 0; i < length; i += 4) {
    largest = f32x4.max(largest, loadSome(x + (i << 2), length - i, -Infinity));
  }
  return maxOf(largest);
}

/** Σ exp(x − shift). */
function sumOfExponentials(x: usize, shift: f32): f64 {
  let sum = f64x2.splat(0);
  const by = f32x4.splat(shift);
  for (let i = 0; i < length; i += 4) {
    const some = loadSome(x + (i << 2), length - i, -Infinity);
    sum = f64x2.add(sum, wideSumOf(exp(f32x4.sub(some, by))));
  }
  return sumOfPair(sum);
}

/** Σ x y. */
function product(x: usize, y: usize): f64 {
  let sum = f64x2.splat(0);
  for (let i = 0; i < length; i += 4) {
    const left = length - i, at = i << 2;
    sum = f64x2.add(
      sum,
      wideSumOf(f32x4.mul(loadSome(x + at, left, 0), loadSome(y + at, left, 0))),
    );
  }
  return sumOfPair(sum);
}

/** … x, out, whether the logarithm is asked for. */
export function softmax(params: usize, task: i32, _scratch: usize): void {
  begin(params, task);
  const logarithm = load<i32>(params, 20) != 0;
  for (; row < end; row++) {
    const at = (row * length) << 2;
    const x = load<usize>(params, 12) + at, out = load<usize>(params, 16) + at;
    const largest = largestOf(x);
    const sum = sumOfExponentials(x, largest);
    const by = f32x4.splat(largest);
    const share = f32x4.splat(<f32> (1 / sum)), log = f32x4.splat(<f32> NativeMath.log(sum));
    for (let i = 0; i < length; i += 4) {
      const less = f32x4.sub(loadSome(x + (i << 2), length - i, 0), by);
      const result = logarithm ? f32x4.sub(less, log) : f32x4.mul(exp(less), share);
      storeSome(out + (i << 2), length - i, result);
    }
  }
}

/** … ε, x, y. */
export function srmsNorm(params: usize, task: i32, _scratch: usize): void {
  begin(params, task);
  const epsilon = <f64> load<f32>(params, 12);
  for (; row < end; row++) {
    const at = (row * length) << 2;
    const x = load<usize>(params, 16) + at, y = load<usize>(params, 20) + at;
    const r = f32x4.splat(<f32> (1 / Math.sqrt(product(x, x) / length + epsilon)));
    for (let i = 0; i < length; i += 4) {
      const some = loadSome(x + (i << 2), length - i, 0);
      storeSome(y + (i << 2), length - i, f32x4.mul(some, r));
    }
  }
}

/** … ε, g, x, dx, and what it is added to or 0. */
export function srmsNormGradient(params: usize, task: i32, _scratch: usize): void {
  begin(params, task);
  const epsilon = <f64> load<f32>(params, 12);
  for (; row < end; row++) {
    const at = (row * length) << 2;
    const g = load<usize>(params, 16) + at, x = load<usize>(params, 20) + at;
    const dx = load<usize>(params, 24) + at;
    const before = load<usize>(params, 28);
    const r = 1 / Math.sqrt(product(x, x) / length + epsilon);
    const pull = f32x4.splat(<f32> (r * r * product(g, x) / length));
    const factor = f32x4.splat(<f32> r);
    for (let i = 0; i < length; i += 4) {
      const left = length - i, by = i << 2;
      const own = f32x4.mul(loadSome(x + by, left, 0), pull);
      let result = f32x4.mul(factor, f32x4.sub(loadSome(g + by, left, 0), own));
      if (before != 0) result = f32x4.add(result, loadSome(before + at + by, left, 0));
      storeSome(dx + by, left, result);
    }
  }
}

/** … x, targets, losses, z. */
export function crossEntropy(params: usize, task: i32, _scratch: usize): void {
  begin(params, task);
  for (; row < end; row++) {
    const x = load<usize>(params, 12) + ((row * length) << 2);
    const target = load<i32>(load<usize>(params, 16) + (row << 2));
    const largest = largestOf(x);
    const log = NativeMath.log(sumOfExponentials(x, largest));
    store<f32>(load<usize>(params, 24) + (row << 2), <f32> (largest + log));
    // A target that is no class, negative or too large, makes the loss NaN.
    const loss = <u32> target < <u32> length
      ? log + (<f64> largest - load<f32>(x + (target << 2)))
      : NaN;
    store<f32>(load<usize>(params, 20) + (row << 2), <f32> loss);
  }
}

/** … g, x, targets, z, dx. */
export function crossEntropyGradient(params: usize, task: i32, _scratch: usize): void {
  begin(params, task);
  for (; row < end; row++) {
    const at = (row * length) << 2;
    const x = load<usize>(params, 16) + at, dx = load<usize>(params, 28) + at;
    const g = load<f32>(load<usize>(params, 12) + (row << 2));
    const target = load<i32>(load<usize>(params, 20) + (row << 2));
    const z = f32x4.splat(load<f32>(load<usize>(params, 24) + (row << 2)));
    for (let i = 0; i < length; i += 4) {
      const probability = exp(f32x4.sub(loadSome(x + (i << 2), length - i, 0), z));
      storeSome(dx + (i << 2), length - i, f32x4.mul(f32x4.splat(g), probability));
    }
    if (<u32> target < <u32> length) {
      const own = dx + (target << 2);
      store<f32>(own, load<f32>(own) - g);
    }
  }
}

// Sums, of floats in float64, and maxima over any axes of any strides.
import { maxOf, sumOfPair, wideSumOf } from "./simd";

// Params: x, out; whether it is a maximum; outputs; how many are one task; the length and step of the reduced axes'
// last one; how many axes the kept ones are, and the reduced ones before the last; then sizes and steps of the kept
// ones, and of the reduced ones.
const X: usize = 0;
const OUT: usize = 4;
const IS_MAX: usize = 8;
const OUTPUTS: usize = 12;
const PER_TASK: usize = 16;
const LENGTH: usize = 20;
const STEP: usize = 24;
const KEPT_RANK: usize = 28;
const RUNS_RANK: usize = 32;
const AXES: usize = 36;

/** The way to an entry of axes whose sizes and then steps lie at `axes`. */
export function wayTo(axes: usize, rank: i32, entry: i32): usize {
  let way: usize = 0;
  for (let axis = rank - 1; axis >= 0 && entry > 0; axis--) {
    const size = load<i32>(axes + (axis << 2));
    way += (entry % size) * load<i32>(axes + ((rank + axis) << 2));
    entry /= size;
  }
  return way;
}

function countOf(axes: usize, rank: i32): i32 {
  let count = 1;
  for (let axis = 0; axis < rank; axis++) count *= load<i32>(axes + (axis << 2));
  return count;
}

/** One output after the other. */
export function reduceRows(params: usize, task: i32, _scratch: usize): void {
  const isMax = load<i32>(params, IS_MAX) != 0;
  const length = load<i32>(params, LENGTH), step = load<usize>(params, STEP);
  const keptRank = load<i32>(params, KEPT_RANK), runsRank = load<i32>(params, RUNS_RANK);
  const kept = params + AXES, reduced = kept + (keptRank << 3);
  const runs = countOf(reduced, runsRank);
  const perTask = load<i32>(params, PER_TASK);
  const end = min(load<i32>(params, OUTPUTS), (task + 1) * perTask);
  for (let output = task * perTask; output < end; output++) {
    const start = load<usize>(params, X) + wayTo(kept, keptRank, output);
    let sums = f64x2.splat(0), sum: f64 = 0;
    let maxima = f32x4.splat(-Infinity), maximum: f32 = -Infinity;
    for (let run = 0; run < runs; run++) {
      let at = start + wayTo(reduced, runsRank, run);
      let i = 0;
      if (step == 4) {
        if (isMax) {
          for (; i + 4 <= length; i += 4, at += 16) maxima = f32x4.max(maxima, v128.load(at));
        } else {
          for (; i + 4 <= length; i += 4, at += 16) {
            sums = f64x2.add(sums, wideSumOf(v128.load(at)));
          }
        }
      }
      if (isMax) for (; i < length; i++, at += step) maximum = max<f32>(maximum, load<f32>(at));
      else for (; i < length; i++, at += step) sum += <f64> load<f32>(at);
    }
    const result = isMax ? max<f32>(maximum, maxOf(maxima)) : <f32> (sum + sumOfPair(sums));
    store<f32>(load<usize>(params, OUT) + (output << 2), result);
  }
}

/** Four outputs side by side: the last kept axis is dense, and a whole number of fours is one task. */
export function reduceColumns(params: usize, task: i32, _scratch: usize): void {
  const isMax = load<i32>(params, IS_MAX) != 0;
  const length = load<i32>(params, LENGTH), step = load<usize>(params, STEP);
  const keptRank = load<i32>(params, KEPT_RANK), runsRank = load<i32>(params, RUNS_RANK);
  const kept = params + AXES, reduced = kept + (keptRank << 3);
  const runs = countOf(reduced, runsRank);
  const perTask = load<i32>(params, PER_TASK);
  const end = min(load<i32>(params, OUTPUTS), (task + 1) * perTask);
  for (let output = task * perTask; output < end; output += 4) {
    const start = load<usize>(params, X) + wayTo(kept, keptRank, output);
    let low = f64x2.splat(0), high = low;
    let maxima = f32x4.splat(-Infinity);
    for (let run = 0; run < runs; run++) {
      let at = start + wayTo(reduced, runsRank, run);
      for (let i = 0; i < length; i++, at += step) {
        const some = v128.load(at);
        if (isMax) maxima = f32x4.max(maxima, some);
        else {
          low = f64x2.add(low, f64x2.promote_low_f32x4(some));
          high = f64x2.add(
            high,
            f64x2.promote_low_f32x4(v128.shuffle<f32>(some, some, 2, 3, 2, 3)),
          );
        }
      }
    }
    if (!isMax) {
      maxima = v128.shuffle<f32>(
        f32x4.demote_f64x2_zero(low),
        f32x4.demote_f64x2_zero(high),
        0,
        1,
        4,
        5,
      );
    }
    v128.store(load<usize>(params, OUT) + (output << 2), maxima);
  }
}

/** As {@linkcode reduceRows}, over integers; IS_MAX is 2 for those without a sign. Sums wrap. */
export function reduceIntegers(params: usize, task: i32, _scratch: usize): void {
  const kind = load<i32>(params, IS_MAX);
  const length = load<i32>(params, LENGTH), step = load<usize>(params, STEP);
  const keptRank = load<i32>(params, KEPT_RANK), runsRank = load<i32>(params, RUNS_RANK);
  const kept = params + AXES, reduced = kept + (keptRank << 3);
  const runs = countOf(reduced, runsRank);
  const perTask = load<i32>(params, PER_TASK);
  const end = min(load<i32>(params, OUTPUTS), (task + 1) * perTask);
  for (let output = task * perTask; output < end; output++) {
    const start = load<usize>(params, X) + wayTo(kept, keptRank, output);
    let result: i32 = kind == 1 ? i32.MIN_VALUE : 0;
    for (let run = 0; run < runs; run++) {
      let at = start + wayTo(reduced, runsRank, run);
      for (let i = 0; i < length; i++, at += step) {
        const some = load<i32>(at);
        if (kind == 0) result += some;
        else if (kind == 1) result = max(result, some);
        else result = max<u32>(result, some);
      }
    }
    store<i32>(load<usize>(params, OUT) + (output << 2), result);
  }
}

// Params: out, its parts a row; then for each row the address and the size of a dense tensor.
/** Partial sums of squares, one task a part. */
export function sumsOfSquares(params: usize, task: i32, _scratch: usize): void {
  const parts = load<i32>(params, 4);
  const tensor = params + 8 + ((task / parts) << 3);
  const size = load<i32>(tensor, 4);
  // Whole fours, so that only the last part has a rest.
  const share = (((size + parts - 1) / parts + 3) / 4) * 4;
  const first = min(size, (task % parts) * share), end = min(size, first + share);
  let at = load<usize>(tensor) + (first << 2);
  let sums = f64x2.splat(0);
  let i = first;
  for (; i + 4 <= end; i += 4, at += 16) {
    const some = v128.load(at);
    sums = f64x2.add(sums, wideSumOf(f32x4.mul(some, some)));
  }
  let sum = sumOfPair(sums);
  for (; i < end; i++, at += 4) sum += <f64> load<f32>(at) * load<f32>(at);
  store<f32>(load<usize>(params) + (task << 2), <f32> sum);
}

// Between float16 in memory and float32: exact one way, to the nearest, ties to even, the other.
import { wayTo } from "./reduce";

// Params of both: the address of the float16, which may lie anyhow, and of the float32, which are dense; the length of
// the last axis and how much of it is one task; entries of the axes before it, how many are one task and how many axes
// they are; the step of the last axis; sizes and steps of the others. Steps are in bytes.
const STORED: usize = 0;
const WIDE: usize = 4;
const LENGTH: usize = 8;
const CHUNK: usize = 12;
const ROWS: usize = 16;
const ROWS_PER_TASK: usize = 20;
const RANK: usize = 24;
const STEP: usize = 28;
const AXES: usize = 32;

let row: i32, end: i32, first: i32, count: i32;

/** Finds the part of a task: which rows, and from where how much of each. */
function begin(params: usize, task: i32): void {
  const length = load<i32>(params, LENGTH), chunk = load<i32>(params, CHUNK);
  const chunks = (length + chunk - 1) / chunk, perTask = load<i32>(params, ROWS_PER_TASK);
  first = (task % chunks) * chunk;
  count = min(chunk, length - first);
  row = (task / chunks) * perTask;
  end = min(load<i32>(params, ROWS), row + perTask);
}

// @ts-ignore: decorator
@inline
function storedAt(params: usize): usize {
  const way = wayTo(params + AXES, load<i32>(params, RANK), row);
  return load<usize>(params, STORED) + way + first * load<i32>(params, STEP);
}

// @ts-ignore: decorator
@inline
function wideAt(params: usize): usize {
  return load<usize>(params, WIDE) + ((row * load<i32>(params, LENGTH) + first) << 2);
}

/** Four float32 of the float16 in the lower halves of the lanes. */
// @ts-ignore: decorator
@inline
function widened(half: v128): v128 {
  const size = v128.and(half, i32x4.splat(0x7fff));
  // The exponent's bias grows by 112.
  const normal = i32x4.add(i32x4.shl(size, 13), i32x4.splat(112 << 23));
  // What is below the normal numbers lacks their leading 1: it is put there, and taken away.
  const tiny = f32x4.sub(i32x4.add(normal, i32x4.splat(1 << 23)), i32x4.splat(113 << 23));
  const number = v128.bitselect(tiny, normal, i32x4.lt_s(size, i32x4.splat(0x400)));
  const special = v128.and(i32x4.gt_s(size, i32x4.splat(0x7bff)), i32x4.splat(0x7f800000));
  const sign = i32x4.shl(v128.and(half, i32x4.splat(0x8000)), 16);
  return v128.or(v128.or(number, special), sign);
}

/** The float16 of four float32, in the lower halves of the lanes. */
// @ts-ignore: decorator
@inline
function narrowed(x: v128): v128 {
  const size = v128.and(x, i32x4.splat(0x7fffffff));
  // Half of the last place that stays is added, less a little where that place is even.
  const odd = v128.and(i32x4.shr_u(size, 13), i32x4.splat(1));
  const rounded = i32x4.add(i32x4.add(size, i32x4.splat(0xfff)), odd);
  const normal = i32x4.shr_u(i32x4.sub(rounded, i32x4.splat(112 << 23)), 13);
  // Beside ½ float32 has the last place that float16 has below its normal numbers, so that adding rounds.
  const tiny = i32x4.sub(f32x4.add(size, f32x4.splat(0.5)), i32x4.splat(0x3f000000));
  const nan = v128.and(f32x4.ne(x, x), i32x4.splat(0x200));
  const special = v128.or(i32x4.splat(0x7c00), nan);
  let result = v128.bitselect(tiny, normal, i32x4.lt_s(size, i32x4.splat(113 << 23)));
  result = v128.bitselect(result, special, i32x4.lt_s(size, i32x4.splat(143 << 23)));
  return v128.or(result, v128.and(i32x4.shr_u(x, 16), i32x4.splat(0x8000)));
}

export function widen(params: usize, task: i32, _scratch: usize): void {
  begin(params, task);
  const step = load<usize>(params, STEP);
  for (; row < end; row++) {
    let from = storedAt(params), to = wideAt(params), left = count;
    if (step == 2) {
      for (; left >= 4; left -= 4) {
        v128.store(to, widened(v128.load16x4_u(from)));
        from += 8;
        to += 16;
      }
    }
    for (; left > 0; left--) {
      store<f32>(to, f32x4.extract_lane(widened(i32x4.splat(load<u16>(from))), 0));
      from += step;
      to += 4;
    }
  }
}

export function narrow(params: usize, task: i32, _scratch: usize): void {
  begin(params, task);
  const step = load<usize>(params, STEP);
  for (; row < end; row++) {
    let from = wideAt(params), to = storedAt(params), left = count;
    if (step == 2) {
      for (; left >= 8; left -= 8) {
        const low = narrowed(v128.load(from)), high = narrowed(v128.load(from, 16));
        v128.store(to, i16x8.narrow_i32x4_u(low, high));
        from += 32;
        to += 16;
      }
    }
    for (; left > 0; left--) {
      store<u16>(to, i32x4.extract_lane(narrowed(v128.load32_splat(from)), 0));
      from += 4;
      to += step;
    }
  }
}

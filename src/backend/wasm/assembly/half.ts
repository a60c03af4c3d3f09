// Between float16 in memory and float32: exact one way, to the nearest, ties to even, the other.

// Params of both: from, to, the number of elements, how many of them, a multiple of eight, are one task.
const FROM: usize = 0;
const TO: usize = 4;
const COUNT: usize = 8;
const PER_TASK: usize = 12;

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
  const perTask = load<i32>(params, PER_TASK);
  let left = min(load<i32>(params, COUNT) - task * perTask, perTask);
  let from = load<usize>(params, FROM) + ((task * perTask) << 1);
  let to = load<usize>(params, TO) + ((task * perTask) << 2);
  for (; left >= 4; left -= 4) {
    v128.store(to, widened(v128.load16x4_u(from)));
    from += 8;
    to += 16;
  }
  for (; left > 0; left--) {
    store<f32>(to, f32x4.extract_lane(widened(i32x4.splat(load<u16>(from))), 0));
    from += 2;
    to += 4;
  }
}

export function narrow(params: usize, task: i32, _scratch: usize): void {
  const perTask = load<i32>(params, PER_TASK);
  let left = min(load<i32>(params, COUNT) - task * perTask, perTask);
  let from = load<usize>(params, FROM) + ((task * perTask) << 2);
  let to = load<usize>(params, TO) + ((task * perTask) << 1);
  for (; left >= 8; left -= 8) {
    v128.store(to, i16x8.narrow_i32x4_u(narrowed(v128.load(from)), narrowed(v128.load(from, 16))));
    from += 32;
    to += 16;
  }
  for (; left > 0; left--) {
    store<u16>(to, i32x4.extract_lane(narrowed(v128.load32_splat(from)), 0));
    from += 4;
    to += 2;
  }
}

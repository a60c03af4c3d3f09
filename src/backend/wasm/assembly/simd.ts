// Four float32 at a time: what the kernels share.

/** a · b + c, in one rounding where the module may use relaxed SIMD. */
// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(f32x4.mul(a, b), c);
}

/** The sum of the four lanes. */
// @ts-ignore: decorator
@inline
export function sumOf(x: v128): f32 {
  const pairs = f32x4.add(x, v128.shuffle<f32>(x, x, 2, 3, 0, 1));
  return f32x4.extract_lane(pairs, 0) + f32x4.extract_lane(pairs, 1);
}

/** The sum of the four lanes, in float64. */
// @ts-ignore: decorator
@inline
export function wideSumOf(x: v128): v128 {
  return f64x2.add(
    f64x2.promote_low_f32x4(x),
    f64x2.promote_low_f32x4(v128.shuffle<f32>(x, x, 2, 3, 2, 3)),
  );
}

// @ts-ignore: decorator
@inline
export function sumOfPair(x: v128): f64 {
  return f64x2.extract_lane(x, 0) + f64x2.extract_lane(x, 1);
}

/** The largest of the four lanes; NaN if one is. */
// @ts-ignore: decorator
@inline
export function maxOf(x: v128): f32 {
  const pairs = f32x4.max(x, v128.shuffle<f32>(x, x, 2, 3, 0, 1));
  return f32x4.extract_lane(f32x4.max(pairs, v128.shuffle<f32>(pairs, pairs, 1, 0, 3, 2)), 0);
}

/**
 * Number `i` of a table, in all lanes. Constants of functions lie in tables, since to read one is one instruction, and
 * V8 makes a constant of the code anew wherever it is used, by three.
 */
// @ts-ignore: decorator
@inline
export function constant(table: usize, i: i32): v128 {
  return v128.load32_splat(table + (i << 2));
}

// The bounds; 1.5 · 2²³; 1 / ln 2; −ln 2 in two parts, the first with so few bits that its products with n are exact;
// then the series.
// deno-fmt-ignore
const EXP: usize = memory.data<f32>([
  89, -104, 12582912, 1.44269504088896341, -0.693359375, 2.12194440054690583e-4,
  1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1,
]);

/**
 * eˣ within 2 units in the last place: x = n ln 2 + r, |r| ≤ ½ ln 2, and the Taylor series of eʳ to r⁷. 2ⁿ is
 * applied in two halves, so that results below the normal numbers are rounded once and none overflows early.
 */
// @ts-ignore: decorator
@inline
export function exp(x: v128): v128 {
  // Beyond these bounds the result is 0 or ∞. NaN passes both.
  const bounded = f32x4.pmax(f32x4.pmin(x, constant(EXP, 0)), constant(EXP, 1));
  // Beside 1.5 · 2²³ float32 holds whole numbers only, in its last bits.
  const whole = constant(EXP, 2);
  const shifted = madd(bounded, constant(EXP, 3), whole);
  const n = f32x4.sub(shifted, whole);
  let r = f32x4.add(bounded, f32x4.mul(n, constant(EXP, 4)));
  r = f32x4.add(r, f32x4.mul(n, constant(EXP, 5)));
  let p = madd(constant(EXP, 6), r, constant(EXP, 7));
  p = madd(p, r, constant(EXP, 8));
  p = madd(p, r, constant(EXP, 9));
  p = madd(p, r, constant(EXP, 10));
  p = madd(p, r, constant(EXP, 11));
  const one = constant(EXP, 12);
  p = f32x4.add(madd(f32x4.mul(p, r), r, r), one);
  const exponent = i32x4.sub(shifted, whole);
  const half = i32x4.shr_s(exponent, 1);
  // The bits of 1 are its exponent alone.
  const first = i32x4.add(i32x4.shl(half, 23), one);
  const second = i32x4.add(i32x4.shl(i32x4.sub(exponent, half), 23), one);
  return f32x4.mul(f32x4.mul(p, first), second);
}

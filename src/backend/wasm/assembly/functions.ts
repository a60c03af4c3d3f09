// Functions of one variable, on four float32 at a time, within a few units in the last place; exp is in simd.ts.
import { exp, madd } from "./simd";

/** Beyond this an argument of {@linkcode sine} needs more digits of π than float64 has. */
export const FARTHEST: f32 = 2 ** 28;

/**
 * sin x, or cos x = sin (x + π/2) with `ahead` 1: x = n π/2 + r, |r| ≤ π/4, n and r in float64; then the polynomials
 * of the Cephes library in float32. |x| ≤ FARTHEST, or not a number.
 */
// @ts-ignore: decorator
@inline
export function sine(x: v128, ahead: i32): v128 {
  const low = f64x2.promote_low_f32x4(x);
  const high = f64x2.promote_low_f32x4(v128.shuffle<f32>(x, x, 2, 3, 2, 3));
  const turns = f64x2.splat(2 / NativeMath.PI);
  const nLow = f64x2.nearest(f64x2.mul(low, turns)), nHigh = f64x2.nearest(f64x2.mul(high, turns));
  const rLow = quarterRest(low, nLow), rHigh = quarterRest(high, nHigh);
  const r = v128.shuffle<f32>(
    f32x4.demote_f64x2_zero(rLow),
    f32x4.demote_f64x2_zero(rHigh),
    0,
    1,
    4,
    5,
  );
  const n = v128.shuffle<i32>(
    i32x4.trunc_sat_f64x2_s_zero(nLow),
    i32x4.trunc_sat_f64x2_s_zero(nHigh),
    0,
    1,
    4,
    5,
  );
  const quadrant = i32x4.add(n, i32x4.splat(ahead));
  const z = f32x4.mul(r, r);
  let s = madd(f32x4.splat(-1.9515295891e-4), z, f32x4.splat(8.3321608736e-3));
  s = madd(s, z, f32x4.splat(-1.6666654611e-1));
  s = madd(f32x4.mul(s, z), r, r);
  let c = madd(f32x4.splat(2.443315711809948e-5), z, f32x4.splat(-1.388731625493765e-3));
  c = madd(c, z, f32x4.splat(4.166664568298827e-2));
  c = f32x4.add(madd(f32x4.mul(c, z), z, f32x4.mul(z, f32x4.splat(-0.5))), f32x4.splat(1));
  const odd = i32x4.eq(v128.and(quadrant, i32x4.splat(1)), i32x4.splat(1));
  const sign = i32x4.shl(v128.and(quadrant, i32x4.splat(2)), 30);
  return v128.xor(v128.bitselect(c, s, odd), sign);
}

/** x − n π/2, with π/2 in two parts. */
// @ts-ignore: decorator
@inline
function quarterRest(x: v128, n: v128): v128 {
  const rest = f64x2.sub(x, f64x2.mul(n, f64x2.splat(1.57079632673412561417)));
  return f64x2.sub(rest, f64x2.mul(n, f64x2.splat(6.07710050650619224932e-11)));
}

/**
 * ln x: x = m 2ⁿ, √½ ≤ m < √2, and the polynomial of the Cephes library for ln m. −∞ of 0, NaN below it.
 */
// @ts-ignore: decorator
@inline
export function log(x: v128): v128 {
  const smallest = f32x4.splat(1.1754943508e-38);
  const tiny = f32x4.lt(x, smallest);
  // Below the normal numbers, by way of 2²³ x.
  const scaled = v128.bitselect(f32x4.mul(x, f32x4.splat(8388608)), x, tiny);
  const rootHalf = i32x4.splat(0x3f3504f3);
  const shifted = i32x4.add(scaled, i32x4.sub(i32x4.splat(0x3f800000), rootHalf));
  const mantissa = i32x4.add(v128.and(shifted, i32x4.splat(0x007fffff)), rootHalf);
  const exponent = i32x4.sub(
    i32x4.sub(i32x4.shr_s(shifted, 23), i32x4.splat(127)),
    v128.and(tiny, i32x4.splat(23)),
  );
  const r = f32x4.sub(mantissa, f32x4.splat(1)), n = f32x4.convert_i32x4_s(exponent);
  const z = f32x4.mul(r, r);
  let p = madd(f32x4.splat(7.0376836292e-2), r, f32x4.splat(-1.1514610310e-1));
  p = madd(p, r, f32x4.splat(1.1676998740e-1));
  p = madd(p, r, f32x4.splat(-1.2420140846e-1));
  p = madd(p, r, f32x4.splat(1.4249322787e-1));
  p = madd(p, r, f32x4.splat(-1.6668057665e-1));
  p = madd(p, r, f32x4.splat(2.0000714765e-1));
  p = madd(p, r, f32x4.splat(-2.4999993993e-1));
  p = madd(p, r, f32x4.splat(3.3333331174e-1));
  // ln 2 in two parts, as in exp.
  p = madd(n, f32x4.splat(-2.12194440054690583e-4), f32x4.mul(f32x4.mul(p, r), z));
  p = f32x4.add(r, madd(z, f32x4.splat(-0.5), p));
  p = madd(n, f32x4.splat(0.693359375), p);
  const infinity = f32x4.splat(Infinity);
  p = v128.bitselect(p, x, f32x4.lt(x, infinity));
  p = v128.bitselect(f32x4.neg(infinity), p, f32x4.eq(x, f32x4.splat(0)));
  return v128.bitselect(f32x4.splat(NaN), p, f32x4.lt(x, f32x4.splat(0)));
}

/** tanh x: a polynomial of the Cephes library near 0, elsewhere 1 − 2 / (e²ˣ + 1). */
// @ts-ignore: decorator
@inline
export function tanh(x: v128): v128 {
  const size = f32x4.abs(x), one = f32x4.splat(1);
  const z = f32x4.mul(x, x);
  let p = madd(f32x4.splat(-5.70498872745e-3), z, f32x4.splat(2.06390887954e-2));
  p = madd(p, z, f32x4.splat(-5.37397155531e-2));
  p = madd(p, z, f32x4.splat(1.33314422036e-1));
  p = madd(p, z, f32x4.splat(-3.33332819422e-1));
  const near = madd(f32x4.mul(p, z), size, size);
  const power = exp(f32x4.add(size, size));
  const far = f32x4.sub(one, f32x4.div(f32x4.splat(2), f32x4.add(power, one)));
  const result = v128.bitselect(near, far, f32x4.lt(size, f32x4.splat(0.625)));
  return v128.bitselect(x, result, i32x4.splat(0x80000000));
}

/**
 * e^(y − share · x²), the square without rounding: of it, what is large is exact, the rest is small, and so is what
 * their sum with y loses.
 */
// @ts-ignore: decorator
@inline
function bell(y: v128, x: v128, share: f32): v128 {
  const part = f32x4.splat(share);
  const high = v128.and(x, i32x4.splat(0xfffff000));
  const large = f32x4.mul(part, f32x4.mul(high, high));
  const small = f32x4.sub(y, f32x4.mul(part, f32x4.mul(f32x4.sub(x, high), f32x4.add(x, high))));
  const sum = f32x4.sub(small, large);
  const lost = f32x4.sub(small, f32x4.add(sum, large));
  const power = exp(sum);
  return madd(power, lost, power);
}

/** erfc(x) for x ≥ 0, relative error < 1.2e-7 (Press et al., Numerical Recipes, erfcc); share · root² is x². */
// @ts-ignore: decorator
@inline
function erfc(x: v128, root: v128, share: f32): v128 {
  const t = f32x4.div(f32x4.splat(2), f32x4.add(f32x4.splat(2), x));
  let p = madd(f32x4.splat(0.17087277), t, f32x4.splat(-0.82215223));
  p = madd(p, t, f32x4.splat(1.48851587));
  p = madd(p, t, f32x4.splat(-1.13520398));
  p = madd(p, t, f32x4.splat(0.27886807));
  p = madd(p, t, f32x4.splat(-0.18628806));
  p = madd(p, t, f32x4.splat(0.09678418));
  p = madd(p, t, f32x4.splat(0.37409196));
  p = madd(p, t, f32x4.splat(1.00002368));
  p = madd(p, t, f32x4.splat(-1.26551223));
  return f32x4.mul(t, bell(p, root, share));
}

/** erf x for |x| < ½: its Taylor series. */
// @ts-ignore: decorator
@inline
function erfNearZero(x: v128): v128 {
  const z = f32x4.mul(x, x);
  let p = madd(f32x4.splat(1.2055332981789664e-4), z, f32x4.splat(-8.548327023450852e-4));
  p = madd(p, z, f32x4.splat(5.223977625442188e-3));
  p = madd(p, z, f32x4.splat(-2.6866170645131252e-2));
  p = madd(p, z, f32x4.splat(1.1283791670955126e-1));
  p = madd(p, z, f32x4.splat(-3.7612638903183754e-1));
  p = madd(p, z, f32x4.splat(1.2837916709551258e-1));
  // 2 / √π = 1 + 0.128…
  return madd(p, x, x);
}

/** Where erf is 1 for float32, and e^(−x²) is 0: what is farther counts as this. */
const FLAT: f32 = 20;

/** The error function. */
// @ts-ignore: decorator
@inline
export function erf(x: v128): v128 {
  const size = f32x4.min(f32x4.abs(x), f32x4.splat(FLAT));
  const far = f32x4.sub(f32x4.splat(1), erfc(size, size, 1));
  const signed = v128.bitselect(x, far, i32x4.splat(0x80000000));
  return v128.bitselect(erfNearZero(x), signed, f32x4.lt(size, f32x4.splat(0.5)));
}

/** Φ(x), the standard normal distribution; small values keep their digits. */
// @ts-ignore: decorator
@inline
function normalCdf(x: v128): v128 {
  const half = f32x4.splat(0.5), rootHalf = f32x4.splat(0.707106781186547524);
  const size = f32x4.min(f32x4.abs(x), f32x4.splat(FLAT));
  const tail = f32x4.mul(half, erfc(f32x4.mul(size, rootHalf), size, 0.5));
  const far = v128.bitselect(tail, f32x4.sub(f32x4.splat(1), tail), f32x4.lt(x, f32x4.splat(0)));
  const near = madd(half, erfNearZero(f32x4.mul(x, rootHalf)), half);
  return v128.bitselect(near, far, f32x4.lt(size, rootHalf));
}

/** x Φ(x). */
// @ts-ignore: decorator
@inline
export function gelu(x: v128): v128 {
  return f32x4.mul(x, normalCdf(x));
}

/** Φ(x) + x φ(x), the derivative of gelu. */
// @ts-ignore: decorator
@inline
export function geluSlope(x: v128): v128 {
  const size = f32x4.min(f32x4.abs(x), f32x4.splat(FLAT));
  const density = bell(f32x4.splat(-0.918938533204672742), size, 0.5);
  return madd(x, density, normalCdf(x));
}

// Functions of one variable, on four float32 at a time, within a few units in the last place; exp is in simd.ts.
import { constant, exp, madd } from "./simd";

/** Beyond this an argument of {@linkcode sine} needs more digits of π than float64 has. */
export const FARTHEST: f32 = 2 ** 28;

// The polynomials of the Cephes library for sine and cosine on |x| ≤ π/4, highest power first.
// deno-fmt-ignore
const SINE: usize = memory.data<f32>([
  -1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1,
  2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2, -0.5, 1,
]);

/**
 * sin x, or cos x = sin (x + π/2) with `ahead` 1: x = n π/2 + r, |r| ≤ π/4, n and r in float64; then polynomials in
 * float32. |x| ≤ FARTHEST, or not a number.
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
  let s = madd(constant(SINE, 0), z, constant(SINE, 1));
  s = madd(s, z, constant(SINE, 2));
  s = madd(f32x4.mul(s, z), r, r);
  let c = madd(constant(SINE, 3), z, constant(SINE, 4));
  c = madd(c, z, constant(SINE, 5));
  c = f32x4.add(madd(f32x4.mul(c, z), z, f32x4.mul(z, constant(SINE, 6))), constant(SINE, 7));
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

// The smallest normal number; 2²³; 1; ln 2 in two parts, as in exp; −½; then the polynomial of the Cephes library for
// (ln (1 + r) − r + r²/2) / r³, highest power first.
// deno-fmt-ignore
const LOG: usize = memory.data<f32>([
  1.1754943508e-38, 8388608, 1, 0.693359375, -2.12194440054690583e-4, -0.5,
  7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
  -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
]);

/** ln x: x = m 2ⁿ, √½ ≤ m < √2, r = m − 1. −∞ of 0, NaN below it. */
// @ts-ignore: decorator
@inline
export function log(x: v128): v128 {
  const tiny = f32x4.lt(x, constant(LOG, 0));
  // Below the normal numbers, by way of 2²³ x.
  const scaled = v128.bitselect(f32x4.mul(x, constant(LOG, 1)), x, tiny);
  const one = constant(LOG, 2);
  const rootHalf = i32x4.splat(0x3f3504f3);
  const shifted = i32x4.sub(scaled, rootHalf);
  const mantissa = i32x4.add(v128.and(shifted, i32x4.splat(0x007fffff)), rootHalf);
  const exponent = i32x4.sub(i32x4.shr_s(shifted, 23), v128.and(tiny, i32x4.splat(23)));
  const r = f32x4.sub(mantissa, one), n = f32x4.convert_i32x4_s(exponent);
  const z = f32x4.mul(r, r);
  let p = madd(constant(LOG, 6), r, constant(LOG, 7));
  p = madd(p, r, constant(LOG, 8));
  p = madd(p, r, constant(LOG, 9));
  p = madd(p, r, constant(LOG, 10));
  p = madd(p, r, constant(LOG, 11));
  p = madd(p, r, constant(LOG, 12));
  p = madd(p, r, constant(LOG, 13));
  p = madd(p, r, constant(LOG, 14));
  p = madd(n, constant(LOG, 4), f32x4.mul(f32x4.mul(p, r), z));
  p = f32x4.add(r, madd(z, constant(LOG, 5), p));
  p = madd(n, constant(LOG, 3), p);
  const infinity = f32x4.splat(Infinity), zero = f32x4.splat(0);
  p = v128.bitselect(p, x, f32x4.lt(x, infinity));
  p = v128.bitselect(f32x4.neg(infinity), p, f32x4.eq(x, zero));
  return v128.bitselect(f32x4.splat(NaN), p, f32x4.lt(x, zero));
}

// 0.625; 1; 2; then the polynomial of the Cephes library for (tanh x − x) / x³ below 0.625, highest power first.
// deno-fmt-ignore
const TANH: usize = memory.data<f32>([
  0.625, 1, 2,
  -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1,
]);

/** tanh x: a polynomial near 0, elsewhere 1 − 2 / (e²ˣ + 1). */
// @ts-ignore: decorator
@inline
export function tanh(x: v128): v128 {
  const size = f32x4.abs(x), one = constant(TANH, 1);
  const z = f32x4.mul(x, x);
  let p = madd(constant(TANH, 3), z, constant(TANH, 4));
  p = madd(p, z, constant(TANH, 5));
  p = madd(p, z, constant(TANH, 6));
  p = madd(p, z, constant(TANH, 7));
  const near = madd(f32x4.mul(p, z), size, size);
  const power = exp(f32x4.add(size, size));
  const far = f32x4.sub(one, f32x4.div(constant(TANH, 2), f32x4.add(power, one)));
  const result = v128.bitselect(near, far, f32x4.lt(size, constant(TANH, 0)));
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

// 2, then ln (erfc(x) / t) + x² as a polynomial in t = 2 / (2 + x), highest power first: erfc has a relative error
// below 1.2e-7 (Press et al., Numerical Recipes, erfcc).
// deno-fmt-ignore
const ERFC: usize = memory.data<f32>([
  2,
  0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807,
  -0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223,
]);

/** 1 − erf x for x ≥ 0; share · root² is x². */
// @ts-ignore: decorator
@inline
function erfc(x: v128, root: v128, share: f32): v128 {
  const two = constant(ERFC, 0);
  const t = f32x4.div(two, f32x4.add(two, x));
  let p = madd(constant(ERFC, 1), t, constant(ERFC, 2));
  p = madd(p, t, constant(ERFC, 3));
  p = madd(p, t, constant(ERFC, 4));
  p = madd(p, t, constant(ERFC, 5));
  p = madd(p, t, constant(ERFC, 6));
  p = madd(p, t, constant(ERFC, 7));
  p = madd(p, t, constant(ERFC, 8));
  p = madd(p, t, constant(ERFC, 9));
  p = madd(p, t, constant(ERFC, 10));
  return f32x4.mul(t, bell(p, root, share));
}

// The Taylor series of erf x / x − 1 in x², highest power first; the last term is 2 / √π − 1.
// deno-fmt-ignore
const ERF: usize = memory.data<f32>([
  1.2055332981789664e-4, -8.548327023450852e-4, 5.223977625442188e-3, -2.6866170645131252e-2,
  1.1283791670955126e-1, -3.7612638903183754e-1, 1.2837916709551258e-1,
]);

/** erf x for |x| < ½. */
// @ts-ignore: decorator
@inline
function erfNearZero(x: v128): v128 {
  const z = f32x4.mul(x, x);
  let p = madd(constant(ERF, 0), z, constant(ERF, 1));
  p = madd(p, z, constant(ERF, 2));
  p = madd(p, z, constant(ERF, 3));
  p = madd(p, z, constant(ERF, 4));
  p = madd(p, z, constant(ERF, 5));
  p = madd(p, z, constant(ERF, 6));
  return madd(p, x, x);
}

// Where erf is 1 for float32, and what is farther counts as; ½; √½; 1; ln (1 / √2π).
// deno-fmt-ignore
const NORMAL: usize = memory.data<f32>([20, 0.5, 0.707106781186547524, 1, -0.918938533204672742]);

/** The error function. */
// @ts-ignore: decorator
@inline
export function erf(x: v128): v128 {
  const size = f32x4.pmin(f32x4.abs(x), constant(NORMAL, 0));
  const far = f32x4.sub(constant(NORMAL, 3), erfc(size, size, 1));
  const signed = v128.bitselect(x, far, i32x4.splat(0x80000000));
  return v128.bitselect(erfNearZero(x), signed, f32x4.lt(size, constant(NORMAL, 1)));
}

/** Φ(x), the standard normal distribution; small values keep their digits. */
// @ts-ignore: decorator
@inline
function normalCdf(x: v128): v128 {
  const half = constant(NORMAL, 1), rootHalf = constant(NORMAL, 2);
  const size = f32x4.pmin(f32x4.abs(x), constant(NORMAL, 0));
  const tail = f32x4.mul(half, erfc(f32x4.mul(size, rootHalf), size, 0.5));
  const above = f32x4.sub(constant(NORMAL, 3), tail);
  const far = v128.bitselect(tail, above, f32x4.lt(x, f32x4.splat(0)));
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
  const size = f32x4.pmin(f32x4.abs(x), constant(NORMAL, 0));
  return madd(x, bell(constant(NORMAL, 4), size, 0.5), normalCdf(x));
}

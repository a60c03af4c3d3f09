// Functions for `pointwise` to call, on float32 and on any bits: n, a multiple of four, elements of out from those of
// x, y and z.
import { exp } from "./simd";
import { erf, FARTHEST, gelu, geluSlope, log, sine, tanh } from "./functions";

const enum Rule {
  ADD,
  SUB,
  MUL,
  DIV,
  MAXIMUM,
  MINIMUM,
  EQUAL,
  NOT_EQUAL,
  LESS,
  LESS_EQUAL,
  SILU_GRADIENT,
  NEG,
  ABS,
  SIGN,
  SQUARE,
  RECIPROCAL,
  EXP,
  SQRT,
  RSQRT,
  SIGMOID,
  SILU,
  RELU,
  FROM_SIGNED,
  FROM_UNSIGNED,
  TO_SIGNED,
  TO_UNSIGNED,
  TO_BOOL,
  LOG,
  TANH,
  ERF,
  GELU,
  GELU_GRADIENT,
}

/** One rule on four elements; `rule` is known where this is inlined, so only one branch is left. */
// @ts-ignore: decorator
@inline
function four(rule: Rule, x: v128, y: v128): v128 {
  const one = f32x4.splat(1), zero = f32x4.splat(0);
  if (rule == Rule.ADD) return f32x4.add(x, y);
  if (rule == Rule.SUB) return f32x4.sub(x, y);
  if (rule == Rule.MUL) return f32x4.mul(x, y);
  if (rule == Rule.DIV) return f32x4.div(x, y);
  if (rule == Rule.MAXIMUM) return f32x4.max(x, y);
  if (rule == Rule.MINIMUM) return f32x4.min(x, y);
  if (rule == Rule.EQUAL) return v128.and(f32x4.eq(x, y), i32x4.splat(1));
  if (rule == Rule.NOT_EQUAL) return v128.and(f32x4.ne(x, y), i32x4.splat(1));
  if (rule == Rule.LESS) return v128.and(f32x4.lt(x, y), i32x4.splat(1));
  if (rule == Rule.LESS_EQUAL) return v128.and(f32x4.le(x, y), i32x4.splat(1));
  if (rule == Rule.SILU_GRADIENT) {
    // x · s · (1 + y · (1 − s)), s = sigmoid(y)
    const s = f32x4.div(one, f32x4.add(one, exp(f32x4.neg(y))));
    const slope = f32x4.mul(s, f32x4.add(one, f32x4.mul(y, f32x4.sub(one, s))));
    return f32x4.mul(x, slope);
  }
  if (rule == Rule.NEG) return f32x4.neg(x);
  if (rule == Rule.ABS) return f32x4.abs(x);
  if (rule == Rule.SIGN) {
    // Zeros and NaN are their own signs.
    const signed = v128.or(v128.and(x, i32x4.splat(0x80000000)), one);
    return v128.bitselect(signed, x, f32x4.gt(f32x4.abs(x), zero));
  }
  if (rule == Rule.SQUARE) return f32x4.mul(x, x);
  if (rule == Rule.RECIPROCAL) return f32x4.div(one, x);
  if (rule == Rule.EXP) return exp(x);
  if (rule == Rule.SQRT) return f32x4.sqrt(x);
  if (rule == Rule.RSQRT) return f32x4.div(one, f32x4.sqrt(x));
  if (rule == Rule.SIGMOID) return f32x4.div(one, f32x4.add(one, exp(f32x4.neg(x))));
  if (rule == Rule.SILU) return f32x4.div(x, f32x4.add(one, exp(f32x4.neg(x))));
  if (rule == Rule.RELU) return v128.and(x, f32x4.gt(x, zero));
  if (rule == Rule.LOG) return log(x);
  if (rule == Rule.TANH) return tanh(x);
  if (rule == Rule.ERF) return erf(x);
  if (rule == Rule.GELU) return gelu(x);
  if (rule == Rule.GELU_GRADIENT) return f32x4.mul(x, geluSlope(y));
  if (rule == Rule.FROM_SIGNED) return f32x4.convert_i32x4_s(x);
  if (rule == Rule.FROM_UNSIGNED) return f32x4.convert_i32x4_u(x);
  // Integers stop at the last float32 of their range, as in WGSL; NaN becomes 0.
  if (rule == Rule.TO_SIGNED) {
    return i32x4.trunc_sat_f32x4_s(f32x4.min(x, f32x4.splat(2147483520)));
  }
  if (rule == Rule.TO_UNSIGNED) {
    return i32x4.trunc_sat_f32x4_u(f32x4.min(x, f32x4.splat(4294967040)));
  }
  if (rule == Rule.TO_BOOL) return v128.and(f32x4.ne(x, zero), i32x4.splat(1));
  return x;
}

// @ts-ignore: decorator
@inline
function two(rule: Rule, n: i32, out: usize, x: usize, y: usize): void {
  for (const end = out + (n << 2); out < end; out += 16) {
    v128.store(out, four(rule, v128.load(x), v128.load(y)));
    x += 16;
    y += 16;
  }
}

// @ts-ignore: decorator
@inline
function one(rule: Rule, n: i32, out: usize, x: usize): void {
  for (const end = out + (n << 2); out < end; out += 16) {
    const values = v128.load(x);
    v128.store(out, four(rule, values, values));
    x += 16;
  }
}

export function map_add(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.ADD, n, out, x, y);
}
export function map_sub(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.SUB, n, out, x, y);
}
export function map_mul(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.MUL, n, out, x, y);
}
export function map_div(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.DIV, n, out, x, y);
}
export function map_maximum(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.MAXIMUM, n, out, x, y);
}
export function map_minimum(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.MINIMUM, n, out, x, y);
}
export function map_equal(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.EQUAL, n, out, x, y);
}
export function map_notEqual(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.NOT_EQUAL, n, out, x, y);
}
export function map_less(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.LESS, n, out, x, y);
}
export function map_lessEqual(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.LESS_EQUAL, n, out, x, y);
}
export function map_greater(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.LESS, n, out, y, x);
}
export function map_greaterEqual(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.LESS_EQUAL, n, out, y, x);
}
export function map_siluGradient(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.SILU_GRADIENT, n, out, x, y);
}
export function map_geluGradient(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.GELU_GRADIENT, n, out, x, y);
}
export function map_neg(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.NEG, n, out, x);
}
export function map_abs(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.ABS, n, out, x);
}
export function map_sign(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.SIGN, n, out, x);
}
export function map_square(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.SQUARE, n, out, x);
}
export function map_reciprocal(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.RECIPROCAL, n, out, x);
}
export function map_exp(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.EXP, n, out, x);
}
export function map_sqrt(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.SQRT, n, out, x);
}
export function map_rsqrt(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.RSQRT, n, out, x);
}
export function map_sigmoid(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.SIGMOID, n, out, x);
}
export function map_silu(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.SILU, n, out, x);
}
export function map_relu(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.RELU, n, out, x);
}
export function map_log(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.LOG, n, out, x);
}
export function map_tanh(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.TANH, n, out, x);
}
export function map_erf(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.ERF, n, out, x);
}
export function map_gelu(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.GELU, n, out, x);
}
/** Any four bytes as they are. */
export function map_copy(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  memory.copy(out, x, n << 2);
}
export function map_fromSigned(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.FROM_SIGNED, n, out, x);
}
export function map_fromUnsigned(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.FROM_UNSIGNED, n, out, x);
}
export function map_toSigned(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.TO_SIGNED, n, out, x);
}
export function map_toUnsigned(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.TO_UNSIGNED, n, out, x);
}
export function map_toBool(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(Rule.TO_BOOL, n, out, x);
}
/** y where x is not 0, else z. */
export function map_where(n: i32, out: usize, x: usize, y: usize, z: usize): void {
  for (const end = out + (n << 2); out < end; out += 16) {
    const mask = i32x4.ne(v128.load(x), i32x4.splat(0));
    v128.store(out, v128.bitselect(v128.load(y), v128.load(z), mask));
    x += 16;
    y += 16;
    z += 16;
  }
}
export function map_sin(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  waves(0, n, out, x);
}
export function map_cos(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  waves(1, n, out, x);
}

// @ts-ignore: decorator
@inline
function waves(ahead: i32, n: i32, out: usize, x: usize): void {
  for (const end = out + (n << 2); out < end; out += 16) {
    const values = v128.load(x);
    v128.store(out, sine(values, ahead));
    if (v128.any_true(f32x4.gt(f32x4.abs(values), f32x4.splat(FARTHEST)))) {
      for (let i: usize = 0; i < 16; i += 4) {
        const value = <f64> load<f32>(x + i);
        store<f32>(out + i, <f32> (ahead == 1 ? NativeMath.cos(value) : NativeMath.sin(value)));
      }
    }
    x += 16;
  }
}

/** xʸ, in float64. */
export function map_pow(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  for (const end = out + (n << 2); out < end; out += 4) {
    store<f32>(out, <f32> NativeMath.pow(<f64> load<f32>(x), <f64> load<f32>(y)));
    x += 4;
    y += 4;
  }
}

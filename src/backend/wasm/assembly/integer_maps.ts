// Functions for `pointwise` to call, on integers of 32 bits, those of bool among the unsigned ones: n, a multiple of
// four, elements of out from those of x and y. What is too large wraps, as it does in an Int32Array.

const enum Rule {
  ADD,
  SUB,
  MUL,
  MAXIMUM,
  MINIMUM,
  EQUAL,
  NOT_EQUAL,
  LESS,
  LESS_EQUAL,
  NEG,
  ABS,
  SIGN,
}

/** One rule on four elements, as in maps.ts. */
// @ts-ignore: decorator
@inline
function four(rule: Rule, signed: bool, x: v128, y: v128): v128 {
  const one = i32x4.splat(1);
  if (rule == Rule.ADD) return i32x4.add(x, y);
  if (rule == Rule.SUB) return i32x4.sub(x, y);
  if (rule == Rule.MUL) return i32x4.mul(x, y);
  if (rule == Rule.MAXIMUM) return signed ? i32x4.max_s(x, y) : i32x4.max_u(x, y);
  if (rule == Rule.MINIMUM) return signed ? i32x4.min_s(x, y) : i32x4.min_u(x, y);
  if (rule == Rule.EQUAL) return v128.and(i32x4.eq(x, y), one);
  if (rule == Rule.NOT_EQUAL) return v128.and(i32x4.ne(x, y), one);
  if (rule == Rule.LESS) return v128.and(signed ? i32x4.lt_s(x, y) : i32x4.lt_u(x, y), one);
  if (rule == Rule.LESS_EQUAL) return v128.and(signed ? i32x4.le_s(x, y) : i32x4.le_u(x, y), one);
  if (rule == Rule.NEG) return i32x4.neg(x);
  if (rule == Rule.ABS) return i32x4.abs(x);
  // The sign: −1, 0 or 1.
  return v128.or(i32x4.shr_s(x, 31), v128.and(i32x4.gt_s(x, i32x4.splat(0)), one));
}

// @ts-ignore: decorator
@inline
function two(rule: Rule, signed: bool, n: i32, out: usize, x: usize, y: usize): void {
  for (const end = out + (n << 2); out < end; out += 16) {
    v128.store(out, four(rule, signed, v128.load(x), v128.load(y)));
    x += 16;
    y += 16;
  }
}

export function map_add_i32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.ADD, true, n, out, x, y);
}
export function map_add_u32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.ADD, false, n, out, x, y);
}
export function map_sub_i32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.SUB, true, n, out, x, y);
}
export function map_sub_u32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.SUB, false, n, out, x, y);
}
export function map_mul_i32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.MUL, true, n, out, x, y);
}
export function map_mul_u32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.MUL, false, n, out, x, y);
}
export function map_maximum_i32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.MAXIMUM, true, n, out, x, y);
}
export function map_maximum_u32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.MAXIMUM, false, n, out, x, y);
}
export function map_minimum_i32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.MINIMUM, true, n, out, x, y);
}
export function map_minimum_u32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.MINIMUM, false, n, out, x, y);
}
export function map_equal_i32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.EQUAL, true, n, out, x, y);
}
export function map_equal_u32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.EQUAL, false, n, out, x, y);
}
export function map_notEqual_i32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.NOT_EQUAL, true, n, out, x, y);
}
export function map_notEqual_u32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.NOT_EQUAL, false, n, out, x, y);
}
export function map_less_i32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.LESS, true, n, out, x, y);
}
export function map_less_u32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.LESS, false, n, out, x, y);
}
export function map_lessEqual_i32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.LESS_EQUAL, true, n, out, x, y);
}
export function map_lessEqual_u32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.LESS_EQUAL, false, n, out, x, y);
}
export function map_greater_i32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.LESS, true, n, out, y, x);
}
export function map_greater_u32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.LESS, false, n, out, y, x);
}
export function map_greaterEqual_i32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.LESS_EQUAL, true, n, out, y, x);
}
export function map_greaterEqual_u32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(Rule.LESS_EQUAL, false, n, out, y, x);
}
export function map_neg_i32(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  two(Rule.NEG, true, n, out, x, x);
}
export function map_abs_i32(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  two(Rule.ABS, true, n, out, x, x);
}
export function map_sign_i32(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  two(Rule.SIGN, true, n, out, x, x);
}

/** Towards zero; by zero, 0. */
export function map_div_i32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  for (const end = out + (n << 2); out < end; out += 4) {
    const a = load<i32>(x), b = load<i32>(y);
    // The one quotient that does not fit wraps, where an instruction would trap.
    store<i32>(out, b == 0 ? 0 : b == -1 ? -a : a / b);
    x += 4;
    y += 4;
  }
}
export function map_div_u32(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  for (const end = out + (n << 2); out < end; out += 4) {
    const b = load<u32>(y);
    store<u32>(out, b == 0 ? 0 : load<u32>(x) / b);
    x += 4;
    y += 4;
  }
}

// Between the kinds, to the bounds that floats stop at too.

export function map_signedToUnsigned(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  for (const end = out + (n << 2); out < end; out += 16) {
    v128.store(out, i32x4.max_s(v128.load(x), i32x4.splat(0)));
    x += 16;
  }
}
export function map_unsignedToSigned(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  for (const end = out + (n << 2); out < end; out += 16) {
    v128.store(out, i32x4.min_u(v128.load(x), i32x4.splat(2147483647)));
    x += 16;
  }
}
export function map_isNotZero(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  for (const end = out + (n << 2); out < end; out += 16) {
    v128.store(out, v128.and(i32x4.ne(v128.load(x), i32x4.splat(0)), i32x4.splat(1)));
    x += 16;
  }
}

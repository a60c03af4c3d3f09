// Pointwise operations. `pointwise` walks operands of any strides and hands dense stretches of them to one of the
// functions below it, whose counts are multiples of four.
import { exp, FARTHEST, sine } from "./simd";

// Params: the function's place; inputs; the length of the last axis and how much of it is one task; entries of the
// axes before it, how many are one task, and how many axes they are; the value of an operand without an address; for
// out and three inputs the address and the step along the last axis; sizes and, for each operand, steps of the others.
const FUNCTION: usize = 0;
const INPUTS: usize = 4;
const LENGTH: usize = 8;
const CHUNK: usize = 12;
const ROWS: usize = 16;
const ROWS_PER_TASK: usize = 20;
const RANK: usize = 24;
const VALUE: usize = 28;
const OPERANDS: usize = 32;
const SHAPE: usize = 64;

/** Elements of a stretch. */
const STRETCH: i32 = 1024;
const STRETCH_BYTES: usize = 4096;

export function pointwise(params: usize, task: i32, scratch: usize): void {
  const apply = load<i32>(params, FUNCTION);
  const inputs = load<i32>(params, INPUTS);
  const length = load<i32>(params, LENGTH), chunk = load<i32>(params, CHUNK);
  const rank = load<i32>(params, RANK);
  const chunks = (length + chunk - 1) / chunk;
  const first = (task % chunks) * chunk, end = min(length, first + chunk);
  const perTask = load<i32>(params, ROWS_PER_TASK);
  const firstRow = (task / chunks) * perTask;
  const endRow = min(load<i32>(params, ROWS), firstRow + perTask);
  for (let o = 1; o <= inputs; o++) {
    // A number is written out once, as long as any stretch is.
    if (load<usize>(params + (o << 3), OPERANDS) != 0) continue;
    spread(scratch + o * STRETCH_BYTES, load<u32>(params, VALUE), min(STRETCH, end - first));
  }
  for (let row = firstRow; row < endRow; row++) {
    for (let i = first; i < end; i += STRETCH) {
      const count = min(STRETCH, end - i);
      const x = stretch(params, 1, row, rank, i, count, inputs, scratch);
      const y = stretch(params, 2, row, rank, i, count, inputs, scratch);
      const z = stretch(params, 3, row, rank, i, count, inputs, scratch);
      const step = load<i32>(params, OPERANDS + 4);
      const out = addressOf(params, 0, row, rank) + i * step;
      const whole = step == 4 ? count & ~3 : 0;
      if (whole > 0) call_indirect<void>(apply, whole, out, x, y, z);
      if (whole == count) continue;
      // Less than four elements, or a result that is not dense, by way of the scratch.
      const done = whole << 2;
      const rest = count - whole;
      if (step == 4) {
        memory.copy(scratch + 4 * STRETCH_BYTES, x + done, rest << 2);
        memory.copy(scratch + 4 * STRETCH_BYTES + 16, y + done, rest << 2);
        memory.copy(scratch + 4 * STRETCH_BYTES + 32, z + done, rest << 2);
        const spare = scratch + 4 * STRETCH_BYTES;
        call_indirect<void>(apply, 4, scratch, spare, spare + 16, spare + 32);
        memory.copy(out + done, scratch, rest << 2);
      } else {
        call_indirect<void>(apply, (count + 3) & ~3, scratch, x, y, z);
        let to = out;
        for (let j = 0; j < count; j++) {
          store<u32>(to, load<u32>(scratch + (j << 2)));
          to += step;
        }
      }
    }
  }
}

/** Where an operand's entries in a row begin. */
function addressOf(params: usize, operand: i32, row: i32, rank: i32): usize {
  let at = load<usize>(params + (operand << 3), OPERANDS);
  const steps = params + SHAPE + (((1 + operand) * rank) << 2);
  for (let axis = rank - 1; axis >= 0 && row > 0; axis--) {
    const size = load<i32>(params + SHAPE + (axis << 2));
    at += (row % size) * load<i32>(steps + (axis << 2));
    row /= size;
  }
  return at;
}

/** Where an input's elements lie one after the other: where they are, or a copy. */
function stretch(
  params: usize,
  operand: i32,
  row: i32,
  rank: i32,
  from: i32,
  count: i32,
  inputs: i32,
  scratch: usize,
): usize {
  const copy = scratch + operand * STRETCH_BYTES;
  if (operand > inputs || load<usize>(params + (operand << 3), OPERANDS) == 0) return copy;
  const step = load<i32>(params + (operand << 3), OPERANDS + 4);
  let at = addressOf(params, operand, row, rank) + from * step;
  // A result that is not dense reads whole fours, which the operand may not have.
  if (step == 4 && load<i32>(params, OPERANDS + 4) == 4) return at;
  if (step == 0) spread(copy, load<u32>(at), count);
  else {
    for (let i = 0; i < count; i++) {
      store<u32>(copy + (i << 2), load<u32>(at));
      at += step;
    }
  }
  return copy;
}

function spread(to: usize, value: u32, count: i32): void {
  const values = i32x4.splat(value);
  for (let i = 0; i < count; i += 4) v128.store(to + (i << 2), values);
}

// The functions: n, a multiple of four, elements of out from those of x, y and z.

// @ts-ignore: decorator
@inline
const ADD = 0;
// @ts-ignore: decorator
@inline
const SUB = 1;
// @ts-ignore: decorator
@inline
const MUL = 2;
// @ts-ignore: decorator
@inline
const DIV = 3;
// @ts-ignore: decorator
@inline
const MAXIMUM = 4;
// @ts-ignore: decorator
@inline
const MINIMUM = 5;
// @ts-ignore: decorator
@inline
const EQUAL = 6;
// @ts-ignore: decorator
@inline
const NOT_EQUAL = 7;
// @ts-ignore: decorator
@inline
const LESS = 8;
// @ts-ignore: decorator
@inline
const LESS_EQUAL = 9;
// @ts-ignore: decorator
@inline
const SILU_GRADIENT = 10;
// @ts-ignore: decorator
@inline
const NEG = 11;
// @ts-ignore: decorator
@inline
const ABS = 12;
// @ts-ignore: decorator
@inline
const SIGN = 13;
// @ts-ignore: decorator
@inline
const SQUARE = 14;
// @ts-ignore: decorator
@inline
const RECIPROCAL = 15;
// @ts-ignore: decorator
@inline
const EXP = 16;
// @ts-ignore: decorator
@inline
const SQRT = 17;
// @ts-ignore: decorator
@inline
const RSQRT = 18;
// @ts-ignore: decorator
@inline
const SIGMOID = 19;
// @ts-ignore: decorator
@inline
const SILU = 20;
// @ts-ignore: decorator
@inline
const RELU = 21;
// @ts-ignore: decorator
@inline
const COPY = 22;
// @ts-ignore: decorator
@inline
const FROM_SIGNED = 23;
// @ts-ignore: decorator
@inline
const FROM_UNSIGNED = 24;

/** One rule on four elements; `rule` is known where this is inlined, so only one branch is left. */
// @ts-ignore: decorator
@inline
function four(rule: i32, x: v128, y: v128): v128 {
  const one = f32x4.splat(1), zero = f32x4.splat(0);
  if (rule == ADD) return f32x4.add(x, y);
  if (rule == SUB) return f32x4.sub(x, y);
  if (rule == MUL) return f32x4.mul(x, y);
  if (rule == DIV) return f32x4.div(x, y);
  if (rule == MAXIMUM) return f32x4.max(x, y);
  if (rule == MINIMUM) return f32x4.min(x, y);
  if (rule == EQUAL) return v128.and(f32x4.eq(x, y), i32x4.splat(1));
  if (rule == NOT_EQUAL) return v128.and(f32x4.ne(x, y), i32x4.splat(1));
  if (rule == LESS) return v128.and(f32x4.lt(x, y), i32x4.splat(1));
  if (rule == LESS_EQUAL) return v128.and(f32x4.le(x, y), i32x4.splat(1));
  if (rule == SILU_GRADIENT) {
    // x · s · (1 + y · (1 − s)), s = sigmoid(y)
    const s = f32x4.div(one, f32x4.add(one, exp(f32x4.neg(y))));
    const slope = f32x4.mul(s, f32x4.add(one, f32x4.mul(y, f32x4.sub(one, s))));
    return f32x4.mul(x, slope);
  }
  if (rule == NEG) return f32x4.neg(x);
  if (rule == ABS) return f32x4.abs(x);
  if (rule == SIGN) {
    // Zeros and NaN are their own signs.
    const signed = v128.or(v128.and(x, i32x4.splat(0x80000000)), one);
    return v128.bitselect(signed, x, f32x4.gt(f32x4.abs(x), zero));
  }
  if (rule == SQUARE) return f32x4.mul(x, x);
  if (rule == RECIPROCAL) return f32x4.div(one, x);
  if (rule == EXP) return exp(x);
  if (rule == SQRT) return f32x4.sqrt(x);
  if (rule == RSQRT) return f32x4.div(one, f32x4.sqrt(x));
  if (rule == SIGMOID) return f32x4.div(one, f32x4.add(one, exp(f32x4.neg(x))));
  if (rule == SILU) return f32x4.div(x, f32x4.add(one, exp(f32x4.neg(x))));
  if (rule == RELU) return v128.and(x, f32x4.gt(x, zero));
  if (rule == FROM_SIGNED) return f32x4.convert_i32x4_s(x);
  if (rule == FROM_UNSIGNED) return f32x4.convert_i32x4_u(x);
  return x;
}

// @ts-ignore: decorator
@inline
function two(rule: i32, n: i32, out: usize, x: usize, y: usize): void {
  for (const end = out + (n << 2); out < end; out += 16) {
    v128.store(out, four(rule, v128.load(x), v128.load(y)));
    x += 16;
    y += 16;
  }
}

// @ts-ignore: decorator
@inline
function one(rule: i32, n: i32, out: usize, x: usize): void {
  for (const end = out + (n << 2); out < end; out += 16) {
    const values = v128.load(x);
    v128.store(out, four(rule, values, values));
    x += 16;
  }
}

export function map_add(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(ADD, n, out, x, y);
}
export function map_sub(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(SUB, n, out, x, y);
}
export function map_mul(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(MUL, n, out, x, y);
}
export function map_div(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(DIV, n, out, x, y);
}
export function map_maximum(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(MAXIMUM, n, out, x, y);
}
export function map_minimum(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(MINIMUM, n, out, x, y);
}
export function map_equal(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(EQUAL, n, out, x, y);
}
export function map_notEqual(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(NOT_EQUAL, n, out, x, y);
}
export function map_less(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(LESS, n, out, x, y);
}
export function map_lessEqual(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(LESS_EQUAL, n, out, x, y);
}
export function map_greater(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(LESS, n, out, y, x);
}
export function map_greaterEqual(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(LESS_EQUAL, n, out, y, x);
}
export function map_siluGradient(n: i32, out: usize, x: usize, y: usize, _z: usize): void {
  two(SILU_GRADIENT, n, out, x, y);
}
export function map_neg(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(NEG, n, out, x);
}
export function map_abs(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(ABS, n, out, x);
}
export function map_sign(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(SIGN, n, out, x);
}
export function map_square(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(SQUARE, n, out, x);
}
export function map_reciprocal(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(RECIPROCAL, n, out, x);
}
export function map_exp(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(EXP, n, out, x);
}
export function map_sqrt(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(SQRT, n, out, x);
}
export function map_rsqrt(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(RSQRT, n, out, x);
}
export function map_sigmoid(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(SIGMOID, n, out, x);
}
export function map_silu(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(SILU, n, out, x);
}
export function map_relu(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(RELU, n, out, x);
}
/** Any four bytes as they are. */
export function map_copy(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  memory.copy(out, x, n << 2);
}
export function map_fromSigned(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(FROM_SIGNED, n, out, x);
}
export function map_fromUnsigned(n: i32, out: usize, x: usize, _y: usize, _z: usize): void {
  one(FROM_UNSIGNED, n, out, x);
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

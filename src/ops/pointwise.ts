/**
 * Pointwise operations: a table of rules, one line each, and the one program that runs any of them.
 *
 * A row says how the CPU computes it, how WGSL writes it, and its gradient as tensor operations. To
 * add an operation, add a row here, its signature in `methods.ts` and, for WebAssembly, a function of its name in
 * `src/backend/wasm/assembly/maps.ts`. For every row
 *
 *     out[i] = rule(x[i], y[i], z[i])        dx[i] = g[i] · ∂rule/∂x
 *
 * where operands broadcast, and a broadcast operand's gradient is summed over what was repeated.
 *
 * @module
 */
import { noGrad } from "../autograd.ts";
import type { Program } from "../backend/contract.ts";
import { checkHeld, type DType, isFloat } from "../dtype.ts";
import { DTypeError } from "../errors.ts";
import type { Operand } from "../methods.ts";
import { defineOp, runInPlace } from "../operation.ts";
import { tidy } from "../scope.ts";
import { broadcastShapes, sameShape, type Shape } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { mulGradients } from "./mul_gradients.ts";
import {
  filled,
  pointwiseProgram,
  type PointwiseRule,
  type ScalarOperand,
} from "./pointwise_program.ts";

/** The dtypes an operation is defined on. */
type Domain = "float" | "signed" | "number" | "any";

interface UnaryRule extends Pick<PointwiseRule, "loop"> {
  readonly cpu: (x: number) => number;
  readonly wgsl: string;
  /** dx from g and x, which is then what is saved … */
  readonly fromX?: (g: Tensor, x: Tensor) => Tensor;
  /** … or from g and the result. */
  readonly fromOut?: (g: Tensor, out: Tensor) => Tensor;
  readonly on?: Domain;
}

interface BinaryGradient {
  readonly g: Tensor;
  readonly x: Operand;
  readonly y: Operand;
  readonly out: Tensor;
}

interface BinaryRule extends Pick<PointwiseRule, "loop" | "integers" | "wgslOfIntegers"> {
  readonly cpu: (x: number, y: number) => number;
  readonly wgsl: string;
  readonly dx?: (context: BinaryGradient) => Tensor;
  readonly dy?: (context: BinaryGradient) => Tensor;
  /** Both at once, of dense operands, where that is one pass instead of two. */
  readonly both?: (g: Tensor, x: Tensor, y: Tensor) => Tensor[];
  /** What the gradients use, as characters of "xyo" (o for out). */
  readonly saves?: string;
  readonly on?: Domain;
  readonly result?: "bool";
}

const TWO_OVER_ROOT_PI = 2 / Math.sqrt(Math.PI);
const ROOT_TWO_PI = Math.sqrt(2 * Math.PI);

// deno-fmt-ignore
const UNARY = {
  neg:        { cpu: (x) => -x, wgsl: "-x", fromOut: (g) => g.neg(), on: "signed" },
  abs:        { cpu: Math.abs, wgsl: "abs(x)", fromX: (g, x) => g.mul(x.sign()), on: "signed" },
  sign:       { cpu: Math.sign, wgsl: "sign(x)", fromOut: (g) => g.mul(0), on: "signed" },
  square:     { cpu: (x) => x * x, wgsl: "x * x", fromX: (g, x) => g.mul(x).mul(2) },
  reciprocal: { cpu: (x) => 1 / x, wgsl: "1.0 / x", fromOut: (g, out) => g.mul(out.square()).neg() },
  exp:        { cpu: Math.exp, wgsl: "exp(x)", fromOut: (g, out) => g.mul(out) },
  log:        { cpu: Math.log, wgsl: "logarithm(x)", fromX: (g, x) => g.div(x) },
  sqrt:       { cpu: Math.sqrt, wgsl: "sqrt(x)", fromOut: (g, out) => g.div(out).mul(0.5) },
  rsqrt:      { cpu: (x) => 1 / Math.sqrt(x), wgsl: "inverseSqrt(x)", fromOut: (g, out) => g.mul(out.mul(out.square())).mul(-0.5) },
  sin:        { cpu: Math.sin, wgsl: "sine(x, 0)", fromX: (g, x) => g.mul(x.cos()) },
  cos:        { cpu: Math.cos, wgsl: "sine(x, 1)", fromX: (g, x) => g.mul(x.sin()).neg() },
  tanh:       { cpu: Math.tanh, wgsl: "bounded_tanh(x)", fromOut: (g, out) => g.mul(out.square().neg().add(1)) },
  erf:        { cpu: erf, wgsl: "erf(x)", fromX: (g, x) => g.mul(x.square().neg().exp()).mul(TWO_OVER_ROOT_PI) },
  sigmoid:    { cpu: sigmoid, wgsl: "1.0 / (1.0 + exp(-x))", fromOut: (g, out) => g.mul(out.mul(out.neg().add(1))) },
  silu:       { cpu: (x) => x * sigmoid(x), wgsl: "x / (1.0 + exp(-x))", fromX: (g, x) => siluGradient(g, x),
                loop: (n, [o, a], [os, as], [out, x]) => {
                  for (let i = 0; i < n; i++) out[o + i * os] = x[a + i * as] / (1 + Math.exp(-x[a + i * as]));
                } },
  relu:       { cpu: (x) => x > 0 ? x : 0, wgsl: "max(x, 0.0)", fromOut: (g, out) => g.mul(out.greater(0).to(g.dtype)) },
  gelu:       { cpu: (x) => x / 2 * (1 + erf(x * Math.SQRT1_2)), wgsl: "0.5 * x * (1.0 + erf(x * 0.707106781))",
                fromX: (g, x) => geluGradient(g, x) },
} satisfies Record<string, UnaryRule>;

// deno-fmt-ignore
const BINARY = {
  add: { cpu: (x, y) => x + y, wgsl: "x + y", dx: ({ g }) => g, dy: ({ g }) => g,
         loop: (n, [o, a, b], [os, as, bs], [out, x, y]) => {
           for (let i = 0; i < n; i++) out[o + i * os] = x[a + i * as] + y[b + i * bs];
         } },
  sub: { cpu: (x, y) => x - y, wgsl: "x - y", dx: ({ g }) => g, dy: ({ g }) => g.neg() },
  mul: { cpu: (x, y) => x * y, wgsl: "x * y", integers: Math.imul, saves: "xy",
         dx: ({ g, y }) => g.mul(y), dy: ({ g, x }) => g.mul(x),
         both: (g, x, y) => mulGradients(g, x, y),
         loop: (n, [o, a, b], [os, as, bs], [out, x, y]) => {
           for (let i = 0; i < n; i++) out[o + i * os] = x[a + i * as] * y[b + i * bs];
         } },
  div: { cpu: (x, y) => x / y, wgsl: "x / y", saves: "yo",
         // By zero, 0: WGSL's own is x.
         integers: (x, y) => Math.trunc(x / y), wgslOfIntegers: "select(x / y, Out(0), y == Y(0))",
         dx: ({ g, y }) => g.div(y), dy: ({ g, y, out }) => g.mul(out).div(y).neg() },
  pow: { cpu: Math.pow, wgsl: "power(x, y)", saves: "xyo", on: "float",
         dx: ({ g, x, y }) => g.mul(y).mul(pow(x, typeof y === "number" ? y - 1 : y.sub(1))),
         dy: ({ g, x, out }) => g.mul(out).mul(typeof x === "number" ? Math.log(x) : x.log()) },
  maximum: { cpu: (x, y) => Math.max(x, y), wgsl: "max(x, y)", saves: "xy",
         dx: ({ g, x, y }) => g.mul(winning(x, y)), dy: ({ g, x, y }) => g.mul(winning(y, x)) },
  minimum: { cpu: (x, y) => Math.min(x, y), wgsl: "min(x, y)", saves: "xy",
         dx: ({ g, x, y }) => g.mul(winning(y, x)), dy: ({ g, x, y }) => g.mul(winning(x, y)) },
  equal:        { cpu: (x, y) => +(x === y), wgsl: "x == y", result: "bool", on: "any" },
  notEqual:     { cpu: (x, y) => +(x !== y), wgsl: "x != y", result: "bool", on: "any" },
  less:         { cpu: (x, y) => +(x < y), wgsl: "x < y", result: "bool" },
  lessEqual:    { cpu: (x, y) => +(x <= y), wgsl: "x <= y", result: "bool" },
  greater:      { cpu: (x, y) => +(x > y), wgsl: "x > y", result: "bool" },
  greaterEqual: { cpu: (x, y) => +(x >= y), wgsl: "x >= y", result: "bool" },
  // x · silu′(y), one pass instead of six.
  siluGradient: { cpu: (x, y) => x * siluSlope(y), wgsl: "x * silu_slope(y)", saves: "xy", on: "float",
         dx: ({ g, y }) => siluGradient(g, y), dy: ({ g, x, y }) => g.mul(x).mul(siluCurvature(y)) },
  // x · gelu′(y), one pass instead of eleven.
  geluGradient: { cpu: (x, y) => x * geluSlope(y), wgsl: "x * gelu_slope(y)", saves: "xy", on: "float",
         dx: ({ g, y }) => geluGradient(g, y), dy: ({ g, x, y }) => g.mul(x).mul(geluCurvature(y)) },
} satisfies Record<string, BinaryRule>;

/** The names of the unary operations. */
export type UnaryName = keyof typeof UNARY;
/** The names of the binary operations. */
export type BinaryName = keyof typeof BINARY;

/** 1 / (1 + e⁻ˣ). */
function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

/** d silu / dx = s · (1 + x · (1 − s)), s = sigmoid(x). */
function siluSlope(x: number): number {
  const s = sigmoid(x);
  return s * (1 + x * (1 - s));
}

/** x · silu′(y). */
export function siluGradient(x: Operand, y: Operand): Tensor {
  return binary("siluGradient", x, y);
}

/** Where x wins over y: 1 if x > y, ½ if they are equal, else 0. */
function winning(x: Operand, y: Operand): Tensor {
  const { dtype } = typeof x === "number" ? y as Tensor : x;
  const [above, equal] = [binary("greater", x, y), binary("equal", x, y)];
  return above.to(dtype).add(equal.to(dtype).mul(0.5));
}

/** d² silu / dx² = s · (1 − s) · (2 + x · (1 − 2s)). */
function siluCurvature(operand: Operand): Tensor {
  const x = operand as Tensor;
  const s = x.sigmoid();
  return s.mul(s.neg().add(1)).mul(x.mul(s.mul(-2).add(1)).add(2));
}

/** d gelu / dx = Φ(x) + x φ(x): the standard normal distribution, and its density. */
function geluSlope(x: number): number {
  return (1 + erf(x * Math.SQRT1_2)) / 2 + x * Math.exp(-x * x / 2) / ROOT_TWO_PI;
}

/** x · gelu′(y). */
function geluGradient(x: Operand, y: Operand): Tensor {
  return binary("geluGradient", x, y);
}

/** d² gelu / dx² = φ(x) · (2 − x²). */
function geluCurvature(operand: Operand): Tensor {
  const square = (operand as Tensor).square();
  return square.mul(-0.5).exp().mul(1 / ROOT_TWO_PI).mul(square.neg().add(2));
}

/** The Gauss error function: its Taylor series near 0, beyond it erfcc of Numerical Recipes. */
function erf(x: number): number {
  const a = Math.abs(x);
  if (a < 0.5) {
    const s = x * x;
    let term = TWO_OVER_ROOT_PI * x;
    let sum = term;
    for (let n = 1; n < 12; n++) {
      term *= -s / n;
      sum += term / (2 * n + 1);
    }
    return sum;
  }
  const t = 1 / (1 + a / 2);
  // deno-fmt-ignore
  const series = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 +
    t * (-0.18628806 + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 +
    t * (-0.82215223 + t * 0.17087277))))))));
  return Math.sign(x) * (1 - t * Math.exp(-a * a + series));
}

function checkDomain(name: string, dtype: DType, domain: Domain): void {
  const fits = domain === "any" || isFloat(dtype) ||
    (domain === "number" && dtype !== "bool") || (domain === "signed" && dtype === "i32");
  if (!fits) {
    const expected = { float: "f32 or f16", signed: "f32, f16 or i32", number: "a number" };
    throw new DTypeError(
      `Cannot compute ${name} of dtype ${dtype}: expected ${expected[domain as "float"]}; ` +
        `convert it first, say with to("f32")`,
    );
  }
}

const unaryOps = mapTable(UNARY, (name, rule: UnaryRule) =>
  defineOp({
    ...pointwiseProgram(name, rule),
    output: ([x]) => {
      checkDomain(name, x.dtype, rule.on ?? "float");
      return { shape: x.shape, dtype: x.dtype };
    },
    saves: rule.fromX ? { inputs: [0] } : { outputs: [0] },
    backward: [({ grads: [g], inputs: [x], outputs: [out] }) =>
      rule.fromX ? rule.fromX(g, x) : rule.fromOut!(g, out)],
  }));

const binaryOps = mapTable(BINARY, (name, rule: BinaryRule) => {
  const saved = (letters: string) =>
    [...letters].flatMap((c, i) => rule.saves?.includes(c) ? [i] : []);
  return defineOp<ScalarOperand | undefined>({
    ...pointwiseProgram(name, rule),
    output: (inputs) => ({ shape: inputs[0].shape, dtype: rule.result ?? inputs[0].dtype }),
    saves: { inputs: saved("xy"), outputs: saved("o") },
    backward: ({ grads: [g], inputs, outputs: [out], needs, options }) => {
      const [x, y] = options === undefined
        ? inputs
        : options.at === 0
        ? [options.value, inputs[0]]
        : [inputs[0], options.value];
      const context = { g, x, y, out };
      if (options !== undefined) return [(options.at === 0 ? rule.dy : rule.dx)!(context)];
      if (rule.both && needs[0] && needs[1] && [g, ...inputs].every((t) => t.isContiguous)) {
        return rule.both(g, inputs[0], inputs[1]);
      }
      return [needs[0] ? rule.dx!(context) : null, needs[1] ? rule.dy!(context) : null];
    },
  });
});

/** One unary operation of the table. */
export function unary(name: UnaryName, x: Tensor): Tensor {
  return unaryOps[name](x);
}

/** One binary operation of the table; one operand may be a number. */
export function binary(name: BinaryName, x: Operand, y: Operand): Tensor {
  const rule: BinaryRule = BINARY[name];
  const like = typeof x === "number" ? y as Tensor : x;
  checkDomain(name, like.dtype, rule.on ?? "number");
  if (typeof x === "number") return binaryOps[name](like, scalarOperand(name, 0, x, like.dtype));
  if (typeof y === "number") return binaryOps[name](like, scalarOperand(name, 1, y, like.dtype));
  checkSameDType(name, x, y);
  if (sameShape(x.shape, y.shape)) return binaryOps[name](x, y);
  const shape = broadcastShapes([x.shape, y.shape], name);
  return tidy(() => binaryOps[name](stretch(x, shape), stretch(y, shape)));
}

/** xʸ; the common constant exponents by exact multiplications and roots instead of logarithms. */
export function pow(x: Operand, y: Operand): Tensor {
  if (typeof x === "number" || typeof y !== "number") return binary("pow", x, y);
  if (y === 1) return x.alias();
  if (y === 2) return unary("square", x);
  if (y === 3) return tidy(() => x.square().mul(x));
  if (y === 0.5) return unary("sqrt", x);
  if (y === -0.5) return unary("rsqrt", x);
  if (y === -1) return unary("reciprocal", x);
  return binary("pow", x, y);
}

const whereOp = defineOp({
  ...pointwiseProgram("where", {
    cpu: (x, y, z) => x ? y : z,
    wgsl: "select(z, y, x)",
    wasm: "where",
  }),
  output: ([, y]) => ({ shape: y.shape, dtype: y.dtype }),
  saves: { inputs: [0] },
  backward: ({ grads: [g], inputs: [mask], needs }) => [
    null,
    needs[1] ? where(mask, g, 0) : null,
    needs[2] ? where(mask, 0, g) : null,
  ],
});

/** Where `mask` is true, the element of `yes`, elsewhere that of `no`. */
export function where(mask: Tensor, yes: Operand, no: Operand): Tensor {
  if (mask.dtype !== "bool") {
    throw new DTypeError(`where: expected a bool mask, found ${mask.dtype}; compare it first`);
  }
  const like = typeof yes === "number" ? no : yes;
  const dtype = typeof like === "number" ? "f32" : like.dtype;
  const toTensor = (v: Operand) => {
    if (typeof v !== "number") return v;
    checkHeld([v], dtype, "choose");
    return filled(mask.device, { shape: [], dtype }, v);
  };
  return tidy(() => {
    const [y, z] = [toTensor(yes), toTensor(no)];
    checkSameDType("where", y, z);
    const shape = broadcastShapes([mask.shape, y.shape, z.shape], "choose with where among");
    return whereOp(stretch(mask, shape), stretch(y, shape), stretch(z, shape));
  });
}

/**
 * Integers truncate toward zero and, as in WGSL, stop at the last float32 of their range; NaN becomes 0.
 */
const truncating = (low: number, high: number) => (x: number) =>
  Math.trunc(Math.min(Math.max(x, low), high)) || 0;

const CASTS: Record<DType, (x: number) => number> = {
  f32: (x) => x,
  f16: (x) => x,
  i32: truncating(-(2 ** 31), 2 ** 31 - 128),
  u32: truncating(0, 2 ** 32 - 256),
  bool: (x) => +(x !== 0),
};

/** The WebAssembly functions that convert to a dtype, by the source's. */
const CONVERSIONS: Record<DType, Partial<Record<DType, string>>> = {
  f32: { f16: "copy", i32: "fromSigned", u32: "fromUnsigned", bool: "fromUnsigned" },
  f16: { f32: "copy", i32: "fromSigned", u32: "fromUnsigned", bool: "fromUnsigned" },
  i32: { f32: "toSigned", f16: "toSigned", u32: "unsignedToSigned", bool: "copy" },
  u32: { f32: "toUnsigned", f16: "toUnsigned", i32: "signedToUnsigned", bool: "copy" },
  bool: { f32: "toBool", f16: "toBool", i32: "isNotZero", u32: "isNotZero" },
};

/** From one type of integers to another: exact, and where that has none, the nearest. */
const OF_INTEGERS: Partial<Record<DType, Pick<PointwiseRule, "integers" | "wgslOfIntegers">>> = {
  i32: {
    integers: (x) => Math.min(x, 2 ** 31 - 1),
    wgslOfIntegers: "Out(min(x, X(2147483647)))",
  },
  u32: { integers: (x) => Math.max(x, 0), wgslOfIntegers: "Out(max(x, X(0)))" },
};

function castProgram(dtype: DType, cpu: (x: number) => number): Program<unknown> {
  const rule = { cpu, wgsl: "Out(x)" };
  const sources = mapTable(CONVERSIONS[dtype] as Record<DType, string>, (source, wasm) => {
    const ofIntegers = source === "bool" ? undefined : OF_INTEGERS[dtype];
    return pointwiseProgram("to", { ...rule, ...ofIntegers, wasm });
  });
  return {
    ...pointwiseProgram("to", rule),
    cpu: (inputs, ...rest) => sources[inputs[0].dtype].cpu!(inputs, ...rest),
    wasm: (inputs, ...rest) => sources[inputs[0].dtype].wasm!(inputs, ...rest),
    gpu: (inputs, ...rest) => sources[inputs[0].dtype].gpu!(inputs, ...rest),
  };
}

const castOps = mapTable(CASTS, (dtype, cpu) =>
  defineOp({
    ...castProgram(dtype, cpu),
    strided: true,
    output: ([x]) => ({ shape: x.shape, dtype: dtype as DType }),
    saves: {},
    backward: [({ grads: [g], specs: [x] }) => cast(g, x.dtype)],
  }));

/** The elements converted to another dtype. */
export function cast(x: Tensor, dtype: DType): Tensor {
  return x.dtype === dtype ? x.alias() : castOps[dtype](x);
}

/** x / (1 + e⁻ˣ), as a part of other operations; so are the next two. */
export const siluProgram: Program<unknown> = pointwiseProgram("silu", UNARY.silu);
/** x · silu′(y). */
export const siluGradientProgram: Program<unknown> = pointwiseProgram(
  "siluGradient",
  BINARY.siluGradient,
);
/** The elements as they are. */
export const copyProgram: Program<unknown> = pointwiseProgram("copy", {
  cpu: (x) => x,
  wgsl: "x",
  wasm: "copy",
  loop: (length, [o, a], [os, as], [out, x]) => {
    for (let i = 0; i < length; i++) out[o + i * os] = x[a + i * as];
  },
});

const copyOp = defineOp({
  ...copyProgram,
  output: ([x]) => ({ shape: x.shape, dtype: x.dtype }),
  saves: {},
  backward: [({ grads: [g] }) => g],
});

/** The same elements, dense in row-major order; copied only if they are not yet. */
export function contiguous(x: Tensor): Tensor {
  return x.isContiguous ? x.alias() : copyOp(x);
}

/** Writes the elements of `source` into `target`, which has its shape and dtype, in place. */
export function copyInto(source: Tensor, target: Tensor): void {
  runInPlace(copyProgram, [source], [target], undefined);
}

/** Writes sources into targets of their shapes, in place, converting dtypes. */
export function loadInto(pairs: readonly (readonly [source: Tensor, target: Tensor])[]): void {
  const written = new Set(pairs.map(([, target]) => target.storage));
  tidy(() =>
    noGrad(() => {
      // What shares memory with a target is read before anything is written.
      const sources = pairs.map(([source]) =>
        written.has(source.storage) ? copyOp(source) : source
      );
      pairs.forEach(([, target], i) =>
        tidy(() => copyInto(cast(sources[i], target.dtype), target))
      );
    })
  );
}

function stretch(x: Tensor, shape: Shape): Tensor {
  return sameShape(x.shape, shape) ? x : x.expand(shape);
}

function scalarOperand(name: string, at: 0 | 1, value: number, dtype: DType): ScalarOperand {
  checkHeld([value], dtype, `compute ${name} with`);
  return { at, value };
}

function checkSameDType(name: string, x: Tensor, y: Tensor): void {
  if (x.dtype !== y.dtype) {
    throw new DTypeError(
      `Cannot compute ${name} of ${x.dtype} and ${y.dtype}: convert one of them with to("${x.dtype}")`,
    );
  }
}

function mapTable<Name extends string, Rule, Made>(
  table: Record<Name, Rule>,
  make: (name: Name, rule: Rule) => Made,
): Record<Name, Made> {
  const entries = Object.entries<Rule>(table);
  return Object.fromEntries(
    entries.map(([name, rule]) => [name, make(name as Name, rule)]),
  ) as Record<Name, Made>;
}

/**
 * Installs the operations as methods of {@linkcode Tensor}. The one place where names meet functions.
 *
 * @module
 */
import type { MethodTable } from "../methods.ts";
import { Tensor } from "../tensor.ts";
import { gather } from "./gather.ts";
import { matmul } from "./matmul.ts";
import {
  binary,
  type BinaryName,
  cast,
  contiguous,
  pow,
  unary,
  type UnaryName,
  where,
} from "./pointwise.ts";
import { argmax, max, mean, min, sum } from "./reduce.ts";
import { logSoftmax, softmax } from "./softmax.ts";
import {
  concat,
  expand,
  flip,
  permute,
  reshape,
  slice,
  squeeze,
  transpose,
  unsqueeze,
} from "./views.ts";

/** A method from a function that takes the tensor first. */
function method<Args extends unknown[]>(fn: (x: Tensor, ...args: Args) => Tensor) {
  return function (this: Tensor, ...args: Args): Tensor {
    return fn(this, ...args);
  };
}

const unaryMethod = (name: UnaryName) => method((x) => unary(name, x));
const binaryMethod = (name: BinaryName) => method((x, y: Tensor | number) => binary(name, x, y));

const methods: MethodTable = {
  reshape: method(reshape),
  transpose: method(transpose),
  permute: method(permute),
  slice: method((x, ...ranges) => slice(x, ranges)),
  flip: method(flip),
  expand: method(expand),
  squeeze: method(squeeze),
  unsqueeze: method(unsqueeze),
  concat: method((x, others, axis) => concat([x, others].flat(), axis)),
  contiguous: method(contiguous),
  to: method(cast),
  add: binaryMethod("add"),
  sub: binaryMethod("sub"),
  mul: binaryMethod("mul"),
  div: binaryMethod("div"),
  pow: method(pow),
  maximum: binaryMethod("maximum"),
  minimum: binaryMethod("minimum"),
  equal: binaryMethod("equal"),
  notEqual: binaryMethod("notEqual"),
  less: binaryMethod("less"),
  lessEqual: binaryMethod("lessEqual"),
  greater: binaryMethod("greater"),
  greaterEqual: binaryMethod("greaterEqual"),
  where: method(where),
  neg: unaryMethod("neg"),
  abs: unaryMethod("abs"),
  sign: unaryMethod("sign"),
  square: unaryMethod("square"),
  reciprocal: unaryMethod("reciprocal"),
  exp: unaryMethod("exp"),
  log: unaryMethod("log"),
  sqrt: unaryMethod("sqrt"),
  rsqrt: unaryMethod("rsqrt"),
  sin: unaryMethod("sin"),
  cos: unaryMethod("cos"),
  tanh: unaryMethod("tanh"),
  erf: unaryMethod("erf"),
  sigmoid: unaryMethod("sigmoid"),
  silu: unaryMethod("silu"),
  relu: unaryMethod("relu"),
  gelu: unaryMethod("gelu"),
  sum: method(sum),
  mean: method(mean),
  max: method(max),
  min: method(min),
  argmax: method(argmax),
  softmax: method(softmax),
  logSoftmax: method(logSoftmax),
  matmul: method(matmul),
  gather: method(gather),
};

Object.assign(Tensor.prototype, methods);

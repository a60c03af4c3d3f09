/**
 * The operations that tensors have as methods: signatures and their meaning. The implementations are
 * in `ops/`, and `ops/mod.ts` installs them.
 *
 * Binary operations take a tensor of the same dtype or a number, and broadcast by NumPy's rule. Every
 * method returns a new tensor, throws ShapeError when shapes or axes do not fit and DTypeError when
 * dtypes do not.
 *
 * @module
 */
import type { DType } from "./dtype.ts";
import type { Axes, Shape } from "./shape.ts";
import type { Tensor } from "./tensor.ts";

/** An operand of a binary operation. */
export type Operand = Tensor | number;

/**
 * What {@linkcode TensorMethods.slice} takes of one axis: one entry, which removes the axis; a range
 * `[start, end, step]` whose parts may be left out; or null for all of it. Negative positions count
 * from the end.
 */
export type Range = number | null | readonly [start?: number, end?: number, step?: number];

/** How reductions leave the shape. */
export interface ReduceOptions {
  /** Keep reduced axes with size 1. Default false. */
  keepDims?: boolean;
}

/** The operations of a tensor. */
export interface TensorMethods {
  /** The same elements in row-major order under another shape; one size may be -1. Shares memory if it can. */
  reshape(shape: Shape): Tensor;
  /** Swaps two axes, by default the last two. Shares memory. */
  transpose(a?: number, b?: number): Tensor;
  /** Reorders the axes: axis `i` of the result is axis `axes[i]`. Shares memory. */
  permute(axes: readonly number[]): Tensor;
  /** A rectangular part; axes that are not named are taken whole. Shares memory. */
  slice(...ranges: Range[]): Tensor;
  /** Reverses the order along the axes, by default all. Shares memory. */
  flip(axes?: Axes): Tensor;
  /** Repeats axes of size 1, and new leading axes, to match `shape`; -1 keeps a size. Shares memory. */
  expand(shape: Shape): Tensor;
  /** Removes axes of size 1, by default all of them. Shares memory. */
  squeeze(axes?: Axes): Tensor;
  /** Inserts an axis of size 1 before `axis`. Shares memory. */
  unsqueeze(axis: number): Tensor;
  /** This tensor and others, one after the other along `axis`. */
  concat(others: Tensor | readonly Tensor[], axis?: number): Tensor;
  /** The same elements, dense in row-major order. Copies only if they are not yet. */
  contiguous(): Tensor;
  /**
   * Conversion; to integers it truncates toward zero and stops at the ends of their range, to `bool` it compares
   * with 0.
   */
  to(dtype: DType): Tensor;

  /** x + y. */
  add(other: Operand): Tensor;
  /** x − y. */
  sub(other: Operand): Tensor;
  /** x · y, element by element. */
  mul(other: Operand): Tensor;
  /** x / y; integers truncate toward zero, and by zero give 0. */
  div(other: Operand): Tensor;
  /** xʸ. A negative base needs an integral exponent, as in `Math.pow`. */
  pow(exponent: Operand): Tensor;
  /** The larger of x and y; where they are equal, half the gradient goes to each. */
  maximum(other: Operand): Tensor;
  /** The smaller of x and y; where they are equal, half the gradient goes to each. */
  minimum(other: Operand): Tensor;
  /** x = y, as `bool`. */
  equal(other: Operand): Tensor;
  /** x ≠ y, as `bool`. */
  notEqual(other: Operand): Tensor;
  /** x < y, as `bool`. */
  less(other: Operand): Tensor;
  /** x ≤ y, as `bool`. */
  lessEqual(other: Operand): Tensor;
  /** x > y, as `bool`. */
  greater(other: Operand): Tensor;
  /** x ≥ y, as `bool`. */
  greaterEqual(other: Operand): Tensor;
  /** Where this `bool` tensor is true, the element of `yes`, elsewhere that of `no`. */
  where(yes: Operand, no: Operand): Tensor;

  /** −x. */
  neg(): Tensor;
  /** |x|. */
  abs(): Tensor;
  /** −1, 0 or 1. */
  sign(): Tensor;
  /** x². */
  square(): Tensor;
  /** 1/x. */
  reciprocal(): Tensor;
  /** eˣ. */
  exp(): Tensor;
  /** The natural logarithm. */
  log(): Tensor;
  /** √x. */
  sqrt(): Tensor;
  /** 1/√x. */
  rsqrt(): Tensor;
  /** sin x, in radians. */
  sin(): Tensor;
  /** cos x, in radians. */
  cos(): Tensor;
  /** The hyperbolic tangent. */
  tanh(): Tensor;
  /** The Gauss error function, 2/√π ∫₀ˣ e^(−t²) dt. */
  erf(): Tensor;
  /** 1 / (1 + e⁻ˣ). */
  sigmoid(): Tensor;
  /** x · sigmoid(x), also called swish. */
  silu(): Tensor;
  /** max(x, 0). */
  relu(): Tensor;
  /** x · Φ(x) = x/2 · (1 + erf(x/√2)): the exact form, not the approximation by tanh. */
  gelu(): Tensor;

  /** The sum over the axes, by default all. */
  sum(axes?: Axes, options?: ReduceOptions): Tensor;
  /** The mean over the axes, by default all. */
  mean(axes?: Axes, options?: ReduceOptions): Tensor;
  /** The largest element along the axes, by default all; equal ones share the gradient. */
  max(axes?: Axes, options?: ReduceOptions): Tensor;
  /** The smallest element along the axes, by default all; equal ones share the gradient. */
  min(axes?: Axes, options?: ReduceOptions): Tensor;
  /** The position, `i32`, of the first largest element along `axis`, by default among all elements. */
  argmax(axis?: number, options?: ReduceOptions): Tensor;
  /** eˣ / Σ eˣ along `axis`, by default the last. */
  softmax(axis?: number): Tensor;
  /** x − log Σ eˣ along `axis`, by default the last. */
  logSoftmax(axis?: number): Tensor;
  /**
   * The matrix product over the last two axes, [.., m, k] · [.., k, n] → [.., m, n]; the axes before
   * them broadcast. One-dimensional operands are taken as a row and as a column, as in NumPy.
   */
  matmul(other: Tensor): Tensor;
  /**
   * The entries along `axis` that the integer tensor `indices` names; its shape takes the axis's place.
   * With the default axis 0 this is an embedding's look-up. An index out of range yields NaN, or 0 in
   * integer tensors, and gets no gradient.
   */
  gather(indices: Tensor, axis?: number): Tensor;
}

/** The operations as they are installed: functions whose `this` is the tensor. */
export type MethodTable = {
  [Name in keyof TensorMethods]: (
    this: Tensor,
    ...args: Parameters<TensorMethods[Name]>
  ) => Tensor;
};

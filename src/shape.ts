/**
 * Shapes, strides and axes: arithmetic on small arrays of integers, with no tensor in it.
 *
 * @module
 */
import { ShapeError } from "./errors.ts";

/** The sizes of a tensor's axes, outermost first. `[]` is a scalar. */
export type Shape = readonly number[];

/** One axis, or several, counted from the front or, if negative, from the back. */
export type Axes = number | readonly number[];

/** The number of elements of `shape`. */
export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const n of shape) size *= n;
  return size;
}

/** `[2, 3]`, for messages. */
export function format(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

/** Whether `a` and `b` are the same shape. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}

/** Throws ShapeError unless every size is a non-negative integer. */
export function checkShape(shape: Shape, what: string): void {
  for (const n of shape) {
    if (!Number.isInteger(n) || n < 0) {
      throw new ShapeError(`${what}: ${format(shape)} is not a shape: sizes are integers ≥ 0`);
    }
  }
}

/** Throws ShapeError unless an argument of `what` is as `expected`. */
export function checkNumber(what: string, expected: string, found: number, fits: boolean): void {
  if (!fits) throw new ShapeError(`${what}: expected ${expected}, found ${found}`);
}

/** Throws ShapeError unless an argument of `what`, `named` so, is finite and 0 or more. */
export function checkMagnitude(what: string, named: string, found: number): void {
  checkNumber(what, `${named} of 0 or more`, found, found >= 0 && found < Infinity);
}

/** Row-major strides, in elements. */
export function contiguousStrides(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

/** Strides, in elements, of axes that lie densely in memory in the given order, outermost first. */
export function stridesInOrder(shape: Shape, order: readonly number[]): number[] {
  const inOrder = contiguousStrides(order.map((axis) => shape[axis]));
  const strides = new Array<number>(shape.length);
  order.forEach((axis, i) => strides[axis] = inOrder[i]);
  return strides;
}

/**
 * The axes by their steps in memory, outermost first. Those that have none, of size 1 or repeated, follow the axis
 * before them.
 */
export function orderOfAxes(
  { shape, strides }: { readonly shape: Shape; readonly strides: readonly number[] },
): number[] {
  let before = Infinity;
  const steps = strides.map((stride, axis) =>
    before = shape[axis] === 1 || stride === 0 ? before : Math.abs(stride)
  );
  return shape.map((_, axis) => axis).sort((a, b) =>
    steps[b] === steps[a] ? a - b : steps[b] - steps[a]
  );
}

/** Whether `strides` walk `shape` in row-major order without gaps; axes of size 1 may have any. */
export function isContiguous(shape: Shape, strides: readonly number[]): boolean {
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] === 0) return true;
    if (shape[i] !== 1 && strides[i] !== step) return false;
    step *= shape[i];
  }
  return true;
}

/** `axis` counted from the front. Throws ShapeError when it is out of range. */
export function resolveAxis(axis: number, rank: number, what: string): number {
  const resolved = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || resolved < 0 || resolved >= rank) {
    throw new ShapeError(
      `${what}: axis ${axis} does not exist: the tensor has ${rank} ax${rank === 1 ? "is" : "es"}`,
    );
  }
  return resolved;
}

/** The named axes counted from the front, in ascending order; all of them when none is named. */
export function resolveAxes(axes: Axes | undefined, rank: number, what: string): number[] {
  if (axes === undefined) return Array.from({ length: rank }, (_, i) => i);
  const list = typeof axes === "number" ? [axes] : axes;
  const resolved = list.map((axis) => resolveAxis(axis, rank, what)).sort((a, b) => a - b);
  if (new Set(resolved).size !== resolved.length) {
    throw new ShapeError(`${what}: axes ${format(list)} name an axis twice`);
  }
  return resolved;
}

/** The shape that `shapes` broadcast to, by NumPy's rule. Throws ShapeError when they do not. */
export function broadcastShapes(shapes: readonly Shape[], what: string): number[] {
  const rank = Math.max(...shapes.map((s) => s.length));
  const result = new Array<number>(rank).fill(1);
  for (const shape of shapes) {
    for (let i = 0; i < shape.length; i++) {
      const at = rank - shape.length + i;
      const n = shape[i];
      if (n === 1) continue;
      if (result[at] !== 1 && result[at] !== n) {
        throw new ShapeError(
          `Cannot ${what} ${shapes.map(format).join(" and ")}: axis ${at - rank} is both ` +
            `${result[at]} and ${n}; sizes must be equal, or one of them 1`,
        );
      }
      result[at] = n;
    }
  }
  return result;
}

/** Strides that make a tensor of `shape` look like `target`: 0 along every repeated axis. */
export function broadcastStrides(
  shape: Shape,
  strides: readonly number[],
  target: Shape,
): number[] {
  const lead = target.length - shape.length;
  return target.map((_, i) => i < lead || shape[i - lead] === 1 ? 0 : strides[i - lead]);
}

/**
 * Strides for reading the elements of a strided tensor in the same order under another shape, or
 * undefined when that needs a copy. `shape` and `target` have equally many elements, at least one.
 */
export function reshapeStrides(
  shape: Shape,
  strides: readonly number[],
  target: Shape,
): number[] | undefined {
  // Merge axes into runs that one stride can walk, then cut every run into the target's axes.
  const { shape: runs, strides: [steps] } = collapse(shape, [strides]);
  const result = new Array<number>(target.length);
  let run = runs.length - 1;
  let used = 1;
  for (let i = target.length - 1; i >= 0; i--) {
    if (target[i] === 1) {
      result[i] = 0;
      continue;
    }
    while (run >= 0 && used === runs[run]) {
      run--;
      used = 1;
    }
    if (run < 0 || runs[run] % (used * target[i]) !== 0) return undefined;
    result[i] = steps[run] * used;
    used *= target[i];
  }
  return result;
}

/**
 * The fewest axes that walk the same elements: axes of size 1 vanish and neighbours merge when every
 * operand steps through them evenly. A contiguous operand comes out with one axis.
 */
export function collapse(
  shape: Shape,
  operands: readonly (readonly number[])[],
): { shape: number[]; strides: number[][] } {
  const sizes: number[] = [];
  const strides: number[][] = operands.map(() => []);
  for (let i = 0; i < shape.length; i++) {
    if (shape[i] === 1) continue;
    const last = sizes.length - 1;
    const merges = last >= 0 &&
      operands.every((s, o) => strides[o][last] === s[i] * shape[i]);
    if (merges) {
      sizes[last] *= shape[i];
      operands.forEach((s, o) => strides[o][last] = s[i]);
    } else {
      sizes.push(shape[i]);
      operands.forEach((s, o) => strides[o].push(s[i]));
    }
  }
  return { shape: sizes, strides };
}

/**
 * Views: other shapes and strides over the same memory. Nothing is computed; each is a rule for the
 * layout and a rule for the gradient, which is a view again, or a sum where elements were repeated.
 *
 * @module
 */
import { DTypeError, ShapeError } from "../errors.ts";
import type { Range } from "../methods.ts";
import { defineOp, viewOf, viewsOf } from "../operation.ts";
import {
  type Axes,
  broadcastShapes,
  broadcastStrides,
  checkShape,
  contiguousStrides,
  format,
  reshapeStrides,
  resolveAxes,
  resolveAxis,
  sameShape,
  type Shape,
  sizeOf,
} from "../shape.ts";
import { tidy } from "../scope.ts";
import type { Tensor, TensorSpec } from "../tensor.ts";
import { copyInto } from "./pointwise.ts";
import { fill, filled } from "./pointwise_program.ts";

/** `x` under another shape with equally many elements; dx = reshape(dy, shape of x). */
export function reshape(x: Tensor, wanted: Shape): Tensor {
  const shape = inferShape(x, wanted);
  const strides = x.size === 0
    ? contiguousStrides(shape)
    : reshapeStrides(x.shape, x.strides, shape);
  if (strides === undefined) return tidy(() => reshape(x.contiguous(), shape));
  const before = x.shape;
  return viewOf("reshape", x, { shape, strides, offset: x.offset }, (dy) => dy.reshape(before));
}

function inferShape(x: Tensor, wanted: Shape): number[] {
  const shape = [...wanted];
  const known = sizeOf(shape.filter((n) => n !== -1));
  const free = shape.indexOf(-1);
  if (free >= 0 && known > 0) shape[free] = x.size / known;
  if (shape.some((n) => !Number.isInteger(n) || n < 0) || sizeOf(shape) !== x.size) {
    throw new ShapeError(
      `Cannot reshape ${format(x.shape)} to ${
        format(wanted)
      }: it has ${x.size} elements, and they ` +
        `must be as many after as before`,
    );
  }
  return shape;
}

/** Axis `i` of the result is axis `axes[i]` of `x`; dx = permute(dy, inverse of axes). */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  const order = axes.map((axis) => resolveAxis(axis, x.rank, "permute"));
  if (new Set(order).size !== x.rank) {
    throw new ShapeError(
      `Cannot permute ${format(x.shape)} by ${format(axes)}: every axis must be named once`,
    );
  }
  const inverse = order.map((_, i) => order.indexOf(i));
  const layout = {
    shape: order.map((axis) => x.shape[axis]),
    strides: order.map((axis) => x.strides[axis]),
    offset: x.offset,
  };
  return viewOf("permute", x, layout, (dy) => dy.permute(inverse));
}

/** Swaps two axes. */
export function transpose(x: Tensor, a = -2, b = -1): Tensor {
  const order = x.shape.map((_, i) => i);
  const [i, j] = [resolveAxis(a, x.rank, "transpose"), resolveAxis(b, x.rank, "transpose")];
  [order[i], order[j]] = [j, i];
  return permute(x, order);
}

/** Repeats axes of size 1; dx = Σ dy over what was repeated. */
export function expand(x: Tensor, wanted: Shape): Tensor {
  const lead = wanted.length - x.rank;
  const shape = wanted.map((n, i) => n === -1 && i >= lead ? x.shape[i - lead] : n);
  checkShape(shape, "expand");
  if (!sameShape(broadcastShapes([x.shape, shape], "expand"), shape)) {
    throw new ShapeError(
      `Cannot expand ${format(x.shape)} to ${format(wanted)}: only axes of size 1 can grow`,
    );
  }
  const strides = broadcastStrides(x.shape, x.strides, shape);
  const before = x.shape;
  return viewOf("expand", x, { shape, strides, offset: x.offset }, (dy) => sumTo(dy, before));
}

/** The sum of `x` over the axes along which `shape` was expanded to its shape. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.rank - shape.length;
  const axes = x.shape.map((_, i) => i).filter((i) => i < lead || shape[i - lead] !== x.shape[i]);
  return x.sum(axes, { keepDims: true }).reshape(shape);
}

/** A rectangular part, by one range an axis; dx = dy in a tensor of zeros. */
export function slice(x: Tensor, ranges: readonly Range[]): Tensor {
  if (ranges.length > x.rank) {
    throw new ShapeError(
      `Cannot take ${ranges.length} ranges of ${format(x.shape)}, which has ${x.rank} axes`,
    );
  }
  const shape: number[] = [];
  const strides: number[] = [];
  let { offset } = x;
  x.shape.forEach((length, axis) => {
    const range = ranges[axis] ?? [];
    if (typeof range === "number") {
      offset += resolveEntry(range, length, axis) * x.strides[axis];
      return;
    }
    const { start, count, step } = resolveRange(range, length);
    if (count > 0) offset += start * x.strides[axis];
    shape.push(count);
    strides.push(step * x.strides[axis]);
  });
  const before = x.shape;
  return viewOf("slice", x, { shape, strides, offset }, (dy) => embed(dy, { before, ranges }));
}

function resolveEntry(index: number, length: number, axis: number): number {
  const entry = index < 0 ? index + length : index;
  if (!Number.isInteger(index) || entry < 0 || entry >= length) {
    throw new ShapeError(`Cannot take entry ${index} of axis ${axis}, which has ${length} entries`);
  }
  return entry;
}

/** As in Python: positions past either end are clamped, and a negative step walks backwards. */
function resolveRange(
  [from, to, step = 1]: readonly [number?, number?, number?],
  length: number,
): { start: number; count: number; step: number } {
  if (!Number.isInteger(step) || step === 0) {
    throw new ShapeError(`Cannot slice with step ${step}: expected an integer other than 0`);
  }
  for (const at of [from, to]) {
    // Infinity is past the end.
    if (at === undefined || Number.isInteger(at) || Math.abs(at) === Infinity) continue;
    throw new ShapeError(`Cannot slice at ${at}: expected an integer`);
  }
  const [low, high] = step > 0 ? [0, length] : [-1, length - 1];
  const clamp = (at: number) => Math.min(Math.max(at < 0 ? at + length : at, low), high);
  const start = from === undefined ? (step > 0 ? low : high) : clamp(from);
  const end = to === undefined ? (step > 0 ? high : low) : clamp(to);
  return { start, count: Math.max(0, Math.ceil((end - start) / step)), step };
}

/** The inverse of a slice: `x` inside zeros of the shape that it was cut from; its gradient is the slice. */
const embed = defineOp<{ before: Shape; ranges: readonly Range[] }>({
  name: "embed",
  strided: true,
  saves: {},
  output: ([x], { before }) => ({ shape: before, dtype: x.dtype }),
  compose: ([x], [y], { ranges }) => {
    fill(y, 0);
    copyInto(x, slice(y, ranges));
  },
  backward: [({ grads: [dy], options }) => slice(dy, options.ranges)],
});

/** Reverses the order along the axes; dx = flip(dy). */
export function flip(x: Tensor, axes?: Axes): Tensor {
  const turned = new Set(resolveAxes(axes, x.rank, "flip"));
  return slice(x, x.shape.map((_, i) => turned.has(i) ? [undefined, undefined, -1] : null));
}

/** Removes axes of size 1. */
export function squeeze(x: Tensor, axes?: Axes): Tensor {
  const named = new Set(resolveAxes(axes, x.rank, "squeeze"));
  const wide = [...named].find((i) => x.shape[i] !== 1);
  if (axes !== undefined && wide !== undefined) {
    throw new ShapeError(
      `Cannot squeeze axis ${wide} of ${format(x.shape)}: its size is ${x.shape[wide]}, not 1`,
    );
  }
  return reshape(x, x.shape.filter((n, i) => !named.has(i) || n !== 1));
}

/** Inserts an axis of size 1. */
export function unsqueeze(x: Tensor, axis: number): Tensor {
  const at = resolveAxis(axis, x.rank + 1, "unsqueeze");
  return reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)]);
}

/** Tensors one after the other along `axis`; each gradient is the slice that it became. */
export function concat(tensors: readonly Tensor[], axis = 0): Tensor {
  if (tensors.length === 0) {
    throw new ShapeError("concat: expected at least one tensor, found none");
  }
  return concatAlong(...tensors, { axis: resolveAxis(axis, tensors[0].rank, "concat") });
}

const concatAlong = defineOp<{ axis: number }>({
  name: "concat",
  strided: true,
  saves: {},
  output: (tensors, { axis }) => {
    const [{ shape, dtype }] = tensors;
    for (const t of tensors) {
      if (t.dtype !== dtype) {
        throw new DTypeError(`Cannot concat ${dtype} and ${t.dtype}: convert with to("${dtype}")`);
      }
      if (t.rank !== shape.length || t.shape.some((n, i) => i !== axis && n !== shape[i])) {
        throw new ShapeError(
          `Cannot concat ${format(shape)} and ${format(t.shape)} along axis ${axis}: ` +
            `all other axes must be equal`,
        );
      }
    }
    const length = tensors.reduce((sum, t) => sum + t.shape[axis], 0);
    return { shape: shape.map((n, i) => i === axis ? length : n), dtype };
  },
  compose: (tensors, [out], { axis }) => {
    const places = spans(tensors, axis);
    tensors.forEach((t, i) => copyInto(t, slice(out, places[i])));
  },
  backward: ({ grads: [g], specs, needs, options: { axis } }) =>
    spans(specs, axis).map((place, i) => needs[i] ? slice(g, place) : null),
});

/**
 * Consecutive parts along `axis`, so many equal ones or ones of the given lengths, as views; the gradient
 * is the concatenation of the parts' gradients, so that they are copied once instead of being added up in
 * zeros.
 */
export function split(x: Tensor, parts: number | readonly number[], axis = 0): Tensor[] {
  const at = resolveAxis(axis, x.rank, "split");
  const lengths = typeof parts === "number"
    ? Array<number>(parts).fill(x.shape[at] / parts)
    : parts;
  const total = lengths.reduce((a, b) => a + b, 0);
  if (total !== x.shape[at] || !lengths.every(Number.isInteger)) {
    throw new ShapeError(`Cannot split axis ${at} of ${format(x.shape)} into lengths ${lengths}`);
  }
  let start = 0;
  const layouts = lengths.map((length) => {
    const offset = x.offset + start * x.strides[at];
    start += length;
    return { shape: x.shape.with(at, length), strides: x.strides, offset };
  });
  return viewsOf("split", x, layouts, (grads) => {
    const { dtype, device } = grads.find((g) => g !== undefined)!;
    return concat(
      grads.map((g, i) => g ?? filled(device, { shape: layouts[i].shape, dtype }, 0)),
      at,
    );
  });
}

/** Where each of several tensors lies in their concatenation, as arguments of `slice`. */
function spans(tensors: readonly TensorSpec[], axis: number): Range[][] {
  let start = 0;
  return tensors.map(({ shape }) => {
    const end = start + shape[axis];
    const span = [start, end] as const;
    start = end;
    return [...Array<null>(axis).fill(null), span];
  });
}

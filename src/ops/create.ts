/**
 * Making tensors: from values, constant, counted and random.
 *
 * @module
 */
import { Node } from "../autograd.ts";
import { addressOf, type Program } from "../backend/contract.ts";
import { defaultDevice, type Device } from "../device.ts";
import { checkDType, checkHeld, type DeviceArray, type DType, dtypeOfArray } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { runInPlace } from "../operation.ts";
import { fillNormal, fillUniform, freshSeed, type Key, keyOf } from "../random.ts";
import { tidy } from "../scope.ts";
import { checkNumber, checkShape, format, type Shape, sizeOf } from "../shape.ts";
import { checkDifferentiable, type NestedArray, Tensor } from "../tensor.ts";
import shader from "../../shaders/uniform.wgsl" with { type: "text" };
import { cast, copyInto } from "./pointwise.ts";
import { filled, grid } from "./pointwise_program.ts";

/** What every way of making a tensor may be told. */
export interface CreateOptions {
  /** The type of the elements. Default `"f32"`, or what the values say. */
  dtype?: DType;
  /** Make it a leaf that accumulates a gradient. Default false. */
  requiresGrad?: boolean;
  /** Where it lives. Default: the device that `init` chose last. */
  device?: Device;
}

/** Options of {@linkcode tensor}. */
export interface TensorOptions extends CreateOptions {
  /** The shape, when the values are flat. Default: the shape of the nesting. */
  shape?: Shape;
}

/** Options of the random tensors. */
export interface RandomOptions extends Omit<CreateOptions, "dtype"> {
  /** `"f32"`, the default, or `"f16"`: the same numbers, rounded. */
  dtype?: "f32" | "f16";
  /** The same seed gives the same numbers on every backend. Default: another at every call. */
  seed?: number;
}

/**
 * A tensor of the given values.
 *
 * @example
 * ```ts
 * import { tensor } from "@levin/levin";
 *
 * tensor(3); // shape []
 * tensor([[1, 2], [3, 4]]); // shape [2, 2]
 * tensor(new Int32Array(6), { shape: [2, 3] }); // dtype i32
 * ```
 * @throws {ShapeError} if the nesting is ragged or does not fit `shape`.
 * @throws {DTypeError} if the dtype cannot hold a value.
 */
export function tensor(values: NestedArray | ArrayBufferView, options: TensorOptions = {}): Tensor {
  const { flat, shape: nested, dtype: natural } = ArrayBuffer.isView(values)
    ? fromTypedArray(values)
    : fromNested(values);
  const { shape = nested, dtype = natural } = options;
  checkDType(dtype);
  checkShape(shape, "tensor");
  if (sizeOf(shape) !== flat.length) {
    throw new ShapeError(
      `Cannot make a tensor of shape ${format(shape)}, which has ${sizeOf(shape)} elements, from ` +
        `${flat.length} values`,
    );
  }
  // Whole numbers are true if they are not 0.
  if (natural === "f32" || dtype !== "bool") checkHeld(flat, dtype);
  return written({ ...options, dtype }, shape, (elements) => {
    if (dtype !== "bool") elements.set(flat);
    else for (let i = 0; i < flat.length; i++) elements[i] = flat[i] === 0 ? 0 : 1;
  });
}

/** A tensor of zeros. */
export function zeros(shape: Shape, options: CreateOptions = {}): Tensor {
  return full(shape, 0, options);
}

/** A tensor of ones. */
export function ones(shape: Shape, options: CreateOptions = {}): Tensor {
  return full(shape, 1, options);
}

/** A tensor whose elements are all `value`. */
export function full(shape: Shape, value: number, options: CreateOptions = {}): Tensor {
  const { dtype = "f32", device = defaultDevice() } = options;
  checkDType(dtype);
  checkShape(shape, "full");
  checkHeld([value], dtype);
  return finish(filled(device, { shape: [...shape], dtype }, value), options);
}

/**
 * The numbers from `start` up to, and without, `end` in steps of `step`; with one argument, from 0 up
 * to it. On every backend they are start + i · step, computed in float64.
 */
export function arange(
  start: number,
  options?: CreateOptions & { end?: number; step?: number },
): Tensor {
  const { end, step = 1, dtype = "f32" } = options ?? {};
  const [from, to] = end === undefined ? [0, start] : [start, end];
  if (!Number.isFinite(from) || !Number.isFinite(to) || !Number.isFinite(step) || step === 0) {
    throw new ShapeError(`Cannot count from ${from} to ${to} in steps of ${step}`);
  }
  checkDType(dtype);
  const length = Math.max(0, Math.ceil((to - from) / step));
  return written({ ...options, dtype }, [length], (elements) => {
    for (let i = 0; i < length; i++) elements[i] = from + i * step;
  });
}

/**
 * Numbers from the standard normal distribution. They are computed on the host, in float64, so that
 * logarithm and cosine are the same everywhere.
 */
export function randn(shape: Shape, options: RandomOptions = {}): Tensor {
  checkShape(shape, "randn");
  const { seed = freshSeed(), dtype = "f32" } = options;
  return written({ ...options, dtype }, shape, (elements) => {
    const size = elements.length;
    const drawn = new Float32Array(Math.min(size, PIECE));
    for (let start = 0; start < size; start += PIECE) {
      const some = drawn.subarray(0, size - start);
      fillNormal(keyOf(seed), some, start / 2);
      elements.set(some, start);
    }
  });
}

/** Numbers spread evenly over [low, high), by default [0, 1). They are computed on the device. */
export function uniform(
  shape: Shape,
  options: RandomOptions & { low?: number; high?: number } = {},
): Tensor {
  checkShape(shape, "uniform");
  const { seed = freshSeed(), low = 0, high = 1, dtype = "f32", device = defaultDevice() } =
    options;
  for (const end of [low, high]) {
    checkNumber("uniform", "a finite low and high", end, Number.isFinite(end));
  }
  const numbers = tidy(() => {
    const size = sizeOf(shape);
    const flat = Tensor.allocate(device, { shape: [size], dtype });
    // Pieces that fit a binding and a dispatch; an even start, because numbers come in pairs.
    const piece = Math.min(PIECE, 2 * Math.floor(device.engine.bindingBytes / 8));
    for (let start = 0; start < size; start += piece) {
      const part = flat.slice([start, start + piece]);
      drawInto(part, { key: keyOf(seed), block: start / 2 }, low, high);
      part.dispose();
    }
    return flat.reshape(shape);
  });
  return finish(numbers, options);
}

/** Numbers drawn at once: what they need beside the result is small, however many there are. */
const PIECE = 2 ** 20;

/**
 * Draws float32 numbers, scales them and rounds them into `part`. Each is a step of its own: fused by a
 * driver, a product and a sum have other last bits.
 */
function drawInto(part: Tensor, where: { key: Key; block: number }, low: number, high: number) {
  const whole = low === 0 && high === 1;
  if (whole && part.dtype === "f32") return runInPlace(uniformProgram, [], [part], where);
  tidy(() => {
    const drawn = Tensor.allocate(part.device, { shape: part.shape, dtype: "f32" });
    runInPlace(uniformProgram, [], [drawn], where);
    copyInto(cast(whole ? drawn : drawn.mul(high - low).add(low), part.dtype), part);
  });
}

/** Numbers that are worth a task in WebAssembly. */
const TASK = 2 ** 13;

const uniformProgram: Program<{ key: Key; block: number }> = {
  name: "uniform",
  cpu: (_, [out], { key, block }) => fillUniform(key, out.data as Float32Array, block),
  wasm: (_, [out], { key, block }) => ({
    kernel: "uniform",
    params: [addressOf(out), out.shape[0], TASK, key.low, key.high, block],
    tasks: Math.ceil(out.shape[0] / TASK),
  }),
  gpu: (_, [out], { key, block }, context) => ({
    shader,
    params: [key.low, key.high, out.shape[0], out.offset, block],
    workgroups: grid(Math.ceil(out.shape[0] / 512), context),
  }),
};

function fromTypedArray(array: ArrayBufferView) {
  const dtype = dtypeOfArray(array);
  if (dtype === undefined) {
    throw new DTypeError(
      `Cannot make a tensor from ${array.constructor.name}: expected an array of 8-, 16- or 32-bit ` +
        `integers or of floats`,
    );
  }
  const flat = array as unknown as ArrayLike<number>;
  return { flat, shape: [flat.length], dtype };
}

function fromNested(values: NestedArray) {
  const shape: number[] = [];
  for (let level = values; Array.isArray(level); level = level[0]) shape.push(level.length);
  const flat: number[] = [];
  let booleans = 0;
  const visit = (item: NestedArray, depth: number) => {
    const fits = Array.isArray(item)
      ? depth < shape.length && item.length === shape[depth]
      : depth === shape.length;
    if (!fits) {
      throw new ShapeError(
        `Cannot make a tensor from ragged arrays: expected shape ${format(shape)} throughout`,
      );
    }
    if (Array.isArray(item)) return item.forEach((inner) => visit(inner, depth + 1));
    if (typeof item === "boolean") booleans++;
    else if (typeof item !== "number") {
      throw new DTypeError(
        `Cannot make a tensor from ${typeof item}: expected numbers or booleans`,
      );
    }
    flat.push(Number(item));
  };
  visit(values, 0);
  const dtype: DType = booleans > 0 && booleans === flat.length ? "bool" : "f32";
  return { flat, shape, dtype };
}

/** A new tensor whose elements the host writes, once the device has room for them. */
function written(
  { dtype = "f32", requiresGrad, device = defaultDevice() }: CreateOptions,
  shape: Shape,
  write: (elements: DeviceArray) => void,
): Tensor {
  if (requiresGrad) checkDifferentiable(dtype);
  return Tensor.written(device, { shape: [...shape], dtype }, write, requiresGrad);
}

/** `made` itself, or a leaf in its place. */
function finish(made: Tensor, { requiresGrad }: CreateOptions): Tensor {
  return requiresGrad ? asLeaf(made) : made;
}

/** A leaf with the elements of `made`, which it replaces. */
export function asLeaf(made: Tensor): Tensor {
  checkDifferentiable(made.dtype);
  const node = Node.leaf();
  const leaf = made.alias(made, node);
  node.release();
  made.dispose();
  return leaf;
}

/**
 * The tensor: a strided window on device memory, and its place in the autograd graph.
 *
 * This file knows no operation. What a tensor can compute is declared in `methods.ts` and installed
 * by `ops/mod.ts`, so that operations depend on tensors and never the other way round.
 *
 * @module
 */
import { type BackwardOptions, differentiate, Node } from "./autograd.ts";
import type { View } from "./backend/contract.ts";
import type { Device } from "./device.ts";
import {
  bytesOf,
  type DeviceArray,
  deviceArray,
  type DType,
  isFloat,
  type TypedArray,
  userArray,
} from "./dtype.ts";
import { DTypeError, LevinError, ShapeError } from "./errors.ts";
import type { TensorMethods } from "./methods.ts";
import { adopt, currentScope } from "./scope.ts";
import {
  contiguousStrides,
  format,
  isContiguous,
  type Shape,
  sizeOf,
  stridesInOrder,
} from "./shape.ts";
import { Storage } from "./storage.ts";

/** A shape and a dtype: what is known of a tensor before it is computed. */
export interface TensorSpec {
  /** Sizes of the axes, outermost first. */
  readonly shape: Shape;
  /** The type of the elements. */
  readonly dtype: DType;
}

/** Where a tensor's elements lie in its storage, counted in elements. */
export interface Layout extends TensorSpec {
  /** Elements from one entry of each axis to the next. */
  readonly strides: readonly number[];
  /** Elements from the storage's start to the first one. */
  readonly offset: number;
}

/** Nested arrays of numbers or booleans, as deep as a tensor has axes. */
export type NestedArray = number | boolean | NestedArray[];

/** The operations of a tensor; see `methods.ts`. */
export interface Tensor extends TensorMethods {}

/**
 * An n-dimensional array on a device. Operations never change their arguments and always return new
 * tensors; views (`reshape`, `transpose`, `slice`, …) share memory with what they were made from.
 *
 * Tensors are made by `tensor`, `zeros`, `randn`, … and by operations, never by `new`.
 */
// The methods' signatures live in methods.ts
export class Tensor implements Layout, Disposable {
  readonly shape: Shape;
  readonly dtype: DType;
  readonly strides: readonly number[];
  readonly offset: number;
  /**
   * The memory behind it, shared with its views.
   *
   * @internal
   */
  readonly storage: Storage;
  #node: Node | undefined;
  #outputIndex: number;
  #disposed = false;
  #watched = false;

  /** Takes over one hold on `storage` and one on `node`. For operations; users call `tensor`. */
  constructor(storage: Storage, layout: Layout, node?: Node, outputIndex = 0) {
    this.storage = storage;
    this.shape = layout.shape;
    this.dtype = layout.dtype;
    this.strides = layout.strides;
    this.offset = layout.offset;
    this.#node = node;
    this.#outputIndex = outputIndex;
    storage.device.tensors++;
    const open = currentScope();
    if (open === undefined) this.watch();
    else open.add(this);
  }

  /**
   * A new dense tensor with undefined elements, its axes in memory in the given order, outermost first; by default
   * row-major. Throws LimitError when it can never fit.
   */
  static allocate(
    device: Device,
    { shape, dtype }: TensorSpec,
    order?: readonly number[],
  ): Tensor {
    const storage = new Storage(device, Math.max(1, sizeOf(shape)) * bytesOf(dtype));
    const strides = order === undefined ? contiguousStrides(shape) : stridesInOrder(shape, order);
    return new Tensor(storage, { shape, dtype, strides, offset: 0 });
  }

  /**
   * A new dense tensor whose elements `write` writes, as the device lays them out, once there is room for them.
   * Throws LimitError when it can never fit.
   */
  static written(
    device: Device,
    { shape, dtype }: TensorSpec,
    write: (elements: DeviceArray) => void,
    leaf = false,
  ): Tensor {
    const size = sizeOf(shape);
    const elements = ({ buffer, byteOffset }: Uint8Array) =>
      deviceArray(dtype, buffer as ArrayBuffer, byteOffset, size);
    const storage = new Storage(
      device,
      Math.max(1, size) * bytesOf(dtype),
      size === 0 ? undefined : (memory) => write(elements(memory)),
    );
    const layout = { shape, dtype, strides: contiguousStrides(shape), offset: 0 };
    return new Tensor(storage, layout, leaf ? Node.leaf() : undefined);
  }

  /**
   * Where it stands in the autograd graph; undefined when no gradient flows through it.
   *
   * @internal
   */
  get node(): Node | undefined {
    return this.#node;
  }

  /** Which of its node's results it is. */
  get outputIndex(): number {
    return this.#outputIndex;
  }

  /**
   * Makes a new tensor result number `index` of `node`; takes over one hold on it.
   *
   * @internal
   */
  attach(node: Node, index: number): void {
    this.#node = node;
    this.#outputIndex = index;
    if (!this.#watched) return;
    collected.unregister(this);
    this.#watched = false;
    this.watch();
  }

  /** The device it lives on. */
  get device(): Device {
    return this.storage.device;
  }

  /** The number of its elements. */
  get size(): number {
    return sizeOf(this.shape);
  }

  /** The number of its axes. */
  get rank(): number {
    return this.shape.length;
  }

  /** Whether gradients flow back through it. */
  get requiresGrad(): boolean {
    return this.node !== undefined;
  }

  /** What `backward()` has accumulated in it; null before, and for every tensor but a leaf. */
  get grad(): Tensor | null {
    return this.node?.slot?.grad ?? null;
  }

  /** Replaces or, with null, drops the accumulated gradient; the old one is disposed. */
  set grad(gradient: Tensor | null) {
    const slot = this.node?.slot;
    if (slot === undefined) {
      throw new LevinError(
        `Cannot set the gradient of ${this}: only leaves made with requiresGrad hold one`,
      );
    }
    if (gradient !== slot.grad) slot.grad?.dispose();
    slot.grad = gradient === null ? null : adopt(gradient);
  }

  /** Whether it has been disposed. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** Whether its elements lie densely in row-major order. */
  get isContiguous(): boolean {
    return isContiguous(this.shape, this.strides);
  }

  /** What backends see of it. Throws LevinError after `dispose`. */
  get view(): View {
    this.#checkAlive();
    const { shape, dtype, strides, offset } = this;
    return { buffer: this.storage.buffer, shape, dtype, strides, offset };
  }

  /**
   * Another handle on the same elements, by default at the same place in the graph.
   *
   * @internal
   */
  alias(layout: Layout = this, node: Node | null | undefined = this.node): Tensor {
    this.#checkAlive();
    const index = node === this.node ? this.outputIndex : 0;
    return new Tensor(this.storage.retain(), layout, node?.retain(), index);
  }

  /** The same elements, shared, cut off from the graph: no gradient flows through the result. */
  detach(): Tensor {
    return this.alias(this, null);
  }

  /**
   * Adds, to the `grad` of every leaf that this tensor was computed from, the gradient of this tensor
   * with respect to it.
   *
   * @throws {ShapeError} if no `gradient` is given and there is more than one element.
   * @throws {LevinError} if nothing it was computed from requires a gradient.
   */
  backward(options: BackwardOptions = {}): void {
    this.#checkAlive();
    const { gradient } = options;
    if (gradient === undefined && this.size !== 1) {
      throw new ShapeError(
        `Cannot start backward() from a tensor of shape ${format(this.shape)}: ` +
          `reduce it to one element, say with sum(), or pass { gradient }, one number for each`,
      );
    }
    const seed = gradient?.alias() ?? Tensor.one(this);
    try {
      differentiate(this, seed, undefined, options);
    } finally {
      seed.dispose();
    }
  }

  /** A tensor of one element, 1, with the shape, dtype and device of `like`. */
  static one(like: Tensor): Tensor {
    const { device, shape, dtype } = like;
    return Tensor.written(device, { shape, dtype }, (elements) => elements[0] = 1);
  }

  /**
   * Resolves to a copy of the elements in row-major order. Reads asked for together, say with
   * `Promise.all`, wait for the device once.
   *
   * The array's type follows the dtype at run time; to the compiler it is a Float32Array unless another
   * is named, as in `await mask.data<Uint8Array>()`.
   *
   * @throws {DeviceError} if the device reported an error or was lost.
   */
  async data<Data extends TypedArray = Float32Array<ArrayBuffer>>(): Promise<Data> {
    this.#checkAlive();
    if (this.size === 0) return userArray(this.dtype, new ArrayBuffer(0)) as Data;
    const packed = this.isContiguous ? this.alias() : this.contiguous();
    adopt(packed);
    try {
      const bytes = bytesOf(this.dtype);
      const read = packed.storage.device.engine.read(
        packed.storage.buffer,
        packed.offset * bytes,
        packed.size * bytes,
      );
      return userArray(this.dtype, await read) as Data;
    } finally {
      packed.dispose();
    }
  }

  /**
   * Resolves to the one element of this tensor.
   *
   * @throws {ShapeError} unless there is exactly one.
   */
  async item(): Promise<number> {
    if (this.size !== 1) {
      throw new ShapeError(`item() reads a tensor of one element; this one is ${this}`);
    }
    return (await this.data())[0];
  }

  /** Resolves to the elements as nested arrays; a scalar is a number, `bool` becomes booleans. */
  async array(): Promise<NestedArray> {
    const data = await this.data();
    const { shape, dtype } = this;
    const nest = (axis: number, start: number): NestedArray => {
      if (axis === shape.length) return dtype === "bool" ? data[start] !== 0 : data[start];
      const step = sizeOf(shape.slice(axis + 1));
      return Array.from({ length: shape[axis] }, (_, i) => nest(axis + 1, start + i * step));
    };
    return nest(0, 0);
  }

  /** Gives up this handle. The memory is freed once no view and no recorded gradient needs it. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.device.tensors--;
    if (this.#watched) collected.unregister(this);
    currentScope()?.forget(this);
    this.storage.release();
    this.node?.release();
  }

  /**
   * Has the garbage collector release it if nobody does: for tensors that no scope holds. To watch all of
   * them would cost the collector as much as the operations themselves.
   *
   * @internal
   */
  watch(): void {
    if (this.#watched || this.#disposed) return;
    this.#watched = true;
    collected.register(this, { storage: this.storage, node: this.node }, this);
  }

  /** `using` disposes a tensor at the end of its block. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** `Tensor f32 [2, 3]`. */
  toString(): string {
    return `Tensor ${this.dtype} ${format(this.shape)}`;
  }

  /** How `console.log` shows it: the elements themselves can only be read asynchronously. */
  [Symbol.for("Deno.customInspect")](): string {
    const { backend } = this.device;
    const notes = [this.requiresGrad ? ", requiresGrad" : "", this.#disposed ? ", disposed" : ""];
    return `${this} on ${backend}${notes.join("")}`;
  }

  /** The same for runtimes that follow Node.js. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return (this as unknown as Record<symbol, () => string>)[Symbol.for("Deno.customInspect")]();
  }

  #checkAlive(): void {
    if (this.#disposed) {
      throw new LevinError(
        `Cannot use ${this}: it was disposed, by dispose() or by the scope it was made in; ` +
          `take what must live on out of the scope with scope.keep()`,
      );
    }
  }
}

/** Throws DTypeError unless gradients can flow through tensors of `dtype`. */
export function checkDifferentiable(dtype: DType): void {
  if (!isFloat(dtype)) {
    throw new DTypeError(`requiresGrad: expected dtype f32 or f16, found ${dtype}`);
  }
}

/** The safety net: what the garbage collector finds undisposed is released then. */
const collected = new FinalizationRegistry<{ storage: Storage; node: Node | undefined }>(
  ({ storage, node }) => {
    storage.device.tensors--;
    storage.release();
    node?.release();
  },
);

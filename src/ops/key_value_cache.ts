/**
 * The keys and values of softmax attention that decoding has seen so far, in memory allocated once.
 *
 *     k ← [k; new k]        v ← [v; new v]        along the sequence, in place
 *
 * Shapes: k [b, g, capacity, d] and v [b, g, capacity, e], of which the first `length` positions are seen
 * as strided views.
 *
 * @module
 */
import { isRecording } from "../autograd.ts";
import { defaultDevice, type Device } from "../device.ts";
import { DTypeError, LevinError, LimitError, ShapeError } from "../errors.ts";
import { adopt } from "../scope.ts";
import { checkShape, format, sameShape } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { zeros } from "./create.ts";
import { loadInto } from "./pointwise.ts";

/** What a {@linkcode KeyValueCache} holds. */
export interface KeyValueCacheOptions {
  /** Sequences. Default 1. */
  batch?: number;
  /** Key heads. */
  heads: number;
  /** Positions that there is room for. */
  capacity: number;
  /** The size of a key. */
  keySize: number;
  /** The size of a value. Default: that of a key. */
  valueSize?: number;
  /** The dtype of keys and values. Default `"f32"`. */
  dtype?: "f32" | "f16";
  /** Where it lives. Default: the device that `init` chose. */
  device?: Device;
}

/**
 * Keys and values for `flashAttention`, written in place and never reallocated. It belongs to no scope:
 * dispose it, or declare it with `using`.
 *
 * @example
 * ```ts
 * import { flashAttention, KeyValueCache, randn } from "@levin/levin";
 *
 * using cache = new KeyValueCache({ heads: 2, capacity: 64, keySize: 8 });
 * for (let seed = 0; seed < 3; seed++) {
 *   const token = randn([1, 2, 1, 8], { seed });
 *   cache.append(token, token);
 *   console.log(flashAttention(token, cache.k, cache.v).shape); // [1, 2, 1, 8]
 * }
 * ```
 */
export class KeyValueCache implements Disposable {
  /** Positions that there is room for. */
  readonly capacity: number;
  readonly #keys: Tensor;
  readonly #values: Tensor;
  #length = 0;

  /**
   * Allocates the room.
   *
   * @throws {ShapeError} if a size is not an integer ≥ 0.
   * @throws {LimitError} if it can never fit the device.
   */
  constructor(options: KeyValueCacheOptions) {
    const { batch = 1, heads, capacity, keySize, valueSize = keySize } = options;
    const { dtype = "f32", device = defaultDevice() } = options;
    checkShape([batch, heads, capacity, keySize, valueSize], "KeyValueCache");
    this.capacity = capacity;
    this.#keys = adopt(zeros([batch, heads, capacity, keySize], { dtype, device }));
    try {
      this.#values = adopt(zeros([batch, heads, capacity, valueSize], { dtype, device }));
    } catch (error) {
      this.#keys.dispose();
      throw error;
    }
  }

  /** Positions filled so far. */
  get length(): number {
    return this.#length;
  }

  /** A view of the keys so far [batch, heads, length, keySize]; it does not grow with the cache. */
  get k(): Tensor {
    return this.#keys.slice(null, null, [0, this.#length]);
  }

  /** A view of the values so far [batch, heads, length, valueSize]; it does not grow with the cache. */
  get v(): Tensor {
    return this.#values.slice(null, null, [0, this.#length]);
  }

  /**
   * Writes the keys and values of the next tokens behind those so far.
   *
   * @param k [batch, heads, tokens, keySize], of the cache's dtype.
   * @param v [batch, heads, tokens, valueSize], of the cache's dtype.
   * @throws {ShapeError} if shapes do not fit the cache or each other.
   * @throws {DTypeError} if a dtype is not the cache's.
   * @throws {LimitError} if there is no room for so many tokens.
   * @throws {LevinError} if a gradient would have to flow through what is written in place.
   */
  append(k: Tensor, v: Tensor): void {
    const tokens = k.rank === 4 ? k.shape[2] : 0;
    for (const [name, x, room] of [["k", k, this.#keys], ["v", v, this.#values]] as const) {
      const wanted = room.shape.with(2, tokens);
      if (!sameShape(x.shape, wanted)) {
        const [b, g, , size] = wanted;
        throw new ShapeError(
          `KeyValueCache.append: expected ${name} of shape [${b}, ${g}, tokens, ${size}], with as ` +
            `many tokens in k as in v, found ${format(x.shape)}`,
        );
      }
      if (x.dtype !== room.dtype) {
        throw new DTypeError(
          `KeyValueCache.append: expected ${name} of dtype ${room.dtype}, found ${x.dtype}; ` +
            `convert with to()`,
        );
      }
      if (isRecording() && x.requiresGrad) {
        throw new LevinError(
          `KeyValueCache.append writes ${name} in place, which has no gradient: call it in ` +
            `noGrad(), or concat() keys and values to differentiate`,
        );
      }
    }
    const end = this.#length + tokens;
    if (end > this.capacity) {
      throw new LimitError(
        `KeyValueCache.append: ${this.#length} positions of a capacity of ${this.capacity} are ` +
          `filled, so ${tokens} more tokens do not fit; make a cache of a larger capacity`,
      );
    }
    const place = (room: Tensor) => room.slice(null, null, [this.#length, end]);
    const places = [place(this.#keys), place(this.#values)];
    try {
      loadInto([[k, places[0]], [v, places[1]]]);
    } finally {
      places.forEach((t) => t.dispose());
    }
    this.#length = end;
  }

  /** Forgets all positions from `length` on, by default all there are; the room is kept. */
  truncate(length = 0): void {
    if (!Number.isInteger(length) || length < 0 || length > this.#length) {
      throw new ShapeError(
        `KeyValueCache.truncate: expected a length from 0 to ${this.#length}, found ${length}`,
      );
    }
    this.#length = length;
  }

  /** Frees the room. Views keep it alive until they are disposed too. */
  [Symbol.dispose](): void {
    this.#keys.dispose();
    this.#values.dispose();
  }
}

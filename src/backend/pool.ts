/**
 * Freed buffers, kept by size for reuse: allocation is slow on GPUs and on the CPU alike.
 *
 * @module
 */

/**
 * The size a request is rounded up to: sixteen steps between powers of two, so that equal work meets
 * equal buffers and at most 1/16 is wasted.
 */
export function sizeClass(bytes: number): number {
  const step = Math.max(256, 2 ** (Math.floor(Math.log2(Math.max(bytes, 1))) - 4));
  return Math.max(256, Math.ceil(bytes / step) * step);
}

/** A size is stale once so many times the peak has been handed out since it was last asked for: several training steps. */
const STALE = 16;

/** Buffers of one size that wait, and what had been handed out when that size was last asked for. */
interface Waiting<B> {
  readonly buffers: B[];
  asked: number;
}

/** Buffers of type `B` by size class. */
export class Pool<B> {
  #free = new Map<number, Waiting<B>>();
  /** Bytes handed out since the pool was made. */
  #taken = 0;
  #live = 0;
  #pooled = 0;
  #peak = 0;

  /**
   * `create` makes a buffer of exactly so many bytes; `destroy` unmakes it. With `numberOf`, of those that
   * fit the one with the lowest number is taken, so that equal work is done in the very same buffers; without
   * it, the one that was given back last.
   */
  constructor(
    readonly create: (bytes: number) => B,
    readonly destroy: (buffer: B) => void,
    readonly numberOf?: (buffer: B) => number,
  ) {}

  /** Bytes handed out. */
  get liveBytes(): number {
    return this.#live;
  }

  /** Bytes waiting. */
  get pooledBytes(): number {
    return this.#pooled;
  }

  /** A buffer of at least `bytes` bytes: one that waits, else a new one. */
  take(bytes: number): B {
    const size = sizeClass(bytes);
    this.#taken += size;
    const waiting = this.#free.get(size);
    if (waiting !== undefined) waiting.asked = this.#taken;
    let buffer = waiting?.buffers.pop();
    if (buffer === undefined) buffer = this.create(size);
    else this.#pooled -= size;
    this.#live += size;
    this.#peak = Math.max(this.#peak, this.#live);
    return buffer;
  }

  /** Takes back a buffer that was taken for `bytes` bytes. */
  give(buffer: B, bytes: number): void {
    const size = sizeClass(bytes);
    this.#live -= size;
    // Live and waiting buffers together never hold much more than was once in use at one time. As sizes change
    // from forward to backward and to the optimizer, a training step needs up to 1.4 times that, and with less
    // makes gigabytes of buffers anew in every step.
    const most = Math.max(this.#peak * 1.5, 2 ** 26);
    if (this.#live + this.#pooled + size > most) this.#dropStale();
    if (this.#live + this.#pooled + size > most) {
      this.destroy(buffer);
      return;
    }
    const waiting = this.#free.get(size);
    if (waiting === undefined) this.#free.set(size, { buffers: [buffer], asked: this.#taken });
    else waiting.buffers.splice(this.#placeAmong(waiting.buffers, buffer), 0, buffer);
    this.#pooled += size;
  }

  /** Destroys what waits of stale sizes. Else they would fill the pool for good once a program goes on to others. */
  #dropStale(): void {
    for (const [size, { buffers, asked }] of this.#free) {
      if (this.#taken - asked <= STALE * this.#peak) continue;
      buffers.forEach(this.destroy);
      this.#pooled -= size * buffers.length;
      this.#free.delete(size);
    }
  }

  /** Where `buffer` belongs among those that wait, of which the last is taken next. */
  #placeAmong(waiting: readonly B[], buffer: B): number {
    const { numberOf } = this;
    if (numberOf === undefined) return waiting.length;
    const number = numberOf(buffer);
    let [low, high] = [0, waiting.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (numberOf(waiting[middle]) > number) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Destroys every waiting buffer. */
  trim(): void {
    for (const { buffers } of this.#free.values()) buffers.forEach(this.destroy);
    this.#free.clear();
    this.#pooled = 0;
  }
}

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

/** Buffers of type `B` by size class. */
export class Pool<B> {
  #free = new Map<number, B[]>();
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
    let buffer = this.#free.get(size)?.pop();
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
    if (this.#live + this.#pooled + size > Math.max(this.#peak * 1.5, 2 ** 26)) {
      this.destroy(buffer);
      return;
    }
    const waiting = this.#free.get(size);
    if (waiting === undefined) this.#free.set(size, [buffer]);
    else waiting.splice(this.#placeAmong(waiting, buffer), 0, buffer);
    this.#pooled += size;
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
    for (const waiting of this.#free.values()) waiting.forEach(this.destroy);
    this.#free.clear();
    this.#pooled = 0;
  }
}

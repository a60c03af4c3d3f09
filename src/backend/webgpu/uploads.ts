/**
 * Small uploads that wait their turn: bytes that a recorded copy will move when the batch comes to it.
 *
 * The queue writes a buffer ahead of everything that is only recorded. Where the batch has used the buffer
 * already, the bytes go through here instead, so that no batch is cut short for a few numbers.
 *
 * @module
 */

import { BufferUsage } from "./flags.ts";

/** Bytes that one batch may upload this way. */
const CAPACITY = 2 ** 18;

/** The uploads of the batch that is being recorded. */
export class Uploads {
  readonly #device: GPUDevice;
  readonly #bytes = new Uint8Array(CAPACITY);
  #buffer: GPUBuffer | undefined;
  #used = 0;

  /** Uploads to `device`. */
  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** Whether `length` more bytes, a multiple of four, fit this batch. */
  holds(length: number): boolean {
    return this.#used + length <= CAPACITY;
  }

  /** Records the copy of `content`, whole words, to the start of `target`. */
  record(commands: GPUCommandEncoder, target: GPUBuffer, content: Uint8Array): void {
    this.#buffer ??= this.#device.createBuffer({
      label: "levin uploads",
      size: CAPACITY,
      usage: BufferUsage.COPY_SRC | BufferUsage.COPY_DST,
    });
    this.#bytes.set(content, this.#used);
    commands.copyBufferToBuffer(this.#buffer, this.#used, target, 0, content.byteLength);
    this.#used += content.byteLength;
  }

  /** Hands the bytes to the queue: just before the batch is submitted. */
  flush(): void {
    if (this.#used === 0) return;
    this.#device.queue.writeBuffer(this.#buffer!, 0, this.#bytes, 0, this.#used);
    this.#used = 0;
  }

  /** Frees the buffer. */
  destroy(): void {
    this.#buffer?.destroy();
  }
}

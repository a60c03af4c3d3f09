/**
 * Bringing bytes back from the GPU through mappable staging buffers.
 *
 * @module
 */
import { Pool } from "../pool.ts";
import type { ErrorLog } from "./errors.ts";

/** The staging buffers of one device. */
export class Readback {
  readonly #errors: ErrorLog;
  readonly #staging: Pool<GPUBuffer>;

  /** Makes staging buffers on `device`. */
  constructor(device: GPUDevice, errors: ErrorLog) {
    this.#errors = errors;
    this.#staging = new Pool(
      (size) =>
        errors.watch(`staging ${size} bytes`, "out-of-memory", () =>
          device.createBuffer({
            label: "levin staging",
            size,
            usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
          })),
      (buffer) => buffer.destroy(),
    );
  }

  /**
   * Records a copy of some bytes of `source`. Once the commands have been submitted, the function it
   * returns waits for them and resolves to the bytes.
   */
  record(
    commands: GPUCommandEncoder,
    source: GPUBuffer,
    byteOffset: number,
    byteLength: number,
  ): () => Promise<ArrayBuffer> {
    // Copies move whole words.
    const first = Math.floor(byteOffset / 4) * 4;
    const length = Math.ceil((byteOffset + byteLength) / 4) * 4 - first;
    const staging = this.#staging.take(length);
    commands.copyBufferToBuffer(source, first, staging, 0, length);
    return async () => {
      await this.#errors.orLost(staging.mapAsync(GPUMapMode.READ, 0, length));
      const start = byteOffset - first;
      const bytes = staging.getMappedRange(0, length).slice(start, start + byteLength);
      staging.unmap();
      this.#staging.give(staging, length);
      return bytes;
    };
  }

  /** Destroys the staging buffers that wait. */
  destroy(): void {
    this.#staging.trim();
  }
}

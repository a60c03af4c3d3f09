/**
 * Bringing bytes back from the GPU through mappable staging buffers.
 *
 * Deno waits for the GPU inside `mapAsync`, but tells so 10 ms later: its future sleeps before it looks
 * again. The bytes are there as soon as the call returns, so they are taken then. In versions that are known
 * to work so, and from buffers that have been mapped before: `getMappedRange` ends the process on others.
 *
 * @module
 */
import { Pool } from "../pool.ts";
import type { ErrorLog } from "./errors.ts";
import { BufferUsage, MAP_MODE_READ } from "./flags.ts";

/** Versions of Deno in which bytes have been taken at once thousands of times without a wrong one. */
const MAPS_INSIDE_THE_CALL = ["2.9.6"];

/** The staging buffers of one device. */
export class Readback {
  readonly #device: GPUDevice;
  readonly #errors: ErrorLog;
  readonly #staging: Pool<GPUBuffer>;
  readonly #atOnce: boolean;
  /** Staging buffers that have been mapped, and waited for, once. */
  readonly #warm = new WeakSet<GPUBuffer>();
  #mark: GPUBuffer | undefined;

  /** Makes staging buffers on `device`; `atOnce` says whether the runtime maps inside the call. */
  constructor(device: GPUDevice, errors: ErrorLog, atOnce: boolean = mapsInsideTheCall(device)) {
    this.#device = device;
    this.#errors = errors;
    this.#atOnce = atOnce;
    this.#staging = new Pool(
      (size) =>
        errors.watch(`staging ${size} bytes`, "out-of-memory", () =>
          device.createBuffer({
            label: "levin staging",
            size,
            usage: BufferUsage.MAP_READ | BufferUsage.COPY_DST,
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
      const mapped = this.#mappedAtOnce(staging, length) ?? await this.#mapped(staging, length);
      const start = byteOffset - first;
      const bytes = mapped.slice(start, start + byteLength);
      staging.unmap();
      this.#staging.give(staging, length);
      return bytes;
    };
  }

  /**
   * Records a mark. Once the commands have been submitted, the function it returns resolves when the GPU has
   * come to it, and with it to all that was submitted before.
   */
  recordMark(commands: GPUCommandEncoder): () => Promise<unknown> {
    if (!this.#atOnce) return () => this.#errors.orLost(this.#device.queue.onSubmittedWorkDone());
    this.#mark ??= this.#device.createBuffer({ size: 4, usage: BufferUsage.COPY_SRC });
    return this.record(commands, this.#mark, 0, 4);
  }

  /** The bytes of `staging`, if they can be had without waiting for the event loop. */
  #mappedAtOnce(staging: GPUBuffer, length: number): ArrayBuffer | undefined {
    if (!this.#atOnce || !this.#warm.has(staging)) return undefined;
    // It settles later, when the bytes have long been taken and the buffer is unmapped again.
    staging.mapAsync(MAP_MODE_READ, 0, length).catch(() => {});
    try {
      return staging.getMappedRange(0, length);
    } catch {
      // The bytes are not there yet; or the device was lost, which the way that waits finds out.
      try {
        staging.unmap();
      } catch { /* Nothing was under way. */ }
      return undefined;
    }
  }

  async #mapped(staging: GPUBuffer, length: number): Promise<ArrayBuffer> {
    await this.#errors.orLost(staging.mapAsync(MAP_MODE_READ, 0, length));
    this.#warm.add(staging);
    return staging.getMappedRange(0, length);
  }

  /** Destroys the staging buffers that wait. */
  destroy(): void {
    this.#staging.trim();
    this.#mark?.destroy();
  }
}

/** Whether `device` is of a runtime whose `mapAsync` returns when the bytes are there. */
function mapsInsideTheCall(device: GPUDevice): boolean {
  const { Deno: deno } = globalThis as { Deno?: typeof Deno };
  return deno !== undefined && MAPS_INSIDE_THE_CALL.includes(deno.version.deno) &&
    typeof GPUDevice === "function" && device instanceof GPUDevice;
}

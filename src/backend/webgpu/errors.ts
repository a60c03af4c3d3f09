/**
 * What goes wrong on the GPU, gathered until somebody reads: WebGPU reports errors later than the call
 * that caused them, and outside it.
 *
 * @module
 */
import { DeviceError } from "../../errors.ts";

/** The errors of one device. */
export class ErrorLog {
  /** Resolves, never rejects, when the device is lost. */
  readonly lost: Promise<void>;
  readonly #device: GPUDevice;
  #loss: string | undefined;
  #reports: string[] = [];
  #pending = new Set<Promise<void>>();
  #batch = new Set<string>();
  /** Those who wait and want to hear of a loss; they leave, or a long run would gather thousands. */
  #waiting = new Set<(loss: DeviceError) => void>();

  /** Listens to `device`. */
  constructor(device: GPUDevice) {
    this.#device = device;
    this.lost = device.lost.then(({ reason, message }) => {
      this.#loss = `the GPU device was lost (${reason || "unknown"}: ${message || "no message"})`;
      for (const reject of this.#waiting) reject(new DeviceError(this.#loss));
    });
    device.addEventListener("uncapturederror", (event) => {
      this.#reports.push((event as GPUUncapturedErrorEvent).error.message);
    });
  }

  /** Calls `fn`; an error that the device reports for it will carry the name `what`. */
  watch<T>(what: string, filter: GPUErrorFilter, fn: () => T): T {
    this.#device.pushErrorScope(filter);
    try {
      return fn();
    } finally {
      this.#expect(what);
    }
  }

  /** Opens the batch that commands are recorded into. */
  beginBatch(): void {
    this.#device.pushErrorScope("validation");
  }

  /** Notes that the operation `name` was recorded into the batch. */
  noteUse(name: string): void {
    this.#batch.add(name);
  }

  /** Closes the batch: its errors will carry the names of its operations. */
  endBatch(): void {
    const names = [...this.#batch].join(", ");
    this.#batch.clear();
    this.#expect(names || "a copy");
  }

  /** Throws DeviceError if the device has been lost. */
  throwIfLost(): void {
    if (this.#loss !== undefined) {
      throw new DeviceError(`Cannot go on: ${this.#loss}; call init() again for a new device`);
    }
  }

  /** Waits for every report under way, and throws what has been reported since the last time. */
  async throwIfAny(): Promise<void> {
    while (this.#pending.size > 0) await this.orLost(Promise.all(this.#pending));
    this.throwIfLost();
    if (this.#reports.length === 0) return;
    const reports = this.#reports.splice(0).map((text) => text.trim());
    throw new DeviceError(`The GPU reported: ${[...new Set(reports)].join("; ")}`);
  }

  /** `promise`, or a DeviceError as soon as the device is lost. */
  async orLost<T>(promise: Promise<T>): Promise<T> {
    const { promise: gone, reject } = Promise.withResolvers<never>();
    this.#waiting.add(reject);
    try {
      return await Promise.race([promise, gone]);
    } catch (cause) {
      // When a device is lost, what waits for it may be rejected before the loss is announced.
      await new Promise((resolve) => setTimeout(resolve));
      this.throwIfLost();
      throw new DeviceError(`The GPU failed: ${(cause as Error).message}`, { cause });
    } finally {
      this.#waiting.delete(reject);
    }
  }

  #expect(what: string): void {
    const report = this.#device.popErrorScope().then((error) => {
      if (error !== null) this.#reports.push(`in ${what}: ${error.message}`);
    }, () => {}).finally(() => this.#pending.delete(report));
    this.#pending.add(report);
  }
}

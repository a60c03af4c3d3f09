/**
 * Reference-counted device memory: what several tensors that look at the same elements share.
 *
 * @module
 */
import type { DeviceBuffer } from "./backend/contract.ts";
import type { Device } from "./device.ts";

/** A device buffer that is given back when its last holder lets go. */
export class Storage {
  /** Where the bytes lie. */
  readonly buffer: DeviceBuffer;
  /** Rises with every write in place, so that a gradient rule can tell that what it saved is gone. */
  version = 0;
  #holders = 1;

  /** Allocates `bytes` bytes, held once, which `write` writes. Throws LimitError when they can never fit. */
  constructor(
    /** Where the buffer lives. */
    readonly device: Device,
    bytes: number,
    write?: (memory: Uint8Array) => void,
  ) {
    this.buffer = device.engine.allocate(bytes, write);
  }

  /** Whether the last holder has let go. */
  get released(): boolean {
    return this.#holders === 0;
  }

  /** Adds a holder. */
  retain(): this {
    this.#holders++;
    return this;
  }

  /** Removes a holder; the last one frees the buffer. */
  release(): void {
    if (--this.#holders === 0) this.device.engine.release(this.buffer);
  }
}

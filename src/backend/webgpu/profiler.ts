/**
 * GPU times by timestamp queries: two for every dispatch, which then has a pass of its own.
 *
 * @module
 */
import { DeviceError } from "../../errors.ts";
import type { Span } from "../contract.ts";
import { BufferUsage } from "./flags.ts";
import type { Readback } from "./readback.ts";

/** The most queries of one set that WebGPU allows. */
const QUERIES_PER_SET = 4096;

/** The dispatches of one profile, and the times that the GPU wrote at their beginnings and ends. */
export class Profiler {
  readonly #device: GPUDevice;
  readonly #readback: Readback;
  readonly #sets: GPUQuerySet[] = [];
  readonly #names: string[] = [];

  /** Profiles `device`, and reads the times through `readback`. */
  constructor(device: GPUDevice, readback: Readback) {
    if (!device.features.has("timestamp-query")) {
      throw new DeviceError(
        `Cannot profile: the device has no "timestamp-query"; ask for that feature when opening it`,
      );
    }
    this.#device = device;
    this.#readback = readback;
  }

  /** What the pass of the next dispatch, called `name`, has to write. */
  timestamps(name: string): GPUComputePassTimestampWrites {
    const query = 2 * this.#names.length % QUERIES_PER_SET;
    if (query === 0) {
      this.#sets.push(this.#device.createQuerySet({ type: "timestamp", count: QUERIES_PER_SET }));
    }
    this.#names.push(name);
    return {
      querySet: this.#sets.at(-1)!,
      beginningOfPassWriteIndex: query,
      endOfPassWriteIndex: query + 1,
    };
  }

  /** Records copies of all times. Once the commands have been submitted, what it returns reads them. */
  record(commands: GPUCommandEncoder): () => Promise<Span[]> {
    const landings = this.#sets.map((set, i) => {
      const count = Math.min(QUERIES_PER_SET, 2 * this.#names.length - i * QUERIES_PER_SET);
      const usage = BufferUsage.QUERY_RESOLVE | BufferUsage.COPY_SRC;
      const times = this.#device.createBuffer({ size: 8 * count, usage });
      commands.resolveQuerySet(set, 0, count, times, 0);
      return { set, times, read: this.#readback.record(commands, times, 0, 8 * count) };
    });
    return async () => {
      const nanoseconds: bigint[] = [];
      for (const { set, times, read } of landings) {
        nanoseconds.push(...new BigUint64Array(await read()));
        times.destroy();
        set.destroy();
      }
      return this.#names.map((name, i) => {
        const [began, ended] = nanoseconds.slice(2 * i, 2 * i + 2);
        return {
          name,
          startMs: Number(began - nanoseconds[0]) / 1e6,
          ms: Number(ended - began) / 1e6,
        };
      });
    };
  }
}

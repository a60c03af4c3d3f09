/**
 * The threads of the WebAssembly backend: the host, which takes part in the work, and workers that are started
 * when there is first something to share.
 *
 * @module
 */
import { DeviceError } from "../../errors.ts";
import type { WasmJob } from "../contract.ts";
import {
  canShare,
  CONTROL_BYTES,
  instantiate,
  kernelsOf,
  PARAMS,
  startWorker,
  WORD,
} from "./control.ts";

type Perform = (
  control: number,
  kernel: number,
  tasks: number,
  workers: number,
  maySleep: boolean,
) => number;

/** Runs jobs, one at a time. */
export class Threads {
  /** Places of kernels, by name. */
  readonly kernels: ReadonlyMap<string, number>;
  /** The first address that the module leaves free, after the control block. */
  readonly heap: number;
  readonly #control: number;
  readonly #words: Int32Array;
  readonly #perform: Perform;
  readonly #maySleep: boolean;
  #workers: (() => void)[] = [];

  /** Threads, the host included: one where memory cannot be shared. */
  readonly count: number;

  /** At most `most` threads over `memory`. */
  constructor(
    readonly module: WebAssembly.Module,
    readonly memory: WebAssembly.Memory,
    most: number,
  ) {
    this.count = most > 1 && canShare() ? most : 1;
    const { exports, first } = instantiate(module, memory);
    this.kernels = new Map(kernelsOf(exports).map((name, i) => [name, first + i]));
    this.#perform = exports.perform as Perform;
    this.#control = Math.ceil((exports.HEAP as WebAssembly.Global).value / 64) * 64;
    this.heap = this.#control + CONTROL_BYTES;
    this.#words = new Int32Array(memory.buffer, this.#control, CONTROL_BYTES / 4);
    this.#maySleep = mayWait(this.#words);
  }

  /** Tells where all threads may work, so many bytes for each. */
  setScratch(address: number, bytesPerThread: number): void {
    this.#words[WORD.scratch] = address;
    this.#words[WORD.scratchBytes] = bytesPerThread;
  }

  /** Runs a job to its end. Throws DeviceError if a worker died in it. */
  run({ kernel, params, tasks }: WasmJob): void {
    if (PARAMS + params.length > this.#words.length) {
      throw new DeviceError(`${kernel}: ${params.length} params are more than a job has room for`);
    }
    for (let i = 0; i < params.length; i++) this.#words[PARAMS + i] = params[i];
    if (tasks > 1) this.#start();
    const place = this.kernels.get(kernel)!;
    const workers = this.#workers.length;
    if (this.#perform(this.#control, place, tasks, workers, this.#maySleep) === 1) return;
    throw new DeviceError(
      `Cannot finish ${kernel}: a worker thread died; make a new device, or set LEVIN_THREADS=1`,
    );
  }

  /** Ends the workers. */
  destroy(): void {
    Atomics.store(this.#words, WORD.quit, 1);
    Atomics.add(this.#words, WORD.generation, 1);
    Atomics.notify(this.#words, WORD.generation);
    this.#workers.forEach((end) => end());
    this.#workers = [];
  }

  #start(): void {
    const { module, memory } = this;
    for (let thread = this.#workers.length + 1; thread < this.count; thread++) {
      this.#workers.push(startWorker({ module, memory, control: this.#control, thread }));
    }
  }
}

/** Whether this thread may sleep; that of a browser's page may not. */
function mayWait(words: Int32Array): boolean {
  try {
    // Not the value that is there, so it returns at once.
    Atomics.wait(words, WORD.active, -1, 0);
    return true;
  } catch {
    return false;
  }
}

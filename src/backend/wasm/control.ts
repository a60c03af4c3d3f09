/**
 * The words that the threads share, as assembly/threads.ts lays them out, and the workers' program.
 *
 * @module
 */

/** Places of words, counted from the control block, that the host reads or writes. */
export const WORD = { generation: 0, active: 2, failed: 7, scratch: 8, scratchBytes: 9, quit: 10 };
/** Where a job's params begin, in words. */
export const PARAMS = 16;
/** Bytes of the control block: 64 for the words above, the rest for params. */
export const CONTROL_BYTES = 4096;

/** What a worker is given. */
export interface WorkerStart {
  /** The compiled module. */
  readonly module: WebAssembly.Module;
  /** The memory that all threads share. */
  readonly memory: WebAssembly.Memory;
  /** Where the control block begins. */
  readonly control: number;
  /** Its number; the host is 0. */
  readonly thread: number;
}

/** The exports of a module that are kernels, in the order of their places in the table. */
export function kernelsOf(exports: WebAssembly.Exports): string[] {
  const others = ["perform", "serve"];
  return Object.keys(exports).filter((name) =>
    typeof exports[name] === "function" && !others.includes(name)
  );
}

/** An instance whose table holds its kernels, from `first` on. */
export function instantiate(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
): { exports: WebAssembly.Exports; first: number } {
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  const table = exports.table as WebAssembly.Table;
  const kernels = kernelsOf(exports);
  const first = table.grow(kernels.length);
  kernels.forEach((name, i) => table.set(first + i, exports[name] as () => void));
  return { exports, first };
}

/** What a worker does. Sent as text, so it may use nothing but its argument and the two functions above. */
function live({ module, memory, control, thread }: WorkerStart): void {
  const { exports } = instantiate(module, memory);
  const words = new Int32Array(memory.buffer, control, 16);
  try {
    (exports.serve as (control: number, thread: number) => void)(control, thread);
  } catch (error) {
    // The task is lost: the host must not wait for it.
    Atomics.store(words, 7, 1);
    Atomics.store(words, 2, 0);
    Atomics.notify(words, 2);
    throw error;
  }
}

/** Where runtimes with Node's modules keep them; works in Deno, Bun and Node ≥ 20.16. */
interface NodeProcess {
  getBuiltinModule?(name: string): {
    Worker: new (code: string, options: object) => {
      unref(): void;
      on(event: "error", listener: () => void): void;
      terminate(): void;
    };
  } | undefined;
}

function nodeThreads() {
  const { process } = globalThis as { process?: NodeProcess };
  return process?.getBuiltinModule?.("node:worker_threads");
}

/** Whether workers can be given the memory: a page of a browser has to be cross-origin isolated for that. */
export function canShare(): boolean {
  return nodeThreads() !== undefined ||
    (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated === true;
}

/** Starts a worker that does not keep the process alive, and gives what ends it. */
export function startWorker(start: WorkerStart): () => void {
  const program = `${kernelsOf}\n${instantiate}\n(${live})`;
  const threads = nodeThreads();
  if (threads !== undefined) {
    const code = `${program}(require("node:worker_threads").workerData);`;
    const worker = new threads.Worker(code, { eval: true, workerData: start });
    // The host learns of a failure through the control block.
    worker.on("error", () => {});
    worker.unref();
    return () => worker.terminate();
  }
  const code = `onmessage = ({ data }) => { ${program}(data); };`;
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const worker = new Worker(url);
  worker.postMessage(start);
  return () => {
    worker.terminate();
    URL.revokeObjectURL(url);
  };
}

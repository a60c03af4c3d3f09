/**
 * The WebAssembly backend: tensors lie in one shared memory, and programs are jobs for kernels in SIMD that
 * several threads work on. A program without kernels runs its CPU function over the same memory. All is done when
 * `run` returns.
 *
 * @module
 */
import { bytesOf, type KernelArray } from "../../dtype.ts";
import { DeviceError, LimitError } from "../../errors.ts";
import { collapse, contiguousStrides, sizeOf } from "../../shape.ts";
import {
  type Backend,
  type BackendActivity,
  type BackendMemory,
  type CpuView,
  type DeviceBuffer,
  extentOf,
  type Program,
  type Span,
  type View,
  type WasmContext,
  type WasmJob,
  type WasmView,
} from "../contract.ts";
import { Pool } from "../pool.ts";
import { Heap } from "./heap.ts";
import { moduleOf, supportedVariant, type Variant } from "./module.ts";
import { Threads } from "./threads.ts";

interface Block {
  readonly address: number;
  /** The bytes that it was made with. */
  readonly size: number;
}

interface WasmBuffer extends DeviceBuffer {
  readonly block: Block;
}

/** Float16 in memory, and a dense float32 copy of it. */
interface Widened {
  readonly stored: View;
  readonly copy: WasmBuffer;
}

/** How the backend runs. */
export interface WasmBackendOptions {
  /** Threads, the caller's own included. Default 1. */
  readonly threads?: number;
  /** Which module. Default: the better one that the runtime has. */
  readonly variant?: Variant;
  /** Bytes that its memory may grow to. Default 4 GiB, all that an address of 32 bits reaches. */
  readonly memoryBytes?: number;
}

const PAGE = 65536;

/**
 * Bytes between large blocks: pages of the system and lines of the cache. Rows at the same distance from the beginnings
 * of several tensors would else meet in few places of caches and page tables, and the processor not read ahead of so
 * many streams: six of them 2²⁸ bytes apart took up to 9 ns a line, with this between them 0.1.
 */
const APART = 9 * 4096 + 17 * 64;
/** Bytes from which a block is large. */
const LARGE = 2 ** 20;

/** Elements between float16 and float32 that are worth a task. */
const CONVERTED = 2 ** 14;

/** The instructions of a variant, in words. */
const SIMD: Record<Variant, string> = {
  relaxed: "relaxed SIMD (fused multiply-add where the processor has it)",
  simd: "plain SIMD (no fused multiply-add)",
};

/** Programs as WebAssembly kernels. */
export class WasmBackend implements Backend {
  readonly kind = "wasm";
  readonly software = true;
  readonly name = "CPU, WebAssembly SIMD";
  readonly details: readonly string[];
  readonly bindingBytes = Infinity;
  readonly loopTurns = Infinity;
  readonly #memory: WebAssembly.Memory;
  readonly #threads: Threads;
  readonly #pool: Pool<Block>;
  #scratch: WasmBuffer | undefined;
  #scratchBytes = 0;
  #spans: Span[] | undefined;
  #dispatches = 0;
  #uploads = 0;

  /** Throws DeviceError where the runtime has no WebAssembly SIMD. */
  constructor(
    { threads = 1, variant = supportedVariant(), memoryBytes = 2 ** 32 }: WasmBackendOptions = {},
  ) {
    if (variant === undefined) {
      throw new DeviceError(
        `Cannot initialise the WebAssembly backend: this runtime has no WebAssembly SIMD; use ` +
          `init({ backend: "cpu" })`,
      );
    }
    const module = moduleOf(variant);
    const initial = 4 * 2 ** 20;
    const { memory, most } = reserve(initial, Math.max(initial, memoryBytes));
    this.#memory = memory;
    this.#threads = new Threads(module, memory, threads);
    const heap = new Heap(memory, this.#threads.heap, most);
    const taken = (size: number) => size < LARGE ? size : size + APART;
    this.#pool = new Pool<Block>(
      (size) => ({ address: heap.take(taken(size)), size }),
      ({ address, size }) => heap.give(address, taken(size)),
    );
    const { count } = this.#threads;
    this.details = [
      `${count} ${count === 1 ? "thread" : "threads"}, ${SIMD[variant]}`,
      "kernels: every operation of Levin; your own run their cpu function, on one thread",
      `memory: at most ${most} bytes`,
    ];
  }

  allocate(bytes: number, write?: (memory: Uint8Array) => void): WasmBuffer {
    const block = this.#take(bytes);
    if (write === undefined) return { bytes, block };
    try {
      write(this.#bytes(block.address, bytes));
    } catch (error) {
      this.#pool.give(block, bytes);
      throw error;
    }
    this.#uploads++;
    return { bytes, block };
  }

  release(buffer: DeviceBuffer): void {
    this.#pool.give((buffer as WasmBuffer).block, buffer.bytes);
  }

  read(buffer: DeviceBuffer, byteOffset: number, byteLength: number): Promise<ArrayBuffer> {
    const copy = new Uint8Array(byteLength);
    copy.set(this.#bytes((buffer as WasmBuffer).block.address + byteOffset, byteLength));
    return Promise.resolve(copy.buffer);
  }

  run<Options>(
    program: Program<Options>,
    inputs: View[],
    outputs: View[],
    options: Options,
  ): void {
    this.#dispatches++;
    const startMs = this.#spans && performance.now();
    const temporary: WasmBuffer[] = [];
    let hasKernels = true;
    try {
      const widened: Widened[] = [];
      const widen = (view: View) => this.#wasmView(view, widened, temporary);
      const sources = inputs.map(widen);
      const read = widened.length;
      const targets = outputs.map(widen);
      // What an output holds before is read too: some programs add to it, or write a part.
      for (const item of widened) this.#convert(item, true);
      hasKernels = this.#work(program, sources, targets, options, temporary);
      for (const item of widened.slice(read)) this.#convert(item, false);
    } finally {
      for (const buffer of temporary) this.release(buffer);
    }
    if (startMs === undefined) return;
    // So that a profile shows what has no kernels.
    const name = hasKernels ? program.name : `${program.name} (TypeScript)`;
    this.#spans?.push({ name, startMs, ms: performance.now() - startMs });
  }

  startProfile(): void {
    this.#spans = [];
  }

  stopProfile(): Promise<Span[]> {
    const spans = this.#spans ?? [];
    this.#spans = undefined;
    return Promise.resolve(spans);
  }

  synchronize(): Promise<void> {
    return Promise.resolve();
  }

  memory(): BackendMemory {
    const scratch = this.#scratch?.block.size ?? 0;
    return {
      liveBytes: this.#pool.liveBytes - scratch,
      pooledBytes: this.#pool.pooledBytes + scratch,
    };
  }

  activity(): BackendActivity {
    return { dispatches: this.#dispatches, submits: 0, uploads: this.#uploads, bindGroups: 0 };
  }

  trim(): void {
    if (this.#scratch !== undefined) this.release(this.#scratch);
    this.#scratch = undefined;
    this.#scratchBytes = 0;
    this.#pool.trim();
  }

  destroy(): void {
    this.trim();
    this.#threads.destroy();
  }

  /** A block of the pool; if there is none, of what giving back all pooled blocks makes free. */
  #take(bytes: number): Block {
    try {
      return this.#pool.take(bytes);
    } catch (error) {
      if (!(error instanceof LimitError)) throw error;
      this.#pool.trim();
      return this.#pool.take(bytes);
    }
  }

  #bytes(address: number, length: number): Uint8Array {
    return new Uint8Array(this.#memory.buffer, address, length);
  }

  /**
   * The jobs of a program, all planned and given room before the first one runs; or its CPU function. Tells
   * which.
   */
  #work<Options>(
    program: Program<Options>,
    inputs: WasmView[],
    outputs: WasmView[],
    options: Options,
    temporary: WasmBuffer[],
  ): boolean {
    const context: WasmContext = {
      kernel: (name) => this.#threads.kernels.get(name),
      scratch: (count) => {
        const buffer = this.allocate(4 * Math.max(1, count));
        temporary.push(buffer);
        return buffer.block.address;
      },
    };
    const planned = program.wasm?.(inputs, outputs, options, context);
    if (planned !== undefined) {
      const jobs: WasmJob[] = [planned].flat().filter(({ tasks }) => tasks > 0);
      this.#provide(Math.max(0, ...jobs.map(({ scratchBytes = 0 }) => scratchBytes)));
      for (const job of jobs) this.#threads.run(job);
      return true;
    }
    if (program.cpu === undefined) {
      throw new DeviceError(
        `Cannot run ${program.name} on the CPU: it has no CPU function; give defineOp a \`cpu\`, ` +
          `or use a WebGPU device`,
      );
    }
    program.cpu(inputs.map(this.#cpuView), outputs.map(this.#cpuView), options);
    return false;
  }

  /** Makes sure that every thread has so many bytes to work in. */
  #provide(bytesPerThread: number): void {
    if (bytesPerThread <= this.#scratchBytes) return;
    const own = Math.ceil(bytesPerThread / 4096) * 4096;
    const next = this.allocate(own * this.#threads.count);
    if (this.#scratch !== undefined) this.release(this.#scratch);
    this.#scratch = next;
    this.#scratchBytes = own;
    this.#threads.setScratch(next.block.address, own);
  }

  #wasmView(view: View, widened: Widened[], temporary: WasmBuffer[]): WasmView {
    const { dtype, shape, strides, offset } = view;
    const { address } = (view.buffer as WasmBuffer).block;
    if (dtype !== "f16" || sizeOf(shape) === 0) {
      return { dtype, shape, strides, offset, base: address };
    }
    const [first, last] = extentOf(view);
    const count = last - first + 1;
    // All that the view spans, as it lies, unless there is something between its elements.
    const sparse = count > sizeOf(shape);
    const spanned = { ...view, shape: [count], strides: [1], offset: first };
    const copy = this.allocate(4 * (sparse ? sizeOf(shape) : count));
    temporary.push(copy);
    widened.push({ stored: sparse ? view : spanned, copy });
    const place = sparse
      ? { strides: contiguousStrides(shape), offset: 0 }
      : { strides, offset: offset - first };
    return { dtype, shape, ...place, base: copy.block.address };
  }

  /** Between float16 and its float32 copy. */
  #convert({ stored, copy }: Widened, widen: boolean): void {
    const { shape, strides: [strides] } = collapse(stored.shape, [stored.strides]);
    const length = shape.pop() ?? 1;
    const step = strides.pop() ?? 1;
    const [rows, chunk] = [sizeOf(shape), Math.min(length, CONVERTED)];
    const perTask = Math.max(1, Math.floor(CONVERTED / length));
    const bytes = bytesOf("f16");
    this.#threads.run({
      kernel: widen ? "widen" : "narrow",
      params: [
        (stored.buffer as WasmBuffer).block.address + bytes * stored.offset,
        ...[copy.block.address, length, chunk, rows, perTask, shape.length, bytes * step],
        ...[...shape, ...strides.map((elements) => bytes * elements)],
      ],
      tasks: Math.ceil(length / chunk) * Math.ceil(rows / perTask),
    });
  }

  /** The view as CPU functions see it: it starts at the first element that it touches. */
  readonly #cpuView = ({ dtype, shape, strides, offset, base }: WasmView): CpuView => {
    const size = sizeOf(shape);
    const [first, last] = size === 0 ? [0, -1] : extentOf({ shape, strides, offset });
    const place = [this.#memory.buffer, base + 4 * first, last - first + 1] as const;
    let data: KernelArray;
    if (dtype === "f32" || dtype === "f16") data = new Float32Array(...place);
    else if (dtype === "i32") data = new Int32Array(...place);
    else data = new Uint32Array(...place);
    return { dtype, shape, strides, offset: offset - first, data };
  };
}

/** A shared memory that may grow as far as the system reserves addresses for, and how far that is. */
function reserve(initial: number, wanted: number): { memory: WebAssembly.Memory; most: number } {
  for (let most = wanted;; most = Math.max(initial, most / 2)) {
    try {
      const pages = { initial: initial / PAGE, maximum: Math.floor(most / PAGE) };
      const memory = new WebAssembly.Memory({ ...pages, shared: true });
      return { memory, most: pages.maximum * PAGE };
    } catch (cause) {
      if (most > initial) continue;
      throw new DeviceError(
        `Cannot initialise the WebAssembly backend: the runtime refuses it ${initial} bytes of ` +
          `shared memory; use init({ backend: "cpu" })`,
        { cause },
      );
    }
  }
}

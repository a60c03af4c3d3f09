/**
 * The CPU backend: buffers are ArrayBuffers, programs are plain functions over typed arrays, run at
 * once. It needs nothing but the language, and it is what every GPU kernel is tested against.
 *
 * @module
 */
import { deviceArray, type KernelArray } from "../../dtype.ts";
import { DeviceError, LimitError } from "../../errors.ts";
import { sizeOf } from "../../shape.ts";
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
} from "../contract.ts";
import { Pool } from "../pool.ts";

interface CpuBuffer extends DeviceBuffer {
  readonly memory: ArrayBuffer;
}

/** Programs as plain TypeScript over typed arrays. */
export class CpuBackend implements Backend {
  readonly kind = "cpu";
  readonly software = true;
  readonly name = "CPU, plain TypeScript";
  readonly details: readonly string[] = [];
  readonly bindingBytes = Infinity;
  readonly loopTurns = Infinity;

  #pool = new Pool<ArrayBuffer>((bytes) => {
    try {
      return new ArrayBuffer(bytes);
    } catch {
      throw new LimitError(`Cannot allocate ${bytes} bytes: the runtime has no room for them`);
    }
  }, () => {});

  #spans: Span[] | undefined;
  #dispatches = 0;
  #uploads = 0;

  allocate(bytes: number, write?: (memory: Uint8Array) => void): CpuBuffer {
    const memory = this.#pool.take(bytes);
    if (write === undefined) return { bytes, memory };
    try {
      write(new Uint8Array(memory, 0, bytes));
    } catch (error) {
      this.#pool.give(memory, bytes);
      throw error;
    }
    this.#uploads++;
    return { bytes, memory };
  }

  release(buffer: DeviceBuffer): void {
    this.#pool.give((buffer as CpuBuffer).memory, buffer.bytes);
  }

  read(buffer: DeviceBuffer, byteOffset: number, byteLength: number): Promise<ArrayBuffer> {
    return Promise.resolve((buffer as CpuBuffer).memory.slice(byteOffset, byteOffset + byteLength));
  }

  run<Options>(
    program: Program<Options>,
    inputs: View[],
    outputs: View[],
    options: Options,
  ): void {
    if (program.cpu === undefined) {
      throw new DeviceError(
        `Cannot run ${program.name} on the CPU: it has no CPU function; give defineOp a \`cpu\`, ` +
          `or use a WebGPU device`,
      );
    }
    this.#dispatches++;
    const startMs = this.#spans && performance.now();
    const results = outputs.map(widen);
    program.cpu(inputs.map(widen), results, options);
    outputs.forEach((view, i) => narrow(view, results[i]));
    if (startMs === undefined) return;
    this.#spans?.push({ name: program.name, startMs, ms: performance.now() - startMs });
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
    return { liveBytes: this.#pool.liveBytes, pooledBytes: this.#pool.pooledBytes };
  }

  activity(): BackendActivity {
    return { dispatches: this.#dispatches, submits: 0, uploads: this.#uploads, bindGroups: 0 };
  }

  trim(): void {
    this.#pool.trim();
  }

  destroy(): void {
    this.trim();
  }
}

/**
 * The view as kernels see it: a dense view starts at element 0 and holds exactly its elements;
 * float16 becomes a float32 copy of what the view touches.
 */
function widen(view: View): CpuView {
  const { dtype, shape, strides } = view;
  if (sizeOf(shape) === 0) return { data: new Float32Array(0), dtype, shape, strides, offset: 0 };
  const [first, last] = extentOf(view);
  const memory = (view.buffer as CpuBuffer).memory;
  const touched = deviceArray(dtype, memory).subarray(first, last + 1);
  const data = dtype === "f16" ? new Float32Array(touched) : touched as KernelArray;
  return { data, dtype, shape, strides, offset: view.offset - first };
}

/** Rounds what a kernel wrote in float32 back to float16 storage. */
function narrow(view: View, result: CpuView): void {
  if (view.dtype !== "f16" || sizeOf(view.shape) === 0) return;
  const [first] = extentOf(view);
  deviceArray("f16", (view.buffer as CpuBuffer).memory).set(result.data, first);
}

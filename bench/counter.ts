/** A GPU that plans everything and does nothing: what would be asked of an H200, counted without one. */
import { LimitError } from "../mod.ts";
import type { Backend, DeviceBuffer, GpuContext, Program, View } from "../mod.ts";
import { Pool } from "../src/backend/pool.ts";
import { bytesOf } from "../src/dtype.ts";
import { contiguousStrides } from "../src/shape.ts";

/** What one operation asks for. */
export interface Row {
  dispatches: number;
  bytes: number;
}

/** What kernels are planned for. */
export const H200 = {
  workgroupBytes: 49152,
  workgroupThreads: 1024,
  workgroupsPerAxis: 65535,
  bindingBytes: 2 ** 31 - 4,
  software: false,
  subgroups: true,
};

/** The largest buffer of an H200, through Vulkan. */
const LARGEST_BUFFER = 4292870144;

interface Held extends DeviceBuffer {
  /** The pooled buffer behind it: its size. */
  readonly memory: { readonly bytes: number };
}

/** Counts dispatches, the bytes that programs touch, and memory by the pool that the WebGPU backend has. */
export class Counter implements Backend {
  readonly kind = "webgpu";
  readonly name = "a counter";
  readonly software = false;
  readonly details = [];
  readonly bindingBytes = 2147483388;
  readonly loopTurns = Infinity;
  /** By operation. */
  readonly rows = new Map<string, Row>();
  /**
   * The most memory that there was at one time. A buffer that is destroyed counts until the next
   * `synchronize`, since a GPU may be a whole step behind the host.
   */
  peakBytes = 0;
  /** The largest buffer of all. */
  largestBytes = 0;
  #held = 0;
  #doomed = 0;
  readonly #pool = new Pool<Held["memory"]>((bytes) => {
    this.#held += bytes;
    this.peakBytes = Math.max(this.peakBytes, this.#held);
    this.largestBytes = Math.max(this.largestBytes, bytes);
    return { bytes };
  }, ({ bytes }) => this.#doomed += bytes);

  allocate(bytes: number): Held {
    if (bytes > LARGEST_BUFFER) {
      throw new LimitError(`Cannot allocate ${bytes} bytes: the most is ${LARGEST_BUFFER}`);
    }
    return { bytes, memory: this.#pool.take(bytes) };
  }

  release(buffer: DeviceBuffer): void {
    this.#pool.give((buffer as Held).memory, buffer.bytes);
  }

  run<Options>(
    program: Program<Options>,
    inputs: View[],
    outputs: View[],
    options: Options,
  ): void {
    let bytes = [...inputs, ...outputs].reduce((sum, view) => sum + touched(view), 0);
    const scratch: Held[] = [];
    const context: GpuContext = {
      ...H200,
      scratch: (count, dtype = "f32") => {
        // Written once and read once.
        bytes += 2 * count * bytesOf(dtype);
        const buffer = this.allocate(count * bytesOf(dtype));
        scratch.push(buffer);
        const shape = [count];
        return { buffer, dtype, shape, strides: contiguousStrides(shape), offset: 0 };
      },
    };
    const dispatches = [program.gpu!(inputs, outputs, options, context)].flat().length;
    for (const buffer of scratch) this.release(buffer);
    const row = this.rows.get(program.name) ?? { dispatches: 0, bytes: 0 };
    row.dispatches += dispatches;
    row.bytes += bytes;
    this.rows.set(program.name, row);
  }

  synchronize(): Promise<void> {
    this.#held -= this.#doomed;
    this.#doomed = 0;
    return Promise.resolve();
  }

  read = () => Promise.reject(new Error("a counter has nothing to read"));
  startProfile(): void {}
  stopProfile = () => Promise.resolve([]);
  memory = () => ({ liveBytes: this.#pool.liveBytes, pooledBytes: this.#pool.pooledBytes });
  activity = () => ({ dispatches: 0, submits: 0, uploads: 0, bindGroups: 0 });
  trim = () => this.#pool.trim();
  destroy(): void {}
}

/** Bytes of the elements that a view shows, each counted once. */
function touched({ shape, strides, dtype }: View): number {
  return shape.reduce((n, size, i) => strides[i] === 0 ? n : n * size, bytesOf(dtype));
}

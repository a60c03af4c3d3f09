/**
 * What a backend is. Everything above this file speaks only these types; nothing above knows WGSL or
 * typed-array memory, nothing below knows tensors or gradients.
 *
 * A backend owns buffers and runs programs. A program is one operation written once per kind of
 * backend: a function over typed arrays for the CPU, a list of jobs for WebAssembly, a list of dispatches
 * for WebGPU.
 *
 * @module
 */
import type { DType, KernelArray } from "../dtype.ts";
import type { Shape } from "../shape.ts";

/** The kinds of backend. */
export type BackendKind = "cpu" | "wasm" | "webgpu";

/** Memory on a device. Only the backend that made it looks inside. */
export interface DeviceBuffer {
  /** Bytes usable by its owner. */
  readonly bytes: number;
}

/** A strided window on a buffer. `strides` and `offset` count elements; strides may be 0 or negative. */
export interface View {
  /** Where the elements lie. */
  readonly buffer: DeviceBuffer;
  /** Their type. */
  readonly dtype: DType;
  /** Sizes of the axes, outermost first. */
  readonly shape: Shape;
  /** Elements from one entry of each axis to the next. */
  readonly strides: readonly number[];
  /** Elements from the buffer's start, or from `byteOffset`, to the first one. */
  readonly offset: number;
  /** Bytes from the buffer's start to where a GPU binding of it begins; set by the backend. */
  readonly byteOffset?: number;
}

/** A view as CPU functions see it. Element (i, j) is `data[offset + i * strides[0] + j * strides[1]]`. */
export interface CpuView {
  /** The dtype in storage. */
  readonly dtype: DType;
  /** The elements: Float32Array for floating dtypes, Int32Array or Uint32Array for the others. */
  readonly data: KernelArray;
  /** Sizes of the axes, outermost first. */
  readonly shape: Shape;
  /** Elements from one entry of each axis to the next. */
  readonly strides: readonly number[];
  /** Elements from the start of `data` to the first one. */
  readonly offset: number;
}

/** One dispatch of a WGSL compute shader with the entry point `main`. */
export interface Dispatch {
  /** The WGSL text, usually imported from a file in `shaders/`. */
  readonly shader: string;
  /**
   * New values for declarations of the shader, by name: a number or boolean for `const NAME`, a type
   * for `alias NAME`, an expression for the one `return` of `fn NAME`.
   */
  readonly constants?: Readonly<Record<string, number | boolean | string>>;
  /** What `@group(0) @binding(0)`, `@binding(1)`, … hold. Default: the inputs, then the outputs. */
  readonly bindings?: readonly View[];
  /**
   * The 32-bit words of the uniform block bound after the views, at most 64. Integers as they are;
   * floats through `floatBits`.
   */
  readonly params?: readonly number[];
  /** Which of the operation's kernels it is, for profiles; where there is only one, none. */
  readonly label?: string;
  /** What a workgroup makes of the output at once, for `device.describe()`: `64 × 128`. */
  readonly tile?: string;
  /** Workgroups along x, y and z. */
  readonly workgroups: readonly [number, number?, number?];
}

/**
 * Matrix units: a subgroup of `lanes` threads multiplies fragments of `side` × `side` float16 and adds to
 * one of float32 (WGSL's subgroup matrices; tensor cores are such units). side² = 8 · lanes.
 */
export interface MatrixUnits {
  /** Rows and columns of a fragment. */
  readonly side: number;
  /** Threads of a subgroup. */
  readonly lanes: number;
}

/** What a GPU program may know of the device it plans for. */
export interface GpuContext {
  /** Bytes of `var<workgroup>` that one workgroup may hold. */
  readonly workgroupBytes: number;
  /** Threads that one workgroup may have. */
  readonly workgroupThreads: number;
  /** Workgroups along one axis of a dispatch. */
  readonly workgroupsPerAxis: number;
  /** Largest window of a buffer, in bytes, that one dispatch may see at once. */
  readonly bindingBytes: number;
  /** Whether a CPU does the work, whose compiler is slow and whose caches are large. */
  readonly software: boolean;
  /** Whether the threads of a workgroup can reduce by subgroups. */
  readonly subgroups: boolean;
  /** The device's matrix units, if it has any that kernels can use. */
  readonly matrixUnits?: MatrixUnits;
  /** Memory for `count` elements that lives until the program's last dispatch has run. */
  scratch(count: number, dtype?: DType): View;
}

/** A view as WebAssembly kernels see it: float16 arrives widened to float32, so elements have 4 bytes. */
export interface WasmView {
  /** The dtype in storage. */
  readonly dtype: DType;
  /** Sizes of the axes, outermost first. */
  readonly shape: Shape;
  /** Elements from one entry of each axis to the next. */
  readonly strides: readonly number[];
  /** Elements from `base` to the first one. */
  readonly offset: number;
  /** The address that `offset` counts from. */
  readonly base: number;
}

/** One job for the threads of the WebAssembly backend. */
export interface WasmJob {
  /** The kernel: a function exported in `src/backend/wasm/assembly/`. */
  readonly kernel: string;
  /** 32-bit words for it. Integers as they are, negative ones too; floats through `floatBits`. */
  readonly params: readonly number[];
  /** How many tasks; each writes outputs that no other one writes or reads. */
  readonly tasks: number;
  /** Bytes that each thread needs to work in. Default 0. */
  readonly scratchBytes?: number;
}

/** What a WebAssembly program may know and take. */
export interface WasmContext {
  /** The place of a kernel, for kernels that call another; undefined if there is none of that name. */
  kernel(name: string): number | undefined;
  /** The address of `count` 32-bit words that live until the program's last job has run. */
  scratch(count: number): number;
}

/** One operation as backends see it. */
export interface Program<Options = unknown> {
  /** Its name, for messages and profiles. */
  readonly name: string;
  /** Writes the outputs, every element of them, on the CPU. */
  readonly cpu?: (inputs: CpuView[], outputs: CpuView[], options: Options) => void;
  /**
   * Plans the jobs that write the outputs, every element of them, in WebAssembly; or undefined for a call that
   * has no kernel. Then, or without this function, `cpu` runs over the same memory.
   */
  readonly wasm?: (
    inputs: WasmView[],
    outputs: WasmView[],
    options: Options,
    context: WasmContext,
  ) => WasmJob | WasmJob[] | undefined;
  /** Plans the dispatches that write the outputs, every element of them, on WebGPU. */
  readonly gpu?: (
    inputs: View[],
    outputs: View[],
    options: Options,
    context: GpuContext,
  ) => Dispatch | Dispatch[];
  /**
   * How a call may be cut in two when a tensor is too large for one binding: each candidate names, for
   * every input and then every output, the axis to cut, or -1 to hand that tensor to both halves.
   */
  readonly cuts?: (
    inputs: readonly View[],
    outputs: readonly View[],
    options: Options,
  ) => number[][];
  /** Bytes of the largest scratch buffer that the GPU program takes: it must fit a binding too. */
  readonly scratchBytes?: (
    inputs: readonly View[],
    outputs: readonly View[],
    options: Options,
  ) => number;
  /** At least the turns that all loops of one thread take together, where they grow with the operands. */
  readonly loopTurns?: (
    inputs: readonly View[],
    outputs: readonly View[],
    options: Options,
  ) => number;
}

/** One piece of work, as a profile saw it. */
export interface Span {
  /** The operation, and which of its kernels where it has several. */
  readonly name: string;
  /** When it began, in ms from some fixed point. */
  readonly startMs: number;
  /** How long it took, in ms. */
  readonly ms: number;
}

/** Bytes held by a backend. */
export interface BackendMemory {
  /** Bytes in buffers that are in use. */
  readonly liveBytes: number;
  /** Bytes in buffers that wait for reuse. */
  readonly pooledBytes: number;
}

/** What a backend has done since it began. */
export interface BackendActivity {
  /** Kernels that it ran; on the CPU, functions. */
  readonly dispatches: number;
  /** Batches of them that were handed to the GPU. */
  readonly submits: number;
  /** Buffers that were written from the host. */
  readonly uploads: number;
  /** Bind groups that had to be made, because a kernel met those buffers for the first time. */
  readonly bindGroups: number;
}

/** A place where tensors live and programs run. */
export interface Backend {
  /** Which of a program's two implementations it runs. */
  readonly kind: BackendKind;
  /** The name of the hardware or software behind it. */
  readonly name: string;
  /** Whether a CPU does the work: the CPU backend, or a software adapter. */
  readonly software: boolean;
  /** More about it, one line a fact. */
  readonly details: readonly string[];
  /** Largest window of a buffer, in bytes, that one program may see at once. */
  readonly bindingBytes: number;
  /** Turns that all loops of one thread of a kernel may take together. */
  readonly loopTurns: number;
  /**
   * Memory for `bytes` bytes, which `write` writes, once there is room for them; without it they are undefined.
   * Throws LimitError when it can never fit.
   */
  allocate(bytes: number, write?: (memory: Uint8Array) => void): DeviceBuffer;
  /** Gives a buffer back. Work already asked for may still use it. */
  release(buffer: DeviceBuffer): void;
  /** Resolves to a copy of some bytes of a buffer, as they are after all work asked for before. */
  read(buffer: DeviceBuffer, byteOffset: number, byteLength: number): Promise<ArrayBuffer>;
  /** Asks for a program to run. Refuses by throwing, before any of it is submitted. */
  run<Options>(
    program: Program<Options>,
    inputs: View[],
    outputs: View[],
    options: Options,
  ): void;
  /** Resolves when all work asked for has been done; rejects with what went wrong in it. */
  synchronize(): Promise<void>;
  /** Times everything asked for from now on. Throws DeviceError where that cannot be done. */
  startProfile(): void;
  /** Resolves to what was timed since, when it has been done. */
  stopProfile(): Promise<Span[]>;
  /** Bytes in use and waiting for reuse. */
  memory(): BackendMemory;
  /** What it has done so far. */
  activity(): BackendActivity;
  /** Gives pooled memory back to the system. */
  trim(): void;
  /** Ends the backend. Pending reads reject. */
  destroy(): void;
}

const word = new DataView(new ArrayBuffer(4));

/** The bits of `value` as a float32, for a uniform block. */
export function floatBits(value: number): number {
  word.setFloat32(0, value);
  return word.getUint32(0);
}

/** The address of the first element of a view. */
export function addressOf(view: WasmView): number {
  return view.base + 4 * view.offset;
}

/** The lowest and highest element, from the buffer's start, that `view` touches; size > 0. */
export function extentOf(
  view: Pick<View, "shape" | "strides" | "offset">,
): [first: number, last: number] {
  let first = view.offset;
  let last = view.offset;
  for (let i = 0; i < view.shape.length; i++) {
    const span = (view.shape[i] - 1) * view.strides[i];
    if (span < 0) first += span;
    else last += span;
  }
  return [first, last];
}

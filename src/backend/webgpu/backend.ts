/**
 * The WebGPU backend: programs become dispatches, recorded into one command encoder and submitted in
 * batches. Every limit is checked here before anything is encoded, because not every implementation
 * reports a violation (Deno's leaves zeros behind).
 *
 * @module
 */
import { bytesOf } from "../../dtype.ts";
import { DeviceError, LimitError } from "../../errors.ts";
import { contiguousStrides, sizeOf } from "../../shape.ts";
import {
  type Backend,
  type BackendActivity,
  type BackendMemory,
  type DeviceBuffer,
  type Dispatch,
  extentOf,
  type GpuContext,
  type MatrixUnits,
  type Program,
  type Span,
  type View,
} from "../contract.ts";
import { Pool } from "../pool.ts";
import {
  isSoftware,
  type Limits,
  limitsOf,
  matrixUnitsOf,
  nameOf,
  type Subgroups,
  subgroupsOf,
} from "./adapter.ts";
import { ErrorLog } from "./errors.ts";
import { BufferUsage } from "./flags.ts";
import { Pipelines, type Prepared } from "./pipelines.ts";
import { Profiler } from "./profiler.ts";
import { Readback } from "./readback.ts";
import { Uploads } from "./uploads.ts";
import { PARAMS_BYTES } from "./validator.ts";

/** A GPUBuffer and what the backend remembers of it. */
export interface GpuMemory {
  /** The buffer itself. */
  readonly buffer: GPUBuffer;
  /** Its size in bytes. */
  readonly bytes: number;
  /** Tells it from all others, for the cache of bind groups. */
  readonly id: number;
  /** The batch that last recorded a use of it. */
  usedInBatch: number;
}

/** Device memory handed out by {@linkcode WebgpuBackend}. */
export interface GpuDeviceBuffer extends DeviceBuffer {
  /** The pooled buffer behind it. */
  readonly memory: GpuMemory;
}

/** How a backend works on a device. */
export interface WebgpuBackendOptions {
  /** Whether to destroy the device in the end. */
  readonly owned: boolean;
  /** What is known of the adapter, if the device does not tell. */
  readonly info?: GPUAdapterInfo;
  /** The device's subgroups, if kernels are to use them. */
  readonly subgroups?: Subgroups;
  /** Bind at most so many bytes at once. Default: what the device allows. */
  readonly bindingBytes?: number;
  /** Whether to take what is read out of `mapAsync` at once. Default: where that is known to work. */
  readonly readsAtOnce?: boolean;
  /** Which implementation of WebGPU it is, for people. */
  readonly implementation?: string;
}

/** Dispatches recorded before a batch is submitted although nobody waits: keeps the GPU busy. */
const DISPATCHES_PER_BATCH = 256;
/** Where the binding of a large buffer may start: the most that the alignment limits may be. */
const ALIGNMENT = 256;
/** After so many turns Mesa's software driver leaves all loops of a thread, and says nothing. */
const MESA_LOOP_TURNS = 65535;

/** Programs as WGSL compute shaders. */
export class WebgpuBackend implements Backend {
  readonly kind = "webgpu";
  readonly software: boolean;
  readonly name: string;
  readonly bindingBytes: number;
  readonly loopTurns: number;
  /** Resolves, never rejects, when the device is lost. */
  readonly lost: Promise<void>;

  readonly #device: GPUDevice;
  readonly #limits: Limits;
  readonly #owned: boolean;
  readonly #implementation: string;
  readonly #subgroups: Subgroups | undefined;
  readonly #matrixUnits: MatrixUnits | undefined;
  readonly #errors: ErrorLog;
  readonly #pipelines: Pipelines;
  readonly #readback: Readback;
  readonly #uploads: Uploads;
  readonly #pool: Pool<GpuMemory>;
  readonly #doomed: GPUBuffer[] = [];
  readonly #params: Uint32Array<ArrayBuffer>;
  readonly #uniforms: GPUBuffer;
  readonly #dynamicOffset = new Uint32Array(1);
  #buffers = 0;
  /** The number of the batch that is being recorded: so many were submitted before it. */
  #batch = 0;
  #dispatchesBefore = 0;
  #uploaded = 0;
  #turn: { verdict?: Promise<void> } | undefined;
  #dispatches = 0;
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #profiler: Profiler | undefined;

  /** Works on `device`. */
  constructor(device: GPUDevice, options: WebgpuBackendOptions) {
    this.#device = device;
    this.#owned = options.owned;
    const info = options.info ?? infoOf(device);
    this.#limits = limitsOf(device);
    const largest = options.bindingBytes ?? this.#limits.maxStorageBufferBindingSize;
    this.name = nameOf(info);
    this.software = isSoftware(info);
    this.bindingBytes = largest - ALIGNMENT;
    this.loopTurns = this.software ? MESA_LOOP_TURNS : Infinity;
    this.#implementation = options.implementation ?? "not known";
    this.#subgroups = options.subgroups;
    this.#matrixUnits = matrixUnitsOf(device, info);
    this.#errors = new ErrorLog(device);
    this.lost = this.#errors.lost;
    this.#readback = new Readback(device, this.#errors, options.readsAtOnce);
    this.#uploads = new Uploads(device);
    this.#pool = new Pool(
      (bytes) => this.#createBuffer(bytes),
      // Recorded commands may still name it, so it can only go after they have been submitted.
      ({ buffer }) => this.#doomed.push(buffer),
      // Every step of a training in the same buffers, so that it finds its bind groups again.
      ({ id }) => id,
    );
    this.#params = new Uint32Array(DISPATCHES_PER_BATCH * PARAMS_BYTES / 4);
    this.#uniforms = device.createBuffer({
      label: "levin params",
      size: this.#params.byteLength,
      usage: BufferUsage.UNIFORM | BufferUsage.STORAGE | BufferUsage.COPY_DST,
    });
    this.#pipelines = new Pipelines(device, this.#limits, this.#errors, {
      uniforms: this.#uniforms,
      bindingBytes: Math.floor(largest / 4) * 4,
      paramsInStorage: this.software,
      subgroupsDirective: this.#subgroups?.directive ?? true,
    });
  }

  /** Works on `device`, with its subgroups if it was granted any. */
  static async open(device: GPUDevice, options: WebgpuBackendOptions): Promise<WebgpuBackend> {
    const subgroups = await subgroupsOf(device, options.info ?? infoOf(device));
    return new WebgpuBackend(device, { ...options, subgroups });
  }

  /** Whether everything that dispatches bind and are given is checked; see `InitOptions.debug`. */
  get debug(): boolean {
    return this.#pipelines.debug;
  }

  set debug(debug: boolean) {
    this.#pipelines.debug = debug;
  }

  get details(): string[] {
    const kernels = [...this.#pipelines.variants()].map(([name, { count, tiles }]) =>
      `${name} × ${count}${tiles.length > 0 ? ` (${tiles.join(", ")})` : ""}`
    );
    const { features, limits } = this.#device;
    return [
      `implementation: ${this.#implementation}`,
      `features: ${[...features].join(", ") || "none"}`,
      `workgroup: ${limits.maxComputeInvocationsPerWorkgroup} threads, ` +
      `${limits.maxComputeWorkgroupStorageSize} bytes`,
      `largest buffer: ${limits.maxBufferSize} bytes, ` +
      `largest binding: ${limits.maxStorageBufferBindingSize} bytes`,
      `subgroups: ${this.#subgroups?.size ?? "none"}`,
      this.#matrixUnits === undefined
        ? "matrix units: none"
        : `matrix units: ${this.#matrixUnits.side} × ${this.#matrixUnits.side} float16, ` +
          `${this.#matrixUnits.lanes} threads; for float16 products, and lightning attention whose keys ` +
          `have d ≤ ${8 * this.#matrixUnits.side}; float32 and wider keys run on plain kernels`,
      `kernels in use, × variants (their tiles, rows × columns): ${
        kernels.join(", ") || "none yet"
      }`,
      ...(this.debug ? ["debug mode: every dispatch is checked in full"] : []),
    ];
  }

  allocate(bytes: number, write?: (memory: Uint8Array) => void): GpuDeviceBuffer {
    this.#errors.throwIfLost();
    const { maxBufferSize } = this.#limits;
    if (bytes > maxBufferSize) {
      throw new LimitError(
        `Cannot allocate ${bytes} bytes: one buffer of ${this.name} holds at most ${maxBufferSize} ` +
          `(maxBufferSize); use several smaller tensors`,
      );
    }
    if (write === undefined) return { bytes, memory: this.#pool.take(bytes) };
    // Whole words.
    const words = new Uint8Array(Math.ceil(bytes / 4) * 4);
    write(words.subarray(0, bytes));
    this.#uploaded++;
    const memory = this.#pool.take(bytes);
    // The queue writes at once, ahead of what is only recorded, and must not overtake it.
    const overtakes = memory.usedInBatch === this.#batch;
    if (overtakes && this.#uploads.holds(words.byteLength)) {
      this.#uploads.record(this.#commands(), memory.buffer, words);
    } else {
      if (overtakes) this.#submit();
      this.#device.queue.writeBuffer(memory.buffer, 0, words);
    }
    return { bytes, memory };
  }

  release(buffer: DeviceBuffer): void {
    this.#pool.give((buffer as GpuDeviceBuffer).memory, buffer.bytes);
  }

  async read(buffer: DeviceBuffer, byteOffset: number, byteLength: number): Promise<ArrayBuffer> {
    this.#errors.throwIfLost();
    const { memory } = buffer as GpuDeviceBuffer;
    memory.usedInBatch = this.#batch;
    const landing = this.#readback.record(
      this.#commands(),
      memory.buffer,
      byteOffset,
      byteLength,
    );
    // Reads asked for in the same turn of the event loop are submitted, waited for, and told of
    // errors together.
    const turn = this.#turn ??= {};
    await Promise.resolve();
    this.#turn = undefined;
    this.#submit();
    const bytes = await landing();
    await (turn.verdict ??= this.#errors.throwIfAny());
    return bytes;
  }

  run<Options>(
    program: Program<Options>,
    inputs: View[],
    outputs: View[],
    options: Options,
  ): void {
    this.#errors.throwIfLost();
    if (program.gpu === undefined) {
      throw new DeviceError(
        `Cannot run ${program.name} on WebGPU: it has no kernel; give defineOp a \`gpu\`, or use ` +
          `init({ backend: "cpu" })`,
      );
    }
    const scratch: GpuDeviceBuffer[] = [];
    const sources = inputs.map((view) => this.#bindable(view));
    const targets = outputs.map((view) => this.#bindable(view));
    try {
      const dispatches = [program.gpu(sources, targets, options, this.#context(scratch))].flat();
      const views = [...sources, ...targets];
      const prepared = dispatches.map((d) => this.#pipelines.prepare(program.name, d, views));
      prepared.forEach((item, i) => this.#encode(item, dispatches[i]));
    } finally {
      for (const buffer of scratch) this.release(buffer);
    }
  }

  async synchronize(): Promise<void> {
    this.#errors.throwIfLost();
    const landing = this.#readback.recordMark(this.#commands());
    this.#submit();
    await landing();
    await this.#errors.throwIfAny();
  }

  startProfile(): void {
    this.#profiler = new Profiler(this.#device, this.#readback);
  }

  async stopProfile(): Promise<Span[]> {
    const profiler = this.#profiler!;
    this.#profiler = undefined;
    this.#errors.throwIfLost();
    const landing = profiler.record(this.#commands());
    this.#submit();
    const spans = await landing();
    await this.#errors.throwIfAny();
    return spans;
  }

  memory(): BackendMemory {
    return { liveBytes: this.#pool.liveBytes, pooledBytes: this.#pool.pooledBytes };
  }

  activity(): BackendActivity {
    return {
      dispatches: this.#dispatchesBefore + this.#dispatches,
      submits: this.#batch,
      uploads: this.#uploaded,
      bindGroups: this.#pipelines.groupsMade,
    };
  }

  trim(): void {
    this.#pool.trim();
    this.#submit();
  }

  destroy(): void {
    this.trim();
    this.#uniforms.destroy();
    this.#uploads.destroy();
    this.#readback.destroy();
    if (this.#owned) this.#device.destroy();
  }

  #createBuffer(bytes: number): GpuMemory {
    const { STORAGE, COPY_SRC, COPY_DST } = BufferUsage;
    const size = Math.min(bytes, this.#limits.maxBufferSize);
    const buffer = this.#errors.watch(
      `allocating ${size} bytes`,
      "out-of-memory",
      () => this.#device.createBuffer({ size, usage: STORAGE | COPY_SRC | COPY_DST }),
    );
    return { buffer, bytes: size, id: this.#buffers++, usedInBatch: -1 };
  }

  /** The view with a place to bind it from, if its buffer is too large to be bound whole. */
  #bindable(view: View): View {
    const { memory } = view.buffer as GpuDeviceBuffer;
    if (memory.bytes <= this.bindingBytes || sizeOf(view.shape) === 0) return view;
    const bytes = bytesOf(view.dtype);
    const byteOffset = Math.floor(extentOf(view)[0] * bytes / ALIGNMENT) * ALIGNMENT;
    return { ...view, byteOffset, offset: view.offset - byteOffset / bytes };
  }

  #context(scratch: GpuDeviceBuffer[]): GpuContext {
    const limits = this.#limits;
    return {
      workgroupBytes: limits.maxComputeWorkgroupStorageSize,
      workgroupThreads: limits.maxComputeInvocationsPerWorkgroup,
      workgroupsPerAxis: limits.maxComputeWorkgroupsPerDimension,
      bindingBytes: this.bindingBytes,
      software: this.software,
      subgroups: this.#subgroups !== undefined,
      matrixUnits: this.#matrixUnits,
      scratch: (count, dtype = "f32") => {
        const buffer = this.allocate(Math.max(1, count) * bytesOf(dtype));
        scratch.push(buffer);
        const shape = [count];
        return { buffer, dtype, shape, strides: contiguousStrides(shape), offset: 0 };
      },
    };
  }

  #commands(): GPUCommandEncoder {
    this.#pass?.end();
    this.#pass = undefined;
    return this.#encoder ??= this.#beginBatch();
  }

  #beginBatch(): GPUCommandEncoder {
    this.#errors.beginBatch();
    return this.#device.createCommandEncoder({ label: "levin" });
  }

  #encode({ pipeline, group, memories }: Prepared, dispatch: Dispatch): void {
    const { params = [], workgroups, label } = dispatch;
    if (this.#dispatches === DISPATCHES_PER_BATCH) this.#submit();
    this.#encoder ??= this.#beginBatch();
    if (this.#profiler !== undefined) {
      this.#pass?.end();
      const name = label === undefined ? pipeline.label : `${pipeline.label}: ${label}`;
      const timestampWrites = this.#profiler.timestamps(name);
      this.#pass = this.#encoder.beginComputePass({ timestampWrites });
    }
    this.#pass ??= this.#encoder.beginComputePass();
    for (const memory of memories) memory.usedInBatch = this.#batch;
    const offset = this.#dispatches++ * PARAMS_BYTES;
    this.#params.set(params, offset / 4);
    this.#errors.noteUse(pipeline.label);
    this.#pass.setPipeline(pipeline);
    this.#dynamicOffset[0] = offset;
    this.#pass.setBindGroup(0, group, this.#dynamicOffset, 0, params.length > 0 ? 1 : 0);
    this.#pass.dispatchWorkgroups(workgroups[0], workgroups[1], workgroups[2]);
  }

  #submit(): void {
    const encoder = this.#encoder;
    if (encoder !== undefined) {
      this.#pass?.end();
      const { queue } = this.#device;
      this.#uploads.flush();
      queue.writeBuffer(this.#uniforms, 0, this.#params, 0, this.#dispatches * PARAMS_BYTES / 4);
      queue.submit([encoder.finish()]);
      this.#errors.endBatch();
      this.#encoder = this.#pass = undefined;
      this.#dispatchesBefore += this.#dispatches;
      this.#dispatches = 0;
      this.#batch++;
    }
    for (const buffer of this.#doomed.splice(0)) buffer.destroy();
  }
}

function infoOf(device: GPUDevice): GPUAdapterInfo | undefined {
  return (device as { adapterInfo?: GPUAdapterInfo }).adapterInfo;
}

/**
 * Devices: which one computes, why it was chosen, and what it holds.
 *
 * @module
 */
import type { Backend, BackendActivity, BackendKind, Span } from "./backend/contract.ts";
import { CpuBackend } from "./backend/cpu/backend.ts";
import { WasmBackend } from "./backend/wasm/backend.ts";
import { supportedVariant } from "./backend/wasm/module.ts";
import { findAdapter, openDevice } from "./backend/webgpu/adapter.ts";
import { WebgpuBackend } from "./backend/webgpu/backend.ts";
import { DeviceError } from "./errors.ts";
import { Profile } from "./profile.ts";

/** Where adapters come from: `navigator.gpu`, or an object like it. */
export type GpuSource = Pick<GPU, "requestAdapter">;

/** What {@linkcode init} may be told. */
export interface InitOptions {
  /**
   * `"webgpu"` insists on WebGPU, software adapters included; `"wasm"` insists on the CPU through
   * WebAssembly SIMD; `"cpu"` on plain TypeScript, the reference. `"auto"`, the default, takes a
   * hardware WebGPU adapter if there is one, else `"wasm"`, and `"cpu"` where there is no SIMD. The
   * environment variable `LEVIN_BACKEND`, where it may be read, overrides this.
   */
  backend?: "auto" | BackendKind;
  /**
   * Threads of the WebAssembly backend, the caller's own included; they count when it is first opened.
   * Default: as many as the machine has. The environment variable `LEVIN_THREADS` overrides this. Results
   * are the same with any number.
   */
  threads?: number;
  /** Where to look for an adapter instead of `navigator.gpu`: Dawn's or a browser's GPU object. */
  gpu?: GpuSource;
  /**
   * A device of the caller's to use as it is: without the feature `subgroups`, say, kernels do without. Levin never
   * destroys it.
   */
  device?: GPUDevice;
  /**
   * Whether WebGPU checks all that every dispatch binds and is given against the device's limits, before
   * anything is encoded. Default: as it was, which is false, or true if the environment variable
   * `LEVIN_DEBUG` is 1.
   */
  debug?: boolean;
}

/** Memory held on a device. */
export interface DeviceMemory {
  /** Bytes in buffers that tensors and recorded gradients hold. */
  liveBytes: number;
  /** Bytes in freed buffers that wait for reuse. */
  pooledBytes: number;
  /** Tensors that have not been disposed. */
  tensors: number;
}

/** A device on which tensors live: the CPU, by WebAssembly or TypeScript, or one WebGPU device. */
export class Device {
  /** How many tensors live here; kept by the tensors themselves. */
  tensors = 0;
  #profiling = false;

  /** Made by {@linkcode init}. */
  constructor(
    /** What runs the programs. */
    readonly engine: Backend,
    /** Why this device was chosen. */
    readonly reason: string,
  ) {}

  /** The name of the hardware or software, say `NVIDIA H200`. */
  get name(): string {
    return this.engine.name;
  }

  /** The kind of backend. */
  get backend(): BackendKind {
    return this.engine.kind;
  }

  /** Whether a CPU does the work: WebAssembly, TypeScript, or WebGPU through a software adapter. */
  get software(): boolean {
    return this.engine.software;
  }

  /** In a few lines: the device, why it was chosen, and what it can do. */
  describe(): string {
    return [`${this.name} (${this.backend}): ${this.reason}`, ...this.engine.details].join("\n");
  }

  /** Bytes and tensors held now. */
  memory(): DeviceMemory {
    return { ...this.engine.memory(), tensors: this.tensors };
  }

  /**
   * What the device has done since it was opened. The difference of two calls tells what lay between: a
   * training step that has warmed up makes no bind groups, and one submit for 256 dispatches.
   */
  activity(): BackendActivity {
    return this.engine.activity();
  }

  /** Gives pooled buffers back to the system. */
  trim(): void {
    this.engine.trim();
  }

  /**
   * Resolves when everything asked of the device so far has been done.
   *
   * @throws {DeviceError} with what went wrong in it, or if the device was lost.
   */
  synchronize(): Promise<void> {
    return this.engine.synchronize();
  }

  /**
   * Times what `fn` asks of the device, on a GPU by timestamp queries. Every kernel then has a pass of
   * its own, so the host takes longer than it does without.
   *
   * @example
   * ```ts
   * import { init, randn } from "@levin/levin";
   *
   * const device = await init();
   * const x = randn([256, 256]);
   * const profile = await device.profile(() => void x.matmul(x).softmax());
   * console.log(`${profile}`); // a table: operation, calls, ms, share
   * const trace = profile.toChromeTrace(); // for chrome://tracing or ui.perfetto.dev
   * ```
   * @throws {DeviceError} if a profile is already being taken, or the GPU has no timestamp queries.
   */
  async profile(fn: () => void | Promise<void>): Promise<Profile> {
    if (this.#profiling) throw new DeviceError("Cannot profile: a profile is already being taken");
    this.engine.startProfile();
    this.#profiling = true;
    let spans: Span[] = [];
    try {
      await fn();
    } finally {
      this.#profiling = false;
      spans = await this.engine.stopProfile();
    }
    return new Profile(this.name, spans);
  }

  /** Ends the device; its tensors cannot be used any more. A caller's own GPUDevice is left alone. */
  destroy(): void {
    this.engine.destroy();
    for (const [kind, device] of opened) if (device === this) opened.delete(kind);
    if (chosen === this) chosen = undefined;
  }
}

/** Devices by what they were opened through: the kind of backend, or a GPU object of the caller's. */
const opened = new Map<BackendKind | GpuSource, Device>();
/** GPU objects ever used. Dawn's ends the process if it is collected before the process is over. */
const kept = new Set<GpuSource>();
let chosen: Device | undefined;

/**
 * Chooses the device that new tensors are made on. Calling it again with the same wish gives the same
 * device; tensors made before stay where they are.
 *
 * @example
 * ```ts
 * import { init } from "@levin/levin";
 *
 * const device = await init(); // a hardware GPU if there is one, else the CPU
 * console.log(device.describe());
 * ```
 * @throws {DeviceError} if WebGPU is insisted on and there is none; the message names the remedy.
 */
export async function init(options: InitOptions = {}): Promise<Device> {
  const device = await choose(options);
  const debug = options.debug ?? (environment("LEVIN_DEBUG") === "1" ? true : undefined);
  if (debug !== undefined && device.engine instanceof WebgpuBackend) device.engine.debug = debug;
  return chosen = device;
}

/** The device for tensors that name none: what `init` chose, or else the CPU. */
export function defaultDevice(): Device {
  return chosen ??= onProcessor("init() was not called, so the default is the CPU");
}

/** Makes `device` the one for tensors that name none. */
export function setDefaultDevice(device: Device): void {
  chosen = device;
}

function cpu(reason: string): Device {
  const device = opened.get("cpu") ?? new Device(new CpuBackend(), reason);
  opened.set("cpu", device);
  return device;
}

function wasm(reason: string, threads?: number): Device {
  const open = () => new Device(new WasmBackend({ threads: threadsFor(threads) }), reason);
  const device = opened.get("wasm") ?? open();
  opened.set("wasm", device);
  return device;
}

/** The fastest way to compute without a GPU. */
function onProcessor(reason: string, threads?: number): Device {
  if (supportedVariant() !== undefined) return wasm(reason, threads);
  return cpu(`${reason}; the runtime has no WebAssembly SIMD`);
}

function threadsFor(wanted: number | undefined): number {
  const override = environment("LEVIN_THREADS");
  const threads = override === undefined ? wanted ?? processors() : Number(override);
  if (Number.isInteger(threads) && threads >= 1 && threads <= MOST_THREADS) return threads;
  throw new DeviceError(
    `Cannot start ${override ?? threads} threads${override ? " (from LEVIN_THREADS)" : ""}: ` +
      `expected a whole number from 1 to ${MOST_THREADS}`,
  );
}

const MOST_THREADS = 256;

/** How many threads the machine runs at once, as far as the runtime tells. */
function processors(): number {
  const { navigator } = globalThis as { navigator?: { hardwareConcurrency?: number } };
  return Math.max(1, Math.min(MOST_THREADS, navigator?.hardwareConcurrency ?? 1));
}

async function choose(
  { backend = "auto", gpu, device, threads }: InitOptions,
): Promise<Device> {
  const override = environment("LEVIN_BACKEND");
  const wish = override ?? backend;
  if (wish !== "auto" && wish !== "cpu" && wish !== "wasm" && wish !== "webgpu") {
    throw new DeviceError(
      `Cannot initialise backend "${wish}"${override ? " (from LEVIN_BACKEND)" : ""}: ` +
        `expected "auto", "webgpu", "wasm" or "cpu"`,
    );
  }
  const asked = override ? "LEVIN_BACKEND asks for it" : "it was asked for";
  if (wish === "cpu") return cpu(asked);
  if (wish === "wasm") return wasm(asked, threads);
  if (device !== undefined) {
    const theirs = { owned: false, implementation: "of the device that the caller brought" };
    return new Device(await WebgpuBackend.open(device, theirs), "the caller brought it");
  }
  const source = gpu ?? "webgpu";
  const before = opened.get(source);
  if (before !== undefined) return before;

  if (gpu !== undefined) kept.add(gpu);
  const found = await findAdapter(gpu);
  if (found.adapter === undefined || (wish === "auto" && found.software)) {
    if (wish === "auto") return onProcessor(`${found.reason}, so the CPU was taken`, threads);
    throw new DeviceError(
      `Cannot initialise WebGPU: ${found.reason}. On Debian or Ubuntu, ` +
        `\`apt-get install mesa-vulkan-drivers\` gives a software adapter; in Bun and Node, pass ` +
        `init({ gpu: await dawn() }) with dawn from "@levin/levin/dawn"; or use init({ backend: "cpu" })`,
    );
  }
  const reason = wish === "auto" ? "a hardware WebGPU adapter was found" : asked;
  const opening = await WebgpuBackend.open(await openDevice(found.adapter), {
    owned: true,
    info: found.adapter.info,
    implementation: found.implementation,
  });
  const result = new Device(opening, reason);
  opened.set(source, result);
  opening.lost.then(() => opened.get(source) === result && opened.delete(source));
  return result;
}

/** An environment variable, where the runtime has them and lets us read this one without asking. */
function environment(name: string): string | undefined {
  const { Deno, process } = globalThis as {
    Deno?: typeof globalThis.Deno;
    process?: { env: Record<string, string | undefined> };
  };
  if (Deno !== undefined) {
    const { state } = Deno.permissions.querySync({ name: "env", variable: name });
    return state === "granted" ? Deno.env.get(name) || undefined : undefined;
  }
  return process?.env?.[name] || undefined;
}

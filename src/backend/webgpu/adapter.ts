/**
 * Finding a WebGPU adapter and opening a device with everything it can give.
 *
 * @module
 */
import { DeviceError } from "../../errors.ts";
import type { MatrixUnits } from "../contract.ts";
import { SUBGROUPS_DIRECTIVE } from "./shader.ts";

/** An adapter, or why there is none. */
export interface FoundAdapter {
  /** The adapter, if there is one. */
  readonly adapter?: GPUAdapter;
  /** Whether it runs on the CPU, as llvmpipe and SwiftShader do. */
  readonly software: boolean;
  /** What was found, for people. */
  readonly reason: string;
  /** Which implementation of WebGPU it comes from, for people. */
  readonly implementation?: string;
}

/** Asks `gpu`, or else `navigator.gpu`, for its fastest adapter. */
export async function findAdapter(gpu?: Pick<GPU, "requestAdapter">): Promise<FoundAdapter> {
  const source = gpu ?? (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu;
  if (source === undefined) {
    return { software: false, reason: "this runtime has no navigator.gpu" };
  }
  const implementation = implementationOf(source);
  const adapter = await source.requestAdapter({ powerPreference: "high-performance" }) ?? undefined;
  if (adapter === undefined) {
    return {
      software: false,
      reason: "WebGPU found no adapter (no driver, or one too old: Dawn refuses Mesa 22)",
    };
  }
  const software = isSoftware(adapter.info);
  const name = nameOf(adapter.info);
  const reason = software ? `WebGPU found only ${name}, which is software` : `WebGPU found ${name}`;
  return { adapter, software, reason, implementation };
}

/** What people call the implementation behind a GPU object. */
function implementationOf(source: Pick<GPU, "requestAdapter">): string {
  const { Deno, navigator } = globalThis as {
    Deno?: { version: { deno: string } };
    navigator?: { gpu?: unknown; userAgent?: string };
  };
  const runtimes = source === navigator?.gpu;
  if (runtimes && Deno !== undefined) return `wgpu, built into Deno ${Deno.version.deno}`;
  if (runtimes) return `the browser's, ${navigator?.userAgent}`;
  const { wgslLanguageFeatures = [] } = source as { wgslLanguageFeatures?: Iterable<string> };
  const isDawn = [...wgslLanguageFeatures].some((name) => name.startsWith("chromium"));
  return isDawn ? "Dawn, brought by the caller" : "brought by the caller";
}

/** The name that `info` gives the hardware. */
export function nameOf(info: GPUAdapterInfo | undefined): string {
  // Browsers say little, to tell little: often only `apple` and `metal-3`.
  const family = [info?.vendor, info?.architecture].filter(Boolean).join(" ");
  return info?.description || info?.device || family || "unnamed WebGPU adapter";
}

/** Whether the adapter runs on the CPU. */
export function isSoftware(info: GPUAdapterInfo | undefined): boolean {
  return info?.isFallbackAdapter || /llvmpipe|lavapipe|swiftshader|software/i.test(nameOf(info));
}

const LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxComputeWorkgroupsPerDimension",
  "maxStorageBuffersPerShaderStage",
] as const;

/** The limits that kernels and buffers are checked against. */
export type Limits = Readonly<Record<typeof LIMITS[number], number>>;

/** Those of `device`, as plain numbers: asking the device itself costs time at every dispatch. */
export function limitsOf(device: GPUDevice): Limits {
  return Object.fromEntries(LIMITS.map((name) => [name, device.limits[name]])) as Limits;
}

const SUBGROUPS = "subgroups" as GPUFeatureName;
/** Dawn's name for WGSL's subgroup matrices, until there is a standard one. */
const SUBGROUP_MATRIX = "chromium-experimental-subgroup-matrix" as GPUFeatureName;
const FEATURES = ["shader-f16", "timestamp-query"] as GPUFeatureName[];

/**
 * Opens a device with the adapter's own limits and every feature that kernels can use; or without subgroups and the
 * matrices that stand on them, for comparison.
 */
export async function openDevice(
  adapter: GPUAdapter,
  { subgroups = true }: { subgroups?: boolean } = {},
): Promise<GPUDevice> {
  const requiredLimits = Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]]));
  const plain = FEATURES.filter((name) => adapter.features.has(name));
  // Deno grants "subgroups" on adapters that do not list it, so the only way to know is to ask.
  const matrices = adapter.features.has(SUBGROUP_MATRIX) ? [SUBGROUP_MATRIX] : [];
  const attempts = subgroups ? [[...plain, SUBGROUPS, ...matrices]] : [];
  let problem: unknown;
  for (const requiredFeatures of [...attempts, plain]) {
    try {
      return await adapter.requestDevice({ requiredLimits, requiredFeatures });
    } catch (error) {
      problem = error;
    }
  }
  throw new DeviceError(`Cannot open ${nameOf(adapter.info)}: ${problem}`, { cause: problem });
}

/** What GPUAdapterInfo says of subgroups; the shapes of matrices that they can multiply are Dawn's addition. */
interface SubgroupInfo {
  readonly subgroupMinSize?: number;
  readonly subgroupMaxSize?: number;
  readonly subgroupMatrixConfigs?: readonly {
    readonly componentType: string;
    readonly resultComponentType: string;
    readonly M: number;
    readonly N: number;
    readonly K: number;
  }[];
}

/** How kernels use the subgroups of a device. */
export interface Subgroups {
  /** How large they are, for people: `32 threads`, `8 to 32 threads`. */
  readonly size: string;
  /** Whether shaders that use them have to say so: `enable subgroups;` is standard, and naga refuses it. */
  readonly directive: boolean;
}

/** The subgroups of a device, if its compiler knows them; given what its adapter said. */
export async function subgroupsOf(
  device: GPUDevice,
  info: GPUAdapterInfo | undefined,
): Promise<Subgroups | undefined> {
  if (!device.features.has(SUBGROUPS)) return undefined;
  const { subgroupMinSize: least, subgroupMaxSize: most } = (info ?? {}) as SubgroupInfo;
  const size = least === undefined || most === undefined
    ? "of unknown size"
    : `${least === most ? most : `${least} to ${most}`} threads`;
  for (const directive of [true, false]) {
    device.pushErrorScope("validation");
    const code = "@compute @workgroup_size(1) fn main() { _ = subgroupAdd(1u); }";
    device.createShaderModule({ code: `${directive ? SUBGROUPS_DIRECTIVE : ""}${code}` });
    if (await device.popErrorScope() === null) return { size, directive };
  }
  return undefined;
}

/** The matrix units of a device that kernels can use, given what its adapter said. */
export function matrixUnitsOf(
  { features }: GPUDevice,
  info: GPUAdapterInfo | undefined,
): MatrixUnits | undefined {
  const needed: GPUFeatureName[] = [SUBGROUP_MATRIX, SUBGROUPS, "shader-f16"];
  if (!needed.every((name) => features.has(name))) return undefined;
  const { subgroupMinSize, subgroupMaxSize: lanes = 0, subgroupMatrixConfigs } =
    (info ?? {}) as SubgroupInfo;
  if (subgroupMinSize !== lanes) return undefined;
  const found = subgroupMatrixConfigs?.find((config) =>
    config.componentType === "f16" && config.resultComponentType === "f32" &&
    config.M === config.N && config.N === config.K && config.M ** 2 === 8 * lanes
  );
  return found && { side: found.M, lanes };
}

/**
 * Finding a WebGPU adapter and opening a device with everything it can give.
 *
 * @module
 */
import { DeviceError } from "../../errors.ts";
import type { MatrixUnits } from "../contract.ts";

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

/** Dawn's name for WGSL's subgroup matrices, until there is a standard one. */
const SUBGROUP_MATRIX = "chromium-experimental-subgroup-matrix";
const FEATURES = ["shader-f16", "timestamp-query", SUBGROUP_MATRIX] as GPUFeatureName[];

/** Opens a device with the adapter's own limits and every feature that kernels can use. */
export async function openDevice(adapter: GPUAdapter): Promise<GPUDevice> {
  const requiredLimits = Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]]));
  const listed = FEATURES.filter((name) => adapter.features.has(name));
  // Deno grants "subgroups" on adapters that do not list it, so the only way to know is to ask.
  const all = [...listed, "subgroups" as GPUFeatureName];
  let problem: unknown;
  for (const requiredFeatures of [all, listed]) {
    try {
      return await adapter.requestDevice({ requiredLimits, requiredFeatures });
    } catch (error) {
      problem = error;
    }
  }
  throw new DeviceError(`Cannot open ${nameOf(adapter.info)}: ${problem}`, { cause: problem });
}

/** What Dawn's GPUAdapterInfo adds: the shapes of matrices that subgroups can multiply. */
interface SubgroupMatrixInfo {
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

/** The matrix units of a device that kernels can use, given what its adapter said. */
export function matrixUnitsOf(
  { features }: GPUDevice,
  info: GPUAdapterInfo | undefined,
): MatrixUnits | undefined {
  const needed = [SUBGROUP_MATRIX, "subgroups", "shader-f16"] as GPUFeatureName[];
  if (!needed.every((name) => features.has(name))) return undefined;
  const { subgroupMinSize, subgroupMaxSize: lanes = 0, subgroupMatrixConfigs } =
    (info ?? {}) as SubgroupMatrixInfo;
  if (subgroupMinSize !== lanes) return undefined;
  const found = subgroupMatrixConfigs?.find((config) =>
    config.componentType === "f16" && config.resultComponentType === "f32" &&
    config.M === config.N && config.N === config.K && config.M ** 2 === 8 * lanes
  );
  return found && { side: found.M, lanes };
}

/**
 * Pipelines and bind groups, made once and found again; and the check of every dispatch against the
 * device's limits.
 *
 * @module
 */
import { LimitError } from "../../errors.ts";
import type { Dispatch, View } from "../contract.ts";
import type { GpuDeviceBuffer, GpuMemory } from "./backend.ts";
import type { ErrorLog } from "./errors.ts";
import { reflect, type Reflection, specialise } from "./shader.ts";

/** A dispatch that has passed every check and only waits to be encoded. */
export interface Prepared {
  /** The compiled shader; its label is the operation's name. */
  readonly pipeline: GPUComputePipeline;
  /** Its buffers. */
  readonly group: GPUBindGroup;
  /** The same, for bookkeeping. */
  readonly memories: readonly GpuMemory[];
}

interface Compiled extends Reflection {
  readonly id: number;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

/** Bytes of a uniform block that a kernel may read. */
export const PARAMS_BYTES = 256;
/** Bind groups remembered before the cache starts anew. */
const MOST_GROUPS = 8192;

/** What pipelines are told of the backend. */
export interface PipelineOptions {
  /** The buffer that uniform blocks are slices of. */
  readonly uniforms: GPUBuffer;
  /** The largest binding, in bytes. */
  readonly bindingBytes: number;
  /**
   * Bind params as storage. Mesa's software driver compiles a shader anew for every value of a uniform
   * that bounds a loop, half a second each time; it leaves storage alone.
   */
  readonly paramsInStorage: boolean;
}

/** The pipelines of one device. */
export class Pipelines {
  /** Bind groups made so far. */
  groupsMade = 0;
  #compiled = new Map<string, Map<string, Compiled>>();
  #layouts = new Map<string, GPUBindGroupLayout>();
  #groups = new Map<string, GPUBindGroup>();
  #count = 0;

  /** Compiles for `device`. */
  constructor(
    readonly device: GPUDevice,
    readonly errors: ErrorLog,
    readonly options: PipelineOptions,
  ) {}

  /**
   * Checks a dispatch of the operation `name` and finds or makes what it needs. `views` are its
   * bindings unless it lists others.
   *
   * @throws {LimitError} naming the limit that it would break.
   */
  prepare(name: string, dispatch: Dispatch, views: readonly View[]): Prepared {
    const compiled = this.#compile(name, dispatch);
    const bindings = dispatch.bindings ?? views;
    this.#checkDispatch(name, dispatch, bindings.length, compiled);
    const { pipeline } = compiled;
    const group = this.#group(name, compiled, bindings);
    return { pipeline, group, memories: bindings.map(memoryOf) };
  }

  #compile(name: string, { shader, constants = {}, params = [] }: Dispatch): Compiled {
    let variants = this.#compiled.get(shader);
    if (variants === undefined) this.#compiled.set(shader, variants = new Map());
    let key = name;
    for (const constant in constants) key += `,${constant}=${constants[constant]}`;
    const known = variants.get(key);
    if (known !== undefined) return known;

    const specialised = specialise(shader, constants);
    const code = this.options.paramsInStorage
      ? specialised.replace("var<uniform>", "var<storage, read>")
      : specialised;
    const reflection = reflect(code);
    this.#checkShader(name, reflection);
    const layout = this.#layout(reflection.bindings, params.length > 0);
    const pipeline = this.errors.watch(name, "validation", () =>
      this.device.createComputePipeline({
        label: name,
        layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: {
          module: this.device.createShaderModule({ label: name, code }),
          entryPoint: "main",
        },
      }));
    const compiled = { ...reflection, id: this.#count++, pipeline, layout };
    variants.set(key, compiled);
    return compiled;
  }

  #layout(bindings: readonly GPUBufferBindingType[], withParams: boolean): GPUBindGroupLayout {
    const key = `${bindings} ${withParams}`;
    let layout = this.#layouts.get(key);
    if (layout === undefined) {
      layout = this.device.createBindGroupLayout({
        entries: bindings.map((type, binding) => ({
          binding,
          visibility: GPUShaderStage.COMPUTE,
          buffer: { type, hasDynamicOffset: withParams && binding === bindings.length - 1 },
        })),
      });
      this.#layouts.set(key, layout);
    }
    return layout;
  }

  #group(name: string, compiled: Compiled, views: readonly View[]): GPUBindGroup {
    let key = String(compiled.id);
    for (const view of views) key += `,${memoryOf(view).id}+${view.byteOffset ?? 0}`;
    const known = this.#groups.get(key);
    if (known !== undefined) return known;

    const resources: GPUBufferBinding[] = views.map((view) => {
      const { buffer } = memoryOf(view);
      const offset = view.byteOffset ?? 0;
      return { buffer, offset, size: Math.min(buffer.size - offset, this.options.bindingBytes) };
    });
    if (compiled.bindings.length > views.length) {
      resources.push({ buffer: this.options.uniforms, offset: 0, size: PARAMS_BYTES });
    }
    const group = this.errors.watch(name, "validation", () =>
      this.device.createBindGroup({
        label: name,
        layout: compiled.layout,
        entries: resources.map((resource, binding) => ({ binding, resource })),
      }));
    this.groupsMade++;
    if (this.#groups.size >= MOST_GROUPS) this.#groups.clear();
    this.#groups.set(key, group);
    return group;
  }

  #checkShader(name: string, { bindings, workgroupBytes, workgroupSize: [x, y, z] }: Reflection) {
    const { limits } = this.device;
    const storage = bindings.filter((type) => type !== "uniform").length;
    check(name, "maxComputeWorkgroupStorageSize", workgroupBytes, limits);
    check(name, "maxComputeInvocationsPerWorkgroup", x * y * z, limits);
    check(name, "maxComputeWorkgroupSizeX", x, limits);
    check(name, "maxComputeWorkgroupSizeY", y, limits);
    check(name, "maxComputeWorkgroupSizeZ", z, limits);
    check(name, "maxStorageBuffersPerShaderStage", storage, limits);
  }

  #checkDispatch(name: string, dispatch: Dispatch, bound: number, { bindings }: Compiled): void {
    for (const count of dispatch.workgroups) {
      check(name, "maxComputeWorkgroupsPerDimension", count ?? 1, this.device.limits);
    }
    const words = dispatch.params?.length ?? 0;
    if (words * 4 > PARAMS_BYTES) {
      throw new LimitError(
        `Cannot run ${name}: its ${words} params exceed the ${
          PARAMS_BYTES / 4
        } words that a kernel ` +
          `may be given; pass more as a tensor`,
      );
    }
    if (bindings.length !== bound + (words > 0 ? 1 : 0)) {
      throw new LimitError(
        `Cannot run ${name}: its shader declares ${bindings.length} bindings, but it was given ` +
          `${bound} tensors${words > 0 ? " and a block of params" : ""}`,
      );
    }
  }
}

function check(
  name: string,
  limit: keyof GPUSupportedLimits,
  value: number,
  limits: GPUSupportedLimits,
) {
  const allowed = limits[limit] as number;
  if (value > allowed) {
    throw new LimitError(
      `Cannot run ${name}: it needs ${value} of ${limit} and the device allows ${allowed}`,
    );
  }
}

function memoryOf(view: View): GpuMemory {
  return (view.buffer as GpuDeviceBuffer).memory;
}

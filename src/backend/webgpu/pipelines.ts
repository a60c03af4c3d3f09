/**
 * Pipelines and bind groups, made once and found again; and the check of every dispatch against the
 * device's limits.
 *
 * @module
 */
import { LimitError } from "../../errors.ts";
import type { Dispatch, View } from "../contract.ts";
import type { GpuDeviceBuffer, GpuMemory } from "./backend.ts";
import type { Limits } from "./adapter.ts";
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
  /** The text that it was specialised from. */
  readonly shader: string;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  /** Its bind groups, by its buffers one after the other. */
  groups: GroupTree;
}

/** Bind groups by the place of the first buffer, then of the second, and so on. */
interface GroupTree {
  group?: GPUBindGroup;
  readonly after: Map<number, GroupTree>;
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
  /** The same variants by the very object that held their constants: planners that keep theirs save time. */
  #known = new WeakMap<object, Map<string, Compiled>>();
  #groups = 0;

  /** Compiles for `device`. */
  constructor(
    readonly device: GPUDevice,
    readonly limits: Limits,
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

  #compile(name: string, dispatch: Dispatch): Compiled {
    const { constants } = dispatch;
    if (constants === undefined || !Object.isFrozen(constants)) {
      return this.#variant(name, dispatch);
    }
    // Frozen constants cannot change; the same ones with another shader or name are another variant.
    let known = this.#known.get(constants);
    if (known === undefined) this.#known.set(constants, known = new Map());
    let compiled = known.get(name);
    if (compiled === undefined || compiled.shader !== dispatch.shader) {
      known.set(name, compiled = this.#variant(name, dispatch));
    }
    return compiled;
  }

  #variant(name: string, { shader, constants = {}, params = [] }: Dispatch): Compiled {
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
    const groups: GroupTree = { after: new Map() };
    const compiled: Compiled = { ...reflection, shader, pipeline, layout, groups };
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
    let tree = compiled.groups;
    for (const view of views) {
      const place = placeOf(view);
      let next = tree.after.get(place);
      if (next === undefined) tree.after.set(place, next = { after: new Map() });
      tree = next;
    }
    if (tree.group !== undefined) return tree.group;

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
    if (++this.#groups > MOST_GROUPS) this.#forgetGroups();
    tree.group = group;
    return group;
  }

  #forgetGroups(): void {
    for (const variants of this.#compiled.values()) {
      for (const compiled of variants.values()) compiled.groups = { after: new Map() };
    }
    this.#groups = 0;
  }

  #checkShader(name: string, { bindings, workgroupBytes, workgroupSize: [x, y, z] }: Reflection) {
    const { limits } = this;
    const storage = bindings.filter((type) => type !== "uniform").length;
    check(name, "maxComputeWorkgroupStorageSize", workgroupBytes, limits);
    check(name, "maxComputeInvocationsPerWorkgroup", x * y * z, limits);
    check(name, "maxComputeWorkgroupSizeX", x, limits);
    check(name, "maxComputeWorkgroupSizeY", y, limits);
    check(name, "maxComputeWorkgroupSizeZ", z, limits);
    check(name, "maxStorageBuffersPerShaderStage", storage, limits);
  }

  #checkDispatch(name: string, dispatch: Dispatch, bound: number, { bindings }: Compiled): void {
    const { maxComputeWorkgroupsPerDimension: most } = this.limits;
    const [x, y = 1, z = 1] = dispatch.workgroups;
    if (x > most || y > most || z > most) {
      check(name, "maxComputeWorkgroupsPerDimension", Math.max(x, y, z), this.limits);
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
  limit: keyof Limits,
  value: number,
  limits: Limits,
) {
  const allowed = limits[limit];
  if (value > allowed) {
    throw new LimitError(
      `Cannot run ${name}: it needs ${value} of ${limit} and the device allows ${allowed}`,
    );
  }
}

/** A number for the buffer of `view` and for where in it its binding begins. */
function placeOf(view: View): number {
  const { id } = memoryOf(view);
  const { byteOffset = 0 } = view;
  // Small integers, which are found fastest, for all but the parts of very large buffers.
  return byteOffset === 0 ? id : -(id * 2 ** 32 + byteOffset);
}

function memoryOf(view: View): GpuMemory {
  return (view.buffer as GpuDeviceBuffer).memory;
}

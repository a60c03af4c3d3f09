/**
 * Pipelines and bind groups, made once and found again; and the check of every dispatch against the
 * device's limits.
 *
 * @module
 */
import type { Dispatch, View } from "../contract.ts";
import type { GpuDeviceBuffer, GpuMemory } from "./backend.ts";
import type { Limits } from "./adapter.ts";
import type { ErrorLog } from "./errors.ts";
import { SHADER_STAGE_COMPUTE } from "./flags.ts";
import { reflect, type Reflection, specialise, SUBGROUPS_DIRECTIVE } from "./shader.ts";
import { type Bound, PARAMS_BYTES, Validator } from "./validator.ts";

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

/** What has been compiled of a kernel. */
export interface Variants {
  /** How many variants. */
  readonly count: number;
  /** The tiles that they work in, if they do. */
  readonly tiles: readonly string[];
}

/** Bind groups by the place of the first buffer, then of the second, and so on. */
interface GroupTree {
  group?: GPUBindGroup;
  readonly after: Map<number, GroupTree>;
}

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
   * that bounds a loop, half a second each time; it leaves storage alone. Kernels that already bind as many
   * storage buffers as there may be keep their uniform.
   */
  readonly paramsInStorage: boolean;
  /** Whether the compiler takes `enable subgroups;`, or has subgroups without. */
  readonly subgroupsDirective: boolean;
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
  readonly #variants = new Map<string, Variants>();
  readonly #validator: Validator;
  /** Whether everything that a dispatch binds and is given is checked. */
  debug = false;

  /** Compiles for `device`. */
  constructor(
    readonly device: GPUDevice,
    readonly limits: Limits,
    readonly errors: ErrorLog,
    readonly options: PipelineOptions,
  ) {
    this.#validator = new Validator(device, limits);
  }

  /**
   * Checks a dispatch of the operation `name` and finds or makes what it needs. `views` are its
   * bindings unless it lists others.
   *
   * @throws {LimitError} naming the limit that it would break.
   */
  prepare(name: string, dispatch: Dispatch, views: readonly View[]): Prepared {
    const compiled = this.#compile(name, dispatch);
    const bindings = dispatch.bindings ?? views;
    this.#validator.checkDispatch(name, dispatch, bindings.length, compiled);
    if (this.debug) {
      const bound = bindings.map((view) => ({ view, resource: this.#resource(view) }));
      this.#validator.checkInDebug(name, dispatch, bound, compiled);
    }
    const { pipeline } = compiled;
    const group = this.#group(name, compiled, bindings);
    return { pipeline, group, memories: bindings.map(memoryOf) };
  }

  /** What has been compiled of each kernel, by operation and label. */
  variants(): ReadonlyMap<string, Variants> {
    return this.#variants;
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

  #variant(name: string, { shader, constants = {}, params = [], label, tile }: Dispatch): Compiled {
    let variants = this.#compiled.get(shader);
    if (variants === undefined) this.#compiled.set(shader, variants = new Map());
    let key = name;
    for (const constant in constants) key += `,${constant}=${constants[constant]}`;
    const known = variants.get(key);
    if (known !== undefined) return known;

    const specialised = specialise(shader, constants);
    const room = this.limits.maxStorageBuffersPerShaderStage;
    const storage = reflect(specialised).bindings.filter((type) => type !== "uniform").length;
    const code = this.options.paramsInStorage && storage < room
      ? specialised.replace("var<uniform>", "var<storage, read>")
      : specialised;
    const reflection = reflect(code);
    this.#validator.checkShader(name, reflection);
    const accepted = this.options.subgroupsDirective ? code : code.replace(SUBGROUPS_DIRECTIVE, "");
    const layout = this.#layout(reflection.bindings, params.length > 0);
    const pipeline = this.errors.watch(name, "validation", () =>
      this.device.createComputePipeline({
        label: name,
        layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: {
          module: this.device.createShaderModule({ label: name, code: accepted }),
          entryPoint: "main",
        },
      }));
    const groups: GroupTree = { after: new Map() };
    const compiled: Compiled = { ...reflection, shader, pipeline, layout, groups };
    variants.set(key, compiled);
    const kernel = label === undefined ? name : `${name}: ${label}`;
    const { count = 0, tiles = [] } = this.#variants.get(kernel) ?? {};
    const further = tile === undefined || tiles.includes(tile) ? [] : [tile];
    this.#variants.set(kernel, { count: count + 1, tiles: [...tiles, ...further] });
    return compiled;
  }

  #layout(bindings: readonly GPUBufferBindingType[], withParams: boolean): GPUBindGroupLayout {
    const key = `${bindings} ${withParams}`;
    let layout = this.#layouts.get(key);
    if (layout === undefined) {
      layout = this.device.createBindGroupLayout({
        entries: bindings.map((type, binding) => ({
          binding,
          visibility: SHADER_STAGE_COMPUTE,
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

    const resources: GPUBufferBinding[] = views.map((view) => this.#resource(view));
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

  #resource(view: View): Bound["resource"] {
    const { buffer } = memoryOf(view);
    const offset = view.byteOffset ?? 0;
    return { buffer, offset, size: Math.min(buffer.size - offset, this.options.bindingBytes) };
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

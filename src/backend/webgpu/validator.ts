/**
 * What WebGPU forbids, checked before anything is encoded: limits against those that the device was
 * granted, features, and, in debug mode, everything that one dispatch binds and is given. Not every
 * implementation reports a violation: Deno's leaves zeros behind, or reads what lies beside.
 *
 * @module
 */
import { bytesOf } from "../../dtype.ts";
import { DeviceError, LevinError, LimitError } from "../../errors.ts";
import { format, sizeOf } from "../../shape.ts";
import { type Dispatch, extentOf, type View } from "../contract.ts";
import type { Limits } from "./adapter.ts";
import type { Reflection } from "./shader.ts";

/** Bytes of a uniform block that a kernel may read. */
export const PARAMS_BYTES = 256;

/** The feature that a directive of WGSL needs, where the two are not called the same. */
const FEATURES: Record<string, string> = {
  f16: "shader-f16",
  chromium_experimental_subgroup_matrix: "chromium-experimental-subgroup-matrix",
};

/** A buffer's part that a dispatch binds, and the view that the kernel sees through it. */
export interface Bound {
  /** The part, with its size. */
  readonly resource: GPUBufferBinding & { readonly offset: number; readonly size: number };
  /** What is read or written through it. */
  readonly view: View;
}

/** The checks of one device. */
export class Validator {
  /** Checks for a device with these limits and features; `limits` are plain numbers, asked at every dispatch. */
  constructor(
    readonly device: Pick<GPUDevice, "limits" | "features">,
    readonly limits: Pick<Limits, "maxComputeWorkgroupsPerDimension"> = device.limits,
  ) {}

  /**
   * Checks what a shader needs, once for each that is compiled.
   *
   * @throws {LimitError} naming the limit that it breaks.
   * @throws {DeviceError} naming the feature that the device lacks.
   */
  checkShader(
    name: string,
    { bindings, enables, workgroupBytes, workgroupSize }: Reflection,
  ): void {
    const [x, y, z] = workgroupSize;
    const uniforms = bindings.filter((type) => type === "uniform").length;
    this.#check(name, "maxComputeWorkgroupStorageSize", workgroupBytes);
    this.#check(name, "maxComputeInvocationsPerWorkgroup", x * y * z);
    this.#check(name, "maxComputeWorkgroupSizeX", x);
    this.#check(name, "maxComputeWorkgroupSizeY", y);
    this.#check(name, "maxComputeWorkgroupSizeZ", z);
    this.#check(name, "maxStorageBuffersPerShaderStage", bindings.length - uniforms);
    this.#check(name, "maxUniformBuffersPerShaderStage", uniforms);
    for (const directive of enables) {
      const feature = FEATURES[directive] ?? directive.replaceAll("_", "-");
      if (!this.device.features.has(feature as GPUFeatureName)) {
        throw new DeviceError(
          `Cannot run ${name}: its kernel needs the feature "${feature}", found ${
            [...this.device.features].join(", ") || "none"
          }; use another device or, for f16, dtype f32`,
        );
      }
    }
  }

  /**
   * Checks the shape of a dispatch, every time.
   *
   * @throws {LimitError} naming the limit that it breaks.
   */
  checkDispatch(name: string, dispatch: Dispatch, bound: number, { bindings }: Reflection): void {
    const { maxComputeWorkgroupsPerDimension: most } = this.limits;
    const [x, y = 1, z = 1] = dispatch.workgroups;
    if (x > most || y > most || z > most) {
      this.#check(name, "maxComputeWorkgroupsPerDimension", Math.max(x, y, z));
    }
    const words = dispatch.params?.length ?? 0;
    if (words * 4 > PARAMS_BYTES) {
      throw new LimitError(
        `Cannot run ${name}: its ${words} params exceed the ${PARAMS_BYTES / 4} words that a ` +
          `kernel may be given; pass more as a tensor`,
      );
    }
    if (bindings.length !== bound + (words > 0 ? 1 : 0)) {
      throw new LimitError(
        `Cannot run ${name}: its shader declares ${bindings.length} bindings, but it was given ` +
          `${bound} tensors${words > 0 ? " and a block of params" : ""}`,
      );
    }
  }

  /**
   * Checks everything else that a dispatch is made of; in debug mode, every time.
   *
   * @throws {LimitError} naming the limit that it breaks.
   * @throws {LevinError} if its params or bindings contradict its shader or each other.
   */
  checkInDebug(
    name: string,
    dispatch: Dispatch,
    bound: readonly Bound[],
    shader: Reflection,
  ): void {
    const { limits } = this.device;
    for (const count of dispatch.workgroups) {
      if (!Number.isInteger(count ?? 1) || (count ?? 1) < 0) {
        throw new LevinError(
          `Cannot run ${name}: expected whole numbers of workgroups, found ${dispatch.workgroups}`,
        );
      }
    }
    bound.forEach(({ resource: { buffer, offset, size }, view }, i) => {
      const what = `binding ${i}, a ${view.dtype} ${format(view.shape)}`;
      const fail = (problem: string): never => {
        throw new LimitError(`Cannot run ${name}: ${what}, ${problem}`);
      };
      const alignment = limits.minStorageBufferOffsetAlignment;
      if (offset % alignment !== 0) {
        fail(
          `starts at byte ${offset}, no multiple of ${alignment} (minStorageBufferOffsetAlignment)`,
        );
      }
      if (size > limits.maxStorageBufferBindingSize) {
        fail(
          `takes ${size} bytes of ${limits.maxStorageBufferBindingSize} (maxStorageBufferBindingSize)`,
        );
      }
      const whole = (buffer as GPUBuffer).size;
      if (size <= 0 || size % 4 !== 0 || offset + size > whole) {
        fail(
          `binds ${size} bytes from byte ${offset} of a buffer of ${whole}; expected words inside it`,
        );
      }
      if (sizeOf(view.shape) === 0) return;
      const [first, last] = extentOf(view);
      if (first < 0 || (last + 1) * bytesOf(view.dtype) > size) {
        fail(`touches elements ${first} to ${last}, outside the ${size} bytes bound`);
      }
    });
    checkAliases(name, bound, shader);
    this.#checkParams(name, dispatch.params ?? [], shader);
  }

  #checkParams(name: string, params: readonly number[], shader: Reflection): void {
    const { maxUniformBufferBindingSize, minUniformBufferOffsetAlignment } = this.device.limits;
    if (params.length === 0) return;
    if (PARAMS_BYTES > maxUniformBufferBindingSize) {
      throw new LimitError(
        `Cannot run ${name}: its params take ${PARAMS_BYTES} bytes and the device allows ` +
          `${maxUniformBufferBindingSize} (maxUniformBufferBindingSize)`,
      );
    }
    if (PARAMS_BYTES % minUniformBufferOffsetAlignment !== 0) {
      throw new LimitError(
        `Cannot run ${name}: blocks of params lie ${PARAMS_BYTES} bytes apart, no multiple of ` +
          `${minUniformBufferOffsetAlignment} (minUniformBufferOffsetAlignment)`,
      );
    }
    const wrong = params.findIndex((x) => !Number.isInteger(x) || x < -(2 ** 31) || x >= 2 ** 32);
    if (wrong >= 0) {
      throw new LimitError(
        `Cannot run ${name}: param ${wrong} is ${params[wrong]}, expected an integer of 32 bits ` +
          `(floats go through floatBits)`,
      );
    }
    const { size, align } = shader.paramsLayout();
    if (Math.ceil(4 * params.length / align) * align !== size) {
      throw new LevinError(
        `Cannot run ${name}: its shader reads a block of ${size} bytes, but it was given ` +
          `${params.length} params of 4 bytes`,
      );
    }
  }

  #check(name: string, limit: keyof GPUSupportedLimits, value: number): void {
    const allowed = this.device.limits[limit] as number;
    if (value > allowed) {
      throw new LimitError(
        `Cannot run ${name}: it needs ${value} of ${limit} and the device allows ${allowed}`,
      );
    }
  }
}

/** Within one dispatch, memory that is written may not be bound a second time. */
function checkAliases(name: string, bound: readonly Bound[], { bindings }: Reflection): void {
  bound.forEach(({ resource: one }, i) => {
    if (bindings[i] !== "storage") return;
    bound.forEach(({ resource: other }, j) => {
      if (i === j || one.buffer !== other.buffer) return;
      const apart = one.offset + one.size <= other.offset ||
        other.offset + other.size <= one.offset;
      // A buffer is in one state at a time: it is not read where it is written, however far apart.
      if (bindings[j] === "storage" && apart) return;
      throw new LevinError(
        `Cannot run ${name}: binding ${i} writes a buffer that binding ${j} ` +
          `${bindings[j] === "storage" ? "writes" : "reads"} too; expected memory of its own, so ` +
          `write into a new tensor`,
      );
    });
  });
}

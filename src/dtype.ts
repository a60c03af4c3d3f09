/**
 * The five dtypes and the typed arrays that hold them.
 *
 * @module
 */
import { DTypeError } from "./errors.ts";

/** The type of a tensor's elements. `f16` is storage only: arithmetic on it is done in `f32`. */
export type DType = "f32" | "f16" | "i32" | "u32" | "bool";

/** What `tensor.data()` resolves to: the typed array of the tensor's dtype (`bool`: Uint8Array). */
export type TypedArray = Float32Array | Float16Array | Int32Array | Uint32Array | Uint8Array;

/** The numeric arrays that CPU kernels see: `f16` is widened before, `bool` is 0 or 1 in 32 bits. */
export type KernelArray = Float32Array | Int32Array | Uint32Array;

const BYTES = { f32: 4, f16: 2, i32: 4, u32: 4, bool: 4 } as const;

/** Bytes that one element of `dtype` takes on a device. `bool` takes 4, as in WGSL. */
export function bytesOf(dtype: DType): number {
  return BYTES[dtype];
}

/** Whether `dtype` is a floating type, the only kind that carries gradients. */
export function isFloat(dtype: DType): boolean {
  return dtype === "f32" || dtype === "f16";
}

/** Throws DTypeError unless `dtype` is one of the five. */
export function checkDType(dtype: string): asserts dtype is DType {
  if (!(dtype in BYTES)) {
    throw new DTypeError(
      `Unknown dtype "${dtype}": expected one of ${Object.keys(BYTES).join(", ")}`,
    );
  }
}

/** The least and the largest whole number of dtypes that are not floats. */
const RANGES: Partial<Record<DType, readonly [low: number, high: number]>> = {
  i32: [-(2 ** 31), 2 ** 31 - 1],
  u32: [0, 2 ** 32 - 1],
  bool: [0, 1],
};

/** Throws DTypeError unless `dtype` holds every value: floats do, rounded. `what` is to be done with them. */
export function checkHeld(values: ArrayLike<number>, dtype: DType, what = "hold"): void {
  const [low, high] = RANGES[dtype] ?? [];
  if (low === undefined || high === undefined) return;
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (!Number.isInteger(value) || value < low || value > high) {
      throw new DTypeError(
        `Cannot ${what} ${value} in dtype ${dtype}: expected a whole number from ${low} to ${high}`,
      );
    }
  }
}

/** The dtype in which a typed array is taken by `tensor()`, or undefined if there is none. */
export function dtypeOfArray(array: ArrayBufferView): DType | undefined {
  if (array instanceof Float32Array) return "f32";
  if (array instanceof Float64Array) return "f32";
  if ("Float16Array" in globalThis && array instanceof Float16Array) return "f16";
  if (array instanceof Int32Array || array instanceof Int16Array) return "i32";
  if (array instanceof Int8Array) return "i32";
  if (array instanceof Uint32Array || array instanceof Uint16Array) return "u32";
  if (array instanceof Uint8Array || array instanceof Uint8ClampedArray) return "u32";
  return undefined;
}

/** `Float16Array`. Throws DTypeError where the runtime has none. */
export function float16Arrays(): typeof Float16Array {
  const { Float16Array } = globalThis;
  if (Float16Array === undefined) {
    throw new DTypeError(
      `Cannot hold dtype f16: expected a runtime with Float16Array, found none; use Node 24, or ` +
        `\`node --js-float16array\` of Node 22`,
    );
  }
  return Float16Array;
}

/** The typed arrays that mirror device memory. */
export type DeviceArray =
  | Float32Array<ArrayBuffer>
  | Float16Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>;

/** The elements of device memory as the device lays them out: `bool` is a 32-bit 0 or 1. */
export function deviceArray(
  dtype: DType,
  buffer: ArrayBuffer,
  byteOffset = 0,
  length?: number,
): DeviceArray {
  switch (dtype) {
    case "f32":
      return new Float32Array(buffer, byteOffset, length);
    case "f16":
      return new (float16Arrays())(buffer, byteOffset, length);
    case "i32":
      return new Int32Array(buffer, byteOffset, length);
    default:
      return new Uint32Array(buffer, byteOffset, length);
  }
}

/** What the user reads: as the device lays it out, but for `bool`, which becomes bytes. */
export function userArray(dtype: DType, buffer: ArrayBuffer): TypedArray {
  const array = deviceArray(dtype, buffer);
  return dtype === "bool" ? Uint8Array.from(array) : array;
}

/**
 * The safetensors format: eight bytes that give the length of a JSON header, the header, and the
 * elements of all tensors without a gap. https://github.com/huggingface/safetensors#format
 *
 * @module
 */
import type { Device } from "../device.ts";
import { type DType, float16Arrays, type TypedArray } from "../dtype.ts";
import { DTypeError, FormatError } from "../errors.ts";
import { tensor } from "../ops/create.ts";
import { checkShape, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";

/** What a safetensors file holds. */
export interface SafetensorsContent {
  /** The tensors by name. */
  tensors: Record<string, Tensor>;
  /** Strings by name, from the header's `__metadata__`. */
  metadata: Record<string, string>;
}

const WRITTEN: Record<DType, string> = {
  f32: "F32",
  f16: "F16",
  i32: "I32",
  u32: "U32",
  bool: "BOOL",
};

/** How each stored dtype is read: its bytes, the dtype it becomes, and the conversion. */
const READ: Record<
  string,
  { bytes: number; dtype: DType; values: (b: ArrayBuffer) => ArrayLike<number> }
> = {
  F64: { bytes: 8, dtype: "f32", values: (b) => new Float64Array(b) },
  F32: { bytes: 4, dtype: "f32", values: (b) => new Float32Array(b) },
  F16: { bytes: 2, dtype: "f16", values: (b) => new (float16Arrays())(b) },
  BF16: { bytes: 2, dtype: "f32", values: fromBfloat16 },
  I64: { bytes: 8, dtype: "i32", values: (b) => Array.from(new BigInt64Array(b), Number) },
  I32: { bytes: 4, dtype: "i32", values: (b) => new Int32Array(b) },
  I16: { bytes: 2, dtype: "i32", values: (b) => new Int16Array(b) },
  I8: { bytes: 1, dtype: "i32", values: (b) => new Int8Array(b) },
  U32: { bytes: 4, dtype: "u32", values: (b) => new Uint32Array(b) },
  U16: { bytes: 2, dtype: "u32", values: (b) => new Uint16Array(b) },
  U8: { bytes: 1, dtype: "u32", values: (b) => new Uint8Array(b) },
  BOOL: { bytes: 1, dtype: "bool", values: (b) => new Uint8Array(b) },
};

/** The longest header that readers of the format accept, in bytes. */
const LONGEST_HEADER = 100_000_000;

/**
 * The bytes of a safetensors file with these tensors and this metadata.
 *
 * @throws {FormatError} if a tensor has the name `__metadata__`, which the format keeps for itself.
 */
export async function encodeSafetensors(
  tensors: Readonly<Record<string, Tensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<Uint8Array<ArrayBuffer>> {
  if (Object.hasOwn(tensors, "__metadata__")) {
    throw new FormatError(
      "safetensors: a tensor cannot have the name __metadata__, which the format keeps for itself; " +
        "give it another",
    );
  }
  // Wide elements first, then by name, as the reference writer does: every tensor is then aligned.
  const entries = Object.entries(tensors).sort(([a, x], [b, y]) =>
    READ[WRITTEN[y.dtype]].bytes - READ[WRITTEN[x.dtype]].bytes || (a < b ? -1 : 1)
  );
  const arrays = await Promise.all(entries.map(([, t]) => t.data()));
  const header: [string, unknown][] = [];
  if (Object.keys(metadata).length > 0) header.push(["__metadata__", metadata]);
  let end = 0;
  entries.forEach(([name, { dtype, shape }], i) => {
    const begin = end;
    end += arrays[i].byteLength;
    header.push([name, { dtype: WRITTEN[dtype], shape, data_offsets: [begin, end] }]);
  });
  // Not by assignment, which would lose a tensor of the name __proto__.
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(header)));
  const headerLength = Math.ceil(json.length / 8) * 8;
  const file = new Uint8Array(8 + headerLength + end);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerLength), true);
  file.set(json, 8);
  file.fill(0x20, 8 + json.length, 8 + headerLength);
  let at = 8 + headerLength;
  for (const array of arrays) {
    file.set(bytesOfArray(array), at);
    at += array.byteLength;
  }
  return file;
}

/**
 * The content of a safetensors file. BF16 and F64 become f32; I8, I16 and I64 become i32 and U8 and U16
 * u32.
 *
 * @throws {FormatError} saying what is wrong, if the file is malformed or cut short.
 * @throws {DTypeError} if a tensor has a dtype that Levin does not hold.
 */
export function decodeSafetensors(
  file: Uint8Array,
  { device }: { device?: Device } = {},
): SafetensorsContent {
  const { start, entries: checked, metadata } = readEntries(file, file.length);
  const tensors: [string, Tensor][] = [];
  try {
    for (const { name, dtype, shape, begin, end } of checked) {
      // A copy that starts on a boundary of every element type; slice() of Node's Buffer is none.
      const bytes = new Uint8Array(file.subarray(start + begin, start + end)).buffer;
      const { array, dtype: held } = elementsOf(name, dtype, bytes);
      tensors.push([name, tensor(array, { shape, dtype: held, device })]);
    }
  } catch (error) {
    for (const [, t] of tensors) t.dispose();
    throw error;
  }
  return { tensors: Object.fromEntries(tensors), metadata };
}

/** Where the header of a file of `size` bytes ends, from its first 8 bytes. */
export function headerEnd(first: Uint8Array, size: number): number {
  if (size < 8) {
    throw new FormatError(`safetensors: the file has ${size} bytes, fewer than the first 8`);
  }
  const length = Number(new DataView(first.buffer, first.byteOffset).getBigUint64(0, true));
  if (length > LONGEST_HEADER || length > size - 8) {
    throw new FormatError(
      `safetensors: the header should have ${length} bytes, but ${size - 8} follow; the file ` +
        `is cut short or of another format`,
    );
  }
  return 8 + length;
}

/** What the header at the start of a file of `size` bytes says, and where the tensors begin. */
export function readEntries(
  head: Uint8Array,
  size: number,
): { start: number; entries: Entry[]; metadata: Record<string, string> } {
  const start = headerEnd(head, size);
  const { __metadata__: metadata = {}, ...named } = parseHeader(head.subarray(8, start));
  if (!isRecord(metadata) || Object.values(metadata).some((v) => typeof v !== "string")) {
    throw new FormatError("safetensors: __metadata__ must map names to strings");
  }
  const entries = Object.entries(named).map(([name, entry]) => checkEntry(name, entry));
  checkCoverage(entries, size - start);
  return { start, entries, metadata: metadata as Record<string, string> };
}

function parseHeader(json: Uint8Array): Record<string, unknown> {
  let header: unknown;
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(json);
    header = JSON.parse(text);
  } catch (cause) {
    throw new FormatError("safetensors: the header is not JSON", { cause });
  }
  if (!isRecord(header)) throw new FormatError("safetensors: the header is not a JSON object");
  return header;
}

/** A tensor of a file, as the header describes it. */
export interface Entry {
  /** Its name. */
  readonly name: string;
  /** Its dtype, in the format's own words. */
  readonly dtype: string;
  /** Its shape. */
  readonly shape: number[];
  /** Its first byte, counted from where the tensors begin. */
  readonly begin: number;
  /** The byte after its last. */
  readonly end: number;
}

/** The bytes of one element of a dtype in the format's own words. */
export function bytesOfStored(dtype: string): number {
  return READ[dtype].bytes;
}

/** Elements of the tensor `name` in the typed array of the dtype that Levin holds them in. */
export function elementsOf(
  name: string,
  stored: string,
  bytes: ArrayBuffer,
): { array: TypedArray; dtype: DType } {
  const { dtype, values } = READ[stored];
  return { array: toTypedArray(dtype, values(bytes), name), dtype };
}

function checkEntry(name: string, entry: unknown): Entry {
  const { dtype, shape, data_offsets: offsets } = (isRecord(entry) ? entry : {}) as Record<
    string,
    unknown
  >;
  const isCount = (n: unknown) => Number.isSafeInteger(n) && (n as number) >= 0;
  if (
    typeof dtype !== "string" || !Array.isArray(shape) || !shape.every(isCount) ||
    !Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)
  ) {
    throw new FormatError(`safetensors: "${name}" lacks a dtype, a shape or data_offsets`);
  }
  if (!Object.hasOwn(READ, dtype)) {
    throw new DTypeError(
      `safetensors: "${name}" has dtype ${dtype}; expected one of ${Object.keys(READ).join(", ")}`,
    );
  }
  checkShape(shape, `safetensors "${name}"`);
  const [begin, end] = offsets;
  const wanted = sizeOf(shape) * READ[dtype].bytes;
  if (end - begin !== wanted) {
    throw new FormatError(
      `safetensors: "${name}" of shape [${shape}] and dtype ${dtype} needs ${wanted} bytes, but its ` +
        `data_offsets span ${end - begin}`,
    );
  }
  return { name, dtype, shape, begin, end };
}

/** The tensors must fill the rest of the file, without gaps and overlaps. */
function checkCoverage(entries: readonly Entry[], available: number): void {
  let at = 0;
  for (
    const { name, begin, end } of entries.toSorted((a, b) => a.begin - b.begin || a.end - b.end)
  ) {
    if (begin !== at) {
      throw new FormatError(`safetensors: "${name}" starts at byte ${begin}, expected ${at}`);
    }
    at = end;
  }
  if (at !== available) {
    throw new FormatError(
      `safetensors: the tensors take ${at} bytes, but the file has ${available} for them` +
        (at > available ? "; it is cut short" : ""),
    );
  }
}

function toTypedArray(dtype: DType, values: ArrayLike<number>, name: string): TypedArray {
  if (dtype !== "i32" || values instanceof Int32Array) {
    return ArrayBuffer.isView(values) && !(values instanceof Float64Array)
      ? values as unknown as TypedArray
      : Float32Array.from(values);
  }
  const array = Int32Array.from(values);
  for (let i = 0; i < array.length; i++) {
    if (array[i] !== values[i]) {
      throw new DTypeError(`safetensors: "${name}" holds ${values[i]}, which i32 does not`);
    }
  }
  return array;
}

function fromBfloat16(buffer: ArrayBuffer): Float32Array {
  const halves = new Uint16Array(buffer);
  const words = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) words[i] = halves[i] << 16;
  return new Float32Array(words.buffer);
}

function bytesOfArray(array: TypedArray): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

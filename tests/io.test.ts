/** Safetensors: what is written, byte for byte, what is read, what is refused and what is left. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { mkdir, mkdtemp, open, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type DType, DTypeError, FormatError, io, LevinError, tensor, zeros } from "../mod.ts";
import { testOnBackends, testOnCpu } from "./harness.ts";

const { decodeSafetensors, encodeSafetensors, loadSafetensors, saveSafetensors } = io;

/** A safetensors file put together by hand. */
function fileOf(header: unknown, data: Uint8Array = new Uint8Array()): Uint8Array {
  const text = typeof header === "string" ? header : JSON.stringify(header);
  const json = new TextEncoder().encode(text);
  const file = new Uint8Array(8 + json.length + data.length);
  new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
  file.set(json, 8);
  file.set(data, 8 + json.length);
  return file;
}

const bytesOf = (array: ArrayBufferView) => new Uint8Array(array.buffer as ArrayBuffer);
const entry = (dtype: string, shape: number[], end: number) => ({
  dtype,
  shape,
  data_offsets: [0, end],
});

const temporaryFolder = () => mkdtemp(join(tmpdir(), "levin-"));

function dispose(tensors: Record<string, Disposable>): void {
  for (const t of Object.values(tensors)) t[Symbol.dispose]();
}

testOnBackends("tensors of every dtype come back from a file as they went in", async () => {
  const folder = await temporaryFolder();
  const path = join(folder, "a.safetensors");
  try {
    const tensors = {
      weights: tensor([[1.5, -2], [3, 1e-30]]),
      half: tensor([0.5, -1, 65504], { dtype: "f16" }),
      counts: tensor([-1, 2 ** 31 - 1], { dtype: "i32" }),
      words: tensor([4294967295], { dtype: "u32" }),
      flags: tensor([true, false, true]),
      scalar: tensor(7),
      nothing: zeros([0, 4]),
      view: tensor([[1, 2, 3], [4, 5, 6]]).transpose(),
    };
    await saveSafetensors(path, tensors, { note: "ü", step: "3" });
    const read = await loadSafetensors(path);
    assertEquals(read.metadata, { note: "ü", step: "3" });
    assertEquals(Object.keys(read.tensors).sort(), Object.keys(tensors).sort());
    for (const [name, t] of Object.entries(tensors)) {
      const back = read.tensors[name];
      assertEquals([back.shape, back.dtype], [t.shape, t.dtype], name);
      assertEquals([...await back.data()], [...await t.data()], name);
    }
    assertEquals([...await read.tensors.view.data()], [1, 4, 2, 5, 3, 6]);
  } finally {
    await rm(folder, { recursive: true });
  }
});

testOnCpu("a file has exactly the bytes of the format", async () => {
  const file = await encodeSafetensors({ a: tensor([1, -2], { dtype: "i32" }) }, { m: "x" });
  const header = '{"__metadata__":{"m":"x"},"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}';
  const padded = header.padEnd(Math.ceil(header.length / 8) * 8);
  assertEquals(file, fileOf(padded, bytesOf(new Int32Array([1, -2]))));
  assertEquals([...file.slice(-8)], [1, 0, 0, 0, 254, 255, 255, 255]);
});

testOnCpu("dtypes that Levin does not hold are widened to ones it does", async () => {
  const cases: [string, Uint8Array, DType, number[]][] = [
    ["BF16", bytesOf(new Uint16Array([0x3fc0, 0xc000])), "f32", [1.5, -2]],
    ["F64", bytesOf(new Float64Array([0.25, -8])), "f32", [0.25, -8]],
    ["I64", bytesOf(new BigInt64Array([-5n, 7n])), "i32", [-5, 7]],
    ["I16", bytesOf(new Int16Array([-300, 300])), "i32", [-300, 300]],
    ["I8", bytesOf(new Int8Array([-128, 1])), "i32", [-128, 1]],
    ["U16", bytesOf(new Uint16Array([65535, 1])), "u32", [65535, 1]],
    ["U8", bytesOf(new Uint8Array([255, 1])), "u32", [255, 1]],
    ["BOOL", bytesOf(new Uint8Array([0, 1])), "bool", [0, 1]],
  ];
  for (const [stored, data, dtype, values] of cases) {
    const { tensors: { x } } = decodeSafetensors(
      fileOf({ x: entry(stored, [2], data.length) }, data),
    );
    assertEquals([x.dtype, ...await x.data()], [dtype, ...values], stored);
  }
});

testOnCpu("malformed files are refused, saying what is wrong", () => {
  const four = new Uint8Array(4);
  const whole = entry("F32", [1], 4);
  const cases: [unknown, Uint8Array, string][] = [
    ["{", four, "not JSON"],
    ["[]", four, "not a JSON object"],
    [{ x: 1 }, four, '"x" lacks'],
    [{ x: { ...whole, shape: [-1] } }, four, '"x" lacks'],
    [{ x: { ...whole, shape: [2] } }, four, "needs 8 bytes"],
    [{ x: { ...whole, data_offsets: [4, 8] } }, new Uint8Array(8), "starts at byte 4"],
    [{ x: whole, y: whole }, four, "starts at byte 0"],
    [{ x: whole }, new Uint8Array(9), "file has 9"],
    [{ x: whole, __metadata__: { a: 1 } }, four, "__metadata__"],
  ];
  for (const [header, data, message] of cases) {
    assertThrows(() => decodeSafetensors(fileOf(header, data)), FormatError, message);
  }
  for (const dtype of ["F8_E4M3", "toString"]) {
    assertThrows(() => decodeSafetensors(fileOf({ x: entry(dtype, [4], 4) }, four)), DTypeError);
  }
  const big = bytesOf(new BigInt64Array([2n ** 40n]));
  assertThrows(() => decodeSafetensors(fileOf({ x: entry("I64", [1], 8) }, big)), DTypeError);
});

testOnCpu("a file cut short at any byte is refused", async () => {
  const file = await encodeSafetensors({ a: tensor([1, 2]), b: tensor([3], { dtype: "f16" }) });
  dispose(decodeSafetensors(file).tensors);
  for (let length = 0; length < file.length; length++) {
    assertThrows(() => decodeSafetensors(file.slice(0, length)), FormatError);
  }
});

testOnCpu("a corrupted file is read or refused, and never anything else", async () => {
  const file = await encodeSafetensors({ a: tensor([[1, 2], [3, 4]]) }, { m: "x" });
  const change = fc.tuple(fc.nat(file.length - 1), fc.nat(255));
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
      const damaged = file.slice();
      for (const [at, value] of changes) damaged[at] = value;
      try {
        dispose(decodeSafetensors(damaged).tensors);
      } catch (error) {
        assert(error instanceof LevinError, String(error));
      }
    }),
    { numRuns: 500 },
  );
});

testOnCpu("a header of any JSON is read or refused, and never anything else", () => {
  const count = fc.oneof(fc.nat(4), fc.constantFrom<unknown>(-1, 0.5, 2 ** 53, 1e300, "1", null));
  const record = fc.record({
    dtype: fc.constantFrom<unknown>("F32", "BOOL", "I64", "toString", "", 3),
    shape: fc.oneof(fc.array(count, { maxLength: 3 }), fc.jsonValue()),
    data_offsets: fc.oneof(fc.tuple(count, count), fc.array(count, { maxLength: 3 })),
  }, { requiredKeys: [] });
  const name = fc.constantFrom("a", "b", "", "0", "__proto__", "__metadata__", "constructor");
  const header = fc.oneof(fc.jsonValue(), fc.dictionary(name, fc.oneof(record, fc.jsonValue())));
  const outcomes = { read: 0, refused: 0 };
  fc.assert(
    fc.property(header, fc.nat(8), (content, length) => {
      try {
        dispose(decodeSafetensors(fileOf(content, new Uint8Array(length))).tensors);
        outcomes.read++;
      } catch (error) {
        assert(error instanceof LevinError, String(error));
        outcomes.refused++;
      }
    }),
    { numRuns: 1000, examples: [[{ a: entry("F32", [1], 4) }, 4], [{}, 0]] },
  );
  assert(outcomes.read > 1 && outcomes.refused > 100, JSON.stringify(outcomes));
});

testOnCpu("a tensor may have any name but the one that the format keeps", async () => {
  // Deno takes this accessor away and Bun does not: with it, assignment to the name is lost.
  const before = Object.getOwnPropertyDescriptor(Object.prototype, "__proto__");
  Object.defineProperty(Object.prototype, "__proto__", {
    configurable: true,
    get() {
      return Object.getPrototypeOf(this);
    },
    set(value: object) {
      Object.setPrototypeOf(this, value);
    },
  });
  try {
    const names = ["__proto__", "constructor", "0", "", "ü"];
    const tensors = Object.fromEntries(names.map((name, i) => [name, tensor([i + 1])]));
    const read = decodeSafetensors(await encodeSafetensors(tensors)).tensors;
    assertEquals(Object.keys(read).sort(), names.toSorted());
    for (const [name, t] of Object.entries(read)) {
      assertEquals(await t.item(), names.indexOf(name) + 1, name);
    }
  } finally {
    if (before === undefined) Reflect.deleteProperty(Object.prototype, "__proto__");
    else Object.defineProperty(Object.prototype, "__proto__", before);
  }
  await assertRejects(
    () => encodeSafetensors({ __metadata__: tensor([1]) }),
    FormatError,
    "__metadata__",
  );
});

testOnCpu("a disk that fails in the middle of a save leaves the old file whole", async () => {
  const folder = await temporaryFolder();
  const path = `${folder}/a.safetensors`;
  await saveSafetensors(path, { a: tensor([1]) });
  const before = await readFile(path);
  const handle = await open(path);
  const prototype = Object.getPrototypeOf(handle);
  await handle.close();
  const { sync } = prototype;
  let beside: string[] = [];
  prototype.sync = async () => {
    beside = await readdir(folder);
    throw new Error("no space left");
  };
  try {
    await assertRejects(() => saveSafetensors(path, { a: tensor([2]) }), Error, "no space left");
    assertEquals(beside.length, 2, "what is new is written beside what is old");
    assertEquals(await readFile(path), before);
    assertEquals(await readdir(folder), ["a.safetensors"]);
  } finally {
    prototype.sync = sync;
    await rm(folder, { recursive: true });
  }
});

testOnCpu("a save that fails leaves the old file whole and nothing beside it", async () => {
  const folder = await temporaryFolder();
  try {
    const path = `${folder}/a.safetensors`;
    await saveSafetensors(path, { a: tensor([1]) });
    const before = await readFile(path);
    const gone = tensor([2]);
    gone.dispose();
    await assertRejects(() => saveSafetensors(path, { a: gone }), LevinError);
    await mkdir(`${folder}/taken`);
    await assertRejects(() => saveSafetensors(`${folder}/taken`, { a: tensor([1]) }));
    await assertRejects(() => saveSafetensors(`${folder}/absent/a`, { a: tensor([1]) }));
    assertEquals(await readFile(path), before);
    assertEquals((await readdir(folder)).sort(), ["a.safetensors", "taken"]);
  } finally {
    await rm(folder, { recursive: true });
  }
});

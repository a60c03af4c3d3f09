/**
 * What tests share: running on every backend that is there, comparing with a float64 reference, and the
 * rule that every test leaves memory as it found it.
 */
import { assert, assertEquals } from "@std/assert";
import {
  Device,
  DeviceError,
  type GpuSource,
  init,
  scope,
  setDefaultDevice,
  type Tensor,
} from "../mod.ts";
import { findAdapter, openDevice } from "../src/backend/webgpu/adapter.ts";
import { WebgpuBackend } from "../src/backend/webgpu/backend.ts";
import { dawn } from "../src/dawn.ts";
import { relativeError } from "./relative_error.ts";

export { relativeError };

const { Deno: deno, process } = globalThis as {
  Deno?: typeof Deno;
  process?: { env: Record<string, string | undefined> };
};
// A page is given its own by test:chromium.
const environment = process?.env ??
  (globalThis as { levinEnvironment?: Record<string, string | undefined> }).levinEnvironment ?? {};
// Tests choose their backends themselves.
delete environment.LEVIN_BACKEND;

const REMEDY = deno === undefined
  ? "LEVIN_TEST_GPU=dawn, after installing npm webgpu and Mesa 25 or a GPU driver"
  : "apt-get install mesa-vulkan-drivers";

interface Runner {
  (name: string, fn: () => void | Promise<void>, ignore?: boolean): void;
}

/** A test, as a page in a browser finds it in `globalThis.levinTests`. */
export interface BrowserTest {
  name: string;
  fn: () => void | Promise<void>;
  ignore: boolean;
}

/** Registers a test with Deno, Bun or Node, or for the page that it was loaded into. */
export const test: Runner = await chooseRunner();

async function chooseRunner(): Promise<Runner> {
  if (deno !== undefined) {
    return (name, fn, ignore = false) => {
      deno.test({ name, fn, ignore, sanitizeOps: false, sanitizeResources: false });
    };
  }
  if (process === undefined) {
    const tests = (globalThis as { levinTests?: BrowserTest[] }).levinTests ??= [];
    return (name, fn, ignore = false) => tests.push({ name, fn, ignore });
  }
  const specifier = "Bun" in globalThis ? "bun:test" : "node:test";
  const { test } = await import(specifier);
  if ("Bun" in globalThis) {
    return (name, fn, ignore = false) => (ignore ? test.skip : test)(name, fn, 600_000);
  }
  // Node's runner passes a context, which is no business of the tests.
  return (name, fn, ignore = false) => (ignore ? test.skip : test)(name, () => fn());
}

/** Registers a test of commands that are Deno's. */
export function testInDeno(name: string, fn: () => void | Promise<void>): void {
  if (deno !== undefined) test(name, fn);
  else test(`${name} (skipped: it is of what Deno alone can do)`, fn, true);
}

/** Whether the tests' WebGPU comes from npm `webgpu` and not from the runtime. */
export const onDawn = environment.LEVIN_TEST_GPU === "dawn";

/** Where the tests' WebGPU comes from. */
export const gpu: GpuSource | undefined = onDawn ? await dawn() : navigator.gpu;

/** A GPU device for a test alone, from where the shared one comes. */
export async function openGpu(options?: { subgroups?: boolean }): Promise<GPUDevice> {
  return await openDevice((await findAdapter(gpu)).adapter!, options);
}

/** What properties draw dtypes from: float16 only where the runtime and its GPU have it. */
export const FLOATS: readonly ("f32" | "f16")[] = await hasHalf() ? ["f32", "f32", "f16"] : ["f32"];

/** So many runs of a property; at most LEVIN_TEST_RUNS, for where shaders take long to compile. */
export function runs(count: number): { numRuns: number } {
  return { numRuns: Math.min(count, mostRuns) };
}

const mostRuns = Number(environment.LEVIN_TEST_RUNS ?? Infinity);
if (!(mostRuns >= 1)) {
  throw new Error(`LEVIN_TEST_RUNS expects at least 1, found "${environment.LEVIN_TEST_RUNS}"`);
}

async function hasHalf(): Promise<boolean> {
  const { adapter } = await findAdapter(gpu);
  return "Float16Array" in globalThis && adapter?.features.has("shader-f16") !== false;
}

/** The CPU, in plain TypeScript. */
export const cpu: Device = await init({ backend: "cpu" });

/** The CPU, by WebAssembly, with a thread to share the work with even on a machine of one core. */
export const wasm: Device = await init({ backend: "wasm", threads: 2 });

/** The WebGPU device, where there is one; every dispatch of every test is checked in full. */
export const webgpu: Device | undefined = await openWebgpu().catch((error) => {
  if (error instanceof DeviceError) return undefined;
  throw error;
});

/** With LEVIN_TEST_LIMITS set to "guaranteed", a device that has no more than every WebGPU has, and f16. */
async function openWebgpu(): Promise<Device> {
  if (environment.LEVIN_TEST_LIMITS !== "guaranteed") {
    return init({ backend: "webgpu", gpu, debug: true });
  }
  const adapter = await gpu?.requestAdapter() ?? undefined;
  if (adapter === undefined) throw new DeviceError("Cannot test limits: there is no adapter");
  const device = await adapter.requestDevice({
    requiredFeatures: ["shader-f16", "timestamp-query"],
  });
  return init({ backend: "webgpu", device, debug: true });
}

const required = environment.LEVIN_REQUIRE_WEBGPU === "1";

/** Registers a test on every backend; without WebGPU its GPU half is skipped, or fails if required. */
export function testOnBackends(name: string, fn: (device: Device) => void | Promise<void>): void {
  testOnCpus(name, fn);
  testOnWebgpu(name, fn);
}

/**
 * Registers a test on every backend, and, where the WebGPU device reduces by subgroups, on one that does without as
 * well.
 */
export function testReductions(name: string, fn: (device: Device) => void | Promise<void>): void {
  testOnBackends(name, fn);
  if (!hasSubgroups) return;
  test(
    `${name} (webgpu, without subgroups)`,
    async () => await leavingNoTrace(withoutSubgroups ??= await openWithoutSubgroups(), fn),
  );
}

/** Whether the WebGPU device reduces by subgroups. */
export const hasSubgroups = /^subgroups: (?!none)/m.test(webgpu?.describe() ?? "");

let withoutSubgroups: Device | undefined;

async function openWithoutSubgroups(): Promise<Device> {
  const device = await openGpu({ subgroups: false });
  return await openChecked(device, "reductions are tested without subgroups too");
}

/** A device for a test alone that kernels take for a GPU: software has forms of its own, which compile faster. */
export async function openAsHardware(): Promise<Device> {
  const info = { description: "taken for hardware" } as GPUAdapterInfo;
  return await openChecked(await openGpu(), "what kernels become on hardware is tested", info);
}

/** A device on one of WebGPU's, with every check of its dispatches. */
async function openChecked(
  device: GPUDevice,
  reason: string,
  info?: GPUAdapterInfo,
): Promise<Device> {
  const engine = await WebgpuBackend.open(device, { owned: true, info });
  engine.debug = true;
  return new Device(engine, reason);
}

/** Registers a test on both backends of the CPU. */
export function testOnCpus(name: string, fn: (device: Device) => void | Promise<void>): void {
  test(`${name} (cpu)`, () => leavingNoTrace(cpu, fn));
  testOnWasm(name, fn);
}

/** Registers a test of the WebAssembly backend. */
export function testOnWasm(name: string, fn: (device: Device) => void | Promise<void>): void {
  test(`${name} (wasm)`, () => leavingNoTrace(wasm, fn));
}

/** Registers a test that needs WebGPU. */
export function testOnWebgpu(name: string, fn: (device: Device) => void | Promise<void>): void {
  if (webgpu !== undefined) test(`${name} (webgpu)`, () => leavingNoTrace(webgpu!, fn));
  else if (required) {
    test(`${name} (webgpu)`, () => {
      throw new Error(`LEVIN_REQUIRE_WEBGPU is set and there is no WebGPU adapter: ${REMEDY}`);
    });
  } else test(`${name} (webgpu; skipped; what enables it: ${REMEDY})`, () => {}, true);
}

/** Registers a test on the CPU. */
export function testOnCpu(name: string, fn: (device: Device) => void | Promise<void>): void {
  test(name, () => leavingNoTrace(cpu, fn));
}

async function leavingNoTrace(
  device: Device,
  fn: (device: Device) => void | Promise<void>,
): Promise<void> {
  setDefaultDevice(device);
  const before = device.memory();
  {
    using _ = scope();
    await fn(device);
  }
  // What the test made go wrong on a GPU is its own failure; and Dawn ends a process that is over while it
  // still owes a report.
  await device.synchronize();
  const after = device.memory();
  assertEquals(after.liveBytes, before.liveBytes, "the test left live bytes behind");
  assertEquals(after.tensors, before.tensors, "the test left tensors behind");
}

/** A full collection; `deno task test` passes the flag that allows it. */
export function collectGarbage(): void {
  const { gc, Bun } = globalThis as { gc?: () => void; Bun?: { gc(force: boolean): void } };
  if (Bun !== undefined) return Bun.gc(true);
  if (gc === undefined) throw new Error("run the tests with --v8-flags=--expose-gc");
  gc();
}

/** What float32 may lose of the terms of a sum, relative RMS: sixteen units of the last place. */
const ROUNDING = 1e-6;

/**
 * Asserts that a tensor is as near to a float64 reference as `tolerance`, relative RMS; with `terms`, plus
 * what rounding takes from those that the reference is a sum of, where they cancel.
 */
export async function assertNear(
  found: Tensor,
  expected: ArrayLike<number>,
  tolerance: number,
  what = "result",
  terms?: ArrayLike<number>,
): Promise<void> {
  const values = await found.data();
  assertEquals(values.length, expected.length);
  const error = sizeOf(Float64Array.from(values, (value, i) => value - expected[i]));
  const rounding = Math.max(ROUNDING, tolerance / 100) * sizeOf(terms ?? []);
  const bound = tolerance * sizeOf(expected) + rounding;
  // NaN must fail, so the comparison asks for success.
  assert(
    error <= bound,
    `${what}: off by ${error}, by more than ${bound}; relative RMS error ${
      relativeError(values, expected)
    }`,
  );
}

/**
 * What float32 results are judged by, such as states: of float32 operands, or of float16 ones that no matrix unit
 * takes, by `exact`; on matrix units what is multiplied is rounded to float16.
 */
export function toleranceOf({ dtype, device }: Tensor, exact: number): number {
  return dtype === "f16" && /matrix units: \d/.test(device.describe()) ? 1e-3 : exact;
}

/** The root of the sum of squares. */
function sizeOf(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] ** 2;
  return Math.sqrt(sum);
}

/** The matrices over the last two axes of a tensor [b, h, rows, columns], as rows of numbers. */
export async function matricesOf(t: Tensor): Promise<number[][][]> {
  const [b, h, rows, columns] = t.shape;
  const data = await t.data();
  return Array.from({ length: b * h }, (_, i) =>
    Array.from({ length: rows }, (_, r) => {
      const start = (i * rows + r) * columns;
      return Array.from(data.slice(start, start + columns));
    }));
}

/** What the heads of each group, `members` at a time, hand to the matrix that they share. */
export function sumsOf(matrices: number[][][], members: number): number[] {
  const sums: number[] = [];
  for (let first = 0; first < matrices.length; first += members) {
    const group = matrices.slice(first, first + members).map((rows) => rows.flat());
    sums.push(...group[0].map((_, at) => group.reduce((sum, one) => sum + one[at], 0)));
  }
  return sums;
}

// Mesa's software driver is unloaded at exit while its threads still work, which once in a while ends the process
// by a signal after all tests have passed; without a device they have nothing to do.
// Dawn's binding cannot be called any more by then.
if (!onDawn) {
  globalThis.addEventListener?.("unload", () => {
    webgpu?.destroy();
    withoutSubgroups?.destroy();
  });
}

/**
 * What tests share: running on every backend that is there, comparing with a float64 reference, and the
 * rule that every test leaves memory as it found it.
 */
import { assert, assertEquals } from "@std/assert";
import { type Device, DeviceError, init, scope, setDefaultDevice, type Tensor } from "../mod.ts";
import { relativeError } from "./relative_error.ts";

export { relativeError };

const { Deno: deno } = globalThis as { Deno?: typeof Deno };
const REMEDY = "apt-get install mesa-vulkan-drivers";

interface Runner {
  (name: string, fn: () => void | Promise<void>, ignore?: boolean): void;
}

/** Registers a test with Deno or with Bun. */
export const test: Runner = await chooseRunner();

async function chooseRunner(): Promise<Runner> {
  if (deno !== undefined) {
    return (name, fn, ignore = false) => {
      deno.test({ name, fn, ignore, sanitizeOps: false, sanitizeResources: false });
    };
  }
  const specifier = "bun:test";
  const bun = await import(specifier);
  return (name, fn, ignore = false) => (ignore ? bun.test.skip : bun.test)(name, fn, 120_000);
}

function environment(name: string): string | undefined {
  return deno?.env.get(name) ??
    (globalThis as { process?: { env: Record<string, string> } }).process?.env[name];
}

// Tests choose their backends themselves.
deno?.env.delete("LEVIN_BACKEND");

/** The CPU. */
export const cpu: Device = await init({ backend: "cpu" });

/** The WebGPU device, where there is one. */
export const webgpu: Device | undefined = await init({ backend: "webgpu" }).catch((error) => {
  if (error instanceof DeviceError) return undefined;
  throw error;
});

const required = environment("LEVIN_REQUIRE_WEBGPU") === "1";

/** Registers a test on every backend; without WebGPU its GPU half is skipped, or fails if required. */
export function testOnBackends(name: string, fn: (device: Device) => void | Promise<void>): void {
  test(`${name} (cpu)`, () => leavingNoTrace(cpu, fn));
  testOnWebgpu(name, fn);
}

/** Registers a test that needs WebGPU. */
export function testOnWebgpu(name: string, fn: (device: Device) => void | Promise<void>): void {
  if (webgpu !== undefined) test(`${name} (webgpu)`, () => leavingNoTrace(webgpu!, fn));
  else if (required) {
    test(`${name} (webgpu)`, () => {
      throw new Error(`LEVIN_REQUIRE_WEBGPU is set and there is no WebGPU adapter: ${REMEDY}`);
    });
  } else test(`${name} (webgpu; skipped, to enable it run: ${REMEDY})`, () => {}, true);
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

/** Asserts that a tensor is as near to a float64 reference as `tolerance`, relative RMS. */
export async function assertNear(
  found: Tensor,
  expected: ArrayLike<number>,
  tolerance: number,
  what = "result",
): Promise<void> {
  const error = relativeError(await found.data(), expected);
  // NaN must fail, so the comparison asks for success.
  assert(error <= tolerance, `${what}: relative RMS error ${error} exceeds ${tolerance}`);
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

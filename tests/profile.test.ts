/** Profiles: which operations ran, how often, and a trace that a viewer can open. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { Device, DeviceError, lightningAttention, randn } from "../mod.ts";
import { findAdapter } from "../src/backend/webgpu/adapter.ts";
import { WebgpuBackend } from "../src/backend/webgpu/backend.ts";
import { gpu, testOnBackends, testOnWebgpu } from "./harness.ts";

testOnBackends("a profile counts and times every operation", async (device) => {
  const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 2, 300, 16], { seed }));
  const [a, b] = [1, 2].map((seed) => randn([128, 128], { seed }));
  const profile = await device.profile(() => {
    for (let i = 0; i < 3; i++) a.matmul(b);
    lightningAttention(q, k, v);
  });
  const calls = Object.fromEntries(profile.operations.map(({ name, calls }) => [name, calls]));
  assertEquals(calls.matmul, 3);
  const attention = Object.keys(calls).filter((name) => name.startsWith("lightningAttention"));
  const kernels = ["outputs", "positions", "scan", "states"].map((x) => `lightningAttention: ${x}`);
  assertEquals(attention.sort(), device.backend === "webgpu" ? kernels : ["lightningAttention"]);
  assert(profile.ms > 0 && profile.elapsedMs >= profile.ms * 0.999);
  const shares = profile.operations.reduce((sum, { share }) => sum + share, 0);
  assert(Math.abs(shares - 1) < 1e-6);
  // The queue runs in order, so pieces begin in the order in which they were asked for.
  profile.spans.slice(1).forEach((span, i) => assert(span.startMs >= profile.spans[i].startMs));
  assertStringIncludes(String(profile), "| matmul | 3 |");

  const { traceEvents } = JSON.parse(profile.toChromeTrace());
  const work = traceEvents.filter((event: { ph: string }) => event.ph === "X");
  assertEquals(work.length, profile.spans.length);
  for (const { ts, dur } of work) assert(Number.isFinite(ts) && dur >= 0);
});

testOnBackends("more dispatches than a set of queries holds are all timed", async (device) => {
  const x = randn([4], { seed: 1 });
  const profile = await device.profile(() => {
    for (let i = 0; i < 2500; i++) x.add(i).dispose();
  });
  assertEquals(profile.spans.length, 2500);
  assert(profile.spans.every(({ ms }) => ms >= 0) && profile.ms > 0);
});

testOnBackends(
  "what fails under a profile fails outside it, and the device works on",
  async (device) => {
    await assertRejects(
      () =>
        device.profile(() => {
          throw new RangeError("mine");
        }),
      RangeError,
      "mine",
    );
    const nested = () => device.profile(() => device.profile(() => {}).then(() => {}));
    await assertRejects(nested, DeviceError, "already");
    assertEquals(await randn([2], { seed: 1 }).mul(0).array(), [0, 0]);
    assertEquals((await device.profile(() => {})).spans, []);
  },
);

testOnWebgpu("outside pages times are as fine as the GPU's clock", async (device) => {
  // Dawn rounds to multiples of 2¹⁶ ns unless it is told not to, and in a browser it is not.
  if (!("process" in globalThis)) return;
  const x = randn([1000], { seed: 1 });
  const { spans } = await device.profile(() => {
    for (let i = 0; i < 50; i++) x.add(i).dispose();
  });
  const isFine = (ms: number) => Math.abs(ms / 0.065536 - Math.round(ms / 0.065536)) > 1e-3;
  assert(spans.some(({ ms }) => isFine(ms)), `${spans.slice(0, 5).map(({ ms }) => ms)} ms`);
});

testOnWebgpu("a device without timestamps says so", async () => {
  const { adapter } = await findAdapter(gpu);
  const backend = new WebgpuBackend(await adapter!.requestDevice(), { owned: true });
  const device = new Device(backend, "a test made it");
  await assertRejects(() => device.profile(() => {}), DeviceError, "timestamp-query");
  device.destroy();
});

/** What benchmarks report is measured, and their diagrams show it. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { measure, sweep, sweepSvg } from "../bench/sweep.ts";
import { Device } from "../mod.ts";
import { crowded } from "./crowded.ts";
import { testOnBackends, testOnCpu } from "./harness.ts";

const SHAPE = { batch: 1, heads: 2, size: 16, dtype: "f32" } as const;

testOnBackends(
  "a sweep sees the scores of quadratic attention, and that LA2 has none",
  async (device) => {
    // Long enough that what WebAssembly's threads work in, whatever n is, counts for little.
    const n = 512;
    const scores = 4 * SHAPE.heads * n * n;
    const naive = await measure(device, "naive", n, SHAPE);
    const la2 = await measure(device, "LA2", n, SHAPE);
    for (const row of [naive, la2]) assert(row.forwardMs! > 0 && row.backwardMs! > 0);
    assert(naive.forwardBytes! >= scores && naive.bothBytes! >= scores);
    assert(la2.forwardBytes! > 0 && la2.bothBytes! < scores / 4);
  },
);

testOnCpu(
  "what a sweep foretells times from leaves out what is done once, such as compiling",
  async () => {
    const device = crowded(Infinity);
    const { trim } = Device.prototype;
    let spent = 0;
    device.trim = () => {
      const began = performance.now();
      while (performance.now() - began < 100);
      trim.call(device);
      spent += performance.now() - began;
    };
    const began = performance.now();
    const { seconds } = await measure(device, "LA2", 16, SHAPE);
    assert(seconds! > 0 && spent >= 200);
    assert(1000 * seconds! < performance.now() - began - spent);
  },
);

testOnBackends("a sweep says what it left out, and draws the rest", async (device) => {
  const rows = await Array.fromAsync(sweep(device, ["LA2", "naive"], [16, 32], SHAPE, 1e-9));
  assertEquals(rows.map(({ kernel, n, refused }) => [kernel, n, refused !== undefined]), [
    ["LA2", 16, false],
    ["LA2", 32, true],
    ["naive", 16, false],
    ["naive", 32, true],
  ]);
  const svg = sweepSvg("Attention", rows);
  for (const text of ["<svg", "LA2", "naive", "backward", "n, tokens"]) {
    assertStringIncludes(svg, text);
  }
});

/** What benchmarks report is measured, and their diagrams show it. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { measure, sweep, sweepSvg } from "../bench/sweep.ts";
import { Device } from "../mod.ts";
import { crowded } from "./crowded.ts";
import { test, testOnBackends, testOnCpu } from "./harness.ts";

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

// Counted by Linux, for a process of its own: 512 MiB of parameters, from 256 MiB in bf16 in three files.
(Deno.build.os === "linux" ? test : Deno.test.ignore)(
  "a checkpoint is loaded in hardly more memory than its largest tensor takes",
  async () => {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", "bench/loading.ts", "--size", "512", "--layers", "24"],
      cwd: new URL("..", import.meta.url).pathname,
    }).output();
    const out = new TextDecoder().decode(stdout);
    assertEquals(code, 0, new TextDecoder().decode(stderr));
    const [parameters, peak] = ["MiB of f32", "MiB$"].map((end) =>
      Number(new RegExp(`(\\d+) ${end}`, "m").exec(out.split("\n")[1])?.[1])
    );
    assertEquals(parameters, 512, out);
    // The largest is 63 MiB in f32; the rest is what a collector leaves lying for a while.
    assert(peak < 63 + 128, out);
  },
);

// Where the time of attention goes, kernel by kernel, by timestamp queries of many calls in a row:
// `deno run -A bench/profile.ts [--trace FILE]`, the trace for chrome://tracing.
import { parseArgs } from "@std/cli/parse-args";
import {
  flashAttention,
  init,
  lightningAttention,
  noGrad,
  type Tensor,
  tidy,
  uniform,
} from "../mod.ts";
import { type CallTimes, timesOf } from "./timing.ts";

const { trace } = parseArgs(Deno.args, { string: ["trace"] });
const device = await init({ backend: "webgpu" });
console.log(device.describe());
const small = device.software;
const [batch, heads, d] = small ? [1, 2, 64] : [4, 32, 128];

/** A line for the whole of a call, and one for each of its kernels. */
function show(what: string, { ms, kernels }: CallTimes): void {
  console.log(`\n${what}: ${ms.toFixed(3)} ms`);
  for (const [name, ms] of kernels) console.log(`  ${name}: ${ms.toFixed(3)} ms`);
}

type Attention = (q: Tensor, k: Tensor, v: Tensor) => Tensor;
const forms: [string, Attention, number[]][] = [
  [
    "LA2",
    (q, k, v) => lightningAttention(q, k, v, { slopes: 0.01 }),
    small ? [256] : [1024, 32768],
  ],
  ["flashAttention", (q, k, v) => flashAttention(q, k, v), small ? [256] : [1024, 8192]],
];
for (const [name, attend, lengths] of forms) {
  for (const n of lengths) {
    for (const dtype of ["f32", "f16"] as const) {
      const draw = (seed: number) =>
        uniform([batch, heads, n, d], { seed, dtype, low: -1, requiresGrad: true });
      const [q, k, v] = [1, 2, 3].map(draw);
      const shape = `batch ${batch}, heads ${heads}, d ${d}, n ${n}, ${dtype}`;
      show(
        `${name} forward, ${shape}`,
        await timesOf(device, () => tidy(() => noGrad(() => void attend(q, k, v)))),
      );
      // A loss for every timed call, and one for the call that compiles.
      const calls = 6;
      const losses = Array.from({ length: calls + 1 }, () => tidy(() => attend(q, k, v).sum()));
      const backward = () => {
        const loss = losses.pop()!;
        loss.backward();
        loss.dispose();
        for (const t of [q, k, v]) t.grad = null;
      };
      show(`${name} backward, ${shape}`, await timesOf(device, backward, calls));
      if (trace !== undefined) {
        const loss = tidy(() => attend(q, k, v).sum());
        const profile = await device.profile(() => loss.backward());
        loss.dispose();
        for (const t of [q, k, v]) t.grad = null;
        await Deno.writeTextFile(trace, profile.toChromeTrace());
      }
      [q, k, v].forEach((t) => t.dispose());
      device.trim();
    }
  }
}

// Where the time of attention goes, kernel by kernel, by timestamp queries:
// `deno run -A bench/profile.ts [--trace FILE]`, the trace for chrome://tracing.
import { parseArgs } from "@std/cli/parse-args";
import {
  flashAttention,
  init,
  lightningAttention,
  type Profile,
  type Tensor,
  tidy,
  uniform,
} from "../mod.ts";

const { trace } = parseArgs(Deno.args, { string: ["trace"] });
const device = await init({ backend: "webgpu" });
console.log(device.describe());
const small = device.software;
const [batch, heads, d] = small ? [1, 2, 64] : [4, 32, 128];

/** The median by time of a few profiles, after one call that compiles. */
async function median(fn: () => Promise<Profile>): Promise<Profile> {
  const profiles: Profile[] = [];
  for (let i = 0; i < 6; i++) profiles.push(await fn());
  return profiles.slice(1).sort((a, b) => a.ms - b.ms)[2];
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
      const forward = await median(() => device.profile(() => tidy(() => void attend(q, k, v))));
      console.log(`\n${name} forward, ${shape}\n${forward}`);
      const backward = await median(async () => {
        const loss = tidy(() => attend(q, k, v).sum());
        const profile = await device.profile(() => loss.backward());
        loss.dispose();
        for (const t of [q, k, v]) t.grad = null;
        return profile;
      });
      console.log(`\n${name} backward, ${shape}\n${backward}`);
      if (trace !== undefined) await Deno.writeTextFile(trace, backward.toChromeTrace());
      [q, k, v].forEach((t) => t.dispose());
      device.trim();
    }
  }
}

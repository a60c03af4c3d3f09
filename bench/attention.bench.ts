// `deno task bench`: Lightning Attention-2 against naive quadratic attention, forward and forward +
// backward, by sequence length, on every backend there is. Times end when the device has done the work.
import {
  type Device,
  lightningAttention,
  naiveAttention,
  randn,
  scope,
  setDefaultDevice,
  type Tensor,
} from "../mod.ts";
import { allDevices } from "./devices.ts";

const HEADS = 4;
const SIZE = 64;
/** Calls of one measurement on a hardware GPU. */
const CALLS = 50;
const LENGTHS = [256, 512, 1024, 2048, 4096, 8192];

const forms = {
  "Lightning Attention-2": lightningAttention,
  "naive quadratic": naiveAttention,
} as const;

/** Mean ms of each case, by its name, for the table of ratios. */
const times = new Map<string, { ms: number; runs: number }>();

for (const device of await allDevices()) {
  // Quadratic attention on a CPU takes minutes and GiB from here on.
  const longest = device.software ? 2048 : Infinity;
  for (const n of LENGTHS) {
    for (const backward of [false, true]) {
      const group = `${device.name}, n = ${n}, forward${backward ? " + backward" : ""}`;
      for (const [name, attend] of Object.entries(forms)) {
        if (attend === naiveAttention && n > longest) continue;
        const key = `${group}: ${name}`;
        times.set(key, { ms: 0, runs: -1 });
        Deno.bench({
          name: key,
          group,
          baseline: attend === lightningAttention,
          n: 3,
          warmup: 1,
          // Deno.bench waits only for functions that are declared async.
          fn: async () => await measure(device, n, attend, backward, key),
        });
      }
    }
  }
}

globalThis.addEventListener("unload", () => {
  const rows = [...times].filter(([, { runs }]) => runs > 0);
  console.log("\n| case | ms | tokens/s | quadratic / linear |\n|---|---|---|---|");
  for (const [key, { ms }] of rows) {
    const n = Number(/n = (\d+)/.exec(key)![1]);
    const naive = times.get(key.replace("Lightning Attention-2", "naive quadratic"));
    const ratio = key.endsWith("Lightning Attention-2") && naive ? (naive.ms / ms).toFixed(2) : "";
    console.log(`| ${key} | ${ms.toFixed(3)} | ${Math.round(n / ms * 1000)} | ${ratio} |`);
  }
});

/** What the last case computed on; made anew when the case changes. */
let prepared: { key: string; inputs: Tensor[] } | undefined;

async function inputsOf(
  device: Device,
  n: number,
  requiresGrad: boolean,
  key: string,
): Promise<Tensor[]> {
  if (prepared?.key !== key) {
    prepared?.inputs.forEach((t) => t.dispose());
    setDefaultDevice(device);
    const draw = (seed: number) => randn([1, HEADS, n, SIZE], { seed, requiresGrad });
    prepared = { key, inputs: [1, 2, 3].map(draw) };
    await device.synchronize();
  }
  return prepared.inputs;
}

async function measure(
  device: Device,
  n: number,
  attend: (q: Tensor, k: Tensor, v: Tensor, options: { slopes: number }) => Tensor,
  backward: boolean,
  key: string,
): Promise<void> {
  const [q, k, v] = await inputsOf(device, n, backward, key);
  // In Deno a wait for the GPU takes 11 ms whatever it waits for; so many calls share one.
  const calls = device.software ? 1 : CALLS;
  const began = performance.now();
  for (let i = 0; i < calls; i++) {
    using _ = scope();
    const o = attend(q, k, v, { slopes: 0.05 });
    if (backward) o.sum().backward();
  }
  await device.synchronize();
  const ms = (performance.now() - began) / calls;
  const sofar = times.get(key)!;
  // The first run compiles.
  if (++sofar.runs > 0) sofar.ms += (ms - sofar.ms) / sofar.runs;
  if (backward) { for (const t of [q, k, v]) t.grad = null; }
}

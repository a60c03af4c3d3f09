// Times of single kernels on a GPU: `deno run -A bench/kernels.ts [--json]`. Each figure is the median of
// several batches; a batch is as many calls as take about 100 ms, with one synchronisation at its end.
import {
  type Device,
  init,
  lightningAttention,
  noGrad,
  randn,
  type Tensor,
  tidy,
  uniform,
} from "../mod.ts";

/** Median ms of one call of `fn`. */
export async function timed(device: Device, fn: () => void, batches = 5): Promise<number> {
  const once = async (count: number) => {
    const began = performance.now();
    for (let i = 0; i < count; i++) fn();
    await device.synchronize();
    return performance.now() - began;
  };
  await once(1);
  // A wait costs a fixed pause, so the time of a call is a difference of two batches.
  const [one, three] = [await once(1), await once(3)];
  const count = Math.max(2, Math.min(200, Math.ceil(100 / Math.max(0.05, (three - one) / 2))));
  const samples: number[] = [];
  for (let i = 0; i < batches; i++) {
    const [short, long] = [await once(1), await once(1 + count)];
    samples.push((long - short) / count);
  }
  return samples.sort((a, b) => a - b)[Math.floor(batches / 2)];
}

if (import.meta.main) {
  const device = await init({ backend: "webgpu" });
  console.log(device.describe());
  const rows: { what: string; ms: number; rate: string }[] = [];
  const report = (what: string, ms: number, rate: string) => {
    rows.push({ what, ms, rate });
    console.log(`| ${what} | ${ms.toFixed(3)} | ${rate} |`);
  };
  const dtypes = ["f32", "f16"] as const;
  const lengths = device.software ? [256] : [1024, 8192, 32768];
  const [batch, heads, d] = device.software ? [1, 2, 64] : [4, 32, 128];
  for (const dtype of dtypes) {
    for (const n of lengths) {
      const draw = (seed: number) =>
        uniform([batch, heads, n, d], { seed, dtype, low: -1, requiresGrad: seed < 4 });
      const [q, k, v, g] = [1, 2, 3, 4].map(draw);
      const forward = (...[q, k, v]: Tensor[]) => lightningAttention(q, k, v, { slopes: 0.01 });
      const ms = await timed(device, () => tidy(() => noGrad(() => void forward(q, k, v))));
      const rate = (ms: number) => `${(batch * n / ms / 1e3).toFixed(3)} M tokens/s`;
      report(`LA2 forward ${dtype} n=${n}`, ms, rate(ms));
      const both = await timed(device, () =>
        tidy(() => {
          forward(q, k, v).mul(g).sum().backward();
          for (const t of [q, k, v]) t.grad = null;
        }));
      report(`LA2 forward + backward (and the loss) ${dtype} n=${n}`, both, rate(both));
      [q, k, v, g].forEach((t) => t.dispose());
      device.trim();
    }
    const size = device.software ? 256 : 4096;
    const [a, b] = [1, 2].map((seed) => randn([size, size], { seed, dtype }));
    const ms = await timed(device, () => tidy(() => void a.matmul(b)));
    report(`matmul ${size}³ ${dtype}`, ms, `${(2 * size ** 3 / ms / 1e9).toFixed(2)} TFLOP/s`);
    [a, b].forEach((t) => t.dispose());
  }
  if (Deno.args.includes("--json")) console.log(JSON.stringify({ device: device.name, rows }));
}

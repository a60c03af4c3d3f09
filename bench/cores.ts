// Matrix units through Dawn: `deno run -A bench/cores.ts [--small] [--json]`. Checks small sizes against the CPU, then
// times kernels by timestamp queries: the median of several calls, for each set of Dawn's toggles and each block size.
import {
  type Device,
  init,
  lightningAttention,
  noGrad,
  setDefaultDevice,
  tensor,
  tidy,
  uniform,
} from "../mod.ts";
import { chooseDevice } from "../examples/demo/device.ts";
import { relativeError } from "../tests/relative_error.ts";

const TOGGLES: Record<string, string | undefined> = {
  "disable_robustness": "disable_robustness",
  "as Dawn comes": undefined,
};

/** Values in [-1, 1) that float16 holds exactly. */
async function values(device: Device, shape: number[], seed: number): Promise<Float32Array> {
  setDefaultDevice(device);
  const halves = uniform(shape, { seed, low: -1, dtype: "f16" });
  return Float32Array.from(await halves.data() as ArrayLike<number>);
}

/** The results that are checked, by name. */
type Results = Record<string, Float32Array>;

/** What a device makes of small inputs of width d and of some dtype: outputs, gradients, and a product. */
async function results(device: Device, dtype: "f32" | "f16", d: number): Promise<Results> {
  const shape = [2, 3, 333, d];
  const data = await Promise.all([1, 2, 3, 4].map((seed) => values(cpu, shape, seed)));
  const [m, k, n] = [200, 136, 333];
  const [a, b] = [await values(cpu, [m, k], 5), await values(cpu, [k, n], 6)];
  setDefaultDevice(device);
  const [q, k_, v, u] = data.map((x) => tensor(x, { shape, dtype, requiresGrad: true }));
  const o = lightningAttention(q, k_, v, { slopes: [0.3, 0.01, 0], scale: 0.5 });
  o.mul(u).to("f32").sum().backward();
  const product = tensor(a, { shape: [m, k], dtype }).matmul(tensor(b, { shape: [k, n], dtype }));
  const found = { o, dq: q.grad!, dk: k_.grad!, dv: v.grad!, matmul: product };
  const entries = await Promise.all(
    Object.entries(found).map(async ([name, t]) =>
      [name, Float32Array.from(await t.data() as ArrayLike<number>)] as const
    ),
  );
  [q, k_, v, u, o, ...Object.values(found)].forEach((t) => t.dispose());
  return Object.fromEntries(entries);
}

/** Relative RMS errors in float16 against what the CPU makes in float32, as text; throws if one is too large. */
async function errors(device: Device, expected: Results, d: number): Promise<string> {
  const found = await results(device, "f16", d);
  const wrong = Object.keys(expected).map((name) =>
    [name, relativeError(found[name], expected[name])] as const
  );
  for (const [name, x] of wrong) {
    if (!(x <= 1e-3)) throw new Error(`${name}: relative RMS error ${x} exceeds 1e-3`);
  }
  return wrong.map(([name, x]) => `${name} ${x.toExponential(1)}`).join(", ");
}

/** How long a GPU is kept busy by what is timed, in ms: it lowers its clocks when it idles. */
const BUSY_MS = 1000;

/** Ms of `fn` by timestamp queries, in all and by kernel: the median of the last calls of many. */
async function timed(device: Device, fn: () => void) {
  const first = await device.profile(fn);
  const calls = small ? 1 : Math.max(9, Math.min(900, Math.ceil(BUSY_MS / first.ms)));
  const each = first.spans.length;
  const { spans } = await device.profile(() => {
    for (let i = 0; i < calls; i++) fn();
  });
  const last = Array.from({ length: Math.ceil(calls / 3) }, (_, i) => {
    const start = spans.length - (i + 1) * each;
    const own = spans.slice(start, start + each);
    return { own, ms: own.reduce((sum, { ms }) => sum + ms, 0) };
  }).sort((x, y) => x.ms - y.ms);
  const { own, ms } = last[last.length >> 1];
  const byKernel = new Map<string, number>();
  for (const { name, ms } of own) byKernel.set(name, (byKernel.get(name) ?? 0) + ms);
  const kernels = [...byKernel].filter(([, ms]) => ms > 0.02).sort((x, y) => y[1] - x[1]);
  return {
    ms,
    isOnUnits: own.some(({ name }) => name.includes("on matrix units")),
    spread: last.at(-1)!.ms / last[0].ms,
    kernels: kernels.map(([name, ms]) => `${name} ${ms.toFixed(3)}`).join(", "),
  };
}

/** Times `fn` and prints a row of a table. */
async function report(
  device: Device,
  what: string,
  fn: () => void,
  rate?: (ms: number) => string,
): Promise<void> {
  const { ms, isOnUnits, spread, kernels } = await timed(device, fn);
  if (!isOnUnits) throw new Error(`${what} ran on plain kernels: ${kernels}`);
  rows.push({ what, ms, spread });
  const notes = [...(rate ? [rate(ms)] : []), `max/min ${spread.toFixed(2)}`, kernels];
  console.log(`| ${what} | ${ms.toFixed(3)} ms | ${notes.join(" | ")} |`);
}

/** Times forward and backward of attention over q, k and v [.., n, d] in float16. */
async function attention(device: Device, what: string, shape: number[], blockSize?: number) {
  const [q, k, v, u] = [1, 2, 3, 4].map((seed) =>
    uniform(shape, { seed, low: -1, dtype: "f16", requiresGrad: seed < 4 })
  );
  const forward = () => lightningAttention(q, k, v, { slopes: 0.01, blockSize });
  await report(device, `LA2 forward ${what}`, () => tidy(() => noGrad(() => void forward())));
  const o = forward();
  await report(device, `LA2 backward ${what}`, () => {
    tidy(() => {
      o.backward({ gradient: u });
      for (const t of [q, k, v]) {
        t.grad!.dispose();
        t.grad = null;
      }
    });
  });
  [o, q, k, v, u].forEach((t) => t.dispose());
  device.trim();
}

/** Matmul, and attention over n, block sizes and heads. */
async function sizes(device: Device, d: number): Promise<void> {
  const size = small ? 128 : 4096;
  const [a, b] = [1, 2].map((seed) => uniform([size, size], { seed, low: -1, dtype: "f16" }));
  const flops = (ms: number) => `${(2 * size ** 3 / ms / 1e9).toFixed(1)} TFLOP/s`;
  const matmul = (how: string, fn: () => void) =>
    report(device, `matmul ${size}³${how}`, () => tidy(fn), flops);
  await matmul("", () => void a.matmul(b));
  await matmul(", x yᵀ", () => void a.matmul(b.transpose()));
  await matmul(", xᵀ y", () => void a.transpose().matmul(b));
  [a, b].forEach((t) => t.dispose());
  if (small) return await attention(device, "n = 64", [1, 1, 64, d]);
  for (const n of [1024, 8192, 32768]) {
    for (const blockSize of n === 32768 ? [128, 256] : [128]) {
      await attention(device, `n = ${n}, blocks of ${blockSize}`, [4, 32, n, d], blockSize);
    }
  }
  await attention(device, "n = 32768, 8 heads", [1, 8, 32768, d]);
}

const small = Deno.args.includes("--small");
const rows: Record<string, unknown>[] = [];
const cpu = await init({ backend: "cpu" });
for (const [name, toggles] of Object.entries(TOGGLES)) {
  const device = await chooseDevice("dawn", toggles);
  if (rows.length === 0) console.log(device.describe());
  rows.push({ toggles: name });
  console.log(`\n## ${name}\n`);
  const side = /matrix units: (\d+)/.exec(device.describe())?.[1];
  if (side === undefined) throw new Error("the device has no matrix units: see the report above");
  // The widest heads that they take: 128 on NVIDIA.
  const d = 8 * Number(side);
  const expected = await results(cpu, "f32", d);
  console.log(`${await errors(device, expected, d)}\n`);
  await sizes(device, d);
  device.destroy();
}
if (Deno.args.includes("--json")) console.log(JSON.stringify(rows));
Deno.exit(0);

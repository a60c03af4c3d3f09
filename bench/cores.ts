// Matrix units through Dawn: `deno run -A bench/cores.ts [--small] [--json]`, with DAWN_NODE the path of the
// binding in npm "webgpu". Checks small sizes against the CPU, then times kernels by timestamp queries: the
// median of several calls, for each set of Dawn's toggles and each block size.
import { createRequire } from "node:module";
import {
  type Device,
  init,
  lightningAttention,
  noGrad,
  setDefaultDevice,
  type Tensor,
  tensor,
  tidy,
  uniform,
} from "../mod.ts";
import { relativeError } from "../tests/relative_error.ts";

const path = Deno.env.get("DAWN_NODE");
if (path === undefined) throw new Error("set DAWN_NODE to the path of dawn.node (npm webgpu)");
const { create, globals } = createRequire(import.meta.url)(path);
Object.assign(globalThis, globals);

const SAFE = ["allow_unsafe_apis", "vulkan_enable_f16_on_nvidia"];
const TOGGLES: Record<string, string[]> = {
  "disable_robustness": ["disable_robustness"],
  "as Dawn comes": [],
};
// Held for the life of the process: collected, it would take the process with it.
const implementations: unknown[] = [];

function dawn(toggles: string[]): GPU {
  const gpu = create([
    "backend=vulkan",
    `enable-dawn-features=${[...SAFE, ...toggles].join(",")}`,
    "disable-dawn-features=timestamp_quantization",
  ]);
  implementations.push(gpu);
  return gpu;
}

/** Values in [-1, 1) that float16 holds exactly. */
async function values(device: Device, shape: number[], seed: number): Promise<Float32Array> {
  setDefaultDevice(device);
  const halves = uniform(shape, { seed, low: -1, dtype: "f16" });
  return Float32Array.from(await halves.data() as ArrayLike<number>);
}

/** Relative RMS errors of outputs and gradients in float16 against the CPU in float32. */
async function errors(cpu: Device, gpu: Device): Promise<Record<string, number>> {
  const shape = [2, 3, 333, 128];
  const data = await Promise.all([1, 2, 3, 4].map((seed) => values(cpu, shape, seed)));
  const [m, k, n] = [200, 136, 333];
  const [a, b] = [await values(cpu, [m, k], 5), await values(cpu, [k, n], 6)];
  const run = async (device: Device, dtype: "f32" | "f16") => {
    setDefaultDevice(device);
    const [q, k_, v, u] = data.map((x) => tensor(x, { shape, dtype, requiresGrad: true }));
    const o = lightningAttention(q, k_, v, { slopes: [0.3, 0.01, 0], scale: 0.5 });
    o.mul(u).to("f32").sum().backward();
    const product = tensor(a, { shape: [m, k], dtype }).matmul(tensor(b, { shape: [k, n], dtype }));
    const results = { o, dq: q.grad!, dk: k_.grad!, dv: v.grad!, matmul: product };
    return Object.fromEntries(
      await Promise.all(
        Object.entries(results).map(async ([name, t]) =>
          [name, Float32Array.from(await t.data() as ArrayLike<number>)] as const
        ),
      ),
    );
  };
  const [expected, found] = [await run(cpu, "f32"), await run(gpu, "f16")];
  return Object.fromEntries(
    Object.keys(expected).map((name) => [name, relativeError(found[name], expected[name])]),
  );
}

/** How long a GPU is kept busy by what is timed, in ms: it lowers its clocks when it idles. */
const BUSY_MS = 1500;

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
    spread: last.at(-1)!.ms / last[0].ms,
    kernels: kernels.map(([name, ms]) => `${name} ${ms.toFixed(3)}`).join(", "),
  };
}

const small = Deno.args.includes("--small");
const rows: Record<string, unknown>[] = [];
const cpu = await init({ backend: "cpu" });
for (const [name, toggles] of Object.entries(TOGGLES)) {
  const device = await init({ backend: "webgpu", gpu: dawn(toggles) });
  if (rows.length === 0) console.log(device.describe());
  console.log(`\n## ${name}\n`);
  const wrong = await errors(cpu, device);
  console.log(Object.entries(wrong).map(([key, x]) => `${key} ${x.toExponential(1)}`).join(", "));
  for (const [key, x] of Object.entries(wrong)) {
    if (!(x <= 1e-3)) throw new Error(`${key}: relative RMS error ${x} exceeds 1e-3`);
  }
  const report = async (what: string, fn: () => void, rate?: (ms: number) => string) => {
    const { ms, spread, kernels } = await timed(device, fn);
    rows.push({ toggles: name, what, ms, spread });
    const notes = [...(rate ? [rate(ms)] : []), `max/min ${spread.toFixed(2)}`, kernels];
    console.log(`| ${what} | ${ms.toFixed(3)} ms | ${notes.join(" | ")} |`);
  };
  setDefaultDevice(device);

  const size = small ? 128 : 4096;
  const [a, b] = [1, 2].map((seed) => uniform([size, size], { seed, low: -1, dtype: "f16" }));
  const flops = (ms: number) => `${(2 * size ** 3 / ms / 1e9).toFixed(1)} TFLOP/s`;
  await report(`matmul ${size}³`, () => tidy(() => void a.matmul(b)), flops);
  await report(`matmul ${size}³, x yᵀ`, () => tidy(() => void a.matmul(b.transpose())), flops);
  await report(`matmul ${size}³, xᵀ y`, () => tidy(() => void a.transpose().matmul(b)), flops);
  [a, b].forEach((t) => t.dispose());

  for (const n of small ? [64] : [1024, 8192, 32768]) {
    const shape = small ? [1, 1, n, 64] : [4, 32, n, 128];
    const draw = (seed: number) =>
      uniform(shape, { seed, low: -1, dtype: "f16", requiresGrad: seed < 4 });
    const [q, k, v, u] = [1, 2, 3, 4].map(draw);
    const forward = (blockSize: number): Tensor =>
      lightningAttention(q, k, v, { slopes: 0.01, blockSize });
    for (const blockSize of n === 32768 ? [64, 128, 256] : [128]) {
      await report(`LA2 forward n = ${n}, blocks of ${blockSize}`, () => {
        tidy(() => noGrad(() => void forward(blockSize)));
      });
      const o = forward(blockSize);
      await report(`LA2 backward n = ${n}, blocks of ${blockSize}`, () => {
        tidy(() => {
          o.backward({ gradient: u });
          for (const t of [q, k, v]) {
            t.grad!.dispose();
            t.grad = null;
          }
        });
      });
      o.dispose();
    }
    [q, k, v, u].forEach((t) => t.dispose());
    device.trim();
  }
  device.destroy();
}
if (Deno.args.includes("--json")) console.log(JSON.stringify(rows));
Deno.exit(0);

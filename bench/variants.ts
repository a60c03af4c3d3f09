// Every variant of the plain WGSL kernels (`variants` in src/ops/tiles.ts) on one GPU:
// `deno run -A bench/variants.ts [--small] [--few] [--only TEXT] [--seconds N] [--json]`. For each, Lightning Attention-2
// forward and backward at two lengths in f32 and f16, by timestamp queries, with its errors against the kernels as
// they are; and a matrix product. After N seconds (default 85) no further variant is begun. --small is for software.
import { parseArgs } from "@std/cli/parse-args";
import {
  type Device,
  init,
  lightningAttention,
  noGrad,
  type Tensor,
  tidy,
  uniform,
} from "../mod.ts";
import { type Variants, variants } from "../src/ops/tiles.ts";
import { timesOf } from "./timing.ts";

/** What attention is tried with. What is measured first is measured again at the end. */
const TRIED: Record<string, Partial<Variants>> = {
  "as it is": {},
  "early": { late: false },
};

const flags = parseArgs(Deno.args, {
  string: ["only", "seconds"],
  boolean: ["small", "few", "json"],
  default: { only: "", seconds: "85" },
});
const [heads, width, lengths] = flags.small
  ? [[1, 2], 128, [150, 300]]
  : [flags.few ? [1, 32] : [4, 32], 128, flags.few ? [4096, 131072] : [1024, 32768]];

type Results = Record<"o" | "dq" | "dk" | "dv", Tensor>;

/** One dtype and length: its inputs, and what the kernels as they are make of them. */
interface Problem {
  readonly dtype: "f32" | "f16";
  readonly n: number;
  readonly inputs: readonly Tensor[];
  expected?: Results;
}

function draw(dtype: "f32" | "f16", n: number): Problem {
  const inputs = [1, 2, 3, 4].map((seed) =>
    uniform([...heads, n, width], { seed, dtype, low: -1, requiresGrad: seed < 4 })
  );
  return { dtype, n, inputs };
}

const attend = ([q, k, v]: readonly Tensor[]) => lightningAttention(q, k, v, { slopes: 0.01 });

function resultsOf({ inputs }: Problem): Results {
  const [q, k, v, u] = inputs;
  const o = attend(inputs);
  o.backward({ gradient: u });
  const [dq, dk, dv] = [q, k, v].map((t) => t.grad!.detach());
  const results = { o: o.detach(), dq, dk, dv };
  for (const t of [q, k, v]) t.grad = null;
  o.dispose();
  return results;
}

/** Relative RMS differences from what is expected, each as a number; throws if one is too large. */
async function errorsOf(problem: Problem): Promise<Record<string, number>> {
  const found = resultsOf(problem);
  const errors: Record<string, number> = {};
  for (const [name, expected] of Object.entries(problem.expected!)) {
    // By entries of the batch, since all of it at once would take much memory.
    const squares = tidy(() =>
      Array.from({ length: expected.shape[0] }, (_, i) => {
        const both = [found[name as keyof Results], expected];
        const [x, y] = both.map((t) => t.slice([i, i + 1]).to("f32"));
        return tidy(() => [x.sub(y).square().sum(), y.square().sum()]);
      }).flat()
    );
    const values = await Promise.all(squares.map((t) => t.item()));
    squares.forEach((t) => t.dispose());
    const sum = (parity: number) => values.reduce((s, x, i) => i % 2 === parity ? s + x : s, 0);
    errors[name] = Math.sqrt(sum(0) / sum(1));
  }
  Object.values(found).forEach((t) => t.dispose());
  for (const [name, error] of Object.entries(errors)) {
    const bound = problem.dtype === "f16" ? 1e-3 : 1e-5;
    if (!(error <= bound)) throw new Error(`${name}: relative error ${error} exceeds ${bound}`);
  }
  return errors;
}

/** Ms of a call: its states, its outputs, positions and scans, and the whole of it. */
async function timed(device: Device, fn: () => void, calls: number) {
  const { ms, kernels } = await timesOf(device, fn, flags.small ? 2 : calls);
  const of = (kernel: string) =>
    [...kernels].filter(([name]) => name.endsWith(`: ${kernel}`)).reduce((s, [, x]) => s + x, 0);
  const rest = of("positions") + of("scan");
  return { states: of("states"), outputs: of("outputs"), rest, whole: ms };
}

/** Times a variant on a problem, and prints a row of the table. */
async function report(device: Device, name: string, problem: Problem): Promise<void> {
  const { dtype, n, inputs } = problem;
  problem.expected ??= resultsOf(problem);
  const errors = await errorsOf(problem);
  // As many calls as keep the clocks up for a fifth of a second.
  const calls = n > 4096 ? 12 : 400;
  const forward = await timed(
    device,
    () => tidy(() => noGrad(() => void attend(inputs))),
    calls,
  );
  const o = attend(inputs);
  const backward = await timed(device, () => {
    tidy(() => {
      o.backward({ gradient: inputs[3] });
      for (const t of inputs.slice(0, 3)) {
        t.grad!.dispose();
        t.grad = null;
      }
    });
  }, calls / 2);
  o.dispose();
  device.trim();
  rows.push({ name, dtype, n, forward, backward, errors });
  const ms = [forward, backward].flatMap((t) => Object.values(t)).map((x) => x.toFixed(3));
  const wrong = Object.values(errors).map((x) => x.toExponential(0)).join(" ");
  console.log(`| ${[name, dtype, n, ...ms, wrong].join(" | ")} |`);
}

async function reportMatmul(device: Device): Promise<void> {
  const size = flags.small ? 256 : 4096;
  const rates: string[] = [];
  for (const dtype of ["f32", "f16"] as const) {
    const [a, b] = [1, 2].map((seed) => uniform([size, size], { seed, low: -1, dtype }));
    const { ms } = await timesOf(device, () => tidy(() => void a.matmul(b)), flags.small ? 2 : 40);
    rates.push(`${dtype} ${(2 * size ** 3 / ms / 1e9).toFixed(1)}`);
    rows.push({ matmul: dtype, ms });
    [a, b].forEach((t) => t.dispose());
  }
  console.log(`matmul ${size}³, TFLOP/s: ${rates.join(", ")}`);
}

const rows: Record<string, unknown>[] = [];
const began = performance.now();
const device = await init({ backend: "webgpu" });
console.log(device.describe());
const problems = (["f32", "f16"] as const).flatMap((dtype) => lengths.map((n) => draw(dtype, n)));
const plain = { ...variants };
const [first] = Object.entries(TRIED);
const tried = Object.entries(TRIED).filter(([name]) =>
  name === first[0] || name.includes(flags.only)
);
const leftOut: string[] = [];
let failed = false;
console.log(
  "\n| variant | dtype | n | forward: states | outputs | rest | whole, ms | backward: states " +
    "| outputs | rest | whole, ms | errors of o, dq, dk, dv |\n|" + " --- |".repeat(12),
);
for (const [name, variant] of [...tried, [`${first[0]}, again`, first[1]] as const]) {
  if (performance.now() - began > 1000 * Number(flags.seconds)) {
    leftOut.push(name);
    continue;
  }
  Object.assign(variants, plain, variant);
  try {
    for (const problem of problems) await report(device, name, problem);
  } catch (error) {
    failed = true;
    console.log(`FAILED: ${name}: ${error}`);
  }
}
console.log("");
await reportMatmul(device);
if (leftOut.length > 0) console.log(`Time was up before: ${leftOut.join("; ")}`);
console.log(`${((performance.now() - began) / 1000).toFixed(1)} s`);
if (flags.json) console.log(JSON.stringify(rows));
device.destroy();
Deno.exit(failed ? 1 : 0);

/**
 * `deno task bench:peers`: Levin against jax-js and TensorFlow.js on their CPU backends, in one run and in
 * turn. Every result is checked against float64 before it is timed.
 */
import { parseArgs } from "@std/cli/parse-args";
import { decaySlopes, init, type InitOptions, randn, setDefaultDevice } from "@levin/levin";
import { TransNormerLLM } from "@levin/levin/models";
import { recurrence } from "../recurrence.ts";
import { type Contest, type Outcome, run } from "./contest.ts";
import { levinLibrary } from "./levin.ts";
import type { AttentionProblem, Library, TrainingProblem } from "./library.ts";
import { simdPeak } from "./simd_peak.ts";

const USAGE = `deno task bench:peers [flags]
  --backend NAME   Levin's backend (default LEVIN_BACKEND, else auto)
  --threads N      threads of every library (default: one a core)
  --only LIST      of matmul,attention,training (default all)
  --rounds N       calls of each library in a contest (default 7)
  --longest N      the longest sequence, at least 4096 (default 16384)
  --json FILE      writes the outcomes`;

const flags = parseArgs(Deno.args, {
  string: ["backend", "threads", "only", "rounds", "longest", "json"],
  boolean: ["help"],
  default: {
    backend: Deno.env.get("LEVIN_BACKEND") ?? "auto",
    threads: `${navigator.hardwareConcurrency}`,
    only: "matmul,attention,training",
    rounds: "7",
    longest: "16384",
  },
  unknown: (argument: string) => {
    console.error(`unknown argument ${argument}\n${USAGE}`);
    Deno.exit(1);
  },
});
if (flags.help) {
  console.log(USAGE);
  Deno.exit(0);
}

const threads = Number(flags.threads);
// jax-js asks the navigator, when it is imported; Levin asks the environment.
Object.defineProperty(navigator, "hardwareConcurrency", { get: () => threads });
Deno.env.set("LEVIN_THREADS", `${threads}`);
const device = await init({ backend: flags.backend as InitOptions["backend"] });
setDefaultDevice(device);
const described = device.describe();
const { jaxLibrary } = await import("./jax.ts");
const { tfjsLibrary } = await import("./tfjs.ts");
const libraries: Library[] = [
  levinLibrary(device, Number(/(\d+) threads?\b/.exec(described)?.[1] ?? 1)),
  await jaxLibrary(),
  await tfjsLibrary(threads),
];

const peak = await simdPeak(threads);
console.log(described);
for (const { name, threads } of libraries) console.log(`${name}: ${threads} threads`);
console.log(
  `SIMD peak: ${peak.toFixed(1)} GFLOP/s of float32 multiply-add on ${threads} threads\n`,
);

/** A quadratic form that would take longer than this for a call, in ms, is not waited for. */
const PATIENCE = 20_000;

const draw = async (shape: number[], seed: number) => {
  using t = randn(shape, { seed });
  return await t.data() as Float32Array<ArrayBuffer>;
};

async function matmul(): Promise<Contest & { flops: number }> {
  const size = 1024;
  const [a, b] = await Promise.all([1, 2].map((seed) => draw([size, size], seed)));
  const c = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    for (let k = 0; k < size; k++) {
      const x = a[i * size + k];
      for (let j = 0; j < size; j++) c[i * size + j] += x * b[k * size + j];
    }
  }
  return {
    title: `matmul ${size}³`,
    ways: (library) => library.matmul(a, b, size),
    expected: [c],
    tolerance: 1e-5,
    flops: 2 * size ** 3,
  };
}

async function attention(n: number, backward: boolean): Promise<Contest & { n: number }> {
  const [heads, size] = [8, 64];
  const slopes = decaySlopes(heads);
  const shape = [heads, n, size];
  const [q, k, v, gradient] = await Promise.all([1, 2, 3, 4].map((seed) => draw(shape, seed)));
  const problem: AttentionProblem = {
    ...{ heads, n, size, slopes, q, k, v },
    gradient: backward ? gradient : undefined,
  };
  const zeros = new Float64Array(size * size);
  const results = slopes.map((slope, h) => {
    const head = (x: Float32Array) => x.subarray(h * n * size, (h + 1) * n * size);
    return recurrence(head(q), head(k), head(v), zeros, slope, head(gradient), zeros);
  });
  const names = backward ? ["o", "dq", "dk", "dv"] as const : ["o"] as const;
  const joined = (name: typeof names[number]) => {
    const all = new Float64Array(heads * n * size);
    results.forEach((result, h) => all.set(result[name], h * n * size));
    return all;
  };
  return {
    title: `attention (1, ${heads}, ${n}, ${size}) forward${backward ? " + backward" : ""}`,
    ways: (library) => library.attention(problem),
    expected: names.map(joined),
    tolerance: backward ? 1e-4 : 1e-5,
    n,
  };
}

/** The demo's model and batch; what must come out is the float32 losses of Levin. */
async function training(steps: number): Promise<Contest & { tokens: number }> {
  const config = { vocabulary: 256, size: 128, layers: 4, heads: 4, inner: 352 };
  const [batch, context] = [4, 128];
  using model = new TransNormerLLM(config, { seed: 1 });
  const weights = new Map<string, { shape: readonly number[]; data: Float32Array }>();
  for (const [name, t] of Object.entries(model.parameters())) {
    weights.set(name, { shape: t.shape, data: await t.data() });
  }
  const text = new TextEncoder().encode(await Deno.readTextFile(new URL(import.meta.url)));
  const window = (from: number) => text.subarray(from, from + context);
  const tokens = (shift: number) =>
    Int32Array.from(
      Array.from({ length: batch }, (_, i) => [...window(i * context + shift)]).flat(),
    );
  const problem: TrainingProblem = {
    config,
    slopes: Array.from(
      { length: config.layers },
      (_, layer) => decaySlopes(config.heads, { layer, layers: config.layers }),
    ),
    ...{ batch, context, weights },
    ids: tokens(0),
    targets: tokens(1),
  };
  const [make] = Object.values(libraries[0].training(problem, steps));
  const reference = make();
  const expected = await reference.results();
  reference.dispose();
  console.log(
    `losses of the first steps: ${[...expected[0]].map((x) => x.toFixed(5)).join(", ")}\n`,
  );
  return {
    title: `training step, ${batch} × ${context} tokens`,
    ways: (library) => library.training(problem, steps),
    expected,
    tolerance: 1e-4,
    tokens: batch * context,
  };
}

interface Row {
  readonly title: string;
  readonly outcomes: readonly Outcome[];
}

const rows: Row[] = [];

async function enter(contest: Contest, rate: (ms: number) => string): Promise<Outcome[]> {
  const outcomes = await run(contest, libraries, Number(flags.rounds));
  rows.push({ title: contest.title, outcomes });
  const levin = outcomes[0].ms;
  console.log(
    `| ${contest.title} | threads | way | ms | rate | time / Levin's | error | other ways, ms |`,
  );
  console.log("| --- | ---: | --- | ---: | ---: | ---: | ---: | --- |");
  for (const { library, threads, way, ms, error, others } of outcomes) {
    const rest = Object.entries(others).map(([other, found]) =>
      `${other}: ${typeof found === "number" ? found.toFixed(0) : found}`
    );
    const cells = [library, threads, way, ms.toFixed(1), rate(ms), (ms / levin).toFixed(2)];
    console.log(`| ${[...cells, error.toExponential(1), rest.join(", ")].join(" | ")} |`);
  }
  console.log();
  return outcomes;
}

const only = flags.only.split(",");
if (only.includes("matmul")) {
  const contest = await matmul();
  await enter(contest, (ms) => {
    const rate = contest.flops / ms / 1e6;
    return `${rate.toFixed(1)} GFLOP/s, ${(100 * rate / peak).toFixed(0)} % of peak`;
  });
}
if (only.includes("attention")) {
  /** Ms of the quadratic forms at the first length, to foresee those of the next. */
  const quadratic = new Map<string, number>();
  for (
    const [n, backward] of [[4096, false], [4096, true], [16384, false], [16384, true]] as const
  ) {
    if (n > Number(flags.longest)) continue;
    const contest = await attention(n, backward);
    const key = (library: string) => `${library}${backward}`;
    const outcomes = await enter({
      ...contest,
      skip: (library, way) => {
        const before = quadratic.get(key(library));
        if (way !== "naive" || n === 4096 || before === undefined) return undefined;
        const expected = before * (n / 4096) ** 2;
        return expected > PATIENCE ? `≈ ${expected.toFixed(0)} by n²` : undefined;
      },
    }, (ms) => `${Math.round(n / ms * 1000)} tokens/s`);
    for (const { library, way, ms, others } of outcomes) {
      const naive = way === "naive" ? ms : others.naive;
      if (typeof naive === "number" && n === 4096) quadratic.set(key(library), naive);
    }
  }
}
if (only.includes("training")) {
  const contest = await training(3);
  await enter(contest, (ms) => `${Math.round(contest.tokens / ms * 1000)} tokens/s`);
}
if (flags.json !== undefined) {
  const machine = { cores: navigator.hardwareConcurrency, peak, deno: Deno.version.deno };
  await Deno.writeTextFile(flags.json, JSON.stringify({ ...machine, rows }, undefined, 2));
}
// Workers of the peers would keep the process alive.
Deno.exit(0);

/**
 * `deno task bench:peers`: Levin against jax-js and TensorFlow.js on their CPU backends, in one run and in
 * turn. Every result is checked against float64 before it is timed.
 */
import { init, type InitOptions, setDefaultDevice } from "@levin/levin";
import { parseFlags, runCommand } from "../../examples/demo/flags.ts";
import { type Contest, type Outcome, run } from "./contest.ts";
import { attention, matmul, training } from "./contests.ts";
import { levinLibrary } from "./levin.ts";
import type { Library } from "./library.ts";
import { simdPeak } from "./simd_peak.ts";

const FLAGS = {
  backend: { kind: "text", help: "of Levin; LEVIN_BACKEND overrides it", fallback: "auto" },
  threads: {
    kind: "count",
    help: "of every library",
    fallback: navigator.hardwareConcurrency,
  },
  only: { kind: "text", help: "which contests", fallback: "matmul,attention,training" },
  rounds: { kind: "count", help: "timed calls of each library in a contest", fallback: 7 },
  longest: { kind: "count", help: "the longest sequence", fallback: 16384 },
  json: { kind: "text", help: "a file for the outcomes" },
} as const;

/** A quadratic form that would take longer than this for a call, in ms, is not waited for. */
const PATIENCE = 20_000;

interface Row {
  readonly title: string;
  readonly outcomes: readonly Outcome[];
}

await runCommand(async () => {
  const { values: flags } = parseFlags(FLAGS, Deno.args, "deno task bench:peers [flags]");
  const { threads } = flags;

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

  let peak = await simdPeak(threads);
  console.log(described);
  for (const { name, threads } of libraries) console.log(`${name}: ${threads} threads`);
  console.log();

  const rows: Row[] = [];

  async function enter(contest: Contest, rate: (ms: number) => string): Promise<Outcome[]> {
    const outcomes = await run(contest, libraries, flags.rounds);
    rows.push({ title: contest.title, outcomes });
    // Other processes disturb it as they do the contests, so the best of many counts.
    peak = Math.max(peak, await simdPeak(threads));
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
      if (n > flags.longest) continue;
      const contest = await attention(n, backward);
      const key = (library: string) => `${library}${backward}`;
      const outcomes = await enter({
        ...contest,
        skip: (library, way) => {
          // Two [n, n] matrices fill tfjs's WebAssembly memory of 2 GiB, which it does not survive.
          if (way === "naive" && library.startsWith("tfjs") && n > 8192) return "no room";
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
    const contest = await training(libraries[0], 3);
    const losses = Array.from(contest.expected[0], (x) => x.toFixed(5));
    console.log(`losses of the first steps: ${losses.join(", ")}\n`);
    await enter(contest, (ms) => `${Math.round(contest.tokens / ms * 1000)} tokens/s`);
  }
  console.log(
    `SIMD peak: ${peak.toFixed(1)} GFLOP/s of float32 multiply-add on ${threads} threads`,
  );
  if (flags.json !== undefined) {
    const report = { threads, peakGflops: peak, deno: Deno.version.deno, rows };
    await Deno.writeTextFile(flags.json, JSON.stringify(report, undefined, 2));
  }
});
// Workers of the peers would keep the process alive.
Deno.exit(0);

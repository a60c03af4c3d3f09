// What `deno task paper efficiency` at 0.4B would hold on an H200, counted without one: `deno run -A
// bench/memory.ts [--lengths 1K,92K]`. The pool: live and waiting at the end of a row; the peak: with all that was
// destroyed while a GPU may still have been behind.
import { Budget } from "../examples/paper/budget.ts";
import { measured, type Plan, SHAPES } from "../examples/paper/efficiency.ts";
import { inK, lengthsOf, table } from "../examples/paper/report.ts";
import { parseFlags } from "../examples/demo/flags.ts";
import { Device } from "../mod.ts";
import { Counter } from "./counter.ts";

const gib = (bytes: number) => (bytes / 2 ** 30).toFixed(1);

if (import.meta.main) {
  const { values: flags } = parseFlags(
    { lengths: { kind: "text", help: "tokens", fallback: "1K,4K,16K,32K,92K" } },
    Deno.args,
    "deno run -A bench/memory.ts",
  );
  const plan: Plan = {
    sizes: SHAPES["0.4B"],
    models: ["TNL-LA2", "LLaMA-FA2", "TNL-LA1"],
    lengths: lengthsOf(flags.lengths),
    ...{ tokens: 16384, precision: "f16", recompute: true, chunk: 4096 },
  };
  const counter = new Counter();
  const rows: string[][] = [];
  for await (const row of measured(new Device(counter, "to count"), plan, new Budget(1e6))) {
    const { model, n, batch, speed, reason } = row;
    const cells = speed === undefined
      ? [reason!]
      : [speed.bytes, counter.peakBytes, counter.largestBytes].map(gib);
    rows.push([`${model}, ${batch} × ${inK(n)}`, ...cells]);
    counter.peakBytes = counter.largestBytes = 0;
  }
  console.log(table(["GiB", "pool", "peak", "largest buffer"], rows));
}

/**
 * `deno task paper attention`, the paper's Figures 3 and 4: time and memory of Lightning Attention-1,
 * Lightning Attention-2 and FlashAttention-2, forward and backward, against the length of the sequence.
 */
import type { Panel } from "../../bench/plot.ts";
import { measure } from "../../bench/sweep.ts";
import { chooseDevice } from "../demo/device.ts";
import { parseFlags } from "../demo/flags.ts";
import { Budget } from "./budget.ts";
import { inK, lengthsOf, namesOf, precisionOf, type Report, table, writeReport } from "./report.ts";

const FLAGS = {
  backend: { kind: "text", help: "auto, webgpu, dawn, wasm or cpu", fallback: "auto" },
  toggles: { kind: "text", help: "of Dawn, say disable_robustness, which checks no bounds" },
  lengths: { kind: "text", help: "tokens (default 256,512,1K,2K,4K, on a GPU 1K to 64K)" },
  batch: { kind: "count", least: 1, help: "sequences side by side", fallback: 1 },
  heads: { kind: "count", least: 1, help: "heads (default 2, on a GPU 32)" },
  "head-size": {
    kind: "count",
    least: 1,
    help: "elements of q, k and v (default 64, on a GPU 128)",
  },
  precision: { kind: "text", help: "f32 or f16", fallback: "f32" },
  forms: { kind: "text", help: "some of LA2,LA1,FA2 (default all)" },
  budget: {
    kind: "number",
    least: 0,
    help: "seconds; rows that would not fit are not run",
    fallback: 120,
  },
  out: { kind: "text", help: "folder for table, diagram and numbers", fallback: "runs/paper" },
} as const;

/** What the paper's names are called in bench/sweep.ts. */
const FORMS = { LA2: "LA2", LA1: "LA1", FA2: "flashAttention" } as const;
type FormName = keyof typeof FORMS;

/** One form at one length. */
interface Row {
  readonly form: FormName;
  readonly n: number;
  readonly forwardMs: number;
  readonly backwardMs: number;
  /** At the peak of forward and backward, beyond q, k, v, o and their gradients. */
  readonly bytes: number;
}

/** What did not run, and why. */
interface Omitted {
  readonly form: FormName;
  readonly n: number;
  readonly reason: string;
}

/** Runs the experiment. */
export async function attention(args: string[]): Promise<void> {
  const { values: flags } = parseFlags(FLAGS, args, "deno task paper attention [flags]");
  const dtype = precisionOf(flags.precision);
  const forms = namesOf("forms", flags.forms, Object.keys(FORMS) as FormName[]);
  const device = await chooseDevice(flags.backend, flags.toggles);
  const small = device.software;
  const lengths = lengthsOf(
    flags.lengths ?? (small ? "256,512,1K,2K,4K" : "1K,2K,4K,8K,16K,32K,64K"),
  );
  const [heads, size] = [flags.heads ?? (small ? 2 : 32), flags["head-size"] ?? (small ? 64 : 128)];
  const shape = { batch: flags.batch, heads, size, dtype };
  const setting = `batch ${flags.batch}, ${heads} heads of ${size}, ${dtype}`;
  console.log(
    `${device.describe()}\n${setting}; times by ${
      device.backend === "webgpu" ? "timestamp queries" : "the clock"
    }\n`,
  );

  const budget = new Budget(flags.budget);
  const rows: Row[] = [];
  const omitted: Omitted[] = [];
  const reported = () => reportOf({ device: device.name, setting, forms, lengths, rows, omitted });
  for (const n of lengths) {
    for (const form of forms) {
      const { result, reason } = await budget.run(
        { kind: form, n },
        () => measure(device, FORMS[form], n, shape),
        ({ seconds }) => seconds!,
      );
      if (result === undefined) omitted.push({ form, n, reason });
      else {
        const { forwardMs, backwardMs, bothBytes } = result;
        rows.push({ form, n, forwardMs: forwardMs!, backwardMs: backwardMs!, bytes: bothBytes! });
      }
      console.error(`${form} at ${inK(n)}: ${reason ?? "done"}; ${budget.left.toFixed(0)} s left`);
      await writeReport(flags.out, "attention", reported());
    }
  }
  console.log(reported().text);
  console.log(`\nwrote ${await writeReport(flags.out, "attention", reported())}`);
}

function reportOf(
  found: {
    device: string;
    setting: string;
    forms: readonly FormName[];
    lengths: readonly number[];
    rows: readonly Row[];
    omitted: readonly Omitted[];
  },
): Report {
  const { device, setting, forms, lengths, rows, omitted } = found;
  const rowOf = (form: FormName, n: number) => rows.find((r) => r.form === form && r.n === n);
  const columns = (of: (row: Row) => string) => (n: number) => [
    inK(n),
    ...forms.map((form) => {
      const row = rowOf(form, n);
      return row === undefined ? "–" : of(row);
    }),
  ];
  const part = (what: string, of: (row: Row) => string) =>
    `${table([what, ...forms], lengths.map(columns(of)))}\n`;
  const panel = (title: string, y: string, of: (row: Row) => number): Panel => ({
    ...{ title, x: "tokens", y },
    series: forms.map((form) => ({
      name: form,
      points: rows.filter((row) => row.form === form && of(row) > 0).map((row) =>
        [row.n, of(row)] as const
      ),
    })),
  });
  return {
    text: [
      `${device}; ${setting}\n`,
      part("forward, ms", (row) => row.forwardMs.toPrecision(3)),
      part("backward, ms", (row) => row.backwardMs.toPrecision(3)),
      part("memory, MiB", (row) => (row.bytes / 2 ** 20).toFixed(1)),
      "memory at the peak of forward and backward, beyond q, k, v, o and their gradients",
      ...omitted.map(({ form, n, reason }) => `not run: ${form} at ${inK(n)}: ${reason}`),
    ].join("\n"),
    title: `${device}: ${setting}`,
    panels: [
      panel("forward", "ms", (row) => row.forwardMs),
      panel("backward", "ms", (row) => row.backwardMs),
      panel("memory beyond inputs, outputs and gradients", "MiB", (row) => row.bytes / 2 ** 20),
    ],
    numbers: found,
  };
}

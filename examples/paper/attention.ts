/**
 * `deno task paper attention`, the paper's Figures 3 and 4: time and memory of Lightning Attention-1,
 * Lightning Attention-2 and FlashAttention-2, forward and backward, against the length of the sequence.
 */
import {
  type Device,
  flashAttention,
  lightningAttention,
  lightningAttention1,
  noGrad,
  type Tensor,
  tidy,
} from "../../mod.ts";
import { asLeaf } from "../../src/ops/create.ts";
import { chooseDevice } from "../demo/device.ts";
import { parseFlags } from "../demo/flags.ts";
import { Budget } from "./budget.ts";
import { noise } from "./noise.ts";
import { type Chart, inK, lengthsOf, namesOf, table, writeReport } from "./report.ts";

const FLAGS = {
  backend: { kind: "text", help: "auto, webgpu or cpu", fallback: "auto" },
  lengths: { kind: "text", help: "tokens (default 256,512,1K,2K, on a GPU 1K to 64K)" },
  batch: { kind: "count", help: "sequences side by side", fallback: 1 },
  heads: { kind: "count", help: "heads (default 2, on a GPU 32)" },
  "head-size": { kind: "count", help: "elements of q, k and v (default 64, on a GPU 128)" },
  precision: { kind: "text", help: "f32 or f16", fallback: "f32" },
  forms: { kind: "text", help: "some of LA1,LA2,FA2 (default all)" },
  repeat: { kind: "count", help: "measurements, whose median counts", fallback: 3 },
  budget: { kind: "number", help: "seconds; rows that would not fit are not run", fallback: 120 },
  out: { kind: "text", help: "folder for chart and numbers", fallback: "runs/paper" },
} as const;

type Attention = (q: Tensor, k: Tensor, v: Tensor) => Tensor;
const SLOPES = { slopes: 0.01 };
const FORMS = {
  LA1: (q, k, v) => lightningAttention1(q, k, v, SLOPES),
  LA2: (q, k, v) => lightningAttention(q, k, v, SLOPES),
  FA2: (q, k, v) => flashAttention(q, k, v),
} satisfies Record<string, Attention>;
type FormName = keyof typeof FORMS;

/** One form at one length. Times in ms, memory in bytes beyond q, k and v themselves. */
interface Row {
  readonly form: FormName;
  readonly n: number;
  readonly forwardMs: number;
  readonly backwardMs: number;
  /** At the peak of forward and backward. */
  readonly bytes: number;
}

/** Runs the experiment. */
export async function attention(args: string[]): Promise<void> {
  const { values: flags } = parseFlags(FLAGS, args, "deno task paper attention [flags]");
  const device = await chooseDevice(flags.backend);
  const small = device.software;
  const lengths = lengthsOf(flags.lengths ?? (small ? "256,512,1K,2K" : "1K,2K,4K,8K,16K,32K,64K"));
  const [heads, size] = [flags.heads ?? (small ? 2 : 32), flags["head-size"] ?? (small ? 64 : 128)];
  const shape = (n: number) => [flags.batch, heads, n, size];
  const dtype = flags.precision === "f16" ? "f16" : "f32";
  const forms = namesOf("forms", flags.forms, Object.keys(FORMS) as FormName[]);

  console.log(device.describe());
  const setting = `batch ${flags.batch}, ${heads} heads of ${size}, ${dtype}`;
  console.log(
    `${setting}; times by ${device.backend === "webgpu" ? "timestamp queries" : "the clock"}\n`,
  );
  const budget = new Budget(flags.budget);
  const rows: Row[] = [];
  const omitted: string[] = [];
  for (const n of lengths) {
    for (const form of forms) {
      const row = await budget.run(
        { kind: form, n },
        () =>
          measure(device, form, n, { shape: shape(n), dtype, repeat: Math.max(1, flags.repeat) }),
      );
      if (row === undefined) omitted.push(`${form} at ${inK(n)}`);
      else {
        rows.push(row);
        console.error(
          `${form} n=${n}: ${row.forwardMs.toFixed(2)} + ${row.backwardMs.toFixed(2)} ms`,
        );
      }
    }
  }

  const columns = forms.flatMap((form) => [`${form} forward`, `${form} backward`, `${form} MiB`]);
  const cells = lengths.map((n) => [
    inK(n),
    ...forms.flatMap((form) => {
      const row = rows.find((row) => row.form === form && row.n === n);
      if (row === undefined) return ["not run", "not run", "not run"];
      return [
        row.forwardMs.toFixed(3),
        row.backwardMs.toFixed(3),
        (row.bytes / 2 ** 20).toFixed(1),
      ];
    }),
  ]);
  console.log(table(["n", ...columns], cells));
  console.log(
    "\nms; MiB at the peak of forward and backward, without q, k, v and the output's gradient",
  );
  if (omitted.length > 0) console.log(`not run, for want of time: ${omitted.join(", ")}`);

  const chart = (y: string, of: (row: Row) => number, what: string): Chart => ({
    title: `${what}, ${setting}: ${device.name}`,
    x: "tokens",
    y,
    logarithmic: true,
    lines: forms.map((form) => ({
      name: form,
      points: rows.filter((row) => row.form === form).map((row) => [row.n, of(row)] as const),
    })),
  });
  await writeReport(flags.out, "attention", {
    "-forward": chart("ms", (row) => row.forwardMs, "Forward"),
    "-backward": chart("ms", (row) => row.backwardMs, "Backward"),
    "-memory": chart("MiB", (row) => row.bytes / 2 ** 20, "Memory"),
  }, { device: device.name, setting, rows, omitted });
}

async function measure(
  device: Device,
  form: FormName,
  n: number,
  { shape, dtype, repeat }: { shape: number[]; dtype: "f32" | "f16"; repeat: number },
): Promise<Row> {
  const [gradient, ...rest] = [4, 1, 2, 3].map((seed) => noise(shape, { seed, dtype, device }));
  const [q, k, v] = rest.map((t) => asLeaf(t));
  const attend = FORMS[form] as Attention;
  const forward = () => tidy(() => noGrad(() => void attend(q, k, v)));
  const times: { forward: number[]; backward: number[] } = { forward: [], backward: [] };
  let bytes = 0;
  try {
    // The first time compiles, and tells the peak: freed buffers wait in an emptied pool.
    for (let i = 0; i <= repeat; i++) {
      const forwardMs = (await device.profile(forward)).ms;
      device.trim();
      const before = device.memory();
      const o = attend(q, k, v);
      await device.synchronize();
      const backwardMs = (await device.profile(() => o.backward({ gradient }))).ms;
      const after = device.memory();
      bytes = after.liveBytes + after.pooledBytes - before.liveBytes - before.pooledBytes;
      o.dispose();
      for (const t of [q, k, v]) t.grad = null;
      if (i === 0) continue;
      times.forward.push(forwardMs);
      times.backward.push(backwardMs);
    }
  } finally {
    for (const t of [q, k, v, gradient]) t.dispose();
    device.trim();
  }
  const median = (list: number[]) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)];
  return { form, n, forwardMs: median(times.forward), backwardMs: median(times.backward), bytes };
}

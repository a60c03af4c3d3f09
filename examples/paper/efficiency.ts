/**
 * `deno task paper efficiency`, the paper's Table 1: training tokens/s of TransNormerLLM with Lightning
 * Attention-2 and -1, and of LLaMA with FlashAttention-2, against the length of the sequence.
 *
 * Layers and logits are computed again in backward, so that long sequences fit.
 */
import type { Series } from "../../bench/plot.ts";
import type { Device } from "../../mod.ts";
import { type LanguageModel, Llama, TransNormerLLM } from "../../src/models/mod.ts";
import { chooseDevice } from "../demo/device.ts";
import { parseFlags, UsageError } from "../demo/flags.ts";
import { Budget } from "./budget.ts";
import { inK, lengthsOf, namesOf, precisionOf, type Report, table, writeReport } from "./report.ts";
import { type Speed, Training } from "./training.ts";

const FLAGS = {
  backend: { kind: "text", help: "auto, webgpu, dawn, wasm or cpu", fallback: "auto" },
  toggles: { kind: "text", help: "of Dawn, say disable_robustness, which checks no bounds" },
  shape: { kind: "text", help: "tiny, small or 0.4B (default tiny, on a GPU 0.4B)" },
  layers: { kind: "count", least: 1, help: "layers, if not those of the shape" },
  vocabulary: {
    kind: "count",
    least: 1,
    help: "tokens in the vocabulary, if not that of the shape",
  },
  lengths: { kind: "text", help: "tokens (default 256,512,1K,2K,4K, on a GPU 1K to 92K)" },
  tokens: {
    kind: "count",
    help: "tokens a step, in sequences side by side, as long as one is shorter",
  },
  models: { kind: "text", help: "some of TNL-LA2,LLaMA-FA2,TNL-LA1, in turn (default all)" },
  precision: { kind: "text", help: "f32 or f16 (default f32, on a GPU f16)" },
  recompute: { kind: "count", help: "0: keep the insides of layers for backward", fallback: 1 },
  chunk: { kind: "count", least: 1, help: "tokens whose logits are there at once", fallback: 4096 },
  budget: {
    kind: "number",
    least: 0,
    help: "seconds; rows that would not fit are not run",
    fallback: 240,
  },
  out: { kind: "text", help: "folder for table, diagram and numbers", fallback: "runs/paper" },
} as const;

/** Sizes that a model of either kind is made of. */
export interface Sizes {
  readonly vocabulary: number;
  readonly size: number;
  readonly layers: number;
  readonly heads: number;
  readonly inner: number;
}

/** What `--shape` may be. */
export const SHAPES = {
  tiny: { vocabulary: 256, size: 64, layers: 2, heads: 2, inner: 176 },
  small: { vocabulary: 4096, size: 256, layers: 4, heads: 4, inner: 704 },
  "0.4B": { vocabulary: 64000, size: 1024, layers: 24, heads: 8, inner: 2816 },
} as const satisfies Record<string, Sizes>;

type Make = (sizes: Sizes, options: { device: Device; blank: boolean }) => LanguageModel;
/** In the order of how much one wants to know: a budget may not reach the last. */
const MODELS = {
  "TNL-LA2": (sizes, options) => new TransNormerLLM(sizes, { ...options, attention: 2 }),
  "LLaMA-FA2": (sizes, options) => new Llama(sizes, options),
  "TNL-LA1": (sizes, options) => new TransNormerLLM(sizes, { ...options, attention: 1 }),
} satisfies Record<string, Make>;
type ModelName = keyof typeof MODELS;

/** Table 1 of the paper, 0.4B: tokens per second and GPU on two A100 of 80 GB. */
const PAPER: Readonly<Record<ModelName, Readonly<Record<number, number>>>> = {
  "TNL-LA2": figures(38615, 38680, 38714, 38172, 37755, 37364, 38278, 38457, 38596),
  "LLaMA-FA2": figures(35931, 32453, 28184, 21996, 15479, 9715, 5643, 4604, 4078),
  "TNL-LA1": figures(41789, 39043, 34894, 28627, 21112, 13852, 8247, 6824, 6012),
};

function figures(...rates: number[]): Record<number, number> {
  const lengths = [1, 2, 4, 8, 16, 32, 64, 80, 92];
  return Object.fromEntries(lengths.map((k, i) => [1024 * k, rates[i]]));
}

/** One model at one length: how fast it was, or why it did not run. */
export interface Row {
  readonly model: ModelName;
  readonly n: number;
  readonly batch: number;
  readonly speed?: Speed;
  readonly reason?: string;
}

/** What is to be measured. */
export interface Plan {
  readonly sizes: Sizes;
  readonly models: readonly ModelName[];
  readonly lengths: readonly number[];
  /** Tokens a step, as long as a sequence is shorter. */
  readonly tokens: number;
  readonly precision: "f32" | "f16";
  readonly recompute: boolean;
  readonly chunk: number;
}

/** One model after the other, so that each has the memory for itself, from short sequences to long ones. */
export async function* measured(device: Device, plan: Plan, budget: Budget): AsyncGenerator<Row> {
  for (const name of plan.models) {
    let training: Training | undefined;
    const begin = () => {
      const model = (MODELS[name] as Make)(plan.sizes, { device, blank: true });
      model.compute = plan.precision;
      model.recompute = plan.recompute;
      return training = new Training(model, plan.chunk);
    };
    for (const n of plan.lengths) {
      const batch = Math.max(1, Math.floor(plan.tokens / n));
      const { result, reason } = await budget.run(
        { kind: name, n, sequences: batch },
        () => (training ?? begin()).measure(batch, n, budget.left),
        ({ seconds }) => seconds,
      );
      yield { model: name, n, batch, speed: result, reason };
    }
    training?.[Symbol.dispose]();
  }
}

/** Runs the experiment. */
export async function efficiency(args: string[]): Promise<void> {
  const { values: flags } = parseFlags(FLAGS, args, "deno task paper efficiency [flags]");
  const budget = new Budget(flags.budget);
  const { shape: wanted } = flags;
  if (wanted !== undefined && !Object.hasOwn(SHAPES, wanted)) {
    throw new UsageError(`--shape expects ${Object.keys(SHAPES).join(", ")}, found "${wanted}"`);
  }
  const models = namesOf("models", flags.models, Object.keys(MODELS) as ModelName[]);
  const given = flags.precision === undefined ? undefined : precisionOf(flags.precision);
  const device = await chooseDevice(flags.backend, flags.toggles);
  const small = device.software;
  const shape = (wanted ?? (small ? "tiny" : "0.4B")) as keyof typeof SHAPES;
  const { layers, vocabulary } = SHAPES[shape];
  const sizes = {
    ...SHAPES[shape],
    layers: flags.layers ?? layers,
    vocabulary: flags.vocabulary ?? vocabulary,
  };
  const plan: Plan = {
    sizes,
    models,
    lengths: lengthsOf(
      flags.lengths ?? (small ? "256,512,1K,2K,4K" : "1K,2K,4K,8K,16K,32K,64K,80K,92K"),
    ),
    tokens: flags.tokens ?? (small ? 1024 : 16384),
    precision: given ?? (small ? "f32" : "f16"),
    recompute: flags.recompute > 0,
    chunk: flags.chunk,
  };
  const setting =
    `${shape}: ${sizes.layers} layers of ${sizes.size}, ${sizes.heads} heads, inner ` +
    `${sizes.inner}, vocabulary ${sizes.vocabulary}, ${plan.precision}`;
  console.log(`${device.describe()}\n${setting}\n`);

  const rows: Row[] = [];
  const reported = () => reportOf(device.name, setting, plan, rows);
  for await (const row of measured(device, plan, budget)) {
    rows.push(row);
    console.error(
      `${row.model} at ${inK(row.n)}: ${described(row)}; ${budget.left.toFixed(0)} s left`,
    );
    await writeReport(flags.out, "efficiency", reported());
  }
  console.log(reported().text);
  console.log(`\nwrote ${await writeReport(flags.out, "efficiency", reported())}`);
}

function described({ n, batch, speed, reason }: Row): string {
  if (speed === undefined) return `not run: ${reason}`;
  const { tokensPerSecond, steps, warm, bytes } = speed;
  return `${rounded(tokensPerSecond)} tokens/s, ${steps} step${
    steps > 1 ? "s" : ""
  } of ${batch} × ` +
    `${n}${warm ? "" : ", the first ever"}, ${mib(bytes)} MiB`;
}

const rounded = (rate: number) => rate.toFixed(0);
const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(bytes < 2 ** 30 ? 1 : 0);

function reportOf(device: string, setting: string, plan: Plan, rows: readonly Row[]): Report {
  const { models, lengths } = plan;
  const speedOf = (model: ModelName, n: number) =>
    rows.find((row) => row.model === model && row.n === n)?.speed;
  const cell = (model: ModelName, n: number, of: (speed: Speed) => string) => {
    const speed = speedOf(model, n);
    return speed === undefined ? "–" : of(speed);
  };
  const rates = models.flatMap((model) => [
    [model, ...lengths.map((n) => cell(model, n, (speed) => rounded(speed.tokensPerSecond)))],
    [`${model}, paper`, ...lengths.map((n) => PAPER[model][n]?.toFixed(0) ?? "")],
  ]);
  const memory = models.map((model) => [
    model,
    ...lengths.map((n) => cell(model, n, ({ bytes }) => mib(bytes))),
  ]);
  const notes = [...flatness(rows), ...ratios(lengths, speedOf)];
  const late = rows.filter(({ speed }) => speed !== undefined && !speed.warm);
  return {
    text: [
      `${device}; ${setting}\n`,
      `${table(["tokens/s", ...lengths.map(inK)], rates)}\n`,
      `${table(["memory, MiB", ...lengths.map(inK)], memory)}\n`,
      "paper: 0.4B, per GPU, on two A100 of 80 GB, with tensor cores",
      ...notes,
      ...late.map(({ model, n }) =>
        `${model} at ${inK(n)}: a single step, which may have compiled`
      ),
      ...rows.flatMap((row) =>
        row.speed ? [] : [`not run: ${row.model} at ${inK(row.n)}: ${row.reason}`]
      ),
    ].join("\n"),
    title: `Training on ${device}`,
    panels: [{
      title: setting,
      x: "tokens of a sequence",
      y: "tokens/s",
      series: models.flatMap((model): Series[] => [
        {
          name: model,
          points: lengths.flatMap((n) => {
            const speed = speedOf(model, n);
            return speed === undefined ? [] : [[n, speed.tokensPerSecond] as const];
          }),
        },
        {
          name: `${model}, paper`,
          points: Object.entries(PAPER[model]).map(([n, y]) => [Number(n), y] as const),
          dashed: true,
          like: model,
        },
      ]),
    }],
    numbers: { device, setting, plan, rows },
  };
}

/** What the paper says of LA2's row. */
function flatness(rows: readonly Row[]): string[] {
  const rates = rows.filter(({ model }) => model === "TNL-LA2")
    .flatMap(({ speed }) => speed?.tokensPerSecond ?? []);
  if (rates.length < 2) return [];
  const ratio = Math.max(...rates) / Math.min(...rates);
  return [`LA2's largest rate over its smallest: ${ratio.toFixed(3)} (the paper 1.036)`];
}

/** What the paper says of LA2 against LLaMA. */
function ratios(
  lengths: readonly number[],
  speedOf: (model: ModelName, n: number) => Speed | undefined,
): string[] {
  return lengths.flatMap((n) => {
    const [la2, fa2] = [speedOf("TNL-LA2", n), speedOf("LLaMA-FA2", n)];
    if (la2 === undefined || fa2 === undefined) return [];
    const [paper2, paperF] = [PAPER["TNL-LA2"][n], PAPER["LLaMA-FA2"][n]];
    const theirs = paper2 === undefined ? "" : ` (the paper ${(paper2 / paperF).toFixed(2)})`;
    const ratio = la2.tokensPerSecond / fa2.tokensPerSecond;
    return [`LA2 over LLaMA-FA2 at ${inK(n)}: ${ratio.toFixed(2)}${theirs}`];
  });
}

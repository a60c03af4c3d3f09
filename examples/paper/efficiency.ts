/**
 * `deno task paper efficiency`, the paper's Table 1: training tokens/s of TransNormerLLM with Lightning
 * Attention-2 and -1, and of LLaMA with FlashAttention-2, against the length of the sequence.
 *
 * A step is all that training is: forward, backward, clipping, AdamW; in float16 also loss scaling. Layers and
 * logits are computed again in backward, so that long sequences fit.
 */
import { type Device, LimitError, optim, type Tensor, tensor, tidy } from "../../mod.ts";
import { type LanguageModel, Llama, TransNormerLLM } from "../../src/models/mod.ts";
import { loadInto } from "../../src/ops/pointwise.ts";
import { Seeds } from "../../src/random.ts";
import { chooseDevice } from "../demo/device.ts";
import { parseFlags, UsageError } from "../demo/flags.ts";
import { Budget } from "./budget.ts";
import { noise } from "./noise.ts";
import { type Chart, inK, lengthsOf, type Line, namesOf, table, writeReport } from "./report.ts";

const FLAGS = {
  backend: { kind: "text", help: "auto, webgpu or cpu", fallback: "auto" },
  shape: { kind: "text", help: "tiny, small or 0.4B (default tiny, on a GPU 0.4B)" },
  layers: { kind: "count", help: "layers, if not those of the shape" },
  vocabulary: { kind: "count", help: "tokens in the vocabulary, if not that of the shape" },
  lengths: { kind: "text", help: "tokens (default 256,512,1K,2K, on a GPU 1K to 92K)" },
  tokens: {
    kind: "count",
    help: "tokens a step, in sequences side by side, as long as one is shorter",
  },
  models: { kind: "text", help: "some of TNL-LA2,TNL-LA1,LLaMA-FA2 (default all)" },
  precision: { kind: "text", help: "f32 or f16 (default f32, on a GPU f16)" },
  recompute: { kind: "count", help: "0: keep the insides of layers for backward", fallback: 1 },
  chunk: { kind: "count", help: "tokens whose logits are there at once", fallback: 4096 },
  budget: { kind: "number", help: "seconds; rows that would not fit are not run", fallback: 240 },
  out: { kind: "text", help: "folder for chart and numbers", fallback: "runs/paper" },
} as const;

const SHAPES = {
  tiny: { vocabulary: 256, size: 64, layers: 2, heads: 2, inner: 176 },
  small: { vocabulary: 4096, size: 256, layers: 4, heads: 4, inner: 704 },
  "0.4B": { vocabulary: 64000, size: 1024, layers: 24, heads: 8, inner: 2816 },
} as const;
type ModelConfig = {
  vocabulary: number;
  size: number;
  layers: number;
  heads: number;
  inner: number;
};

type Make = (config: ModelConfig, options: { device: Device; blank: boolean }) => LanguageModel;
const MODELS = {
  "TNL-LA2": (config, options) => new TransNormerLLM(config, { ...options, attention: 2 }),
  "TNL-LA1": (config, options) => new TransNormerLLM(config, { ...options, attention: 1 }),
  "LLaMA-FA2": (config, options) => new Llama(config, options),
} satisfies Record<string, Make>;
type ModelName = keyof typeof MODELS;

/** Table 1 of the paper, 0.4B: tokens per second and GPU on two A100 of 80 GB. */
const PAPER: Readonly<Record<ModelName, Readonly<Record<number, number>>>> = {
  "TNL-LA2": figures(38615, 38680, 38714, 38172, 37755, 37364, 38278, 38457, 38596),
  "TNL-LA1": figures(41789, 39043, 34894, 28627, 21112, 13852, 8247, 6824, 6012),
  "LLaMA-FA2": figures(35931, 32453, 28184, 21996, 15479, 9715, 5643, 4604, 4078),
};

function figures(...rates: number[]): Record<number, number> {
  const lengths = [1, 2, 4, 8, 16, 32, 64, 80, 92];
  return Object.fromEntries(lengths.map((k, i) => [1024 * k, rates[i]]));
}

/** One model at one length. */
interface Row {
  readonly model: ModelName;
  readonly n: number;
  readonly batch: number;
  readonly tokensPerSecond: number;
  /** Steps behind it; a single one may have compiled kernels for its length. */
  readonly steps: number;
  /** Device memory at the peak, with all models in it. */
  readonly bytes: number;
}

/** Runs the experiment. */
export async function efficiency(args: string[]): Promise<void> {
  const { values: flags } = parseFlags(FLAGS, args, "deno task paper efficiency [flags]");
  const budget = new Budget(flags.budget);
  const device = await chooseDevice(flags.backend);
  const small = device.software;
  const shape = flags.shape ?? (small ? "tiny" : "0.4B");
  if (!Object.hasOwn(SHAPES, shape)) {
    throw new UsageError(`--shape expects ${Object.keys(SHAPES).join(", ")}, found "${shape}"`);
  }
  const precision = flags.precision ?? (small ? "f32" : "f16");
  if (precision !== "f32" && precision !== "f16") {
    throw new UsageError(`--precision expects f32 or f16, found "${precision}"`);
  }
  const known = SHAPES[shape as keyof typeof SHAPES];
  const config = {
    ...known,
    layers: flags.layers ?? known.layers,
    vocabulary: flags.vocabulary ?? known.vocabulary,
  };
  const names = namesOf("models", flags.models, Object.keys(MODELS) as ModelName[]);
  const lengths = lengthsOf(
    flags.lengths ?? (small ? "256,512,1K,2K" : "1K,2K,4K,8K,16K,32K,64K,80K,92K"),
  ).sort((a, b) => a - b);
  const tokens = flags.tokens ?? (small ? 1024 : 16384);

  console.log(device.describe());
  const setting =
    `${shape}: ${config.layers} layers of ${config.size}, ${config.heads} heads, inner ` +
    `${config.inner}, vocabulary ${config.vocabulary}, ${precision}`;
  console.log(setting);
  const trainings = new Map(names.map((name) => {
    const model = (MODELS[name] as Make)(config, { device, blank: true });
    model.compute = precision;
    model.recompute = flags.recompute > 0;
    return [name, new Training(model, flags.chunk)] as const;
  }));
  for (const [name, { model }] of trainings) {
    console.log(`${name}: ${model.parameterCount().toLocaleString("en")} parameters`);
  }
  const rows: Row[] = [];
  const omitted: string[] = [];
  for (const n of lengths) {
    for (const [name, training] of trainings) {
      const batch = Math.max(1, Math.floor(tokens / n));
      const step = (row: Row) => row.batch * row.n / row.tokensPerSecond;
      const work = { kind: name, n, sequences: batch };
      const row = await budget.run(work, () => training.measure(name, n, batch), step)
        .catch((error) => {
          if (!(error instanceof LimitError)) throw error;
          console.error(`${name} at ${inK(n)}: ${error.message}`);
          return undefined;
        });
      if (row === undefined) omitted.push(`${name} at ${inK(n)}`);
      else {
        rows.push(row);
        console.error(
          `${name} n=${n}: ${row.tokensPerSecond.toFixed(0)} tokens/s (${row.steps} steps of ` +
            `${batch} × ${n}; ${(row.bytes / 2 ** 30).toFixed(2)} GiB; ${
              budget.left.toFixed(0)
            } s left)`,
        );
      }
    }
  }
  for (const training of trainings.values()) training[Symbol.dispose]();
  await report(device, { names, lengths, rows, omitted, setting, out: flags.out });
}

/** A model with its optimizer. */
class Training implements Disposable {
  readonly #optimizer: optim.AdamW;
  readonly #scaler: optim.LossScaler | undefined;
  #compiled = false;

  constructor(readonly model: LanguageModel, readonly chunk: number) {
    fillWithNoise(model);
    this.#optimizer = new optim.AdamW(model.parameters(), { learningRate: 1e-4 });
    const { device } = model;
    if (model.compute === "f16") this.#scaler = new optim.LossScaler({ device, initial: 1024 });
  }

  /** The median of a few steps, as many as fit in a few seconds; before the very first, one that compiles. */
  async measure(name: ModelName, n: number, batch: number): Promise<Row> {
    const { device } = this.model;
    device.trim();
    const [ids, next] = [1, 2].map((seed) => this.#tokens(batch, n, seed));
    const times: number[] = [];
    const timed = async () => {
      const start = performance.now();
      this.#step(ids, next);
      await device.synchronize();
      return (performance.now() - start) / 1000;
    };
    try {
      if (!this.#compiled) await timed();
      this.#compiled = true;
      while (times.length < 5 && times.reduce((a, b) => a + b, 0) < 3) times.push(await timed());
      const { liveBytes, pooledBytes } = device.memory();
      const seconds = times.sort((a, b) => a - b)[Math.floor((times.length - 1) / 2)];
      return {
        model: name,
        n,
        batch,
        tokensPerSecond: batch * n / seconds,
        steps: times.length,
        bytes: liveBytes + pooledBytes,
      };
    } finally {
      ids.dispose();
      next.dispose();
    }
  }

  #step(ids: Tensor, next: Tensor): void {
    tidy(() => {
      const loss = this.model.loss(ids, next, { chunk: this.chunk });
      (this.#scaler?.scale(loss) ?? loss).backward({ releaseGraph: true });
      const parameters = this.model.parameters();
      this.#optimizer.step(
        this.#scaler?.unscale(parameters, { maxNorm: 1 }) ?? optim.clipFactor(parameters, 1),
      );
      this.#optimizer.zeroGrad();
    });
  }

  #tokens(batch: number, n: number, seed: number): Tensor {
    const seeds = new Seeds(seed);
    const ids = Int32Array.from({ length: batch * n }, () => seeds.next() % this.model.vocabulary);
    return tensor(ids, { shape: [batch, n], device: this.model.device });
  }

  [Symbol.dispose](): void {
    this.#scaler?.[Symbol.dispose]();
    this.#optimizer[Symbol.dispose]();
    this.model[Symbol.dispose]();
  }
}

/** Weights of standard deviation 0.02. */
function fillWithNoise(model: LanguageModel): void {
  const { device } = model;
  for (const [name, p] of Object.entries(model.parameters())) {
    if (p.rank < 2 || name.endsWith("theta")) continue;
    tidy(() => loadInto([[noise(p.shape, { seed: 1, std: 0.02, device }), p]]));
  }
}

async function report(
  device: Device,
  { names, lengths, rows, omitted, setting, out }: {
    names: readonly ModelName[];
    lengths: readonly number[];
    rows: readonly Row[];
    omitted: readonly string[];
    setting: string;
    out: string;
  },
): Promise<void> {
  const rate = (model: ModelName, n: number) =>
    rows.find((row) => row.model === model && row.n === n)?.tokensPerSecond;
  const cells = names.flatMap((name) => [
    [name, ...lengths.map((n) => rate(name, n)?.toFixed(0) ?? "not run")],
    [`${name}, the paper's`, ...lengths.map((n) => PAPER[name][n]?.toFixed(0) ?? "")],
  ]);
  console.log(`\n${table(["tokens/s", ...lengths.map(inK)], cells)}`);
  console.log("\nthe paper's: 0.4B, per GPU, on two A100 of 80 GB");
  if (omitted.length > 0) console.log(`not run, for want of time or memory: ${omitted.join(", ")}`);

  const rates = lengths.flatMap((n) => rate("TNL-LA2", n) ?? []);
  if (rates.length > 1) {
    console.log(
      `LA2's largest rate over its smallest: ${
        (Math.max(...rates) / Math.min(...rates)).toFixed(3)
      } ` +
        `(the paper 1.036)`,
    );
  }
  for (const n of lengths) {
    const [la2, fa2] = [rate("TNL-LA2", n), rate("LLaMA-FA2", n)];
    if (la2 === undefined || fa2 === undefined) continue;
    const [paper2, paperF] = [PAPER["TNL-LA2"][n], PAPER["LLaMA-FA2"][n]];
    const theirs = paper2 === undefined ? "" : ` (the paper ${(paper2 / paperF).toFixed(2)})`;
    console.log(`LA2 over LLaMA-FA2 at ${inK(n)}: ${(la2 / fa2).toFixed(2)}${theirs}`);
  }

  const lines = names.flatMap((name): Line[] => [
    {
      name,
      points: lengths.flatMap((n) => rate(name, n) === undefined ? [] : [[n, rate(name, n)!]]),
    },
    {
      name: `${name}, the paper's`,
      points: Object.entries(PAPER[name]).map(([n, y]) => [Number(n), y] as const),
      dashed: true,
    },
  ]);
  const chart: Chart = {
    title: `Training, ${setting}: ${device.name}`,
    x: "tokens",
    y: "tokens/s",
    lines,
    logarithmic: true,
    symbols: true,
  };
  await writeReport(out, "efficiency", { "": chart }, {
    device: device.name,
    setting,
    rows,
    omitted,
  });
}

/**
 * `deno task paper loss`, the paper's Table 2: the same TransNormerLLM trained with Lightning Attention-1 and
 * with Lightning Attention-2, from one seed on one text. They are one function, so the curves are one curve.
 */
import { LevinError } from "../../mod.ts";
import { chooseDevice } from "../demo/device.ts";
import { readText } from "../demo/files.ts";
import { parseFlags } from "../demo/flags.ts";
import { unigramEntropy } from "../demo/text.ts";
import { Trainer, type TrainingOptions } from "../demo/trainer.ts";
import { precisionOf, table, writeReport } from "./report.ts";

const FLAGS = {
  backend: { kind: "text", help: "auto, webgpu, dawn, wasm or cpu", fallback: "auto" },
  toggles: { kind: "text", help: "of Dawn, say disable_robustness, which checks no bounds" },
  text: { kind: "text", help: "a file or folder to learn from; else Levin's own sources" },
  steps: { kind: "count", least: 1, help: "training steps (default 500, on a GPU 1000)" },
  batch: { kind: "count", least: 1, help: "windows a step (default 4, on a GPU 32)" },
  context: { kind: "count", least: 1, help: "bytes of a window (default 256, on a GPU 512)" },
  precision: { kind: "text", help: "f32, or f16 with float32 weights", fallback: "f32" },
  "learning-rate": {
    kind: "number",
    // At 3e-3 training is chaotic here: what one rounding differs by grows a millionfold within 100 steps.
    help: "the highest learning rate",
    fallback: 1e-3,
  },
  seed: { kind: "count", help: "of weights and windows", fallback: 0 },
  size: {
    kind: "count",
    least: 1,
    help: "size of the model's vectors (default 128, on a GPU 256)",
  },
  layers: { kind: "count", least: 1, help: "layers", fallback: 4 },
  heads: { kind: "count", least: 1, help: "attention heads", fallback: 4 },
  inner: {
    kind: "count",
    least: 1,
    help: "inner size of the gated linear units (default 2.75 · size)",
  },
  tolerance: { kind: "number", help: "by which final losses may differ, in nats", fallback: 1e-3 },
  out: { kind: "text", help: "folder for chart and numbers", fallback: "runs/paper" },
} as const;

/** What training with one attention came to. Losses in nats a byte. */
interface Run {
  readonly name: string;
  readonly losses: readonly number[];
  readonly heldOut: number;
  readonly seconds: number;
}

/**
 * Runs the experiment.
 *
 * @throws {LevinError} if the final losses differ by more than the tolerance.
 */
export async function languageModelling(args: string[]): Promise<void> {
  const { values: flags } = parseFlags(FLAGS, args, "deno task paper loss [flags]");
  const precision = precisionOf(flags.precision);
  const device = await chooseDevice(flags.backend, flags.toggles);
  const small = device.software;
  const size = flags.size ?? (small ? 128 : 256);
  const config = {
    vocabulary: 256,
    size,
    layers: flags.layers,
    heads: flags.heads,
    inner: flags.inner ?? Math.round(2.75 * size),
  };
  const options: TrainingOptions = {
    steps: flags.steps ?? (small ? 500 : 1000),
    batch: flags.batch ?? (small ? 4 : 32),
    accumulate: 1,
    context: flags.context ?? (small ? 256 : 512),
    precision,
    recompute: false,
    learningRate: flags["learning-rate"],
    weightDecay: 0.1,
    warmup: 10,
    clip: 1,
    seed: flags.seed,
  };
  const text = await readText(flags.text, options.context + 1);
  console.log(device.describe());
  console.log(
    `${text.description}; ${options.steps} steps of ${options.batch} × ${options.context}`,
  );

  const runs: Run[] = [];
  for (const attention of [1, 2] as const) {
    using trainer = new Trainer(config, options, text, device, { attention });
    if (attention === 1) {
      console.log(
        `TransNormerLLM, ${trainer.model.parameterCount().toLocaleString("en")} parameters`,
      );
    }
    const began = performance.now();
    while (trainer.losses.length < options.steps) {
      await trainer.steps(Math.min(10, options.steps - trainer.losses.length));
      console.error(
        `LA${attention} step ${trainer.losses.length}: ${trainer.losses.at(-1)!.toFixed(4)}`,
      );
    }
    const seconds = (performance.now() - began) / 1000;
    const heldOut = await trainer.validate(64);
    runs.push({ name: `TNL-LA${attention}`, losses: trainer.losses, heldOut, seconds });
  }

  const [one, two] = runs;
  const largest = Math.max(...one.losses.map((loss, i) => Math.abs(loss - two.losses[i])));
  const rows = runs.map(({ name, losses, heldOut, seconds }) => [
    name,
    losses.at(-1)!.toFixed(6),
    heldOut.toFixed(6),
    seconds.toFixed(1),
  ]);
  const unigram = unigramEntropy(text);
  const report = {
    text: [
      `${table(["model", "last loss", "held-out loss", "seconds"], rows)}\n`,
      `nats a byte (by the frequencies of bytes alone: ${
        unigram.toFixed(3)
      }); at no step do the losses ` +
      `differ by more than ${largest.toExponential(2)}`,
      "the paper, 0.4B after 100k updates: 2.229 (LA1) and 2.228 (LA2)",
    ].join("\n"),
    title: `One TransNormerLLM by LA1 and by LA2, on ${device.name}`,
    panels: [{
      ...{ title: "loss", x: "step", y: "nats a byte", linear: true },
      series: runs.map(({ name, losses }, i) => ({
        name,
        points: losses.map((y, step) => [step + 1, y] as const),
        dashed: i === 1,
      })),
    }],
    numbers: { device: device.name, config, options, text: text.hash, unigram, runs, largest },
  };
  console.log(`\n${report.text}`);
  console.log(`\nwrote ${await writeReport(flags.out, "loss", report)}`);

  const [last, held] = [
    Math.abs(one.losses.at(-1)! - two.losses.at(-1)!),
    Math.abs(one.heldOut - two.heldOut),
  ];
  if (!(Math.max(last, held) <= flags.tolerance)) {
    throw new LevinError(
      `The final losses of LA1 and LA2 differ by ${last} and ${held} held out, more than ` +
        `${flags.tolerance}: they should compute the same function`,
    );
  }
}

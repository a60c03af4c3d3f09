// `deno task demo`: a small TransNormerLLM learns from text, byte by byte, and then writes. Bun and Node run it
// too: `bun run demo`, `npm run demo:node --`.
import { mkdir } from "node:fs/promises";
import process from "node:process";
import { io, LevinError } from "../mod.ts";
import { Checkpoint, saveCheckpoint } from "./demo/checkpoint.ts";
import { chooseDevice } from "./demo/device.ts";
import { readText } from "./demo/files.ts";
import { parseFlags, runCommand, UsageError } from "./demo/flags.ts";
import { lossChart, lossSvg, ProgressBar, writeText } from "./demo/report.ts";
import { Metrics, removeUnfinished } from "./demo/metrics.ts";
import { Interruption } from "./demo/interruption.ts";
import { BITS, unigramEntropy } from "./demo/text.ts";
import { Trainer, type TrainingOptions } from "./demo/trainer.ts";
import { stateBytes } from "./demo/writing.ts";

const FLAGS = {
  text: { kind: "text", help: "a file or folder to learn from; else Levin's own sources" },
  backend: { kind: "text", help: "auto, webgpu, dawn, wasm or cpu", fallback: "auto" },
  steps: { kind: "count", help: "training steps (default 800, on a GPU 1500)" },
  batch: { kind: "count", help: "windows a step (default 4, on a GPU 32)" },
  context: { kind: "count", help: "bytes of a window (default 256, on a GPU 512)" },
  accumulate: { kind: "count", help: "micro-batches of --batch windows a step", fallback: 1 },
  precision: { kind: "text", help: "f32, or f16 with float32 weights", fallback: "f32" },
  recompute: {
    kind: "count",
    help: "1: compute layers again instead of keeping them",
    fallback: 0,
  },
  "learning-rate": { kind: "number", help: "the highest learning rate", fallback: 3e-3 },
  "weight-decay": { kind: "number", help: "of AdamW", fallback: 0.1 },
  warmup: { kind: "count", help: "steps of rising learning rate", fallback: 10 },
  clip: { kind: "number", help: "the largest global norm of the gradient", fallback: 1 },
  seed: { kind: "count", help: "of weights, windows and samples", fallback: 0 },
  size: { kind: "count", help: "size of the model's vectors", fallback: 128 },
  layers: { kind: "count", help: "layers", fallback: 4 },
  heads: { kind: "count", help: "attention heads", fallback: 4 },
  inner: { kind: "count", help: "inner size of the gated linear units", fallback: 352 },
  out: { kind: "text", help: "folder for the checkpoint and the curve", fallback: "runs" },
  resume: { kind: "text", help: "a checkpoint to continue from, exactly" },
  "save-every": { kind: "count", help: "steps from checkpoint to checkpoint", fallback: 100 },
  samples: { kind: "count", help: "samples to write on the way", fallback: 3 },
  generate: { kind: "count", help: "bytes to write at the end", fallback: 400 },
  prompt: { kind: "text", help: "what the writing starts from", fallback: "export function " },
  temperature: { kind: "number", help: "of the choice among bytes", fallback: 0.7 },
} as const;

const USAGE = "deno task demo [flags]: trains a TransNormerLLM on text, then writes with it";

await runCommand(async () => {
  const { values: flags, given } = parseFlags(FLAGS, process.argv.slice(2), USAGE);
  const device = await chooseDevice(flags.backend);
  // What a few minutes are enough for: on a GPU, on two cores in SIMD, or without.
  const usual = !device.software
    ? { steps: 1500, batch: 32, context: 512 }
    : device.backend === "wasm"
    ? { steps: 800, batch: 4, context: 256 }
    : { steps: 100, batch: 4, context: 128 };
  using checkpoint = flags.resume === undefined
    ? undefined
    : await Checkpoint.read(flags.resume, device);

  const asked = {
    config: {
      vocabulary: 256,
      size: flags.size,
      layers: flags.layers,
      heads: flags.heads,
      inner: flags.inner,
    },
    options: {
      steps: flags.steps ?? usual.steps,
      batch: flags.batch ?? usual.batch,
      accumulate: flags.accumulate,
      precision: flags.precision === "f16" ? "f16" : "f32",
      recompute: flags.recompute > 0,
      context: flags.context ?? usual.context,
      learningRate: flags["learning-rate"],
      weightDecay: flags["weight-decay"],
      warmup: flags.warmup,
      clip: flags.clip,
      seed: flags.seed,
    } satisfies TrainingOptions,
  };
  if (flags.precision !== "f32" && flags.precision !== "f16") {
    throw new UsageError(`--precision expects f32 or f16, found "${flags.precision}"`);
  }
  for (const name of ["steps", "batch", "context", "accumulate"] as const) {
    if (asked.options[name] === 0) throw new UsageError(`--${name} expects at least 1, found 0`);
  }
  if (checkpoint !== undefined) refuseOtherOptions(checkpoint, asked, given);
  const { config, options } = checkpoint?.header ?? asked;
  const textPath = flags.text ?? checkpoint?.header.textPath;
  const text = await readText(textPath, options.context + 1);
  const unigram = unigramEntropy(text);

  using trainer = new Trainer(config, options, text, device);
  await checkpoint?.restore(trainer);
  const { model, optimizer, losses } = trainer;
  const first = optimizer.steps;

  console.log(device.describe());
  console.log(
    `TransNormerLLM, ${model.parameterCount().toLocaleString("en")} parameters: ` +
      `${config.layers} layers of size ${config.size}, ${config.heads} heads, inner ${config.inner}`,
  );
  console.log(
    `${text.description}: ${text.training.length} bytes to learn from, ${text.heldOut.length} held out`,
  );
  const windows = options.batch * (options.accumulate ?? 1);
  console.log(
    `${options.steps} steps of ${windows} windows of ${options.context} bytes, ${options.precision}`,
  );
  if (checkpoint !== undefined) {
    console.log(`continuing ${checkpoint.path} after step ${first}`);
    if (text.hash !== checkpoint.header.textHash) {
      console.error("warning: the text is not the one that the checkpoint was trained on");
    }
  }

  await mkdir(flags.out, { recursive: true });
  const checkpointPath = `${flags.out}/checkpoint.safetensors`;
  await removeUnfinished(checkpointPath);
  using metrics = await Metrics.open(`${flags.out}/metrics.jsonl`, first);
  using interruption = new Interruption();

  const writing = { temperature: flags.temperature, seed: options.seed };
  const validation: [number, number][] = [];
  const bar = new ProgressBar(options.steps, losses, windows * options.context);
  // A read costs a GPU a pause, so there the losses of several steps are read together.
  const together = device.backend === "webgpu" ? 10 : 1;
  const every = Math.ceil(options.steps / (flags.samples + 1));
  const following = (interval: number) =>
    Math.min(options.steps, (Math.floor(optimizer.steps / interval) + 1) * interval);
  while (optimizer.steps < options.steps && !interruption.arrived) {
    const next = following(every);
    const save = flags["save-every"] === 0 ? options.steps : following(flags["save-every"]);
    const count = Math.min(together, next - optimizer.steps, save - optimizer.steps);
    const recent = await trainer.train(count);
    metrics.write(recent);
    bar.show();
    if (optimizer.steps === save && save < options.steps) {
      await saveCheckpoint(checkpointPath, trainer, textPath);
    }
    if (optimizer.steps === next && next < options.steps) {
      const heldOut = await trainer.validate(16);
      validation.push([next, heldOut]);
      bar.hide();
      console.log(
        `\nstep ${next}: loss ${recent.at(-1)!.loss.toFixed(3)}, held out ${
          heldOut.toFixed(3)
        }; it writes:`,
      );
      await writeText(model, flags.prompt, { ...writing, maxTokens: 100 });
    }
    // So that Ctrl-C can arrive.
    await new Promise((resolve) => setTimeout(resolve));
  }
  bar.hide();
  await saveCheckpoint(checkpointPath, trainer, textPath);
  if (interruption.arrived) {
    console.log(`\nstopped after step ${optimizer.steps}; to continue exactly, run:`);
    console.log(`  deno task demo --resume ${checkpointPath} --out ${flags.out}`);
    process.exit(130);
  }

  const heldOut = await trainer.validate(64);
  validation.push([options.steps, heldOut]);
  const svgPath = `${flags.out}/loss.svg`;
  await io.writeFileSafely(svgPath, lossSvg({ losses, validation, unigram }));
  console.log(`\n${lossChart(losses)}\n`);
  console.log(
    `held-out loss ${heldOut.toFixed(3)} nats = ${(heldOut * BITS).toFixed(3)} bits a byte; ` +
      `unigram entropy ${unigram.toFixed(3)} nats = ${(unigram * BITS).toFixed(3)} bits`,
  );
  console.log(`wrote ${checkpointPath} and ${svgPath}\n`);
  if (flags.generate === 0) return;

  const rate = await writeText(model, flags.prompt, { ...writing, maxTokens: flags.generate });
  console.log(
    `\n${rate.toFixed(1)} tokens/s with a state of ${stateBytes(model)} bytes, ` +
      `the same after any number of tokens`,
  );
  console.log(`more: deno task generate --checkpoint ${checkpointPath} --prompt "..."`);
});

/** To continue exactly means to keep the options; a flag that says otherwise is a mistake. */
function refuseOtherOptions(
  { header, path }: Checkpoint,
  asked: { config: object; options: object },
  given: ReadonlySet<string>,
): void {
  const stored: Record<string, unknown> = { ...header.config, ...header.options };
  for (const [key, value] of Object.entries({ ...asked.config, ...asked.options })) {
    const flag = key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    if (given.has(flag) && stored[key] !== value) {
      throw new LevinError(
        `Cannot continue ${path} with --${flag} ${value}: it was trained with ${stored[key]}; ` +
          `leave the flag out, or start a new run without --resume`,
      );
    }
  }
}

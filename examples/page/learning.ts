/**
 * Training on the page: the demo's trainer, at a size for the device, and samples on the way.
 */
import type { Device } from "../../mod.ts";
import { textOf, unigramEntropy } from "../demo/text.ts";
import { Trainer, type TrainingOptions } from "../demo/trainer.ts";
import { stateBytes, written } from "../demo/writing.ts";
import type { Tell } from "./protocol.ts";
import { turn } from "./turn.ts";

/** What writing starts from: a new line. */
export const PROMPT = "\n";
/** How freely bytes are chosen. */
export const TEMPERATURE = 0.7;

/** Steps after which a sample is written, besides the last. */
const SAMPLES = [0, 25, 50, 100, 200, 400, 800];
const SAMPLE_TOKENS = 160;

/** A model that has learnt nothing yet, on `text`. */
export async function beginner(device: Device, text: string, tell: Tell): Promise<Trainer> {
  const { config, options } = sizesFor(device);
  const bytes = new TextEncoder().encode(text);
  const split = await textOf(bytes, "this text", options.context + 1);
  const trainer = new Trainer(config, options, split, device);
  tell({
    kind: "model",
    parameters: trainer.model.parameterCount(),
    steps: options.steps,
    unigram: unigramEntropy(split),
    stateBytes: stateBytes(trainer.model),
    // A key and a value, float32, in every layer.
    cacheBytes: 2 * 4 * config.size * config.layers,
  });
  return trainer;
}

/** Takes the steps that are left, until `signal` says to stop. */
export async function learn(trainer: Trainer, signal: AbortSignal, tell: Tell): Promise<void> {
  const { optimizer, options, device } = trainer;
  if (optimizer.steps === 0) await sample(trainer, signal, tell);
  let [bytes, seconds] = [0, 0];
  while (optimizer.steps < options.steps && !signal.aborted) {
    const first = optimizer.steps;
    const pause = SAMPLES.find((step) => step > first) ?? options.steps;
    // Losses are read together, so that a GPU need not wait for the host after every step.
    const count = Math.min(device.software ? 1 : 5, Math.min(pause, options.steps) - first);
    const began = performance.now();
    const losses = await trainer.steps(count);
    seconds += (performance.now() - began) / 1000;
    bytes += count * options.batch * options.context;
    tell({ kind: "losses", losses, rate: bytes / seconds });
    await turn();
    if (SAMPLES.includes(optimizer.steps) || optimizer.steps === options.steps) {
      tell({ kind: "heldOut", step: optimizer.steps, loss: await trainer.validate(16) });
      await sample(trainer, signal, tell);
    }
  }
}

async function sample(trainer: Trainer, signal: AbortSignal, tell: Tell): Promise<void> {
  const { model, optimizer, options } = trainer;
  const choice = { maxTokens: SAMPLE_TOKENS, temperature: TEMPERATURE, seed: options.seed };
  let text = "";
  for await (const piece of written(model, PROMPT, choice)) {
    text += piece;
    tell({ kind: "sample", step: optimizer.steps, text });
    await turn();
    if (signal.aborted) return;
  }
}

function sizesFor(device: Device) {
  const shared = { weightDecay: 0.1, warmup: 10, clip: 1, seed: 0 };
  return device.software
    ? {
      config: { vocabulary: 256, size: 64, layers: 2, heads: 2, inner: 160 },
      options: {
        ...shared,
        learningRate: 5e-3,
        steps: 600,
        batch: 4,
        context: 64,
      } satisfies TrainingOptions,
    }
    : {
      config: { vocabulary: 256, size: 128, layers: 4, heads: 4, inner: 352 },
      options: {
        ...shared,
        learningRate: 3e-3,
        steps: 1000,
        batch: 8,
        context: 256,
      } satisfies TrainingOptions,
    };
}

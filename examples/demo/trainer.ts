/**
 * Trains a byte-level TransNormerLLM. All that decides step t is the options, the text, t and the
 * tensors of {@linkcode Trainer.tensors}, so a run that is resumed repeats an unbroken one exactly.
 */
import { type Device, LevinError, loss, noGrad, optim, tensor, tidy } from "../../mod.ts";
import { type TransNormerConfig, TransNormerLLM } from "../../src/models/mod.ts";
import { Seeds } from "../../src/random.ts";
import type { Text } from "./text.ts";

/** What training is told. Stored in checkpoints. */
export interface TrainingOptions {
  readonly steps: number;
  /** Windows of a step. */
  readonly batch: number;
  /** Bytes of a window. */
  readonly context: number;
  readonly learningRate: number;
  readonly weightDecay: number;
  /** Steps of rising learning rate. */
  readonly warmup: number;
  /** The largest global norm of the gradient. */
  readonly clip: number;
  readonly seed: number;
}

/** A model, its optimizer and the losses so far. */
export class Trainer implements Disposable {
  readonly model: TransNormerLLM;
  readonly optimizer: optim.AdamW;
  /** The loss of every step so far, in nats a byte. */
  readonly losses: number[] = [];
  readonly #rate: (step: number) => number;

  constructor(
    readonly config: TransNormerConfig,
    readonly options: TrainingOptions,
    readonly text: Text,
    readonly device: Device,
  ) {
    const { seed, learningRate, weightDecay, warmup, steps } = options;
    this.model = new TransNormerLLM(config, { seed, device });
    this.optimizer = new optim.AdamW(this.model.parameters(), { learningRate, weightDecay });
    this.#rate = optim.warmupCosine({
      peak: learningRate,
      warmup: Math.min(warmup, steps),
      total: steps,
      floor: learningRate / 10,
    });
  }

  /** Takes `count` steps and returns their losses, all read at once. */
  async steps(count: number): Promise<number[]> {
    const first = this.optimizer.steps;
    const values = Array.from({ length: count }, (_, i) => this.#step(first + i));
    const losses = await Promise.all(values.map((value) => value.item()));
    for (const value of values) value.dispose();
    losses.forEach((value, i) => {
      if (!Number.isFinite(value)) {
        throw new LevinError(
          `Training diverged: the loss of step ${first + i + 1} is ${value}; try a smaller ` +
            `learning rate`,
        );
      }
    });
    this.losses.push(...losses);
    return losses;
  }

  #step(step: number) {
    return tidy(() => {
      const { batch, context, seed, clip } = this.options;
      const seeds = new Seeds(seed + step);
      const { training } = this.text;
      const starts = Array.from(
        { length: batch },
        () => seeds.next() % (training.length - context),
      );
      const value = this.#loss(training, starts);
      value.backward();
      optim.clipGradNorm(this.model.parameters(), clip);
      this.optimizer.learningRate = this.#rate(step);
      this.optimizer.step();
      this.optimizer.zeroGrad();
      return value.detach();
    });
  }

  /** The mean loss on `windows` windows of the held-out text, evenly spread, in nats a byte. */
  async validate(windows: number): Promise<number> {
    const { batch, context } = this.options;
    const { heldOut } = this.text;
    const room = heldOut.length - context;
    const count = Math.max(1, Math.min(windows, Math.floor(room / context)));
    const starts = Array.from({ length: count }, (_, i) => Math.floor(i * room / count));
    let sum = 0;
    for (let i = 0; i < count; i += batch) {
      const some = starts.slice(i, i + batch);
      const value = tidy(() => noGrad(() => this.#loss(heldOut, some)));
      sum += some.length * await value.item();
      value.dispose();
    }
    return sum / count;
  }

  /** The loss of predicting, in the windows at `starts`, every next byte. */
  #loss(bytes: Uint8Array, starts: readonly number[]) {
    const { context } = this.options;
    const window = (start: number) => Array.from(bytes.subarray(start, start + context));
    const options = { dtype: "i32", device: this.device } as const;
    const ids = tensor(starts.map(window), options);
    const next = tensor(starts.map((start) => window(start + 1)), options);
    return loss.crossEntropy(this.model.forward(ids), next);
  }

  [Symbol.dispose](): void {
    this.optimizer[Symbol.dispose]();
    this.model[Symbol.dispose]();
  }
}

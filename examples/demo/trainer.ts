/**
 * Trains a byte-level TransNormerLLM. All that decides step t is the options, the text, t and the
 * tensors of {@linkcode Trainer.tensors}, so a run that is resumed repeats an unbroken one exactly.
 */
import { type Device, LevinError, noGrad, optim, type Tensor, tensor, tidy } from "../../mod.ts";
import { type TransNormerConfig, TransNormerLLM } from "../../src/models/mod.ts";
import { Seeds } from "../../src/random.ts";
import type { Text } from "./text.ts";

/** What training is told. Stored in checkpoints. */
export interface TrainingOptions {
  readonly steps: number;
  /** Windows of a micro-batch. */
  readonly batch: number;
  /** Micro-batches of a step, whose gradients are added up. Default 1. */
  readonly accumulate?: number;
  /** How activations are stored; weights are float32 always. Default f32. */
  readonly precision?: "f32" | "f16";
  /** Whether the insides of layers are computed again for their gradients instead of kept. Default false. */
  readonly recompute?: boolean;
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

/** What is known of a step once it is done. */
export interface StepReport {
  /** Its number, from 1. */
  readonly step: number;
  /** In nats a byte. */
  readonly loss: number;
  readonly learningRate: number;
  /** The global norm of the gradient before clipping; not finite if the step overflowed and was skipped. */
  readonly gradientNorm: number;
}

/** A model, its optimizer and the losses so far. */
export class Trainer implements Disposable {
  readonly model: TransNormerLLM;
  readonly optimizer: optim.AdamW;
  /** What keeps small gradients from becoming 0 in float16. */
  readonly scaler: optim.LossScaler | undefined;
  /** The loss of every step so far, in nats a byte. */
  readonly losses: number[] = [];
  readonly #rate: (step: number) => number;

  constructor(
    readonly config: TransNormerConfig,
    readonly options: TrainingOptions,
    readonly text: Text,
    readonly device: Device,
    { attention }: { attention?: 1 | 2 } = {},
  ) {
    const { seed, learningRate, weightDecay, warmup, steps, precision = "f32", recompute = false } =
      options;
    this.model = new TransNormerLLM(config, { seed, device, attention });
    this.model.compute = precision;
    this.model.recompute = recompute;
    if (precision === "f16") this.scaler = new optim.LossScaler({ device, interval: 200 });
    this.optimizer = new optim.AdamW(this.model.parameters(), { learningRate, weightDecay });
    this.#rate = optim.warmupCosine({
      peak: learningRate,
      warmup: Math.min(warmup, steps),
      total: steps,
      floor: learningRate / 10,
    });
  }

  /** Takes `count` steps and returns their losses. */
  async steps(count: number): Promise<number[]> {
    return (await this.train(count)).map(({ loss }) => loss);
  }

  /** Takes `count` steps and returns what is known of them, all read at once. */
  async train(count: number): Promise<StepReport[]> {
    const first = this.optimizer.steps;
    const values = Array.from({ length: count }, (_, i) => this.#step(first + i));
    const numbers = await Promise.all(values.flat().map((value) => value.item()));
    for (const value of values.flat()) value.dispose();
    const reports = values.map((_, i): StepReport => ({
      step: first + i + 1,
      loss: numbers[2 * i],
      learningRate: this.#rate(first + i),
      gradientNorm: numbers[2 * i + 1],
    }));
    for (const { step, loss } of reports) {
      if (!Number.isFinite(loss)) {
        throw new LevinError(
          `Training diverged: the loss of step ${step} is ${loss}; try a smaller learning rate`,
        );
      }
      this.losses.push(loss);
    }
    return reports;
  }

  /** Step number `step`, from 0 → its loss and the norm of its gradient. */
  #step(step: number): [loss: Tensor, norm: Tensor] {
    return tidy(() => {
      const { batch, accumulate = 1, context, seed, clip } = this.options;
      const seeds = new Seeds(seed, step);
      const { training } = this.text;
      const parts = Array.from({ length: accumulate }, () => {
        const starts = Array.from(
          { length: batch },
          () => seeds.next() % (training.length - context),
        );
        return tidy(() => {
          const part = this.#loss(training, starts).mul(1 / accumulate);
          (this.scaler?.scale(part) ?? part).backward({ releaseGraph: true });
          return part.detach();
        });
      });
      const parameters = this.model.parameters();
      this.optimizer.learningRate = this.#rate(step);
      const { factor, norm } = this.scaler?.unscale(parameters, { maxNorm: clip }) ??
        optim.clipFactor(parameters, clip);
      this.optimizer.step({ factor });
      this.optimizer.zeroGrad();
      return [parts.reduce((a, b) => a.add(b)), norm];
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
    return this.model.loss(ids, next);
  }

  [Symbol.dispose](): void {
    this.scaler?.[Symbol.dispose]();
    this.optimizer[Symbol.dispose]();
    this.model[Symbol.dispose]();
  }
}

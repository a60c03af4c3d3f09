/**
 * A model in training on random tokens, and how fast it goes. A step is all that training is: forward,
 * backward, clipping, AdamW; in float16 also loss scaling.
 */
import { optim, type Tensor, tensor, tidy, uniform } from "../../mod.ts";
import type { LanguageModel } from "../../src/models/mod.ts";
import { loadInto } from "../../src/ops/pointwise.ts";
import { Seeds } from "../../src/random.ts";

/** How fast a model learns from sequences of one length. */
export interface Speed {
  readonly tokensPerSecond: number;
  /** Seconds of one step. */
  readonly seconds: number;
  /** Steps behind it. */
  readonly steps: number;
  /** Whether steps went before, so that all kernels had been compiled. */
  readonly warm: boolean;
  /** Device memory at the peak. */
  readonly bytes: number;
}

/** Seconds of steps in a row that make a measurement. */
const ENOUGH = 2;

/** A model with its optimizer. */
export class Training implements Disposable {
  readonly #optimizer: optim.AdamW;
  readonly #scaler: optim.LossScaler | undefined;

  /** Of a model, which it disposes in the end; logits are there for `chunk` tokens at once. */
  constructor(readonly model: LanguageModel, readonly chunk: number) {
    fillWithNoise(model);
    this.#optimizer = new optim.AdamW(model.parameters(), { learningRate: 1e-4 });
    const { device } = model;
    if (model.compute === "f16") this.#scaler = new optim.LossScaler({ device, initial: 1024 });
  }

  /**
   * The speed at `batch` sequences of `n` tokens. A first step compiles and allocates. Then so many as take
   * a while are queued back to back, since a GPU that waits for the host lowers its clocks; if that would take
   * more than half of the `seconds` there are, the first step has to do.
   *
   * @throws {LevinError} if it does not fit the device.
   */
  async measure(batch: number, n: number, seconds: number): Promise<Speed> {
    const { device, vocabulary } = this.model;
    const end = performance.now() + 1000 * seconds;
    device.trim();
    const [ids, next] = [1, 2].map((seed) => {
      const seeds = new Seeds(seed);
      const drawn = Int32Array.from({ length: batch * n }, () => seeds.next() % vocabulary);
      return tensor(drawn, { shape: [batch, n], device });
    });
    const secondsOf = async (steps: number) => {
      const began = performance.now();
      for (let i = 0; i < steps; i++) this.#step(ids, next);
      await device.synchronize();
      return (performance.now() - began) / 1000;
    };
    try {
      let [steps, taken, warm] = [1, await secondsOf(1), false];
      for (let round = 0; round < 2 && (!warm || taken < ENOUGH / 2); round++) {
        const more = Math.ceil(ENOUGH * steps / taken);
        if (more * taken / steps > (end - performance.now()) / 2000) break;
        [steps, taken, warm] = [more, await secondsOf(more), true];
      }
      const { liveBytes, pooledBytes } = device.memory();
      return {
        tokensPerSecond: steps * batch * n / taken,
        seconds: taken / steps,
        ...{ steps, warm, bytes: liveBytes + pooledBytes },
      };
    } finally {
      for (const t of [ids, next]) t.dispose();
      this.#optimizer.zeroGrad();
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

  /** Frees the model and what belongs to its training. */
  [Symbol.dispose](): void {
    this.#scaler?.[Symbol.dispose]();
    this.#optimizer[Symbol.dispose]();
    this.model[Symbol.dispose]();
    this.model.device.trim();
  }
}

/** Weights of standard deviation 0.02, drawn on the device: to draw a billion on the host takes long. */
function fillWithNoise(model: LanguageModel): void {
  const { device } = model;
  const high = 0.02 * Math.sqrt(3);
  Object.entries(model.parameters()).forEach(([name, p], seed) => {
    if (p.rank < 2 || name.endsWith("theta")) return;
    tidy(() => loadInto([[uniform(p.shape, { low: -high, high, seed, device }), p]]));
  });
}

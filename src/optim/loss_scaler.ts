/**
 * Loss scaling (Micikevicius et al., "Mixed Precision Training", arXiv 1710.03740): gradients that float16
 * would round to 0 are multiplied, by way of the loss, and divided again in float32.
 *
 *     loss · s → backward → norm of the gradients
 *     finite:   factor = min(1, c / (norm / s)) / s; after `interval` of them in a row, s ← s · growth
 *     infinite: factor = 0, the step is skipped, and s ← s · backoff
 *
 * All of it stays on the device: no step waits to hear whether the last one overflowed.
 *
 * @module
 */
import { noGrad } from "../autograd.ts";
import { addressOf, floatBits, type Program } from "../backend/contract.ts";
import type { Device } from "../device.ts";
import { LevinError, ShapeError } from "../errors.ts";
import { runInPlace } from "../operation.ts";
import { tensor, zeros } from "../ops/create.ts";
import { loadInto } from "../ops/pointwise.ts";
import { adopt, tidy } from "../scope.ts";
import { checkNumber } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import shader from "../../shaders/loss_scale.wgsl" with { type: "text" };
import { gradNorm } from "./clip.ts";

/** Options of {@linkcode LossScaler}. */
export interface LossScalerOptions {
  /** s at first. Default 2¹⁶. */
  initial?: number;
  /** By what s grows. Default 2. */
  growth?: number;
  /** By what s shrinks; it stays 1 or more. Default 0.5. */
  backoff?: number;
  /** Finite steps in a row after which s grows. Default 2000. */
  interval?: number;
  /** The largest s. Default 2²⁴. */
  largest?: number;
  /** Where the loss lives. Default: the device that `init` chose last. */
  device?: Device;
}

interface UpdateOptions extends Required<Omit<LossScalerOptions, "initial" | "device">> {
  readonly maxNorm: number;
}

/**
 * Scales losses, and tells the optimizer by what to multiply their gradients.
 *
 * @example
 * ```ts
 * import { optim, tensor } from "@levin/levin";
 *
 * const w = tensor([1, 2], { requiresGrad: true });
 * using adamw = new optim.AdamW({ w }, { learningRate: 0.1, weightDecay: 0 });
 * using scaler = new optim.LossScaler();
 * const half = w.to("f16"); // float32 weights, float16 arithmetic
 * scaler.scale(half.square().sum().to("f32")).backward();
 * const { factor, norm } = scaler.unscale({ w }, { maxNorm: 1 });
 * adamw.step({ factor }); // does nothing if a gradient overflowed
 * console.log(await norm.item(), await w.data()); // 4.472, Float32Array [0.9, 1.9]
 * ```
 */
export class LossScaler implements Disposable {
  readonly #state: Tensor;
  readonly #options: Omit<UpdateOptions, "maxNorm">;

  /** With s = `initial`. */
  constructor(
    { initial = 2 ** 16, growth = 2, backoff = 0.5, interval = 2000, largest = 2 ** 24, device }:
      LossScalerOptions = {},
  ) {
    if (!(initial >= 1 && initial <= largest && growth >= 1 && backoff > 0 && backoff < 1)) {
      throw new ShapeError(
        `LossScaler: expected 1 ≤ initial ≤ largest, growth ≥ 1 and 0 < backoff < 1, found ` +
          `${initial}, ${largest}, ${growth} and ${backoff}`,
      );
    }
    checkNumber("LossScaler", "a finite growth", growth, growth < Infinity);
    checkNumber("LossScaler", "an interval of 1 step or more", interval, interval >= 1);
    this.#options = { growth, backoff, interval, largest };
    this.#state = adopt(tensor([initial, 0, 0], { device }));
  }

  /** loss · s, to start `backward()` from. */
  scale(loss: Tensor): Tensor {
    return tidy(() => loss.mul(this.#state.slice([0, 1]).reshape([])));
  }

  /**
   * To be called once a step, after the last `backward()`: what the gradients have to be multiplied by, which
   * is left to the optimizer, and their global norm as it would be without scaling. s is brought up to date.
   *
   * @param options.maxNorm c, the largest global norm. Default: none.
   * @returns Two float32 scalars; the factor is 0 if a gradient is infinite or NaN.
   * @throws {LevinError} if no parameter has a gradient.
   */
  unscale(
    parameters: Readonly<Record<string, Tensor>>,
    { maxNorm = Infinity }: { maxNorm?: number } = {},
  ): { factor: Tensor; norm: Tensor } {
    return tidy(() =>
      noGrad(() => {
        const scaled = gradNorm(parameters);
        const [factor, norm] = [0, 0].map(() => zeros([], { device: scaled.device }));
        // A finite stand-in for infinity, whose product with s is finite too.
        const options = { ...this.#options, maxNorm: Math.min(maxNorm, 2 ** 100) };
        runInPlace(update, [scaled], [factor, norm, this.#state], options);
        return { factor, norm };
      })
    );
  }

  /** Resolves to s and how many steps have been skipped so far. Waits for the device. */
  async report(): Promise<{ scale: number; skipped: number }> {
    const [scale, , skipped] = await this.#state.data();
    return { scale, skipped };
  }

  /** All there is to it, to be saved beside the optimizer's state. */
  state(): Record<string, Tensor> {
    return { state: this.#state };
  }

  /** Goes on from a saved {@linkcode state}. */
  load({ state }: Readonly<Record<string, Tensor>>): void {
    if (state === undefined || state.size !== 3) {
      throw new LevinError(`LossScaler: expected a state of 3 numbers, found ${state}`);
    }
    loadInto([[state, this.#state]]);
  }

  /** Frees the state. */
  [Symbol.dispose](): void {
    this.#state.dispose();
  }
}

/** norm of the scaled gradients → factor, norm without scaling; in place of the state. */
const update: Program<UpdateOptions> = {
  name: "lossScale",
  cpu: ([norm], [factor, trueNorm, state], { maxNorm, growth, backoff, interval, largest }) => {
    const [found, scale] = [norm.data[norm.offset], state.data[0]];
    trueNorm.data[0] = found / scale;
    if (!Number.isFinite(found)) {
      factor.data[0] = 0;
      state.data.set([Math.max(scale * backoff, 1), 0, state.data[2] + 1]);
      return;
    }
    factor.data[0] = Math.min(1, maxNorm * scale / found) / scale;
    const row = state.data[1] + 1;
    const grows = row >= interval;
    state.data.set([grows ? Math.min(scale * growth, largest) : scale, grows ? 0 : row]);
  },
  wasm: ([norm], outputs, options) => ({
    kernel: "lossScale",
    params: [...[norm, ...outputs].map(addressOf), ...numbersOf(options)],
    tasks: 1,
  }),
  gpu: ([norm], outputs, options) => ({
    shader,
    params: [...[norm, ...outputs].map(({ offset }) => offset), ...numbersOf(options)],
    workgroups: [1],
  }),
};

function numbersOf({ maxNorm, growth, backoff, interval, largest }: UpdateOptions): number[] {
  return [maxNorm, growth, backoff, interval, largest].map(floatBits);
}

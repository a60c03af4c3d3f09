/**
 * AdamW (Loshchilov and Hutter, arXiv 1711.05101): Adam with weight decay apart from the gradient.
 *
 *     m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
 *     p ← p − η · (m̂ / (√v̂ + ε) + λ p),   m̂ = m / (1 − β₁ᵗ),   v̂ = v / (1 − β₂ᵗ)
 *
 * t counts the steps that were not skipped. Only the device knows which were, so 1 − βᵗ is kept there.
 *
 * @module
 */
import { noGrad } from "../autograd.ts";
import { addressOf, floatBits, type Program } from "../backend/contract.ts";
import { DTypeError, LevinError, ShapeError } from "../errors.ts";
import { runInPlace } from "../operation.ts";
import { full, tensor, zeros } from "../ops/create.ts";
import { loadInto } from "../ops/pointwise.ts";
import { grid } from "../ops/pointwise_program.ts";
import { adopt, tidy } from "../scope.ts";
import { sameShape, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import countShader from "../../shaders/adamw_count.wgsl" with { type: "text" };
import shader from "../../shaders/adamw.wgsl" with { type: "text" };

/** Options of {@linkcode AdamW}. */
export interface AdamWOptions {
  /** η, the learning rate. Default 1e-3. */
  learningRate?: number;
  /** β₁ and β₂, how slowly the averages move. Default [0.9, 0.95]. */
  betas?: readonly [number, number];
  /** ε, what keeps the quotient finite. Default 1e-8. */
  epsilon?: number;
  /** λ, how fast weights shrink. Default 0.1. */
  weightDecay?: number;
  /** Which parameters shrink. Default: those with two axes or more, so biases and gains do not. */
  decays?: (name: string, parameter: Tensor) => boolean;
}

interface Moments {
  readonly m: Tensor;
  readonly v: Tensor;
}

interface StepOptions {
  readonly rate: number;
  readonly betas: readonly [number, number];
  readonly epsilon: number;
  readonly decay: number;
}

/**
 * Steps parameters along their gradients, in place.
 *
 * @example
 * ```ts
 * import { optim, tensor } from "@levin/levin";
 *
 * const w = tensor([1, 2], { requiresGrad: true });
 * const adamw = new optim.AdamW({ w }, { learningRate: 0.1, weightDecay: 0 });
 * w.square().sum().backward();
 * adamw.step();
 * adamw.zeroGrad();
 * console.log(await w.data()); // Float32Array [0.9, 1.9]
 * ```
 */
export class AdamW implements Disposable {
  /** η of the next step; schedules set it. */
  learningRate: number;
  /** Steps asked for so far, skipped ones too. */
  steps = 0;
  readonly #parameters: ReadonlyMap<string, Tensor>;
  readonly #moments: ReadonlyMap<string, Moments>;
  readonly #options: Required<AdamWOptions>;
  /** 1 − β₁ᵗ and 1 − β₂ᵗ. */
  readonly #corrections: Tensor;

  /** Optimizes `parameters`, by name: float32 leaves. */
  constructor(
    parameters: Readonly<Record<string, Tensor>>,
    {
      learningRate = 1e-3,
      betas = [0.9, 0.95],
      epsilon = 1e-8,
      weightDecay = 0.1,
      decays = (_, parameter) => parameter.rank >= 2,
    }: AdamWOptions = {},
  ) {
    this.#options = { learningRate, betas, epsilon, weightDecay, decays };
    this.learningRate = learningRate;
    this.#parameters = new Map(Object.entries(parameters));
    for (const [name, { dtype, isContiguous }] of this.#parameters) {
      if (dtype !== "f32" || !isContiguous) {
        throw new DTypeError(`AdamW: expected "${name}" to be a dense f32 tensor, found ${dtype}`);
      }
    }
    const { device } = Object.values(parameters)[0] ?? {};
    this.#corrections = adopt(zeros([2], { device }));
    const moment = ({ shape, device }: Tensor) => adopt(zeros(shape, { device }));
    this.#moments = new Map(
      [...this.#parameters].map(([name, p]) => [name, { m: moment(p), v: moment(p) }]),
    );
  }

  /**
   * One step for every parameter that has a gradient.
   *
   * @param options.factor What gradients are multiplied by first, a float32 scalar; 0 skips the step. That of
   * {@linkcode LossScaler.unscale} undoes the scaling of the loss, and clips. Default 1.
   */
  step({ factor }: { factor?: Tensor } = {}): void {
    const { betas, epsilon, weightDecay, decays } = this.#options;
    this.steps++;
    tidy(() =>
      noGrad(() => {
        const corrections = this.#corrections;
        const by = factor ?? full([], 1, { device: corrections.device });
        runInPlace(count, [by], [corrections], { betas });
        for (const [name, parameter] of this.#parameters) {
          const { grad } = parameter;
          if (grad === null) continue;
          const { m, v } = this.#moments.get(name)!;
          const options: StepOptions = {
            rate: this.learningRate,
            betas,
            epsilon,
            decay: decays(name, parameter) ? weightDecay : 0,
          };
          tidy(() =>
            runInPlace(
              program,
              [grad.to("f32").contiguous(), by, corrections],
              [parameter, m, v],
              options,
            )
          );
        }
      })
    );
  }

  /** Drops the gradients of all parameters. */
  zeroGrad(): void {
    for (const parameter of this.#parameters.values()) parameter.grad = null;
  }

  /**
   * The averages m and v by parameter name and ".m" or ".v", and as "corrections" what counts the steps taken,
   * to be saved beside the parameters.
   */
  state(): Record<string, Tensor> {
    return { ...this.#averages(), corrections: this.#corrections };
  }

  #averages(): Record<string, Tensor> {
    return Object.fromEntries(
      [...this.#moments].flatMap(([name, { m, v }]) => [[`${name}.m`, m], [`${name}.v`, v]]),
    );
  }

  /**
   * Goes on from a saved {@linkcode state} and number of steps. Without "corrections", none was skipped.
   *
   * @throws {LevinError} naming a tensor that is missing.
   * @throws {ShapeError} naming a tensor of another shape.
   */
  load(state: Readonly<Record<string, Tensor>>, steps: number): void {
    const own = Object.entries(this.#averages());
    for (const [name, { shape }] of own) {
      if (state[name] === undefined) throw new LevinError(`AdamW: the state lacks "${name}"`);
      if (!sameShape(state[name].shape, shape)) {
        throw new ShapeError(
          `AdamW: "${name}" has shape [${state[name].shape}], expected [${shape}]`,
        );
      }
    }
    tidy(() => {
      const { device } = this.#corrections;
      const corrections = state.corrections ??
        tensor(this.#options.betas.map((beta) => 1 - beta ** steps), { device });
      loadInto([
        ...own.map(([name, target]) => [state[name], target] as const),
        [corrections, this.#corrections],
      ]);
    });
    this.steps = steps;
  }

  /** Frees the averages. */
  [Symbol.dispose](): void {
    for (const t of Object.values(this.state())) t.dispose();
  }
}

/** factor, in place of the corrections. */
const count: Program<Pick<StepOptions, "betas">> = {
  name: "adamwCount",
  cpu: ([factor], [c], { betas }) => {
    if (factor.data[factor.offset] === 0) return;
    betas.forEach((beta, i) => c.data[i] = c.data[i] * beta + (1 - beta));
  },
  gpu: ([factor], [c], { betas }) => ({
    shader: countShader,
    params: [factor.offset, c.offset, ...betas.map(floatBits)],
    workgroups: [1],
  }),
};

/** Elements that are worth a task in WebAssembly. */
const TASK = 2 ** 14;

/** g, factor and corrections, in place of p, m and v. */
const program: Program<StepOptions> = {
  name: "adamw",
  cpu: ([g, factor, c], [p, m, v], { rate, betas: [beta1, beta2], epsilon, decay }) => {
    const by = factor.data[factor.offset];
    if (by === 0) return;
    const [c1, c2] = [c.data[c.offset], c.data[c.offset + 1]];
    for (let i = 0; i < p.data.length; i++) {
      const gradient = g.data[i] * by;
      m.data[i] = beta1 * m.data[i] + (1 - beta1) * gradient;
      v.data[i] = beta2 * v.data[i] + (1 - beta2) * gradient * gradient;
      const stepped = m.data[i] / c1 / (Math.sqrt(v.data[i] / c2) + epsilon);
      p.data[i] -= rate * (stepped + decay * p.data[i]);
    }
  },
  wasm: ([g, factor, c], [p, m, v], { rate, betas: [beta1, beta2], epsilon, decay }) => {
    const length = sizeOf(p.shape);
    const floats = [beta1, 1 - beta1, beta2, 1 - beta2, epsilon, rate, decay];
    return {
      kernel: "adamw",
      params: [...[g, p, m, v, factor, c].map(addressOf), length, TASK, ...floats.map(floatBits)],
      tasks: Math.ceil(length / TASK),
    };
  },
  gpu: ([g, factor, c], [p, m, v], { rate, betas, epsilon, decay }, context) => ({
    shader,
    params: [
      ...[sizeOf(p.shape), g.offset, p.offset, m.offset, v.offset],
      ...[rate, ...betas, epsilon, decay].map(floatBits),
      ...[factor.offset, c.offset],
    ],
    workgroups: grid(Math.ceil(sizeOf(p.shape) / 256), context),
  }),
  cuts: () => [[0, -1, -1, 0, 0, 0]],
};

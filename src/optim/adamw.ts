/**
 * AdamW (Loshchilov and Hutter, arXiv 1711.05101): Adam with weight decay apart from the gradient.
 *
 *     m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
 *     p ← p − η · (m̂ / (√v̂ + ε) + λ p),   m̂ = m / (1 − β₁ᵗ),   v̂ = v / (1 − β₂ᵗ)
 *
 * t counts the steps that were not skipped. Only the device knows which were, so 1 − βᵗ is kept there.
 *
 * A dispatch steps three parameters: with their gradients, the averages of all three in one tensor and the
 * numbers that they share, it binds the eight buffers that every device allows.
 *
 * @module
 */
import { noGrad } from "../autograd.ts";
import { addressOf, floatBits, type Program, type View } from "../backend/contract.ts";
import { DTypeError, LevinError, ShapeError } from "../errors.ts";
import { runInPlace } from "../operation.ts";
import { full, tensor, zeros } from "../ops/create.ts";
import { copyInto, loadInto } from "../ops/pointwise.ts";
import { grid } from "../ops/pointwise_program.ts";
import { adopt, tidy } from "../scope.ts";
import { checkMagnitude, checkNumber, sameShape } from "../shape.ts";
import { Tensor } from "../tensor.ts";
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

/** Parameters that one dispatch steps. */
const TOGETHER = 3;

/** Some parameters and their averages. */
interface Group {
  readonly members: readonly Member[];
  /** m and v of every element, [elements of all members, 2]. */
  readonly moments: Tensor;
}

interface Member {
  readonly name: string;
  readonly parameter: Tensor;
  /** Its rows of the group's moments. */
  readonly rows: readonly [from: number, to: number];
  /** Its averages, of its shape: views of the moments. */
  readonly m: Tensor;
  readonly v: Tensor;
}

interface StepOptions {
  readonly rate: number;
  readonly betas: readonly [number, number];
  readonly epsilon: number;
  /** λ of each parameter. */
  readonly decays: readonly number[];
  /** The row of the moments at which those of each parameter begin. */
  readonly starts: readonly number[];
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
  readonly #groups: readonly Group[];
  readonly #options: Required<AdamWOptions>;
  /** 1 − β₁ᵗ, 1 − β₂ᵗ and the factor on the gradients of this step. */
  readonly #scalars: Tensor;
  /** The first two of them. */
  readonly #corrections: Tensor;

  /**
   * Optimizes `parameters`, by name: float32 leaves.
   *
   * @throws {DTypeError} naming a parameter that is something else.
   * @throws {ShapeError} if a rate is negative or no number, or a beta not in [0, 1).
   */
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
    checkMagnitude("AdamW", "a learningRate", learningRate);
    for (const beta of betas) checkNumber("AdamW", "betas of [0, 1)", beta, beta >= 0 && beta < 1);
    checkMagnitude("AdamW", "an epsilon", epsilon);
    checkMagnitude("AdamW", "a weightDecay", weightDecay);
    this.#options = { learningRate, betas, epsilon, weightDecay, decays };
    this.learningRate = learningRate;
    const list = Object.entries(parameters);
    for (const [name, { dtype, isContiguous }] of list) {
      if (dtype !== "f32" || !isContiguous) {
        throw new DTypeError(`AdamW: expected "${name}" to be a dense f32 tensor, found ${dtype}`);
      }
    }
    const { device } = list[0]?.[1] ?? {};
    this.#scalars = adopt(zeros([3], { device }));
    this.#corrections = adopt(this.#scalars.slice([0, 2]));
    this.#groups = groupsOf(list).map(makeGroup);
  }

  /**
   * One step for every parameter that has a gradient.
   *
   * @param options.factor What gradients are multiplied by first, a float32 scalar; 0 skips the step. That of
   * {@linkcode clipFactor} clips them, and that of {@linkcode LossScaler.unscale} undoes the scaling of the loss
   * too. Default 1.
   */
  step({ factor }: { factor?: Tensor } = {}): void {
    const { betas, epsilon, weightDecay, decays } = this.#options;
    checkMagnitude("AdamW", "a learningRate", this.learningRate);
    this.steps++;
    tidy(() =>
      noGrad(() => {
        const scalars = this.#scalars;
        const by = factor ?? full([], 1, { device: scalars.device });
        runInPlace(count, [by], [scalars], { betas });
        for (const { members, moments } of this.#groups) {
          const some = members.filter(({ parameter }) => parameter.grad !== null);
          if (some.length === 0) continue;
          const written = new Set(some.map(({ parameter }) => parameter.storage));
          const [first, last] = [some[0].rows[0], some.at(-1)!.rows[1]];
          const options: StepOptions = {
            rate: this.learningRate,
            betas,
            epsilon,
            starts: some.map(({ rows: [from] }) => from - first),
            decays: some.map(({ name, parameter }) => decays(name, parameter) ? weightDecay : 0),
          };
          tidy(() => {
            const gradients = some.map(({ parameter }) => {
              const flat = parameter.grad!.to("f32").reshape([parameter.size]);
              return written.has(flat.storage) ? copyOf(flat) : flat.contiguous();
            });
            const targets = some.map(({ parameter }) => parameter.reshape([parameter.size]));
            const averages = moments.slice([first, last]);
            runInPlace(program, [scalars, ...gradients], [...targets, averages], options);
          });
        }
      })
    );
  }

  /** Drops the gradients of all parameters. */
  zeroGrad(): void {
    for (const { parameter } of this.#members()) parameter.grad = null;
  }

  #members(): Member[] {
    return this.#groups.flatMap(({ members }) => members);
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
      this.#members().flatMap(({ name, m, v }) => [[`${name}.m`, m], [`${name}.v`, v]]),
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
    for (const { moments } of this.#groups) moments.dispose();
    this.#scalars.dispose();
  }
}

type Named = readonly [name: string, parameter: Tensor];

/** Neighbours, three at most, whose averages fit one binding; memory that two share is written by one at a time. */
function groupsOf(parameters: readonly Named[]): Named[][] {
  const groups: Named[][] = [];
  let elements = 0;
  for (const named of parameters) {
    const [, { size, storage, device }] = named;
    const last = groups.at(-1);
    const fits = last !== undefined && last.length < TOGETHER &&
      8 * (elements + size) <= device.engine.bindingBytes &&
      last.every(([, other]) => other.storage !== storage && other.device === device);
    if (fits) last.push(named);
    else groups.push([named]);
    elements = fits ? elements + size : size;
  }
  return groups;
}

function makeGroup(parameters: readonly Named[]): Group {
  const { device } = parameters[0][1];
  const elements = parameters.reduce((sum, [, { size }]) => sum + size, 0);
  const moments = adopt(zeros([elements, 2], { device }));
  let from = 0;
  const members = parameters.map(([name, parameter]): Member => {
    const rows = [from, from += parameter.size] as const;
    const [m, v] = [0, 1].map((column) =>
      adopt(tidy(() => moments.slice(rows, [column, column + 1]).reshape(parameter.shape)))
    );
    return { name, parameter, rows, m, v };
  });
  return { members, moments };
}

/** The elements of `source` in memory of their own. */
function copyOf(source: Tensor): Tensor {
  const copy = Tensor.allocate(source.device, { shape: source.shape, dtype: source.dtype });
  copyInto(source, copy);
  return copy;
}

/** factor, in place of the scalars. */
const count: Program<Pick<StepOptions, "betas">> = {
  name: "adamwCount",
  cpu: ([factor], [scalars], { betas }) => {
    const by = factor.data[factor.offset];
    scalars.data[2] = by;
    if (by === 0) return;
    betas.forEach((beta, i) => scalars.data[i] = scalars.data[i] * beta + (1 - beta));
  },
  wasm: ([factor], [scalars], { betas }) => ({
    kernel: "adamwCount",
    params: [
      ...[addressOf(factor), addressOf(scalars)],
      ...betas.flatMap((beta) => [floatBits(beta), floatBits(1 - beta)]),
    ],
    tasks: 1,
  }),
  gpu: ([factor], [scalars], { betas }) => ({
    shader: countShader,
    params: [factor.offset, scalars.offset, ...betas.map(floatBits)],
    workgroups: [1],
  }),
};

/** Elements that are worth a task in WebAssembly. */
const TASK = 2 ** 14;

/** scalars and up to three g [size], in place of as many p [size] and of the moments [rows, 2] that hold theirs. */
const program: Program<StepOptions> = {
  name: "adamw",
  cpu: ([scalars, ...gradients], outputs, { rate, betas: [beta1, beta2], epsilon, ...each }) => {
    const [c1, c2, by] = scalars.data.subarray(scalars.offset, scalars.offset + 3);
    if (by === 0) return;
    const moments = outputs.at(-1)!;
    const { data } = moments;
    gradients.forEach((g, which) => {
      const p = outputs[which];
      const decay = each.decays[which];
      const first = moments.offset + 2 * each.starts[which];
      for (let i = 0; i < g.shape[0]; i++) {
        const gradient = g.data[g.offset + i] * by;
        const [m, v] = [first + 2 * i, first + 2 * i + 1];
        data[m] = beta1 * data[m] + (1 - beta1) * gradient;
        data[v] = beta2 * data[v] + (1 - beta2) * gradient * gradient;
        const stepped = data[m] / c1 / (Math.sqrt(data[v] / c2) + epsilon);
        p.data[p.offset + i] -= rate * (stepped + decay * p.data[p.offset + i]);
      }
    });
  },
  wasm: ([scalars, ...gradients], outputs, { rate, betas: [beta1, beta2], epsilon, ...each }) =>
    gradients.map((g, which) => {
      const [length] = g.shape;
      const moments = addressOf(outputs.at(-1)!) + 8 * each.starts[which];
      const places = [addressOf(g), addressOf(outputs[which]), moments, addressOf(scalars)];
      const floats = [beta1, 1 - beta1, beta2, 1 - beta2, epsilon, rate, each.decays[which]];
      return {
        kernel: "adamw",
        params: [...places, length, TASK, ...floats.map(floatBits)],
        tasks: Math.ceil(length / TASK),
      };
    }),
  gpu: ([scalars, ...gradients], outputs, { rate, betas, epsilon, ...each }, context) => {
    const [targets, moments] = [outputs.slice(0, -1), outputs.at(-1)!];
    const sizes = gradients.map((g) => g.shape[0]);
    const total = sizes.reduce((a, b) => a + b);
    const three = (numbers: readonly number[]) => [0, 1, 2].map((i) => numbers[i] ?? 0);
    // What is missing is bound to memory that nobody reads or writes.
    const bound = (views: View[]) => [0, 1, 2].map((i) => views[i] ?? context.scratch(1));
    return {
      shader,
      bindings: [scalars, ...bound(gradients), ...bound(targets), moments],
      params: [
        ...[...three(sizes), scalars.offset],
        ...[...three(gradients.map((g) => g.offset)), 0],
        ...[...three(targets.map((p) => p.offset)), 0],
        ...[...three(each.starts.map((start) => moments.offset / 2 + start)), 0],
        ...[...three(each.decays.map(floatBits)), ...[rate, ...betas, epsilon].map(floatBits), 0],
      ],
      workgroups: grid(Math.ceil(total / 256), context),
    };
  },
  cuts: ({ length }) => length === 2 ? [[-1, 0, 0, 0]] : [],
};

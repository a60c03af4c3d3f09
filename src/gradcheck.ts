/**
 * The check of any gradient against finite differences.
 *
 * @module
 */
import { differentiate, recording } from "./autograd.ts";
import { DTypeError, LevinError } from "./errors.ts";
import { isFloat } from "./dtype.ts";
import { randn, tensor } from "./ops/create.ts";
import { adopt, tidy } from "./scope.ts";
import { format } from "./shape.ts";
import { Tensor } from "./tensor.ts";
import { Node } from "./autograd.ts";

/** Options of {@linkcode gradcheck}. */
export interface GradcheckOptions {
  /** How far apart gradient and difference may be, relative to the largest of the input. Default 1e-3. */
  tolerance?: number;
  /** The step of the differences; elements farther from 0 than 1 take a larger one. Default 2⁻⁶. */
  step?: number;
  /** The seed of the random weights that make one number of the outputs. Default 1. */
  seed?: number;
}

/** What {@linkcode gradcheck} found when all was well. */
export interface GradcheckReport {
  /** Elements of inputs that were checked: all of them. */
  checked: number;
  /** The largest error found, relative to the largest gradient of its input. */
  worst: number;
}

/**
 * Proves the gradients of `fn` at `inputs`: weights its outputs at random, adds them up to one number L,
 * and compares dL/dx, element by element, with (4 D(h) − D(2h)) / 3, D(h) = (L(x+h) − L(x−h)) / 2h,
 * computed in float64 from the outputs. Best with few elements, away from kinks.
 *
 * @example
 * ```ts
 * import { gradcheck, randn } from "@levin/levin";
 *
 * await gradcheck((x, y) => x.matmul(y).tanh(), [randn([2, 3]), randn([3, 2])]);
 * ```
 * @throws {LevinError} naming the element whose gradient is farthest off, if one is too far.
 * @throws {DTypeError} unless all inputs are float32.
 */
export async function gradcheck(
  fn: (...inputs: Tensor[]) => Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  { tolerance = 1e-3, step = 2 ** -6, seed = 1 }: GradcheckOptions = {},
): Promise<GradcheckReport> {
  const wrong = inputs.find((t) => t.dtype !== "f32");
  if (wrong !== undefined) {
    throw new DTypeError(`gradcheck: expected inputs of dtype f32, found ${wrong.dtype}`);
  }
  const values = await Promise.all(inputs.map((t) => t.data()));
  const { weights, gradients } = await analytic(fn, inputs, seed);

  const report = { checked: 0, worst: 0 };
  for (let i = 0; i < inputs.length; i++) {
    const exact = gradients[i];
    const numeric = await differences(fn, inputs, values, i, weights, step);
    const size = Math.max(...numeric.values.map(Math.abs), ...exact.map(Math.abs), 1e-30);
    numeric.values.forEach((difference, at) => {
      const error = Math.abs(exact[at] - difference);
      // NaN must fail, so the comparison asks for success.
      if (!(error <= tolerance * size + numeric.noise)) {
        throw new LevinError(
          `gradcheck: input ${i} ${
            format(inputs[i].shape)
          }, element ${at}: the gradient rule says ` +
            `${exact[at]}, finite differences say ${difference} (± ${numeric.noise})`,
        );
      }
      report.checked++;
      report.worst = Math.max(report.worst, error / size);
    });
  }
  return report;
}

/** dL/dx of every input by the gradient rules, and the weights that make L of the outputs. */
async function analytic(
  fn: (...inputs: Tensor[]) => Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  seed: number,
): Promise<{ weights: Float32Array[]; gradients: Float32Array[] }> {
  const made = tidy(() => {
    const nodes = inputs.map(() => new Node("variable", [], undefined));
    const variables = inputs.map((t, i) => t.alias(t, nodes[i]));
    const outputs = recording(() => [fn(...variables)].flat().filter((t) => isFloat(t.dtype)));
    const { device } = inputs[0];
    const weights = outputs.map((t, j) => randn(t.shape, { seed: seed + j, device }));
    const gradients = recording(() => {
      const parts = outputs.map((t, j) => t.to("f32").mul(weights[j]).sum());
      const total = parts.reduce((a, b) => a.add(b));
      const found = differentiate(total, Tensor.one(total), nodes);
      return found.map((t, i) => t ?? inputs[i].mul(0));
    });
    nodes.forEach((node) => node.release());
    return { weights, gradients: gradients.map((t) => t.detach()) };
  });
  return { weights: await take(made.weights), gradients: await take(made.gradients) };
}

/** dL/dx of every element of input `which` by differences, and how far rounding may put them off. */
async function differences(
  fn: (...inputs: Tensor[]) => Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  values: readonly Float32Array[],
  which: number,
  weights: readonly Float32Array[],
  step: number,
): Promise<{ values: number[]; noise: number }> {
  const centre = values[which];
  let noise = 0;
  const lossAt = async (at: number, value: number) => {
    const moved = centre.slice();
    moved[at] = value;
    const outputs = tidy(() => {
      const input = tensor(moved, { shape: inputs[which].shape, device: inputs[which].device });
      const results = [fn(...inputs.map((t, i) => i === which ? input : t.detach()))].flat();
      return results.filter((t) => isFloat(t.dtype)).map((t) => t.to("f32"));
    });
    const read = await take(outputs);
    let loss = 0;
    let size = 0;
    read.forEach((data, j) =>
      data.forEach((x, k) => {
        loss += x * weights[j][k];
        size += Math.abs(x * weights[j][k]);
      })
    );
    noise = Math.max(noise, size * 2 ** -22 / step);
    return loss;
  };
  const slope = async (at: number, h: number) => {
    const [low, high] = [Math.fround(centre[at] - h), Math.fround(centre[at] + h)];
    const [below, above] = await Promise.all([lossAt(at, low), lossAt(at, high)]);
    return (above - below) / (high - low);
  };
  const found = await Promise.all(Array.from(centre, async (x, at) => {
    const h = step * Math.max(1, Math.abs(x));
    const [fine, coarse] = await Promise.all([slope(at, h), slope(at, 2 * h)]);
    return (4 * fine - coarse) / 3;
  }));
  return { values: found, noise };
}

/** Reads tensors together and disposes them. */
async function take(tensors: readonly Tensor[]): Promise<Float32Array[]> {
  tensors.forEach(adopt);
  try {
    return await Promise.all(tensors.map((t) => t.data()));
  } finally {
    tensors.forEach((t) => t.dispose());
  }
}

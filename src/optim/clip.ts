/**
 * The norm of gradients and clipping by it, over many gradients in few dispatches:
 *
 *     norm = √Σ g²        g ← min(1, maxNorm / (norm + 1e-6)) · g
 *
 * Each gradient leaves partial sums of squares in its row of one tensor, six gradients a dispatch; their sum is
 * the norm's square. Then new gradients are written, three a dispatch, unless an optimizer multiplies by the
 * factor as it reads them.
 *
 * @module
 */
import { noGrad } from "../autograd.ts";
import { addressOf, type Program } from "../backend/contract.ts";
import { bytesOf } from "../dtype.ts";
import { LevinError } from "../errors.ts";
import { runInPlace } from "../operation.ts";
import { grid, productProgram } from "../ops/pointwise_program.ts";
import { withReductions } from "../ops/rows.ts";
import { tidy } from "../scope.ts";
import { checkNumber, sizeOf } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import scaleShader from "../../shaders/scale_three.wgsl" with { type: "text" };
import squaresText from "../../shaders/sums_of_squares.wgsl" with { type: "text" };

const squaresShader = withReductions(squaresText);

/**
 * The global norm of the gradients of all parameters, √Σ g² over all of them, a float32 scalar.
 *
 * @throws {LevinError} if no parameter has a gradient.
 */
export function gradNorm(parameters: Readonly<Record<string, Tensor>>): Tensor {
  const list = withGradient(parameters);
  if (list.length === 0) throw new LevinError("gradNorm: no parameter has a gradient");
  return tidy(() => noGrad(() => sumOfSquares(dense(list)).sqrt()));
}

/**
 * What {@linkcode clipGradNorm} multiplies gradients by, left to `AdamW.step({ factor })`, which saves writing
 * and reading all of them once more. Nothing is read back.
 *
 * @example
 * ```ts
 * import { optim, tensor } from "@levin/levin";
 *
 * const w = tensor([3, 4], { requiresGrad: true });
 * using adamw = new optim.AdamW({ w });
 * w.square().sum().backward();
 * const { factor, norm } = optim.clipFactor({ w }, 1);
 * adamw.step({ factor });
 * console.log(await norm.item(), await factor.item()); // 10 0.1
 * ```
 * @returns The factor and the norm before, float32 scalars. The factor is 0, which skips a step, if the norm is
 * infinite.
 * @throws {LevinError} if no parameter has a gradient.
 * @throws {ShapeError} unless `maxNorm` is above 0.
 */
export function clipFactor(
  parameters: Readonly<Record<string, Tensor>>,
  maxNorm: number,
): { factor: Tensor; norm: Tensor } {
  checkNumber("clipFactor", "a maxNorm above 0", maxNorm, maxNorm > 0);
  return tidy(() =>
    noGrad(() => {
      const norm = gradNorm(parameters);
      return { norm, factor: norm.add(1e-6).reciprocal().mul(maxNorm).minimum(1) };
    })
  );
}

/**
 * Scales the gradients of all parameters so that their global norm, √Σ g² over all of them, is at most
 * `maxNorm`. Nothing is read back: the scale stays on the device.
 *
 * @returns The norm before, a float32 scalar.
 * @throws {LevinError} if no parameter has a gradient.
 * @throws {ShapeError} unless `maxNorm` is above 0.
 */
export function clipGradNorm(
  parameters: Readonly<Record<string, Tensor>>,
  maxNorm: number,
): Tensor {
  return tidy(() =>
    noGrad(() => {
      const { factor, norm } = clipFactor(parameters, maxNorm);
      const withGrad = withGradient(parameters);
      const scaled = scale(dense(withGrad), factor);
      withGrad.forEach((p, i) => p.grad = scaled[i].to(p.dtype));
      return norm;
    })
  );
}

/** Gradients that one dispatch squares: what the eight storage buffers of every device leave room for. */
const SQUARED_TOGETHER = 6;
/** Partial sums of each: workgroups for a GPU to be busy with, or few where there is little to add. */
const partsFor = (largest: number) => largest > 2 ** 16 ? 64 : 4;

/** Σ g² over dense float32 tensors, a scalar. */
function sumOfSquares(gradients: readonly Tensor[]): Tensor {
  const { device } = gradients[0];
  const [few, large] = partition(gradients, fitsBinding);
  const sums = large.map((g) => g.square().sum());
  if (few.length > 0) {
    const columns = partsFor(Math.max(...few.map((g) => g.size)));
    const parts = Tensor.allocate(device, { shape: [few.length, columns], dtype: "f32" });
    for (let first = 0; first < few.length; first += SQUARED_TOGETHER) {
      const some = few.slice(first, first + SQUARED_TOGETHER);
      runInPlace(squares, some, [parts.slice([first, first + some.length])], undefined);
    }
    sums.push(parts.sum());
  }
  return sums.reduce((a, b) => a.add(b));
}

/** Up to six tensors g → partial sums of their squares [tensors, parts]. */
const squares: Program<undefined> = {
  name: "sumsOfSquares",
  cpu: (gradients, [out]) => {
    out.data.fill(0);
    gradients.forEach(({ data }, row) => {
      let sum = 0;
      for (let i = 0; i < data.length; i++) sum += data[i] * data[i];
      out.data[out.offset + row * out.shape[1]] = sum;
    });
  },
  wasm: (gradients, [out]) => ({
    kernel: "sumsOfSquares",
    params: [
      ...[addressOf(out), out.shape[1]],
      ...gradients.flatMap((g) => [addressOf(g), sizeOf(g.shape)]),
    ],
    tasks: sizeOf(out.shape),
  }),
  gpu: (gradients, [out], _, context) => {
    const rest = Array<typeof out>(SQUARED_TOGETHER - gradients.length).fill(gradients[0]);
    const padding = Array<number>(8 - gradients.length).fill(0);
    const counts = gradients.flatMap((g) => [sizeOf(g.shape), g.offset]);
    const width = counts.every((count) => count % 4 === 0) ? 4 : 1;
    const ofFour = { Unit: "vec4f", square_of: "dot(unit, unit)" };
    return {
      shader: squaresShader(context),
      constants: { PARTS: out.shape[1], ...(width === 4 ? ofFour : {}) },
      bindings: [...gradients, ...rest, out],
      params: [
        ...gradients.map((g) => sizeOf(g.shape) / width),
        ...padding,
        ...gradients.map((g) => g.offset / width),
        ...padding,
        out.offset,
      ],
      workgroups: [out.shape[1], gradients.length],
    };
  },
};

/** factor · g for dense float32 tensors g and a scalar factor. */
function scale(gradients: readonly Tensor[], factor: Tensor): Tensor[] {
  const results = new Map<Tensor, Tensor>();
  const [few, large] = partition(gradients, fitsBinding);
  while (few.length >= 3) {
    const three = few.splice(0, 3);
    const targets = three.map((g) => Tensor.allocate(g.device, g));
    runInPlace(scaleThree, [factor, ...three], targets, undefined);
    three.forEach((g, i) => results.set(g, targets[i]));
  }
  for (const g of [...few, ...large]) results.set(g, g.mul(factor));
  return gradients.map((g) => results.get(g)!);
}

/** factor [] and three tensors g → three tensors factor · g. */
const scaleThree: Program<undefined> = {
  name: "scale",
  cpu: ([factor, ...gradients], targets) => {
    const by = factor.data[factor.offset];
    gradients.forEach(({ data }, t) => {
      for (let i = 0; i < data.length; i++) targets[t].data[i] = by * data[i];
    });
  },
  wasm: ([factor, ...gradients], targets, _, context) =>
    gradients.flatMap((g, i) => {
      const spread = { ...factor, shape: g.shape, strides: g.shape.map(() => 0) };
      return productProgram.wasm!([g, spread], [targets[i]], undefined, context)!;
    }),
  gpu: ([factor, ...gradients], targets, _, context) => {
    const sizes = gradients.map((g) => sizeOf(g.shape));
    return {
      shader: scaleShader,
      params: [
        ...[...sizes, factor.offset],
        ...[...gradients.map((g) => g.offset), 0],
        ...targets.map((t) => t.offset),
      ],
      workgroups: grid(Math.ceil(sizes.reduce((a, b) => a + b) / 256), context),
    };
  },
};

function fitsBinding({ device, size, dtype }: Tensor): boolean {
  return size > 0 && size * bytesOf(dtype) <= device.engine.bindingBytes;
}

function partition<T>(items: readonly T[], test: (item: T) => boolean): [T[], T[]] {
  return [items.filter(test), items.filter((item) => !test(item))];
}

function withGradient(parameters: Readonly<Record<string, Tensor>>): Tensor[] {
  return Object.values(parameters).filter((p) => p.grad !== null);
}

function dense(parameters: readonly Tensor[]): Tensor[] {
  return parameters.map((p) => p.grad!.to("f32").contiguous());
}

/**
 * The linear layer and the embedding.
 *
 * @module
 */
import type { Device } from "../device.ts";
import { asLeaf, randn, uniform, zeros } from "../ops/create.ts";
import { addMatmul } from "../ops/matmul.ts";
import { freshSeed, Seeds } from "../random.ts";
import { tidy } from "../scope.ts";
import { checkMagnitude } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { Module, owned } from "./module.ts";

/** How a layer's parameters begin. */
export interface LayerOptions {
  /** The seed of the random weights. Default: another at every call. */
  seed?: number;
  /** Where the parameters live. Default: the device that `init` chose last. */
  device?: Device;
  /** The dtype of the parameters. Default `"f32"`. */
  dtype?: "f32" | "f16";
  /** Leave the weights zero instead of random: they are to be loaded. Default false. */
  blank?: boolean;
}

/**
 * The options of the parts of a layer, one after the other: those of the layer itself, each with a seed of
 * its own that follows from the layer's, and normal weights, by default of standard deviation 0.02.
 */
export function optionsOfParts(
  { seed = freshSeed(), std = 0.02, device, dtype, blank }: LayerOptions & { std?: number },
): { next(): LayerOptions & { seed: number; std: number } } {
  const seeds = new Seeds(seed);
  return { next: () => ({ seed: seeds.next(), std, device, dtype, blank }) };
}

/** Options of {@linkcode Linear}. */
export interface LinearOptions extends LayerOptions {
  /** Add a bias. Default false. */
  bias?: boolean;
  /** The standard deviation of normal weights; default: weights uniform in ±1/√in. */
  std?: number;
}

/** y = x Wᵀ + b. */
export class Linear extends Module {
  /** W [out, in]. */
  readonly weight: Tensor;
  /** b [out], if there is one. */
  readonly bias: Tensor | undefined;

  /** From `inputs` features to `outputs`. */
  constructor(inputs: number, outputs: number, options: LinearOptions = {}) {
    super();
    const { bias = false, std } = options;
    checkMagnitude("Linear", "an std", std ?? 0);
    const bound = 1 / Math.sqrt(Math.max(1, inputs));
    this.weight = parameter(
      [outputs, inputs],
      options,
      (shape, made) =>
        std === undefined
          ? uniform(shape, { ...made, low: -bound, high: bound })
          : randn(shape, made).mul(std),
    );
    this.bias = bias ? parameter([outputs], { ...options, blank: true }, zeros) : undefined;
  }

  /**
   * x [.., in] → [.., out], in the dtype of x, whatever that of the parameters; with a `residual` [.., out] of that
   * dtype, which it is added to in the same pass.
   */
  forward(x: Tensor, residual?: Tensor): Tensor {
    return tidy(() => {
      const weight = this.weight.to(x.dtype).transpose();
      const y = residual === undefined ? x.matmul(weight) : addMatmul(residual, x, weight);
      return this.bias === undefined ? y : y.add(this.bias.to(x.dtype));
    });
  }
}

/** Options of {@linkcode Embedding}. */
export interface EmbeddingOptions extends LayerOptions {
  /** The standard deviation of the normal weights. Default 1. */
  std?: number;
}

/** A table of vectors, looked up by number. */
export class Embedding extends Module {
  /** The table [count, size]. */
  readonly weight: Tensor;

  /** A table of `count` vectors of `size` elements. */
  constructor(count: number, size: number, options: EmbeddingOptions = {}) {
    super();
    const { std = 1 } = options;
    checkMagnitude("Embedding", "an std", std);
    this.weight = parameter([count, size], options, (shape, made) => randn(shape, made).mul(std));
  }

  /** ids [..], i32 or u32 → [.., size]. */
  forward(ids: Tensor): Tensor {
    return this.weight.gather(ids);
  }
}

/** A parameter, drawn at random or blank. */
function parameter(
  shape: readonly number[],
  { seed = freshSeed(), device, dtype, blank = false }: LayerOptions,
  draw: (
    shape: readonly number[],
    made: { seed: number; device?: Device; dtype?: "f32" | "f16" },
  ) => Tensor,
): Tensor {
  return owned(tidy(() => asLeaf((blank ? zeros : draw)(shape, { seed, device, dtype }))));
}

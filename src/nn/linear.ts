/**
 * The linear layer and the embedding.
 *
 * @module
 */
import type { Device } from "../device.ts";
import { asLeaf, randn, uniform, zeros } from "../ops/create.ts";
import { freshSeed } from "../random.ts";
import { tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { Module, owned } from "./module.ts";

/** How a layer's parameters begin. */
export interface LayerOptions {
  /** The seed of the random weights. Default: another at every call. */
  seed?: number;
  /** Where the parameters live. Default: the device that `init` chose last. */
  device?: Device;
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
    const { seed = freshSeed(), device, bias = false, std } = options;
    const made = { seed, device, requiresGrad: true };
    const bound = 1 / Math.sqrt(inputs);
    this.weight = owned(
      std === undefined
        ? uniform([outputs, inputs], { ...made, low: -bound, high: bound })
        : scaledNormal([outputs, inputs], std, made),
    );
    this.bias = bias ? owned(zeros([outputs], made)) : undefined;
  }

  /** x [.., in] → [.., out]. */
  forward(x: Tensor): Tensor {
    return tidy(() => {
      const y = x.matmul(this.weight.transpose());
      return this.bias === undefined ? y : y.add(this.bias);
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
    const { seed = freshSeed(), device, std = 1 } = options;
    this.weight = owned(scaledNormal([count, size], std, { seed, device, requiresGrad: true }));
  }

  /** ids [..], i32 or u32 → [.., size]. */
  forward(ids: Tensor): Tensor {
    return this.weight.gather(ids);
  }
}

function scaledNormal(
  shape: readonly number[],
  std: number,
  options: { seed: number; device?: Device; requiresGrad: boolean },
): Tensor {
  return tidy(() => asLeaf(randn(shape, { ...options, requiresGrad: false }).mul(std)));
}

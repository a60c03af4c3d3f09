/**
 * Norms over the last axis, all of them the simple root-mean-square norm of TransNormerLLM and what is added
 * to it.
 *
 *     SRMSNorm(x) = x / √(mean x² + ε)        RMSNorm(x) = w ⊙ SRMSNorm(x)
 *     LayerNorm(x) = w ⊙ SRMSNorm(x − mean x) + b
 *
 * @module
 */
import type { Device } from "../device.ts";
import { ones, zeros } from "../ops/create.ts";
import { srmsNorm } from "../ops/srms_norm.ts";
import { tidy } from "../scope.ts";
import { checkMagnitude } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { Module, owned } from "./module.ts";

/** SRMSNorm(x) = x / √(mean x² + ε) over the last axis; it has no weight. */
export class SRMSNorm extends Module {
  /** ε, what keeps the quotient finite. */
  readonly epsilon: number;

  /** With ε, by default 1e-6. */
  constructor(epsilon = 1e-6) {
    super();
    checkMagnitude("SRMSNorm", "an epsilon", epsilon);
    this.epsilon = epsilon;
  }

  /** x [.., size] → the same shape. */
  forward(x: Tensor): Tensor {
    return srmsNorm(x, this.epsilon);
  }
}

/** Options of {@linkcode RMSNorm} and {@linkcode LayerNorm}. */
export interface NormOptions {
  /** ε, what keeps the quotient finite. Default 1e-5. */
  epsilon?: number;
  /** The dtype of the parameters. Default `"f32"`. */
  dtype?: "f32" | "f16";
  /** Where the parameters live. */
  device?: Device;
}

/** RMSNorm(x) = w ⊙ x / √(mean x² + ε) over the last axis (Zhang and Sennrich, arXiv 1910.07467). */
export class RMSNorm extends Module {
  /** w [size], initially ones. */
  readonly weight: Tensor;
  readonly #epsilon: number;

  /** For vectors of `size` elements. */
  constructor(size: number, { epsilon = 1e-5, ...made }: NormOptions = {}) {
    super();
    checkMagnitude("RMSNorm", "an epsilon", epsilon);
    this.weight = owned(ones([size], { ...made, requiresGrad: true }));
    this.#epsilon = epsilon;
  }

  /** x [.., size] → the same shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => srmsNorm(x, this.#epsilon).mul(this.weight.to(x.dtype)));
  }
}

/** LayerNorm(x) = w ⊙ (x − mean x) / √(var x + ε) + b over the last axis (Ba et al., arXiv 1607.06450). */
export class LayerNorm extends Module {
  /** w [size], initially ones. */
  readonly weight: Tensor;
  /** b [size], initially zeros. */
  readonly bias: Tensor;
  readonly #epsilon: number;

  /** For vectors of `size` elements. */
  constructor(size: number, { epsilon = 1e-5, ...made }: NormOptions = {}) {
    super();
    checkMagnitude("LayerNorm", "an epsilon", epsilon);
    this.weight = owned(ones([size], { ...made, requiresGrad: true }));
    this.bias = owned(zeros([size], { ...made, requiresGrad: true }));
    this.#epsilon = epsilon;
  }

  /** x [.., size] → the same shape. */
  forward(x: Tensor): Tensor {
    return tidy(() => {
      const centred = x.sub(x.mean(-1, { keepDims: true }));
      const [w, b] = [this.weight, this.bias].map((parameter) => parameter.to(x.dtype));
      return srmsNorm(centred, this.#epsilon).mul(w).add(b);
    });
  }
}

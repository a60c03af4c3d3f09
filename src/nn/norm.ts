/**
 * The norm of TransNormerLLM.
 *
 * @module
 */
import { srmsNorm } from "../ops/srms_norm.ts";
import type { Tensor } from "../tensor.ts";
import { Module } from "./module.ts";

/** SRMSNorm(x) = x / √(mean x² + ε) over the last axis; it has no weight. */
export class SRMSNorm extends Module {
  /** ε, what keeps the quotient finite. */
  readonly epsilon: number;

  /** With ε, by default 1e-6. */
  constructor(epsilon = 1e-6) {
    super();
    this.epsilon = epsilon;
  }

  /** x [.., size] → the same shape. */
  forward(x: Tensor): Tensor {
    return srmsNorm(x, this.epsilon);
  }
}

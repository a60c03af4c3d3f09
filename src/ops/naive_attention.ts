/**
 * Attention as it is defined, in plain tensor operations: quadratic in time and in memory. It is what
 * the fast kernels are compared with.
 *
 *     linear    o = α [(q kᵀ) ⊙ M] v        M_ij = e^(−s (i−j)) for i ≥ j, else 0
 *     softmax   o = softmax(α q kᵀ + C) v    C_ij = 0 where query i sees key j, else −∞
 *
 * Shapes: q [b, h, n, d]; k [b, g, m, d] and v [b, g, m, e], g dividing h: head i reads k and v of head
 * ⌊i g / h⌋. Queries are the last n of the m positions.
 *
 * @module
 */
import type { Device } from "../device.ts";
import { ShapeError } from "../errors.ts";
import { tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { checkQuadratic } from "./attention_arguments.ts";
import { arange, full } from "./create.ts";
import { where } from "./pointwise.ts";
import { decaySlopes, slopesTensor } from "./slopes.ts";

/** Options of {@linkcode naiveAttention}. */
export interface NaiveAttentionOptions {
  /** `"linear"`, the default, as Lightning Attention computes it, or `"softmax"`. */
  kind?: "linear" | "softmax";
  /** The decay of each head of linear attention: a number, an array or a tensor [heads]. */
  slopes?: number | readonly number[] | Tensor;
  /** Whether queries see no later key. Default true; linear attention is always causal. */
  causal?: boolean;
  /** A factor on the scores. Default: 1 if linear, 1/√d if softmax. */
  scale?: number;
}

/**
 * Attention by the [n, m] matrix of scores, differentiable to any order.
 *
 * @param q Queries [batch, heads, n, d].
 * @param k Keys [batch, key heads, m, d].
 * @param v Values [batch, key heads, m, e].
 * @returns The outputs [batch, heads, n, e].
 *
 * @example
 * ```ts
 * import { naiveAttention, randn } from "@levin/levin";
 *
 * const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 4, 10, 8], { seed }));
 * console.log(naiveAttention(q, k, v, { slopes: 0.1 }).shape); // [1, 4, 10, 8]
 * console.log(naiveAttention(q, k, v, { kind: "softmax" }).shape); // [1, 4, 10, 8]
 * ```
 * @throws {ShapeError} if shapes do not fit, a slope is negative or not finite, or the scale is not finite.
 * @throws {DTypeError} if dtypes are mixed or not floating, or a tensor of slopes is not float32.
 */
export function naiveAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { kind = "linear", slopes, causal = true, scale }: NaiveAttentionOptions = {},
): Tensor {
  if (kind !== "linear" && kind !== "softmax") {
    throw new ShapeError(`naiveAttention: expected kind "linear" or "softmax", found "${kind}"`);
  }
  const { n, m, heads, d } = checkQuadratic("naiveAttention", q, k, v, {
    causal: causal || kind === "linear",
    scale,
  });
  if (kind === "softmax" && slopes !== undefined) {
    throw new ShapeError("naiveAttention: slopes are for linear attention, not for softmax");
  }
  return tidy(() => {
    const { device, dtype } = q;
    const scores = q.matmul(repeated(k, heads).transpose());
    if (kind === "softmax") {
      return softmaxWeights(scores.mul(scale ?? d ** -0.5), causal).matmul(repeated(v, heads));
    }
    const distance = distances(n, m, device);
    const s = slopesTensor("naiveAttention", slopes ?? decaySlopes(heads), heads, device);
    // The exponent is masked before the exponential: 0 · ∞ is NaN.
    const exponent = s.reshape([heads, 1, 1]).mul(distance.maximum(0)).neg();
    const decay = exponent.exp().mul(distance.greaterEqual(0).to("f32")).to(dtype);
    return scores.mul(decay).matmul(repeated(v, heads)).mul(scale ?? 1);
  });
}

/** The softmax of scores [.., n, m] over the keys that each query sees. */
export function softmaxWeights(scores: Tensor, causal: boolean): Tensor {
  if (!causal) return scores.softmax(-1);
  const { shape, dtype, device } = scores;
  const [n, m] = shape.slice(-2);
  const hidden = full([1], -Infinity, { dtype, device });
  return where(distances(n, m, device).greaterEqual(0), scores, hidden).softmax(-1);
}

/** i − j [n, m], with queries at the last n of m positions. */
function distances(n: number, m: number, device: Device): Tensor {
  return arange(m - n, { end: m, device }).reshape([n, 1]).sub(arange(m, { device }));
}

/** Each head of x [b, g, m, d] h/g times in a row. */
function repeated(x: Tensor, heads: number): Tensor {
  const [b, g, m, d] = x.shape;
  if (g === heads) return x;
  return x.reshape([b, g, 1, m, d]).expand([b, g, heads / g, m, d]).reshape([b, heads, m, d]);
}

/**
 * Choosing a token by its logits.
 *
 * @module
 */
import { LevinError } from "../errors.ts";

/** How a token is chosen. */
export interface SampleOptions {
  /** Divides the logits; 0 takes the likeliest token always. Default 1. */
  temperature?: number;
  /** Choose among so many likeliest tokens. Default: all. */
  topK?: number;
  /** Choose among the fewest likeliest tokens that together have this probability. Default 1. */
  topP?: number;
  /** A number from [0, 1) that decides. */
  random: number;
}

/**
 * Draws a token with the probabilities softmax(logits / temperature), cut to top k and then to top p. Among
 * equal logits at the cut the first tokens are kept.
 *
 * @example
 * ```ts
 * import { sample } from "@levin/levin/models";
 *
 * console.log(sample([1, 3, 2], { temperature: 0, random: 0.5 })); // 1
 * console.log(sample([1, 3, 2], { topK: 2, random: 0.99 })); // 2
 * ```
 * @throws {LevinError} if a logit is NaN or ∞, or all are −∞.
 */
export function sample(
  logits: ArrayLike<number>,
  { temperature = 1, topK = Infinity, topP = 1, random }: SampleOptions,
): number {
  let best = 0;
  for (let i = 0; i < logits.length; i++) {
    if (!(logits[i] <= logits[best])) best = i;
    if (Number.isNaN(logits[i])) break;
  }
  if (!Number.isFinite(logits[best])) {
    throw new LevinError(
      `sample: expected finite logits, found ${logits[best]} for token ${best} of ${logits.length}`,
    );
  }
  if (temperature === 0) return best;

  const weights = new Float64Array(logits.length);
  for (let i = 0; i < weights.length; i++) {
    weights[i] = Math.exp((logits[i] - logits[best]) / temperature);
  }
  const { least, ties, mass } = cut(weights, topK, topP);
  // The tokens that are kept, in their own order, until their weights use up the draw.
  let left = random * mass;
  let tied = 0;
  let chosen = best;
  for (let i = 0; i < weights.length; i++) {
    if (weights[i] < least || weights[i] === 0) continue;
    if (weights[i] === least && tied++ >= ties) continue;
    chosen = i;
    left -= weights[i];
    if (left < 0) break;
  }
  return chosen;
}

/** The least weight that is kept, how many that are equal to it are, and the sum of all that are kept. */
function cut(
  weights: Float64Array,
  topK: number,
  topP: number,
): { least: number; ties: number; mass: number } {
  if (topK >= weights.length && topP === 1) {
    return { least: 0, ties: Infinity, mass: weights.reduce((a, b) => a + b) };
  }
  const sorted = weights.toSorted().reverse().subarray(0, Math.ceil(topK));
  const wanted = topP * sorted.reduce((a, b) => a + b);
  let mass = 0;
  let count = 0;
  while (count < sorted.length && (count === 0 || mass < wanted)) mass += sorted[count++];
  const least = sorted[count - 1];
  return { least, ties: count - sorted.indexOf(least), mass };
}

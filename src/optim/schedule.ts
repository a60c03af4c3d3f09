/**
 * Learning-rate schedules.
 *
 * @module
 */
import { ShapeError } from "../errors.ts";
import { checkMagnitude, checkNumber } from "../shape.ts";

/** Options of {@linkcode warmupCosine}. */
export interface WarmupCosineOptions {
  /** The highest rate. */
  peak: number;
  /** Steps of linear rise to it. */
  warmup: number;
  /** Steps in all; from there on the rate stays at the floor. */
  total: number;
  /** The last rate. Default 0. */
  floor?: number;
}

/**
 * A rate that rises linearly to `peak` and falls to `floor` along half a cosine.
 *
 * @returns The rate of step t, counted from 0.
 *
 * @example
 * ```ts
 * import { optim } from "@levin/levin";
 *
 * const rate = optim.warmupCosine({ peak: 1, warmup: 10, total: 110 });
 * console.log(rate(4), rate(9), rate(60)); // 0.5, 1, 0.5
 * ```
 * @throws {ShapeError} unless steps are whole numbers, `total` no less than `warmup`, and rates 0 or more.
 */
export function warmupCosine(
  { peak, warmup, total, floor = 0 }: WarmupCosineOptions,
): (step: number) => number {
  for (const steps of [warmup, total]) {
    const fits = Number.isInteger(steps) && steps >= 0;
    checkNumber("warmupCosine", "whole numbers of steps", steps, fits);
  }
  for (const rate of [peak, floor]) checkMagnitude("warmupCosine", "rates", rate);
  if (total < warmup) {
    throw new ShapeError(`warmupCosine: ${total} steps in all are fewer than ${warmup} of warm-up`);
  }
  return (step) => {
    if (step < warmup) return peak * (step + 1) / warmup;
    const progress = Math.min(1, (step - warmup) / Math.max(1, total - warmup));
    return floor + (peak - floor) * (1 + Math.cos(Math.PI * progress)) / 2;
  };
}

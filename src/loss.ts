/**
 * Losses.
 *
 * @module
 */
import { ShapeError } from "./errors.ts";
import { crossEntropyRows } from "./ops/cross_entropy.ts";
import { tidy } from "./scope.ts";
import type { Tensor } from "./tensor.ts";

/** How {@linkcode crossEntropy} reports the losses of many rows. */
export interface LossOptions {
  /** `"mean"`, the default, `"sum"`, or `"none"` for each row's own. */
  reduction?: "mean" | "sum" | "none";
}

/**
 * The cross-entropy, in nats, of logits x and integer targets: log Σ exp x − x[target].
 *
 * @param logits Unnormalised log-probabilities [.., classes], f32 or f16.
 * @param targets Class numbers [..], i32 or u32. One out of range makes its loss NaN.
 * @returns float32: a scalar, or with reduction `"none"` the shape of `targets`.
 *
 * @example
 * ```ts
 * import { loss, tensor } from "@levin/levin";
 *
 * const logits = tensor([[2, 0, 0], [0, 0, 0]], { requiresGrad: true });
 * const value = loss.crossEntropy(logits, tensor([0, 2], { dtype: "i32" }));
 * value.backward();
 * console.log(await value.item()); // (0.2395 + 1.0986) / 2 = 0.6691
 * ```
 * @throws {ShapeError} unless `targets` has the shape of `logits` without its last axis.
 * @throws {DTypeError} if the dtypes are others.
 */
export function crossEntropy(
  logits: Tensor,
  targets: Tensor,
  { reduction = "mean" }: LossOptions = {},
): Tensor {
  return tidy(() => {
    const rows = crossEntropyRows(logits, targets);
    if (reduction === "none") return rows;
    if (reduction === "sum") return rows.sum();
    if (reduction === "mean") return rows.mean();
    throw new ShapeError(
      `crossEntropy: expected reduction "mean", "sum" or "none", found "${reduction}"`,
    );
  });
}

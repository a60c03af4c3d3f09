/**
 * Optimization: AdamW, gradient clipping, loss scaling and a learning-rate schedule.
 *
 * @module
 */
export { AdamW, type AdamWOptions } from "./adamw.ts";
export { clipFactor, clipGradNorm, gradNorm } from "./clip.ts";
export { LossScaler, type LossScalerOptions } from "./loss_scaler.ts";
export { warmupCosine, type WarmupCosineOptions } from "./schedule.ts";

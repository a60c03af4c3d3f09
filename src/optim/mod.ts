/**
 * Optimization: AdamW, gradient clipping and a learning-rate schedule.
 *
 * @module
 */
export { AdamW, type AdamWOptions } from "./adamw.ts";
export { clipGradNorm } from "./clip.ts";
export { warmupCosine, type WarmupCosineOptions } from "./schedule.ts";

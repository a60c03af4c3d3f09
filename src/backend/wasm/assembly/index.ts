// The module: the two ends of a thread, and kernels. A kernel takes its params, which of its tasks to do, and memory
// of the thread's own to work in; those named map_ are functions for `pointwise` to call.
export { perform, serve } from "./threads";
export { adamw } from "./adamw";
export { flashAttention, flashKeys, flashQueries } from "./flash";
export { gatedNorm, gatedNormGradient } from "./gated_norm";
export { lightningAttention } from "./lightning";
export { lightningStep } from "./lightning_step";
export { matmul, matmulDots, matmulRows } from "./matmul";
export * from "./pointwise";
export { reduceColumns, reduceRows, sumsOfSquares } from "./reduce";
export { crossEntropy, crossEntropyGradient, softmax, srmsNorm, srmsNormGradient } from "./rows";

/** The first byte that belongs to nobody. */
export const HEAP: usize = __heap_base;

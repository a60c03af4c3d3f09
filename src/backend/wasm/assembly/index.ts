// The module: the two ends of a thread, and kernels. A kernel takes its params, which of its tasks to do, and memory
// of the thread's own to work in; those named map_ are functions for `pointwise` to call.
export { perform, serve } from "./threads";
export { adamw, adamwCount } from "./adamw";
export { flashAttention, flashKeys, flashQueries } from "./flash";
export { gatedNorm, gatedNormGradient } from "./gated_norm";
export { gather, scatterAdd } from "./gather";
export { narrow, widen } from "./half";
export * from "./integer_maps";
export { lightningAttention } from "./lightning";
export { lightningAttention1 } from "./lightning1";
export { lightningStep } from "./lightning_step";
export { lossScale } from "./loss_scale";
export * from "./maps";
export { matmul, matmulDots, matmulRows } from "./matmul";
export { pointwise } from "./pointwise";
export { reduceColumns, reduceIntegers, reduceRows, sumsOfSquares } from "./reduce";
export { rotary } from "./rotary";
export { crossEntropy, crossEntropyGradient, softmax, srmsNorm, srmsNormGradient } from "./rows";
export { uniform } from "./uniform";

/** The first byte that belongs to nobody. */
export const HEAP: usize = __heap_base;

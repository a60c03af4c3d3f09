// The module: the two ends of a thread, and kernels. A kernel takes its params, which of its tasks to do, and memory
// of the thread's own to work in.
export { perform, serve } from "./threads";
export { lightningAttention } from "./lightning";
export { matmul, matmulDots, matmulRows } from "./matmul";

/** The first byte that belongs to nobody. */
export const HEAP: usize = __heap_base;

/**
 * Levin: a small tensor library with autograd and Lightning Attention-2 for Deno and Bun, on WebGPU
 * or, by WebAssembly SIMD, the CPU.
 *
 * @module
 */
import "./src/ops/mod.ts";

export * from "./src/errors.ts";
export type { DType, KernelArray, TypedArray } from "./src/dtype.ts";
export type { Axes, Shape } from "./src/shape.ts";
export type {
  Backend,
  BackendActivity,
  BackendKind,
  BackendMemory,
  CpuView,
  DeviceBuffer,
  Dispatch,
  GpuContext,
  MatrixUnits,
  Program,
  Span,
  View,
  WasmContext,
  WasmJob,
  WasmView,
} from "./src/backend/contract.ts";
export { floatBits } from "./src/backend/contract.ts";
export {
  Device,
  type DeviceMemory,
  type GpuSource,
  init,
  type InitOptions,
  setDefaultDevice,
} from "./src/device.ts";
export { Profile, type ProfileRow } from "./src/profile.ts";
export { type Layout, type NestedArray, Tensor, type TensorSpec } from "./src/tensor.ts";
export type { Operand, Range, ReduceOptions, TensorMethods } from "./src/methods.ts";
export { Scope, scope, tidy } from "./src/scope.ts";
export { type BackwardOptions, noGrad } from "./src/autograd.ts";
export { checkpoint } from "./src/checkpoint.ts";
export {
  type Backward,
  type BackwardContext,
  defineOp,
  type Op,
  type OpDefinition,
  type ResultSpec,
} from "./src/operation.ts";
export {
  arange,
  type CreateOptions,
  full,
  ones,
  randn,
  type RandomOptions,
  tensor,
  type TensorOptions,
  uniform,
  zeros,
} from "./src/ops/create.ts";
export { where } from "./src/ops/pointwise.ts";
export { concat } from "./src/ops/views.ts";
export {
  type DecayOptions,
  lightningAttention,
  type LightningAttentionOptions,
  lightningAttentionWithState,
  type OutputAndState,
} from "./src/ops/lightning_attention.ts";
export {
  lightningAttentionStep,
  type LightningAttentionStepOptions,
} from "./src/ops/lightning_step.ts";
export {
  lightningAttention1,
  type LightningAttention1Options,
} from "./src/ops/lightning_attention1.ts";
export { flashAttention, type FlashAttentionOptions } from "./src/ops/flash_attention.ts";
export { KeyValueCache, type KeyValueCacheOptions } from "./src/ops/key_value_cache.ts";
export { naiveAttention, type NaiveAttentionOptions } from "./src/ops/naive_attention.ts";
export { rotary } from "./src/ops/rotary.ts";
export { decaySlopes, type SlopeOptions } from "./src/ops/slopes.ts";
export { grad, type ScalarFunction, type Tree, valueAndGrad } from "./src/grad.ts";
export { gradcheck, type GradcheckOptions, type GradcheckReport } from "./src/gradcheck.ts";
/** Layers: linear, embedding, norm, and the blocks of TransNormerLLM. */
export * as nn from "./src/nn/mod.ts";
/** Optimization: AdamW, gradient clipping and a learning-rate schedule. */
export * as optim from "./src/optim/mod.ts";
/** Losses. */
export * as loss from "./src/loss.ts";
/** Files: tensors in the safetensors format. */
export * as io from "./src/io.ts";

/**
 * Layers: linear, embedding, norms, rotary positions, and the blocks of TransNormerLLM.
 *
 * @module
 */
export { Embedding, type EmbeddingOptions, type LayerOptions } from "./linear.ts";
export { Linear, type LinearOptions } from "./linear.ts";
export { LinearMemory, type Memory, SoftmaxMemory } from "./memory.ts";
export { Module } from "./module.ts";
export { LayerNorm, type NormOptions, RMSNorm, SRMSNorm } from "./norm.ts";
export { Rotary, type RotaryOptions, type RotaryScaling } from "./rotary.ts";
export {
  GatedLinearAttention,
  type GatedLinearAttentionOptions,
  type LightningVersion,
  LRPE,
  SGLU,
} from "./transnormer.ts";

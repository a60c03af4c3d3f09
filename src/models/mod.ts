/**
 * Language models over Levin's layers, and writing with them.
 *
 * @module
 */
// Installs the tensors' methods, in case that only this module is imported.
import "../ops/mod.ts";

export { type BatchToken, generate, generateBatch, type GenerateOptions } from "./generate.ts";
export {
  type Continuation,
  type ContinuationLikelihood,
  type LikelihoodOptions,
  logLikelihoods,
  type TokenLikelihood,
  tokenLikelihood,
  tokenLikelihoods,
  type TokenProbability,
} from "./likelihood.ts";
export { type RotaryLayer, RotaryModel, type RotaryParts } from "./rotary_model.ts";
export { sample, type SampleOptions } from "./sample.ts";
export { Context, type ContextOptions, LanguageModel, type ModelConfig } from "./language_model.ts";
export {
  Llama,
  LlamaAttention,
  LlamaBody,
  type LlamaConfig,
  llamaConfig,
  LlamaLayer,
  SwiGLU,
} from "./llama.ts";
export {
  Pythia,
  PythiaAttention,
  PythiaBody,
  type PythiaConfig,
  pythiaConfig,
  PythiaFeedForward,
  PythiaLayer,
} from "./pythia.ts";
export { Embedding, type LayerOptions, Linear, type LinearOptions } from "../nn/linear.ts";
export { LayerNorm, type NormOptions, RMSNorm } from "../nn/norm.ts";
export { Rotary, type RotaryOptions, type RotaryScaling } from "../nn/rotary.ts";
export { Module } from "../nn/module.ts";
export { loadModel, type LoadOptions, loadWeights } from "./load.ts";
export { LinearMemory, type Memory, SoftmaxMemory } from "../nn/memory.ts";
export { GatedLinearAttention, type LightningVersion, LRPE, SGLU } from "../nn/transnormer.ts";
export {
  TransNormerBody,
  type TransNormerConfig,
  transNormerConfig,
  transNormerConfigs,
  TransNormerLayer,
  TransNormerLLM,
  type TransNormerOptions,
} from "./transnormer.ts";

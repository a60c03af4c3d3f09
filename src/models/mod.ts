/**
 * Language models over Levin's layers, and writing with them.
 *
 * @module
 */
// Installs the tensors' methods, in case that only this module is imported.
import "../ops/mod.ts";

export { generate, type GenerateOptions } from "./generate.ts";
export { Context, type ContextOptions, LanguageModel } from "./language_model.ts";
export { Embedding, Linear } from "../nn/linear.ts";
export { Module } from "../nn/module.ts";
export { LinearMemory, type Memory, SoftmaxMemory } from "../nn/memory.ts";
export { GatedLinearAttention, type LightningVersion, LRPE, SGLU } from "../nn/transnormer.ts";
export {
  TransNormerBody,
  type TransNormerConfig,
  TransNormerLayer,
  TransNormerLLM,
  type TransNormerOptions,
} from "./transnormer.ts";

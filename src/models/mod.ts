/**
 * Language models over Levin's layers, and writing with them.
 *
 * @module
 */
// Installs the tensors' methods, in case that only this module is imported.
import "../ops/mod.ts";

export { generate, type GenerateOptions } from "./generate.ts";
export { Embedding, Linear } from "../nn/linear.ts";
export { Module } from "../nn/module.ts";
export { GatedLinearAttention, LRPE, SGLU } from "../nn/transnormer.ts";
export {
  TransNormerBody,
  type TransNormerConfig,
  TransNormerLayer,
  TransNormerLLM,
  type TransNormerOptions,
  type TransNormerState,
} from "./transnormer.ts";

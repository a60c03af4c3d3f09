/**
 * Language models over Levin's layers, and writing with them.
 *
 * @module
 */
export { generate, type GenerateOptions } from "./generate.ts";
export {
  type TransNormerConfig,
  TransNormerLLM,
  type TransNormerOptions,
  type TransNormerState,
} from "./transnormer.ts";

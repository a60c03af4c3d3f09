/**
 * Files: tensors in the safetensors format.
 *
 * @module
 */
export { decodeSafetensors, encodeSafetensors, type SafetensorsContent } from "./io/safetensors.ts";
export { loadSafetensors, saveSafetensors, writeFileSafely } from "./io/files.ts";

/**
 * Files that are whole or absent: what is written is written beside and renamed.
 *
 * @module
 */
import type { Device } from "../device.ts";
import type { Tensor } from "../tensor.ts";
import { decodeSafetensors, encodeSafetensors, type SafetensorsContent } from "./safetensors.ts";

/**
 * Writes tensors to a safetensors file. A file that was there is replaced only once the new one is
 * complete.
 *
 * @example
 * ```ts
 * import { io, tensor } from "@levin/levin";
 *
 * const path = await Deno.makeTempFile({ suffix: ".safetensors" });
 * await io.saveSafetensors(path, { w: tensor([1, 2]) }, { note: "two weights" });
 * const { tensors, metadata } = await io.loadSafetensors(path);
 * console.log(await tensors.w.data(), metadata.note); // Float32Array [1, 2], "two weights"
 * ```
 */
export async function saveSafetensors(
  path: string,
  tensors: Readonly<Record<string, Tensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  await writeFileSafely(path, await encodeSafetensors(tensors, metadata));
}

/**
 * Reads a safetensors file.
 *
 * @throws {FormatError} if the file is malformed or cut short.
 */
export async function loadSafetensors(
  path: string,
  options: { device?: Device } = {},
): Promise<SafetensorsContent> {
  const { readFile } = await import("node:fs/promises");
  return decodeSafetensors(await readFile(path), options);
}

/** Writes a file beside `path` and renames it, so that `path` never holds half of it. */
export async function writeFileSafely(path: string, content: Uint8Array | string): Promise<void> {
  const { open, rename, rm } = await import("node:fs/promises");
  const beside = `${path}.${crypto.randomUUID()}.part`;
  try {
    const file = await open(beside, "w");
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, path);
  } catch (error) {
    await rm(beside, { force: true });
    throw error;
  }
}

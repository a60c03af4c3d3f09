/**
 * What commands take as `--model`: a folder with a released model, or a checkpoint of `deno task demo`.
 */
import type { Device } from "../../mod.ts";
import { type LanguageModel, loadModel } from "../../src/models/mod.ts";
import { Checkpoint } from "../demo/checkpoint.ts";
import { UsageError } from "../demo/flags.ts";
import { byteTokenizer } from "./byte_tokenizer.ts";
import { loadTokenizer, type TextTokenizer } from "./tokenizer.ts";

/** A model and its tokenizer. */
export interface OpenedModel {
  readonly model: LanguageModel;
  readonly tokenizer: TextTokenizer;
  /** What its files are called and how long they are, and when they were written: other ones, other results. */
  readonly files: readonly string[];
}

/**
 * Loads a model; its owner disposes it.
 *
 * @param options.dtype Of a released model's weights, `f32` or `f16`.
 * @throws {UsageError} if there is no such dtype, {LevinError} if the files are not a model.
 */
export async function openModel(
  path: string,
  { device, dtype }: { device: Device; dtype: string },
): Promise<OpenedModel> {
  if (dtype !== "f32" && dtype !== "f16") throw new UsageError("--dtype expects f32 or f16");
  if ((await Deno.stat(path)).isFile) {
    using checkpoint = await Checkpoint.read(path, device);
    const model = checkpoint.model(device);
    return { model, tokenizer: byteTokenizer, files: [await describe(path)] };
  }
  const names = (await Array.fromAsync(Deno.readDir(path))).map(({ name }) => name);
  const files = names.filter((name) => /\.(json|safetensors)$/.test(name)).sort();
  const tokenizer = await loadTokenizer(path);
  return {
    model: await loadModel(path, { device, dtype }),
    tokenizer,
    files: await Promise.all(files.map((name) => describe(`${path}/${name}`))),
  };
}

async function describe(path: string): Promise<string> {
  const { size, mtime } = await Deno.stat(path);
  return `${path.split("/").at(-1)} ${size} ${mtime?.toISOString()}`;
}

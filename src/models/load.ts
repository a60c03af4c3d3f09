/**
 * Models from released checkpoints: a folder with config.json and safetensors files.
 *
 * @module
 */
import { noGrad } from "../autograd.ts";
import { FormatError, LevinError } from "../errors.ts";
import { SafetensorsReader } from "../io/reader.ts";
import type { LayerOptions } from "../nn/linear.ts";
import type { Module } from "../nn/module.ts";
import { tensor } from "../ops/create.ts";
import { copyInto } from "../ops/pointwise.ts";
import { tidy } from "../scope.ts";
import type { LanguageModel } from "./language_model.ts";
import { Llama, llamaConfig } from "./llama.ts";
import { Pythia, pythiaConfig } from "./pythia.ts";
import { transNormerConfig, TransNormerLLM, type TransNormerOptions } from "./transnormer.ts";

/** How a checkpoint becomes a model. */
export type LoadOptions = Pick<TransNormerOptions, "dtype" | "device" | "attention" | "blockSize">;

/** Bytes that may wait for the device to copy them. */
const MOST_WAITING = 2 ** 25;

/** What makes a blank model of a published config.json, by its `model_type`. */
const MODELS: Readonly<
  Record<string, (json: unknown, options: LayerOptions & TransNormerOptions) => LanguageModel>
> = {
  transnormer: (json, options) => new TransNormerLLM(transNormerConfig(json), options),
  llama: (json, options) => new Llama(llamaConfig(json), options),
  gpt_neox: (json, options) => new Pythia(pythiaConfig(json), options),
};

/**
 * The model in a folder as Hugging Face lays it out: `config.json` of model type `transnormer`, `llama` or
 * `gpt_neox`, and the weights in `model.safetensors` or in several files with `model.safetensors.index.json`,
 * in F32, F16 or BF16. Weights are read in pieces of 4 MiB, so that the host holds little beside them.
 *
 * @param options.dtype What the weights are converted to. Default `"f32"`.
 * @throws {FormatError} if a file is not what it should be, or the model is none of those.
 * @throws {LevinError} listing by name all tensors that are missing, extra or of another shape.
 *
 * @example
 * ```ts
 * import { io } from "@levin/levin";
 * import { generate, Llama, loadModel } from "@levin/levin/models";
 *
 * const folder = await Deno.makeTempDir();
 * const sizes = { num_hidden_layers: 2, num_attention_heads: 4, intermediate_size: 64 };
 * const config = { model_type: "llama", vocab_size: 256, hidden_size: 32, ...sizes };
 * await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
 * const trained = new Llama({ vocabulary: 256, size: 32, layers: 2, heads: 4, inner: 64 });
 * await io.saveSafetensors(`${folder}/model.safetensors`, trained.parameters());
 *
 * using model = await loadModel(folder);
 * for await (const token of generate(model, [72, 105], { maxTokens: 3 })) console.log(token);
 * ```
 */
export async function loadModel(folder: string, options: LoadOptions = {}): Promise<LanguageModel> {
  const { readFile } = await import("node:fs/promises");
  const { join } = await import("node:path");
  const path = join(folder, "config.json");
  const text = await readFile(path, "utf-8");
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(`${path} is not JSON`, { cause });
  }
  const type = (json as { model_type?: unknown } | null)?.model_type;
  const make = typeof type === "string" && Object.hasOwn(MODELS, type) ? MODELS[type] : undefined;
  if (make === undefined) {
    throw new FormatError(
      `${path}: expected a model_type of ${Object.keys(MODELS).join(", ")}, found ` +
        JSON.stringify(type),
    );
  }
  const model = make(json, { ...options, blank: true });
  try {
    await loadWeights(model, folder, { passOver: (name) => model.isDerived(name) });
    return model;
  } catch (error) {
    model[Symbol.dispose]();
    throw error;
  }
}

/**
 * Copies the tensors of a checkpoint into the parameters of the same names, piece by piece, converting
 * dtypes.
 *
 * @param path A safetensors file, an index of several, or a folder with either.
 * @param options.passOver Which of the checkpoint's tensors are not for the module. Default: none.
 * @throws {LevinError} listing by name all tensors that are missing, extra or of another shape; then no
 * parameter has been changed.
 * @throws {FormatError} if a file is malformed or cut short.
 */
export async function loadWeights(
  module: Module,
  path: string,
  { passOver = () => false }: { passOver?: (name: string) => boolean } = {},
): Promise<void> {
  await using reader = await SafetensorsReader.open(path);
  const parameters = module.parameters();
  const shapes = Object.entries(reader.shapes).filter(([name]) =>
    Object.hasOwn(parameters, name) || !passOver(name)
  );
  const problems = module.mismatches(Object.fromEntries(shapes));
  if (problems.length > 0) {
    throw new LevinError(`Cannot load ${path}: ${problems.join("; ")}`);
  }
  let waiting = 0;
  for (const [name, parameter] of Object.entries(parameters)) {
    const { device, dtype } = parameter;
    for await (const { start, values } of reader.pieces(name)) {
      // Converted here and not on the device, which need not know float16.
      const Elements = dtype === "f16" ? Float16Array : Float32Array;
      const array = values instanceof Elements ? values : new Elements(values);
      tidy(() =>
        noGrad(() => {
          const target = parameter.reshape([-1]).slice([start, start + array.length]);
          copyInto(tensor(array, { device }), target);
        })
      );
      // What was handed to the device is held until it has been copied there.
      waiting += array.byteLength;
      if (waiting < MOST_WAITING) continue;
      await device.synchronize();
      waiting = 0;
    }
  }
}

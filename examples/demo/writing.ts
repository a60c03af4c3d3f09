/**
 * Writing with a model, byte by byte, and what the model keeps between two of them.
 */
import { generate, type GenerateOptions, type TransNormerLLM } from "../../src/models/mod.ts";

/** Continues `prompt`, and yields the text of every byte as it comes: "" inside a character. */
export async function* written(
  model: TransNormerLLM,
  prompt: string,
  options: GenerateOptions,
): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder();
  for await (const byte of generate(model, [...new TextEncoder().encode(prompt)], options)) {
    yield decoder.decode(Uint8Array.of(byte), { stream: true });
  }
}

/** The bytes of a model's state for one sequence. */
export function stateBytes(model: TransNormerLLM): number {
  const { size, heads } = model.config;
  const value = size / heads;
  const entries = model.model.layers.map(({ token_mixer }) => token_mixer.keySize * value * heads);
  return 4 * entries.reduce((a, b) => a + b);
}

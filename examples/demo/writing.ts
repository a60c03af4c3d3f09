/**
 * Writing with a model, and what the model keeps between two tokens.
 */
import {
  generate,
  type GenerateOptions,
  type LanguageModel,
  type TransNormerLLM,
} from "../../src/models/mod.ts";
import { byteTokenizer } from "../models/byte_tokenizer.ts";
import { TextStream } from "../models/text_stream.ts";
import type { TextTokenizer } from "../models/tokenizer.ts";

/** How tokens and text go together. */
export interface WrittenOptions {
  /** Default: a token is a byte. */
  readonly tokenizer?: TextTokenizer;
  /** Texts that end the writing. */
  readonly stops?: readonly string[];
}

/** Continues `prompt`, and yields the text of every token as it comes: "" inside a character. */
export async function* written(
  model: LanguageModel,
  prompt: string,
  options: GenerateOptions,
  { tokenizer = byteTokenizer, stops }: WrittenOptions = {},
): AsyncGenerator<string, void, void> {
  const tokens = tokenizer.encode(prompt);
  const stream = new TextStream(tokenizer, { prompt: tokens, stops });
  const stop = tokenizer.endOfText === undefined ? [] : [tokenizer.endOfText];
  for await (const token of generate(model, tokens, { stop, ...options })) {
    yield stream.push(token);
    if (stream.stopped) break;
  }
  const rest = stream.end();
  if (rest !== "") yield rest;
}

/** The bytes of a model's state for one sequence. */
export function stateBytes(model: TransNormerLLM): number {
  const { size, heads } = model.config;
  const value = size / heads;
  const entries = model.model.layers.map(({ token_mixer }) => token_mixer.keySize * value * heads);
  return 4 * entries.reduce((a, b) => a + b);
}

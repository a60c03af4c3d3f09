/**
 * From text to tokens and back: the tokenizer.json of a released model, or bytes.
 */
import { readFile } from "node:fs/promises";
import { Tokenizer } from "@huggingface/tokenizers";
import { FormatError } from "../../mod.ts";

/** What commands hold a tokenizer by. */
export interface TextTokenizer {
  /** The tokens of a text; `special` adds what the model expects around it. Default true. */
  encode(text: string, options?: { special?: boolean }): number[];
  /** The text of tokens, without special ones; bytes that are no UTF-8 become U+FFFD. */
  decode(tokens: readonly number[]): string;
  /** The token that begins a text, if there is one. */
  readonly beginOfText?: number;
  /** The token that ends a text, if there is one. */
  readonly endOfText?: number;
}

/**
 * The tokenizer in a folder as Hugging Face lays it out: tokenizer.json and, if it is there,
 * tokenizer_config.json.
 *
 * @throws {FormatError} if a file is not what it should be.
 */
export async function loadTokenizer(folder: string): Promise<TextTokenizer> {
  const settings = await readJson(`${folder}/tokenizer_config.json`, {});
  const content = await readJson(`${folder}/tokenizer.json`);
  let tokenizer: Tokenizer;
  try {
    tokenizer = new Tokenizer(content, settings);
  } catch (cause) {
    throw new FormatError(`${folder}/tokenizer.json is not a tokenizer that is known`, { cause });
  }
  const tokenNamed = (setting: string): number | undefined => {
    const named =
      (settings as Record<string, undefined | null | string | { content?: string }>)[setting];
    const name = typeof named === "string" ? named : named?.content;
    return name === undefined ? undefined : tokenizer.token_to_id(name);
  };
  return {
    encode: (text, { special = true } = {}) =>
      tokenizer.encode(text, { add_special_tokens: special }).ids,
    // The package refuses no tokens at all, and would clean " ." up to ".".
    decode: (tokens) =>
      tokens.length === 0 ? "" : tokenizer.decode([...tokens], {
        skip_special_tokens: true,
        clean_up_tokenization_spaces: false,
      }),
    beginOfText: tokenNamed("bos_token"),
    endOfText: tokenNamed("eos_token"),
  };
}

async function readJson(path: string, absent?: object): Promise<object> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (absent !== undefined && (error as { code?: string }).code === "ENOENT") return absent;
    throw error;
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new FormatError(`${path} is not JSON`, { cause });
  }
}

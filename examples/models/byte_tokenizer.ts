import type { TextTokenizer } from "./tokenizer.ts";

/** Every byte of UTF-8 is a token, as in the demo. */
export const byteTokenizer: TextTokenizer = {
  encode: (text) => [...new TextEncoder().encode(text)],
  decode: (tokens) => new TextDecoder().decode(Uint8Array.from(tokens)),
};

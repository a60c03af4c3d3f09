/**
 * Text from tokens as they come: whole characters only, and nothing past a stop.
 */
import type { TextTokenizer } from "./tokenizer.ts";

/** A character of UTF-8 has at most so many bytes, and so many tokens. */
const LONGEST_CHARACTER = 4;

/** Tokens in, text out. */
export class TextStream {
  readonly #tokenizer: TextTokenizer;
  readonly #stops: readonly string[];
  /** Tokens whose text is out already but that the next ones are decoded after, and those to come. */
  #tokens: number[];
  #out = 0;
  #held = "";
  #stopped = false;

  /**
   * @param prompt What the text continues: a tokenizer may write the first token of a text otherwise.
   * @param stops Texts that end it; they are not part of it.
   */
  constructor(
    tokenizer: TextTokenizer,
    { prompt = [], stops = [] }: { prompt?: readonly number[]; stops?: readonly string[] } = {},
  ) {
    this.#tokenizer = tokenizer;
    this.#stops = stops.filter((stop) => stop !== "");
    this.#tokens = prompt.slice(-LONGEST_CHARACTER);
    this.#out = this.#tokens.length;
  }

  /** Whether a stop was met. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** One token more; returns the text that is certain by now. */
  push(token: number): string {
    if (this.#stopped) return "";
    this.#tokens.push(token);
    const waiting = this.#tokens.length - this.#out;
    const before = this.#tokenizer.decode(this.#tokens.slice(0, this.#out));
    const all = this.#tokenizer.decode(this.#tokens);
    // The beginning of a character, unless it can be none any more.
    if (all.endsWith("\ufffd") && waiting < LONGEST_CHARACTER) return "";
    this.#tokens = this.#tokens.slice(this.#out);
    this.#out = this.#tokens.length;
    return this.#release(all.slice(before.length), false);
  }

  /** The text that was held back, now that no token follows. */
  end(): string {
    if (this.#stopped) return "";
    const before = this.#tokenizer.decode(this.#tokens.slice(0, this.#out));
    return this.#release(this.#tokenizer.decode(this.#tokens).slice(before.length), true);
  }

  /** Text up to a stop, or up to where one may have begun. */
  #release(text: string, all: boolean): string {
    this.#held += text;
    const found = this.#stops.map((stop) => this.#held.indexOf(stop)).filter((at) => at >= 0);
    this.#stopped = found.length > 0;
    const until = this.#stopped ? Math.min(...found) : all ? this.#held.length : this.#certain();
    const released = this.#held.slice(0, until);
    this.#held = this.#held.slice(until);
    return released;
  }

  #certain(): number {
    const held = this.#held;
    const longest = Math.max(0, ...this.#stops.map((stop) => stop.length - 1));
    for (let at = Math.max(0, held.length - longest); at < held.length; at++) {
      if (this.#stops.some((stop) => stop.startsWith(held.slice(at)))) return at;
    }
    return held.length;
  }
}

/**
 * Carrying out a request: what the model writes, piece by piece, with the probabilities of its tokens.
 */
import { tensor, tidy } from "../../mod.ts";
import {
  type Context,
  generate,
  type LanguageModel,
  type TokenLikelihood,
  tokenLikelihood,
  tokenLikelihoods,
} from "../../src/models/mod.ts";
import { TextStream } from "../models/text_stream.ts";
import type { TextTokenizer } from "../models/tokenizer.ts";
import type { CompletionRequest } from "./request.ts";

/** Tokens and their probabilities, in the shape of OpenAI's API. */
export interface LogProbabilities {
  tokens: string[];
  /** ln p; null for the first token of all, which nothing comes before. */
  token_logprobs: (number | null)[];
  /** The likeliest tokens and the token itself, by their texts. */
  top_logprobs: (Record<string, number> | null)[];
  /** Where in the reply's text a token's begins, in characters. */
  text_offset: number[];
}

/** A piece of a choice. */
export interface Piece {
  /** Which choice it belongs to. */
  readonly index: number;
  readonly text: string;
  readonly logprobs: LogProbabilities | null;
  /** Why it is the last piece: a stop or the end of the text, or max_tokens. */
  readonly finish: "stop" | "length" | null;
  /** Tokens that were written for it. */
  readonly written: number;
}

/** Tokens that go through the model before others get a turn. */
const CHUNK = 256;

/**
 * The pieces of all choices, one choice after the other.
 *
 * @param signal Ends it with its reason.
 */
export async function* complete(
  model: LanguageModel,
  tokenizer: TextTokenizer,
  request: CompletionRequest,
  signal: AbortSignal,
): AsyncGenerator<Piece, void, void> {
  const { prompts, n, echo, logprobs } = request;
  for (const [i, prompt] of prompts.entries()) {
    using context = model.start();
    const top = echo ? logprobs : undefined;
    const likelihoods = await see(model, context, prompt.tokens, { top, signal });
    for (let j = 0; j < n; j++) {
      // The last one has it for itself.
      using own = j === n - 1 ? context : context.select([0]);
      const choice = { ...prompt, index: i * n + j, context: own, likelihoods };
      yield* write(model, tokenizer, { ...request, ...choice }, signal);
    }
  }
}

/** All but the last token of a prompt into the context, with probabilities of those after the first if `top` is given. */
async function see(
  model: LanguageModel,
  context: Context,
  tokens: readonly number[],
  { top, signal }: { top: number | undefined; signal: AbortSignal },
): Promise<TokenLikelihood[]> {
  const likelihoods: TokenLikelihood[] = [];
  for (let start = 0; start < tokens.length - 1; start += CHUNK) {
    await turn(signal);
    const inputs = tokens.slice(start, Math.min(start + CHUNK, tokens.length - 1));
    const targets = tokens.slice(start + 1, start + 1 + inputs.length);
    if (top !== undefined) {
      likelihoods.push(...await tokenLikelihoods(model, context, { inputs, targets, top }));
    } else {
      // A block, so that the logits are freed.
      tidy(() => {
        const ids = tensor([inputs], { dtype: "i32", device: model.device });
        model.extend(context, ids, { last: true });
      });
    }
  }
  return likelihoods;
}

/** A choice: what is written after a prompt of which the context has seen all but the last token. */
interface Choice {
  readonly index: number;
  readonly tokens: readonly number[];
  readonly text?: string;
  readonly context: Context;
  readonly likelihoods: readonly TokenLikelihood[];
}

async function* write(
  model: LanguageModel,
  tokenizer: TextTokenizer,
  request: CompletionRequest & Choice,
  signal: AbortSignal,
): AsyncGenerator<Piece, void, void> {
  const { tokens, index, context, echo, logprobs: top, maxTokens, temperature, topP } = request;
  const log = top === undefined ? undefined : new Log(tokenizer, top);
  const piece = (text: string, written: number, finish: Piece["finish"] = null): Piece => ({
    index,
    text,
    logprobs: log?.take() ?? null,
    finish,
    written,
  });
  if (echo) {
    log?.first(tokens[0]);
    log?.add(...request.likelihoods);
    yield piece(request.text ?? tokenizer.decode(tokens), 0);
  }
  if (maxTokens === 0) return yield piece("", 0, "length");

  const end = tokenizer.endOfText;
  const stream = new TextStream(tokenizer, { prompt: tokens, stops: request.stop });
  let logits: Float32Array = new Float32Array();
  const writing = generate(model, tokens.slice(-1), {
    context,
    maxTokens,
    temperature,
    topP,
    // Every choice draws for itself.
    seed: (request.seed >>> 0) + index * 2 ** 32,
    stop: end === undefined ? [] : [end],
    onLogits: (row) => logits = row,
  });
  let last: number | undefined;
  for await (const token of writing) {
    // Tokens that end the text have a probability but no text.
    log?.add(tokenLikelihood(logits, token, top));
    yield piece(token === end ? "" : stream.push(token), 1);
    last = token;
    if (stream.stopped) break;
    await turn(signal);
  }
  yield piece(stream.end(), 0, last === end || stream.stopped ? "stop" : "length");
}

/** Lets everything else that waits have its turn. */
async function turn(signal: AbortSignal): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve));
  signal.throwIfAborted();
}

/** Probabilities on their way to the client. */
class Log {
  readonly #tokenizer: TextTokenizer;
  readonly #top: number;
  readonly #stream: TextStream;
  #offset = 0;
  #pending: LogProbabilities = {
    tokens: [],
    token_logprobs: [],
    top_logprobs: [],
    text_offset: [],
  };

  constructor(tokenizer: TextTokenizer, top: number) {
    this.#tokenizer = tokenizer;
    this.#top = top;
    this.#stream = new TextStream(tokenizer);
  }

  /** A text's first token. */
  first(token: number): void {
    this.#add(token, null, null);
  }

  add(...likelihoods: TokenLikelihood[]): void {
    for (const { token, logProbability, likeliest } of likelihoods) {
      const named: Record<string, number> = {};
      for (const one of [...likeliest, { token, logProbability }]) {
        // Several tokens may have one text, such as halves of characters: the likeliest one is named.
        const text = this.#tokenizer.decode([one.token]);
        if (!Object.hasOwn(named, text)) {
          Object.defineProperty(named, text, { value: one.logProbability, enumerable: true });
        }
      }
      this.#add(token, logProbability, named);
    }
  }

  /** What was added since the last call; null if nothing was. */
  take(): LogProbabilities {
    const taken = this.#pending;
    this.#pending = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    return taken;
  }

  #add(token: number, logprob: number | null, top: Record<string, number> | null): void {
    this.#pending.tokens.push(this.#tokenizer.decode([token]));
    this.#pending.token_logprobs.push(logprob);
    this.#pending.top_logprobs.push(top);
    this.#pending.text_offset.push(this.#offset);
    this.#offset += [...this.#stream.push(token)].length;
  }
}

/**
 * Writing with a language model, token by token.
 *
 * @module
 */
import { ShapeError } from "../errors.ts";
import { tensor } from "../ops/create.ts";
import { keyOf, threefry } from "../random.ts";
import { adopt, tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import type { Context, LanguageModel } from "./language_model.ts";
import { sample, type SampleOptions } from "./sample.ts";

/** How tokens are chosen, and when to stop. */
export interface GenerateOptions extends Omit<SampleOptions, "random"> {
  /** Tokens to write. Default: no end. */
  maxTokens?: number;
  /** The seed of the choices. Default 0. */
  seed?: number;
  /** Tokens, or sequences of them, after which the writing ends; they are still written. */
  stop?: readonly (number | readonly number[])[];
  /** Tokens of the prompt that go through the model at once. Default 512. */
  chunk?: number;
}

/**
 * Continues `prompt`, yielding one token at a time. What the model remembers is a state of constant size if
 * its attention is linear, else it grows with the text.
 *
 * @param options.context What came before the prompt. It is brought up to date in place: in the end it has
 * seen the prompt and all that was written but the last token. To keep a prefix, pass `prefix.select([0])`.
 * @param options.onLogits Sees the logits that each token is drawn from, float32 [vocabulary], before it is
 * drawn.
 *
 * @example
 * ```ts
 * import { generate, TransNormerLLM } from "@levin/levin/models";
 *
 * const model = new TransNormerLLM({ vocabulary: 256, size: 32, layers: 2, heads: 4, inner: 64 });
 * for await (const token of generate(model, [72, 105], { maxTokens: 3, seed: 1, stop: [0] })) {
 *   console.log(token);
 * }
 * ```
 * @throws {ShapeError} if the prompt is empty or has a token that the model does not know, or if an
 * option makes no sense.
 */
export async function* generate(
  model: LanguageModel,
  prompt: readonly number[],
  { context, onLogits, ...options }: GenerateOptions & {
    context?: Context;
    onLogits?: (logits: Float32Array) => void;
  } = {},
): AsyncGenerator<number, void, void> {
  check(model, [prompt], options);
  using own = context === undefined ? model.start() : undefined;
  const seen = context ?? own!;
  if (seen.batch !== 1) {
    throw new ShapeError(`generate: expected a context of one sequence, found ${seen.batch}`);
  }
  const { maxTokens = Infinity } = options;
  const writer = new Writer(0, options);
  if (maxTokens === 0) return;
  let logits = prefill(model, seen, prompt, options);
  for (;;) {
    const row = await read(logits);
    onLogits?.(row);
    yield writer.next(row);
    if (writer.ended) return;
    logits = step(model, seen, [writer.last]);
  }
}

/** A token of one of several sequences that are written side by side. */
export interface BatchToken {
  /** Which prompt it continues. */
  readonly sequence: number;
  /** The token. */
  readonly token: number;
  /** Whether it is the sequence's last. */
  readonly last: boolean;
}

/**
 * Continues several prompts, of any lengths, side by side; each gets the tokens that it would get alone, up
 * to rounding, with draws of its own. Prompts go through the model one after the other, then every step is
 * one pass for all of them; sequences that have ended drop out.
 *
 * @param options.prefix What comes before every prompt, one sequence; it is left as it is.
 *
 * @example
 * ```ts
 * import { generateBatch, TransNormerLLM } from "@levin/levin/models";
 *
 * const model = new TransNormerLLM({ vocabulary: 256, size: 32, layers: 2, heads: 4, inner: 64 });
 * const written: number[][] = [[], []];
 * for await (const { sequence, token } of generateBatch(model, [[72, 105], [33]], { maxTokens: 3 })) {
 *   written[sequence].push(token);
 * }
 * console.log(written.map((tokens) => tokens.length)); // [3, 3]
 * ```
 * @throws {ShapeError} as {@linkcode generate} does, or if there is no prompt.
 */
export async function* generateBatch(
  model: LanguageModel,
  prompts: readonly (readonly number[])[],
  { prefix, ...options }: GenerateOptions & { prefix?: Context } = {},
): AsyncGenerator<BatchToken, void, void> {
  check(model, prompts, options);
  if (prompts.length === 0) throw new ShapeError("generateBatch: expected a prompt or more");
  if (prefix !== undefined && prefix.batch !== 1) {
    throw new ShapeError(`generateBatch: expected a prefix of one sequence, found ${prefix.batch}`);
  }
  if (options.maxTokens === 0) return;
  let writers = prompts.map((_, sequence) => new Writer(sequence, options));
  const start = prefilled(model, prompts, prefix, options);
  let { context } = start;
  let logits = start.logits;
  try {
    for (;;) {
      const rows = await Promise.all(logits.map(read));
      for (const [i, writer] of writers.entries()) {
        const token = writer.next(rows[i]);
        yield { sequence: writer.sequence, token, last: writer.ended };
      }
      const going = writers.flatMap(({ ended }, i) => ended ? [] : [i]);
      if (going.length === 0) return;
      if (going.length < writers.length) {
        const fewer = context.select(going);
        context[Symbol.dispose]();
        context = fewer;
        writers = going.map((i) => writers[i]);
      }
      const next = step(model, context, writers.map(({ last }) => last));
      logits = writers.map((_, i) => adopt(next.slice([i, i + 1])));
      next.dispose();
    }
  } finally {
    context[Symbol.dispose]();
  }
}

/** All prompts in one context, and the logits after each. */
function prefilled(
  model: LanguageModel,
  prompts: readonly (readonly number[])[],
  prefix: Context | undefined,
  options: GenerateOptions,
): { context: Context; logits: Tensor[] } {
  const contexts: Context[] = [];
  const logits: Tensor[] = [];
  try {
    for (const prompt of prompts) {
      const context = prefix?.select([0]) ?? model.start();
      contexts.push(context);
      logits.push(prefill(model, context, prompt, options));
    }
    return { context: contexts[0].join(contexts.slice(1)), logits };
  } catch (error) {
    logits.forEach((t) => t.dispose());
    throw error;
  } finally {
    for (const context of contexts) context[Symbol.dispose]();
  }
}

/** The prompt through the model, chunk by chunk; the logits after its last token, float32 [1, vocabulary]. */
function prefill(
  model: LanguageModel,
  context: Context,
  prompt: readonly number[],
  { chunk = 512 }: GenerateOptions,
): Tensor {
  for (let start = 0;; start += chunk) {
    const logits = step(model, context, prompt.slice(start, start + chunk), 1);
    if (start + chunk >= prompt.length) return logits;
    logits.dispose();
  }
}

/** The next tokens of `batch` sequences; the logits after them, float32 [batch, vocabulary], in no scope. */
function step(
  model: LanguageModel,
  context: Context,
  tokens: readonly number[],
  batch = tokens.length,
): Tensor {
  const shape = [batch, tokens.length / batch];
  return adopt(tidy(() => {
    const ids = tensor(Int32Array.from(tokens), { shape, device: model.device });
    return model.extend(context, ids, { last: true }).to("f32").reshape([batch, -1]);
  }));
}

async function read(logits: Tensor): Promise<Float32Array> {
  try {
    return await logits.data();
  } finally {
    logits.dispose();
  }
}

/** What has been written of one sequence. */
class Writer {
  readonly #written: number[] = [];

  constructor(readonly sequence: number, readonly options: GenerateOptions) {}

  /** Chooses the next token. Choice number i of a sequence depends on the seed and nothing else. */
  next(logits: Float32Array): number {
    const { seed = 0, ...options } = this.options;
    const words = new Uint32Array(2);
    threefry(keyOf(seed), this.#written.length, this.sequence, words);
    const token = sample(logits, { ...options, random: words[0] / 2 ** 32 });
    this.#written.push(token);
    return token;
  }

  get last(): number {
    return this.#written[this.#written.length - 1];
  }

  get ended(): boolean {
    const { maxTokens = Infinity, stop = [] } = this.options;
    const written = this.#written;
    return written.length >= maxTokens || stop.some((end) => {
      const tokens = typeof end === "number" ? [end] : end;
      const start = written.length - tokens.length;
      return start >= 0 && tokens.every((token, i) => token === written[start + i]);
    });
  }
}

function check(
  { vocabulary }: LanguageModel,
  prompts: readonly (readonly number[])[],
  { maxTokens = Infinity, temperature = 1, topK = 1, topP = 1, stop = [], chunk = 512 }:
    GenerateOptions,
): void {
  for (const prompt of prompts) {
    if (prompt.length === 0) {
      throw new ShapeError("generate: expected a prompt of one token or more");
    }
    const unknown = prompt.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabulary));
    if (unknown !== undefined) {
      throw new ShapeError(
        `generate: expected tokens from 0 to ${vocabulary - 1}, found ${unknown}`,
      );
    }
  }
  if (!(maxTokens >= 0)) {
    throw new ShapeError(`generate: expected maxTokens ≥ 0, found ${maxTokens}`);
  }
  if (!(temperature >= 0) || !(topP > 0 && topP <= 1) || !(topK >= 1)) {
    throw new ShapeError(
      `generate: expected temperature ≥ 0, topK ≥ 1 and topP in (0, 1], found ${temperature}, ` +
        `${topK} and ${topP}`,
    );
  }
  if (stop.some((end) => typeof end !== "number" && end.length === 0)) {
    throw new ShapeError("generate: expected stops of one token or more, found an empty one");
  }
  if (!Number.isInteger(chunk) || chunk < 1) {
    throw new ShapeError(`generate: expected chunk to be an integer from 1, found ${chunk}`);
  }
}

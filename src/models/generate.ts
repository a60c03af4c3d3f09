/**
 * Writing with a language model, token by token, in constant memory.
 *
 * @module
 */
import { ShapeError } from "../errors.ts";
import { tensor } from "../ops/create.ts";
import { keyOf, threefry } from "../random.ts";
import { adopt, tidy } from "../scope.ts";
import type { LanguageModel } from "./language_model.ts";

/** How tokens are chosen. */
export interface GenerateOptions {
  /** Tokens to write. Default: no end. */
  maxTokens?: number;
  /** Divides the logits; 0 takes the likeliest token always. Default 1. */
  temperature?: number;
  /** Choose among so many likeliest tokens. Default: all. */
  topK?: number;
  /** Choose among the likeliest tokens that together have this probability. Default 1. */
  topP?: number;
  /** The seed of the choices. Default 0. */
  seed?: number;
}

/**
 * Continues `prompt`, yielding one token at a time. The model's state has the same size from the first
 * token to the last.
 *
 * @example
 * ```ts
 * import { generate, TransNormerLLM } from "@levin/levin/models";
 *
 * const model = new TransNormerLLM({ vocabulary: 256, size: 32, layers: 2, heads: 4, inner: 64 });
 * for await (const token of generate(model, [72, 105], { maxTokens: 3, seed: 1 })) {
 *   console.log(token);
 * }
 * ```
 * @throws {ShapeError} if the prompt is empty or has a token that the model does not know, or if an
 * option makes no sense.
 */
export async function* generate(
  model: LanguageModel,
  prompt: readonly number[],
  { maxTokens = Infinity, temperature = 1, topK, topP = 1, seed = 0 }: GenerateOptions = {},
): AsyncGenerator<number, void, void> {
  if (prompt.length === 0) throw new ShapeError("generate: expected a prompt of one token or more");
  const { vocabulary } = model;
  const unknown = prompt.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabulary));
  if (unknown !== undefined) {
    throw new ShapeError(`generate: expected tokens from 0 to ${vocabulary - 1}, found ${unknown}`);
  }
  if (!(maxTokens >= 0)) {
    throw new ShapeError(`generate: expected maxTokens ≥ 0, found ${maxTokens}`);
  }
  if (!(temperature >= 0) || !(topP > 0 && topP <= 1) || (topK !== undefined && !(topK >= 1))) {
    throw new ShapeError(
      `generate: expected temperature ≥ 0, topK ≥ 1 and topP in (0, 1], found ${temperature}, ` +
        `${topK} and ${topP}`,
    );
  }
  const { device } = model;
  using context = model.start();
  let input = prompt;
  for (let count = 0; count < maxTokens; count++) {
    const step = tidy(() => {
      const ids = tensor([[...input]], { dtype: "i32", device });
      return model.extend(context, ids, { last: true }).to("f32");
    });
    adopt(step);
    const logits = await step.data();
    step.dispose();
    const token = sample(logits, { temperature, topK, topP, random: randomAt(seed, count) });
    yield token;
    input = [token];
  }
}

function randomAt(seed: number, count: number): number {
  const words = new Uint32Array(2);
  threefry(keyOf(seed), count, 0, words);
  return words[0] / 2 ** 32;
}

/** Draws a token with the probabilities softmax(logits / temperature), cut to top k and top p. */
export function sample(
  logits: ArrayLike<number>,
  { temperature, topK = Infinity, topP, random }: {
    temperature: number;
    topK?: number;
    topP: number;
    random: number;
  },
): number {
  const order = Array.from({ length: logits.length }, (_, i) => i)
    .sort((a, b) => logits[b] - logits[a]);
  if (temperature === 0) return order[0];
  const kept = order.slice(0, Math.min(topK, order.length));
  const weights = kept.map((i) => Math.exp((logits[i] - logits[order[0]]) / temperature));
  const total = weights.reduce((a, b) => a + b);
  let mass = 0;
  let count = 0;
  while (count < kept.length && mass < topP * total) mass += weights[count++];
  let left = random * mass;
  for (let i = 0; i < count; i++) {
    left -= weights[i];
    if (left < 0) return kept[i];
  }
  return kept[count - 1];
}

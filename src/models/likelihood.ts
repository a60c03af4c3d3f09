/**
 * How likely a model finds texts that are there already: what evaluations compare choices by.
 *
 * @module
 */
import { LevinError, ShapeError } from "../errors.ts";
import { tensor } from "../ops/create.ts";
import { adopt, tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import type { Context, LanguageModel } from "./language_model.ts";

/** A token and the logarithm of its probability. */
export interface TokenProbability {
  /** The token. */
  readonly token: number;
  /** ln p, in nats. */
  readonly logProbability: number;
}

/** How likely a token was after those before it, and which were the likeliest ones. */
export interface TokenLikelihood extends TokenProbability {
  /** As many of the likeliest tokens as were asked for, from the likeliest on; among equals the first. */
  readonly likeliest: readonly TokenProbability[];
}

/** Tokens and those that follow them. */
export interface Continuation {
  /** What comes before, one token or more. */
  readonly context: readonly number[];
  /** What is scored, one token or more. */
  readonly continuation: readonly number[];
}

/** How likely a continuation is. */
export interface ContinuationLikelihood {
  /** Σ ln p(continuation_i | context, continuation_<i), in nats. */
  readonly logLikelihood: number;
  /** Whether every token of it is the likeliest one. */
  readonly isGreedy: boolean;
  /** Tokens of the context that were left out because the whole is too long for the model. */
  readonly truncated: number;
}

/** How {@linkcode logLikelihoods} goes about it. */
export interface LikelihoodOptions {
  /** Tokens that the model may see at once; what comes before them is left out. Default: the model's own. */
  contextLength?: number;
  /** Tokens that go through the model at once. Default 512. */
  chunk?: number;
}

/** Bytes of logits that are read from the device at once. */
const MOST_LOGITS = 2 ** 26;

/**
 * The likelihood of `token` where the model gave these logits: ln softmax(logits), in float64.
 *
 * @param top How many likeliest tokens to name. Default 1.
 * @throws {LevinError} if the logits are not finite enough to be probabilities.
 *
 * @example
 * ```ts
 * import { tokenLikelihood } from "@levin/levin/models";
 *
 * const { logProbability, likeliest } = tokenLikelihood([0, Math.log(3)], 0);
 * console.log(Math.exp(logProbability), likeliest[0].token); // 0.25, 1
 * ```
 */
export function tokenLikelihood(
  logits: ArrayLike<number>,
  token: number,
  top = 1,
): TokenLikelihood {
  let most = -Infinity;
  for (let i = 0; i < logits.length && !Number.isNaN(most); i++) {
    if (!(logits[i] <= most)) most = logits[i];
  }
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - most);
  if (!Number.isFinite(sum)) {
    throw new LevinError(`tokenLikelihood: expected finite logits, found ${most} among them`);
  }
  const all = most + Math.log(sum);
  const probability = (token: number) => ({ token, logProbability: logits[token] - all });
  const likeliest: number[] = [];
  for (let i = 0; i < logits.length && top > 0; i++) {
    if (likeliest.length === top && !(logits[i] > logits[likeliest[top - 1]])) continue;
    let at = likeliest.length;
    while (at > 0 && logits[i] > logits[likeliest[at - 1]]) at--;
    likeliest.splice(at, 0, i);
    likeliest.length = Math.min(likeliest.length, top);
  }
  return { ...probability(token), likeliest: likeliest.map(probability) };
}

/**
 * The likelihoods of `targets`, where target i follows `inputs` up to i and what `context` remembers; the
 * context then remembers the inputs too. So a whole text's tokens have the inputs `tokens.slice(0, -1)` and
 * the targets `tokens.slice(1)`.
 *
 * @param options.top How many likeliest tokens to name beside each target. Default 1.
 * @throws {ShapeError} if a token is not in the vocabulary, or there are not as many targets as inputs.
 */
export async function tokenLikelihoods(
  model: LanguageModel,
  context: Context,
  { inputs, targets, top = 1, chunk = 512 }: {
    inputs: readonly number[];
    targets: readonly number[];
    top?: number;
    chunk?: number;
  },
): Promise<TokenLikelihood[]> {
  if (inputs.length !== targets.length) {
    throw new ShapeError(
      `tokenLikelihoods: expected as many targets as inputs, found ${targets.length} for ` +
        `${inputs.length}`,
    );
  }
  checkTokens(model, inputs, targets);
  const likelihoods: TokenLikelihood[] = [];
  await forEachRow(model, context, inputs, chunk, (logits, row) => {
    likelihoods.push(tokenLikelihood(logits, targets[row], top));
  });
  return likelihoods;
}

/**
 * The likelihoods of continuations, each after its own context. What they all begin with goes through the
 * model once, and so do equal inputs, as those of several answers of one token; so hand over the choices of
 * one question together. Contexts that are too long lose their beginning.
 *
 * @example
 * ```ts
 * import { logLikelihoods, TransNormerLLM } from "@levin/levin/models";
 *
 * const model = new TransNormerLLM({ vocabulary: 256, size: 32, layers: 2, heads: 4, inner: 64 });
 * const [yes, no] = await logLikelihoods(model, [
 *   { context: [1, 2, 3], continuation: [4] },
 *   { context: [1, 2, 3], continuation: [5, 6] },
 * ]);
 * console.log(yes.logLikelihood, no.isGreedy);
 * ```
 * @throws {ShapeError} if a context or a continuation is empty, a continuation does not fit the model, or a
 * token is not in the vocabulary.
 */
export async function logLikelihoods(
  model: LanguageModel,
  continuations: readonly Continuation[],
  { contextLength = model.contextLength, chunk = 512 }: LikelihoodOptions = {},
): Promise<ContinuationLikelihood[]> {
  if (continuations.length === 0) return [];
  const requests = continuations.map((one) => request(model, one, contextLength));
  const shared = Math.min(
    commonBeginning(requests.map(({ inputs }) => inputs)),
    ...requests.map(({ first }) => first),
  );
  using beginning = model.start();
  see(model, beginning, requests[0].inputs.slice(0, shared), chunk);

  const results = requests.map(({ truncated }) => ({
    logLikelihood: 0,
    isGreedy: true,
    truncated,
  }));
  const alike = Map.groupBy(requests.keys(), (i) => requests[i].inputs.join());
  for (const numbers of alike.values()) {
    const { inputs } = requests[numbers[0]];
    const first = Math.min(...numbers.map((i) => requests[i].first));
    using context = shared === 0 ? model.start() : beginning.select([0]);
    see(model, context, inputs.slice(shared, first), chunk);
    await forEachRow(model, context, inputs.slice(first), chunk, (logits, row) => {
      for (const i of numbers) {
        const target = requests[i].targets[first + row - requests[i].first];
        if (target === undefined) continue;
        const { logProbability, likeliest } = tokenLikelihood(logits, target);
        results[i].logLikelihood += logProbability;
        results[i].isGreedy &&= likeliest[0].token === target;
      }
    });
  }
  return results;
}

/** A continuation as the model is asked: targets[i] is what follows inputs[0 … first + i]. */
function request(
  model: LanguageModel,
  { context, continuation }: Continuation,
  contextLength: number,
): { inputs: number[]; targets: readonly number[]; first: number; truncated: number } {
  if (context.length === 0 || continuation.length === 0 || continuation.length > contextLength) {
    throw new ShapeError(
      `logLikelihoods: expected a context of 1 token or more and a continuation of 1 to ` +
        `${contextLength}, found ${context.length} and ${continuation.length}`,
    );
  }
  checkTokens(model, context, continuation);
  // The last token is only predicted, so there may be one more than the model sees.
  const tokens = [...context, ...continuation];
  const inputs = tokens.slice(-(contextLength + 1), -1);
  return {
    inputs,
    targets: continuation,
    first: inputs.length - continuation.length,
    truncated: tokens.length - 1 - inputs.length,
  };
}

/** How many tokens all sequences begin with. */
function commonBeginning([first, ...rest]: readonly (readonly number[])[]): number {
  let length = 0;
  while (length < first.length && rest.every((one) => one[length] === first[length])) length++;
  return length;
}

/** `tokens` into the context, chunk by chunk; what the model says to them is of no interest. */
function see(
  model: LanguageModel,
  context: Context,
  tokens: readonly number[],
  chunk: number,
): void {
  for (let start = 0; start < tokens.length; start += chunk) {
    tidy(() => {
      model.extend(context, ids(model, tokens.slice(start, start + chunk)), { last: true });
    });
  }
}

/** `tokens` into the context, and `use` for the logits after each, float32 [vocabulary]. */
async function forEachRow(
  model: LanguageModel,
  context: Context,
  tokens: readonly number[],
  chunk: number,
  use: (logits: Float32Array, row: number) => void,
): Promise<void> {
  const { vocabulary } = model;
  const rows = Math.max(1, Math.min(chunk, Math.floor(MOST_LOGITS / (4 * vocabulary))));
  for (let start = 0; start < tokens.length; start += rows) {
    using logits = adopt(tidy(() => {
      const some = ids(model, tokens.slice(start, start + rows));
      return model.extend(context, some).to("f32");
    }));
    const data = await logits.data();
    for (let i = 0; i * vocabulary < data.length; i++) {
      use(data.subarray(i * vocabulary, (i + 1) * vocabulary), start + i);
    }
  }
}

function ids(model: LanguageModel, tokens: readonly number[]): Tensor {
  return tensor(Int32Array.from(tokens), { shape: [1, tokens.length], device: model.device });
}

function checkTokens({ vocabulary }: LanguageModel, ...texts: (readonly number[])[]): void {
  for (const tokens of texts) {
    const unknown = tokens.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabulary));
    if (unknown === undefined) continue;
    throw new ShapeError(
      `likelihoods: expected tokens from 0 to ${vocabulary - 1}, found ${unknown}`,
    );
  }
}

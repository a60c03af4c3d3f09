/**
 * From log-likelihoods to scores with standard errors.
 */
import { LevinError } from "../../mod.ts";
import { type Continuation, type LanguageModel, logLikelihoods } from "../../src/models/mod.ts";
import type { TextTokenizer } from "../models/tokenizer.ts";
import type { Asked, Pair } from "./prompts.ts";
import { lengthOf, stripEnd } from "./python.ts";
import type { Metric } from "./tasks.ts";

/** What a question brought. */
export interface Answered {
  /** ln p of each choice. */
  readonly logLikelihoods: readonly number[];
  /** Whether each choice is what the model would write by itself. */
  readonly isGreedy: readonly boolean[];
  readonly gold: number;
  /** 1 if the likeliest choice is the right one, else 0. */
  readonly acc: number;
  /** 1 if the likeliest choice by character is the right one, else 0. */
  readonly acc_norm: number;
  /** Tokens that were left out of the longest context, if it is too long for the model. */
  readonly truncated?: number;
}

/** A mean over questions, with the standard error of it where there are two or more. */
export interface Score {
  readonly value: number;
  readonly standardError?: number;
  readonly questions: number;
}

/**
 * A pair in tokens: white space at the end of the context belongs to the continuation, and the continuation
 * is what the whole has more tokens than the context, so that words are split as they are in a text.
 */
export function encodePair(
  tokenizer: TextTokenizer,
  { context, continuation }: Pair,
): Continuation {
  if (context === "") {
    const first = tokenizer.beginOfText ?? tokenizer.endOfText;
    if (first === undefined) {
      throw new LevinError(
        "expected a text before the answer, since the tokenizer has no token that begins one; found none",
      );
    }
    const tokens = tokenizer.encode(continuation, { special: false });
    return { context: [first], continuation: tokens[0] === first ? tokens.slice(1) : tokens };
  }
  const tokens = tokenizer.encode(stripEnd(context));
  const whole = tokenizer.encode(context + continuation);
  return { context: tokens, continuation: whole.slice(tokens.length) };
}

/** Asks the model. */
export async function answer(
  model: LanguageModel,
  tokenizer: TextTokenizer,
  { pairs, answers, gold }: Asked,
  contextLength = model.contextLength,
): Promise<Answered> {
  const encoded = pairs.map((pair) => encodePair(tokenizer, pair));
  const found = await logLikelihoods(model, encoded, { contextLength });
  const sums = found.map(({ logLikelihood }) => logLikelihood);
  const truncated = Math.max(...found.map(({ truncated }) => truncated));
  return {
    logLikelihoods: sums,
    isGreedy: found.map(({ isGreedy }) => isGreedy),
    gold,
    ...judge(sums, answers, gold),
    ...(truncated > 0 ? { truncated } : {}),
  };
}

/** Whether the right answer has the largest log-likelihood, and the largest one a character: 1 or 0. */
export function judge(
  sums: readonly number[],
  answers: readonly string[],
  gold: number,
): Record<Metric, number> {
  const normed = sums.map((sum, i) => sum / lengthOf(answers[i]));
  return { acc: Number(largest(sums) === gold), acc_norm: Number(largest(normed) === gold) };
}

/** The number of the first of the largest values. */
function largest(values: readonly number[]): number {
  return values.indexOf(Math.max(...values));
}

/** The mean of a metric; its standard error is the deviation of the sample over √n. */
export function scoreOf(answered: readonly Answered[], metric: Metric): Score {
  const values = answered.map((one) => one[metric]);
  const n = values.length;
  const value = values.reduce((a, b) => a + b, 0) / n;
  if (n < 2) return { value, questions: n };
  const variance = values.reduce((sum, x) => sum + (x - value) ** 2, 0) / (n - 1);
  return { value, standardError: Math.sqrt(variance / n), questions: n };
}

/** Subjects' scores as one, by their numbers of questions; the standard error is that of pooled variances. */
export function pooled(scores: readonly Score[]): Score {
  const questions = scores.reduce((sum, score) => sum + score.questions, 0);
  const value = scores.reduce((sum, score) => sum + score.value * score.questions, 0) / questions;
  if (scores.some(({ standardError }) => standardError === undefined)) return { value, questions };
  const squares = scores.reduce(
    (sum, { standardError, questions: n }) => sum + (n - 1) * n * standardError! ** 2,
    0,
  );
  const variance = squares / (questions - scores.length);
  return { value, standardError: Math.sqrt(variance / questions), questions };
}

/**
 * What a client may ask of /v1/completions: every field checked before anything is done.
 */
import type { TextTokenizer } from "../models/tokenizer.ts";
import { RequestError } from "./errors.ts";

/** How much one request may ask for. */
export interface Limits {
  /** Bytes of a request. */
  readonly bytes: number;
  /** Tokens of a prompt and what is written after it. */
  readonly tokens: number;
  /** Prompts of a request, times how often each is continued. */
  readonly choices: number;
}

/** A request that can be carried out. */
export interface CompletionRequest {
  /** In tokens, one or more; as a text if it came as one. */
  readonly prompts: readonly { readonly tokens: readonly number[]; readonly text?: string }[];
  /** How often each prompt is continued. */
  readonly n: number;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topP: number;
  readonly seed: number;
  readonly stop: readonly string[];
  /** Whether the reply begins with the prompt. */
  readonly echo: boolean;
  /** How many likeliest tokens to name beside each token; undefined for no probabilities at all. */
  readonly logprobs: number | undefined;
  readonly stream: boolean;
  /** Whether a stream ends with the numbers of tokens. */
  readonly includeUsage: boolean;
}

/** What the server serves. */
export interface Served {
  /** The model's name. */
  readonly name: string;
  readonly vocabulary: number;
  readonly tokenizer: TextTokenizer;
  readonly limits: Limits;
}

type Fields = Readonly<Record<string, unknown>>;

/** Fields that are read below, and those of the API that are accepted only if they ask for nothing. */
const READ = [
  "model",
  "prompt",
  "max_tokens",
  "temperature",
  "top_p",
  "n",
  "stream",
  "stream_options",
  "logprobs",
  "echo",
  "stop",
  "seed",
  "user",
];
const NEUTRAL: Readonly<Record<string, unknown>> = {
  best_of: 1,
  suffix: "",
  presence_penalty: 0,
  frequency_penalty: 0,
  logit_bias: {},
};

/** Characters that a token may have on average, so that longer texts need not be encoded to be refused. */
const CHARACTERS_PER_TOKEN = 32;
const MOST_STOPS = 16;

/**
 * Checks a request's body.
 *
 * @throws {RequestError} saying which field is wrong and what was expected of it.
 */
export function parseRequest(body: unknown, served: Served): CompletionRequest {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new RequestError(400, "expected a JSON object");
  }
  // null is what absent fields are to some clients.
  const fields = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null));
  for (const [name, value] of Object.entries(fields)) {
    if (READ.includes(name)) continue;
    if (!Object.hasOwn(NEUTRAL, name)) throw wrong(name, "no such field", value);
    if (JSON.stringify(value) !== JSON.stringify(NEUTRAL[name])) {
      throw wrong(
        name,
        `only ${JSON.stringify(NEUTRAL[name])}, the rest is not implemented`,
        value,
      );
    }
  }
  checkModel(fields.model, served.name);
  const logprobs = fields.logprobs === undefined ? undefined : whole(fields, "logprobs", 0, 20, 0);
  const n = whole(fields, "n", 1, 16, 1);
  const maxTokens = whole(fields, "max_tokens", 0, served.limits.tokens, 16);
  const stream = flag(fields, "stream");
  const echo = flag(fields, "echo");
  const prompts = promptsOf(fields.prompt, served, maxTokens);
  if (prompts.length * n > served.limits.choices) {
    throw new RequestError(
      400,
      `expected at most ${served.limits.choices} prompts times n, found ${prompts.length * n}`,
      { param: "prompt" },
    );
  }
  return {
    prompts,
    n,
    maxTokens,
    temperature: number(fields, "temperature", 0, 2, 1),
    topP: number(fields, "top_p", Number.MIN_VALUE, 1, 1),
    seed: fields.seed === undefined
      ? crypto.getRandomValues(new Uint32Array(1))[0]
      : whole(fields, "seed", Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, 0),
    stop: stopsOf(fields.stop),
    echo,
    logprobs,
    stream,
    includeUsage: includeUsage(fields.stream_options),
  };
}

function checkModel(model: unknown, name: string): void {
  if (typeof model !== "string") throw wrong("model", "a text", model);
  if (model === name) return;
  throw new RequestError(404, `expected model "${name}", found "${model.slice(0, 200)}"`, {
    param: "model",
    code: "model_not_found",
  });
}

function promptsOf(
  prompt: unknown,
  { vocabulary, tokenizer, limits }: Served,
  maxTokens: number,
): CompletionRequest["prompts"] {
  const isTokens = (value: unknown): value is number[] =>
    Array.isArray(value) && value.every((id) => typeof id === "number");
  const list = typeof prompt === "string" || (isTokens(prompt) && prompt.length > 0)
    ? [prompt]
    : prompt;
  const isText = (one: unknown): one is string => typeof one === "string";
  if (
    !Array.isArray(list) || list.length === 0 ||
    !(list.every(isText) || list.every(isTokens))
  ) throw wrong("prompt", "a text, a list of tokens, or a list of one of these", prompt);
  return (list as (string | number[])[]).map((one) => {
    const text = isText(one) ? one : undefined;
    if (text !== undefined && text.length > CHARACTERS_PER_TOKEN * limits.tokens) {
      throw tooLong(`${text.length} characters`, limits, maxTokens);
    }
    const tokens = isText(one) ? tokenizer.encode(one) : one;
    if (tokens.length === 0) throw wrong("prompt", "a token or more", one);
    if (tokens.length + maxTokens > limits.tokens) {
      throw tooLong(`${tokens.length} tokens`, limits, maxTokens);
    }
    const unknown = tokens.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabulary));
    if (unknown !== undefined) throw wrong("prompt", `tokens from 0 to ${vocabulary - 1}`, unknown);
    return { tokens, text };
  });
}

function tooLong(found: string, { tokens }: Limits, maxTokens: number): RequestError {
  return new RequestError(
    400,
    `expected at most ${tokens} tokens with the ${maxTokens} of max_tokens, found a prompt of ${found}`,
    { param: "prompt", code: "context_length_exceeded" },
  );
}

function stopsOf(stop: unknown): string[] {
  const stops = stop === undefined ? [] : typeof stop === "string" ? [stop] : stop;
  if (
    Array.isArray(stops) && stops.length <= MOST_STOPS &&
    stops.every((one) => typeof one === "string" && one !== "")
  ) return stops;
  throw wrong("stop", `a text or up to ${MOST_STOPS} of them, none empty`, stop);
}

function includeUsage(options: unknown): boolean {
  if (options === undefined) return false;
  const { include_usage: usage = false } = options as { include_usage?: unknown };
  if (typeof usage === "boolean") return usage;
  throw wrong("stream_options", '{"include_usage": true}', options);
}

function flag(fields: Fields, name: string): boolean {
  const { [name]: value = false } = fields;
  if (typeof value === "boolean") return value;
  throw wrong(name, "true or false", value);
}

function number(fields: Fields, name: string, least: number, most: number, absent: number): number {
  const { [name]: value = absent } = fields;
  if (typeof value === "number" && value >= least && value <= most) return value;
  const range = least === Number.MIN_VALUE ? `above 0, up to ${most}` : `from ${least} to ${most}`;
  throw wrong(name, `a number ${range}`, value);
}

function whole(fields: Fields, name: string, least: number, most: number, absent: number): number {
  const value = number(fields, name, least, most, absent);
  if (Number.isInteger(value)) return value;
  throw wrong(name, "a whole number", value);
}

function wrong(param: string, expected: string, found: unknown): RequestError {
  const text = JSON.stringify(found) ?? "nothing";
  const short = text.length > 100 ? `${text.slice(0, 100)}…` : text;
  return new RequestError(400, `${param}: expected ${expected}, found ${short}`, { param });
}

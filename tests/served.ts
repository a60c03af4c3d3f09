/** A small model behind a handler, and a client that reads replies as lm-evaluation-harness's `local-completions`. */
import { writeFile } from "node:fs/promises";
import { assert, assertEquals } from "@std/assert";
import { createHandler, type Handler, type ServeOptions } from "../examples/serve/server.ts";
import { loadTokenizer, type TextTokenizer } from "../examples/models/tokenizer.ts";
import type { Device } from "../mod.ts";
import { type LanguageModel, loadModel } from "../src/models/mod.ts";
import { bytePair } from "./byte_pair.ts";
import { inFolder, llama, writeCheckpoint } from "./checkpoints.ts";
import { testOnCpu } from "./harness.ts";

export interface Choice {
  index: number;
  text: string;
  finish_reason: string | null;
  logprobs: {
    tokens: string[];
    token_logprobs: (number | null)[];
    top_logprobs: (Record<string, number> | null)[];
    text_offset: number[];
  } | null;
}

export interface Served {
  model: LanguageModel;
  tokenizer: TextTokenizer;
  /** Logits of the next token, in float64 by code that shares nothing with Levin. */
  logits: (ids: number[]) => number[];
  handlerOf: (options?: Partial<ServeOptions>) => Handler;
  errors: unknown[];
}

const KIND = llama({ vocab_size: 258, max_position_embeddings: 128 });

export async function writeModel(folder: string) {
  await writeFile(`${folder}/tokenizer.json`, JSON.stringify(bytePair([["t", "h"]])));
  await writeFile(`${folder}/tokenizer_config.json`, '{"eos_token":"<|endoftext|>"}');
  return await writeCheckpoint(folder, KIND);
}

/** Registers a test of a small model's handler; errors that no client is to blame for fail it. */
export function testServed(
  name: string,
  fn: (served: Served, device: Device) => Promise<void>,
): void {
  testOnCpu(name, (device) =>
    inFolder(async (folder) => {
      const weights = await writeModel(folder);
      using model = await loadModel(folder);
      const tokenizer = await loadTokenizer(folder);
      const errors: unknown[] = [];
      const handlerOf = (options: Partial<ServeOptions> = {}) =>
        createHandler({
          model,
          tokenizer,
          name: "small",
          limits: { bytes: 4096, tokens: 128, choices: 8 },
          atWork: 2,
          waiting: 8,
          onError: (error) => errors.push(error),
          ...options,
        });
      const logits = (ids: number[]) => KIND.logits(weights, ids).at(-1)!;
      await fn({ model, tokenizer, logits, handlerOf, errors }, device);
      assertEquals(errors, []);
    }));
}

export const JSON_TYPE = { "content-type": "application/json" };
const URL_OF_COMPLETIONS = "http://127.0.0.1/v1/completions";

export function post(body: unknown, init: RequestInit = {}): Request {
  return new Request(URL_OF_COMPLETIONS, {
    method: "POST",
    headers: JSON_TYPE,
    body: JSON.stringify(body),
    // Node asks for it where a body is a stream.
    ...{ duplex: "half" },
    ...init,
  });
}

export async function choicesOf(reply: Response): Promise<Choice[]> {
  const body = await reply.json();
  assertEquals(reply.status, 200, JSON.stringify(body));
  return body.choices;
}

/** The error in a reply: its status and the four fields that OpenAI's clients read. */
export async function errorOf(reply: Response) {
  const { error, ...rest } = await reply.json();
  assertEquals(rest, {});
  assertEquals(Object.keys(error), ["message", "type", "param", "code"]);
  assert(typeof error.message === "string" && error.message !== "");
  return { status: reply.status, ...error };
}

/** What the harness's client asks to score prompts. */
export const scoring = (prompt: unknown) => ({
  model: "small",
  prompt,
  temperature: 0,
  max_tokens: 1,
  logprobs: 1,
  seed: 1234,
  echo: true,
});

/** What the harness's client makes of the reply: it takes off the context and the token that was written. */
export function parseLogprobs(choices: Choice[], contextLengths: number[]): [number, boolean][] {
  return choices.toSorted((a, b) => a.index - b.index).map(({ logprobs }, i) => {
    const tokens = logprobs!.token_logprobs.slice(contextLengths[i], -1) as number[];
    const top = logprobs!.top_logprobs.slice(contextLengths[i], -1);
    const isGreedy = tokens.every((p, j) => p === Math.max(...Object.values(top[j]!)));
    return [tokens.reduce((a, b) => a + b, 0), isGreedy];
  });
}
/** The data of a stream's events. */
export function eventsOf(text: string): string[] {
  assert(text.endsWith("\n\n"));
  return text.slice(0, -2).split("\n\n").map((event) => {
    assert(event.startsWith("data: ") && !event.includes("\n"), event);
    return event.slice("data: ".length);
  });
}

/** Starts `deno task serve` on the model in `folder`, on the CPU and a free port, and waits until it listens. */
export async function startServer(folder: string, flags = "") {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--no-check", "--unstable-no-legacy-abort", "examples/serve.ts"],
      ...["--model", folder, "--name", "small", "--port", "0", "--backend", "cpu"],
      ...flags.split(" ").filter((flag) => flag !== ""),
    ],
    cwd: new URL("..", import.meta.url).pathname,
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const stderr = new Response(child.stderr).text();
  const lines = child.stdout.pipeThrough(new TextDecoderStream())[Symbol.asyncIterator]();
  const { value: line = "" } = await lines.next();
  const [, url] = /^small at (http:\/\/127\.0\.0\.1:\d+\/v1)\n$/.exec(line) ?? [];
  assert(url !== undefined, `${line} ${await (line === "" ? stderr : "")}`);
  await lines.return?.();
  return { child, url, stderr };
}

/**
 * An HTTP handler in the shapes of OpenAI's API: /v1/completions and /v1/models.
 */
import type { LanguageModel } from "../../src/models/mod.ts";
import type { TextTokenizer } from "../models/tokenizer.ts";
import { complete, type LogProbabilities, type Piece } from "./complete.ts";
import { RequestError } from "./errors.ts";
import { type Place, Queue } from "./queue.ts";
import { type CompletionRequest, type Limits, parseRequest } from "./request.ts";

/** What is served and how much of it at once. */
export interface ServeOptions {
  readonly model: LanguageModel;
  readonly tokenizer: TextTokenizer;
  /** The model's name. */
  readonly name: string;
  readonly limits: Limits;
  /** Requests that the model works on at once. */
  readonly atWork: number;
  /** Requests that may wait. */
  readonly waiting: number;
  /** Milliseconds that a request's body may take to arrive. Default 30 000. */
  readonly bodyTimeout?: number;
  /** Milliseconds that a client may leave a piece of its stream unread before it loses its turn. Default 60 000. */
  readonly readTimeout?: number;
  /** Told what no client is to blame for. */
  readonly onError?: (error: unknown) => void;
}

/** Answers requests. */
export type Handler = (request: Request) => Promise<Response>;

/** The handler of a model. */
export function createHandler(options: ServeOptions): Handler {
  const queue = new Queue(options);
  const created = seconds();
  const card = { id: options.name, object: "model", created, owned_by: "levin" };
  const routes: Readonly<Record<string, [method: string, answer: Handler]>> = {
    "/v1/models": ["GET", () => json({ object: "list", data: [card] })],
    [`/v1/models/${encodeURIComponent(options.name)}`]: ["GET", () => json(card)],
    "/v1/completions": ["POST", (request) => completions(request, queue, options)],
  };
  return async (request) => {
    try {
      const { pathname } = new URL(request.url);
      const route = Object.hasOwn(routes, pathname) ? routes[pathname] : undefined;
      if (route === undefined) {
        throw new RequestError(
          404,
          `there is no ${pathname}; try ${Object.keys(routes).join(", ")}`,
        );
      }
      const [method, answer] = route;
      if (request.method !== method) {
        const message = `expected ${method} ${pathname}, found ${request.method}`;
        return await json(new RequestError(405, message).body(), 405, { allow: method });
      }
      return await answer(request);
    } catch (error) {
      const refusal = refusalOf(error, options);
      return await json(refusal.body(), refusal.status);
    }
  };
}

/** What a client is told of an error: all of its own, and of others only that there was one. */
function refusalOf(error: unknown, { onError }: ServeOptions): RequestError {
  if (error instanceof RequestError) return error;
  if (error instanceof DOMException && error.name === "AbortError") {
    return new RequestError(499, "the client is gone");
  }
  onError?.(error);
  return new RequestError(500, "the server failed to answer; its log says why");
}

function json(body: object, status = 200, headers?: HeadersInit): Promise<Response> {
  return Promise.resolve(Response.json(body, { status, headers }));
}

async function completions(
  request: Request,
  queue: Queue,
  options: ServeOptions,
): Promise<Response> {
  const { model, tokenizer, name, limits, bodyTimeout = 30_000 } = options;
  // The place is taken before the body is read, so that bodies are bounded in number as well.
  const place = queue.join();
  let isStreaming = false;
  try {
    const body = await readJson(request, limits.bytes, bodyTimeout);
    const served = { name, vocabulary: model.vocabulary, tokenizer, limits };
    const asked = parseRequest(body, served);
    await place.turn(request.signal);
    const gone = new AbortController();
    const signal = AbortSignal.any([request.signal, gone.signal]);
    const pieces = complete(model, tokenizer, asked, signal);
    const reply = new Reply(name, asked);
    if (!asked.stream) return await json(await reply.whole(pieces));
    isStreaming = true;
    return stream(reply, pieces, place, gone, options);
  } finally {
    if (!isStreaming) place[Symbol.dispose]();
  }
}

/** @throws {RequestError} if it is too long, takes too long or is not JSON. */
async function readJson(request: Request, most: number, timeout: number): Promise<unknown> {
  const type = request.headers.get("content-type") ?? "";
  // Also keeps pages in a browser from asking behind their reader's back.
  if (!/^application\/json\s*(;|$)/i.test(type)) {
    throw new RequestError(415, `expected content-type application/json, found "${type}"`);
  }
  const tooLarge = () =>
    new RequestError(413, `expected at most ${most} bytes`, { code: "request_too_large" });
  if (Number(request.headers.get("content-length")) > most) throw tooLarge();
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    const error = new RequestError(408, `the body took more than ${timeout} ms to arrive`);
    timer = setTimeout(() => reject(error), timeout);
  });
  const reader = request.body?.getReader();
  try {
    for (;;) {
      const read = reader?.read().catch(() => {
        throw new RequestError(400, "the body broke off");
      });
      const { value } = await Promise.race([read ?? { value: undefined }, late]);
      if (value === undefined) break;
      size += value.length;
      if (size > most) throw tooLarge();
      parts.push(value);
    }
  } catch (error) {
    reader?.cancel().catch(() => {});
    throw error;
  } finally {
    clearTimeout(timer);
  }
  try {
    const bytes = await new Blob(parts).arrayBuffer();
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new RequestError(400, "the body is not JSON in UTF-8");
  }
}

/** Pieces as server-sent events. The place is free again when the last is sent, or the client is gone. */
function stream(
  reply: Reply,
  pieces: AsyncGenerator<Piece>,
  place: Place,
  gone: AbortController,
  options: ServeOptions,
): Response {
  const { readTimeout = 60_000 } = options;
  const encoder = new TextEncoder();
  const event = (data: object) => encoder.encode(`data: ${JSON.stringify(data)}\n\n`);
  let timer: ReturnType<typeof setTimeout> | undefined;
  let hasEnded = false;
  const end = () => {
    hasEnded = true;
    clearTimeout(timer);
    place[Symbol.dispose]();
    return pieces.return(undefined);
  };
  const waitForReader = (controller: ReadableStreamDefaultController<Uint8Array>) => {
    timer = setTimeout(() => {
      const late = new RequestError(408, `the stream was not read for ${readTimeout} ms`);
      controller.enqueue(event(late.body()));
      controller.close();
      end();
    }, readTimeout);
  };
  const body = new ReadableStream<Uint8Array>({
    start: waitForReader,
    async pull(controller) {
      clearTimeout(timer);
      try {
        const { done, value } = await pieces.next();
        // The client may be gone by now.
        if (hasEnded) return;
        if (!done) {
          // Before it is handed over, since that may be when the client is found to be gone.
          waitForReader(controller);
          return controller.enqueue(event(reply.part(value)));
        }
        const usage = reply.usageEvent();
        if (usage !== undefined) controller.enqueue(event(usage));
        controller.enqueue(encoder.encode("data: [DONE]\n\n"));
      } catch (error) {
        if (hasEnded) return;
        controller.enqueue(event(refusalOf(error, options).body()));
      }
      await end();
      controller.close();
    },
    async cancel() {
      gone.abort();
      await end();
    },
  }, { highWaterMark: 0 });
  const headers = { "content-type": "text/event-stream", "cache-control": "no-cache" };
  return new Response(body, { headers });
}

/** A reply to one request, whole or in parts. */
class Reply {
  readonly #head: { id: string; object: string; created: number; model: string };
  readonly #asked: CompletionRequest;
  #written = 0;

  constructor(model: string, asked: CompletionRequest) {
    const id = `cmpl-${crypto.randomUUID().replaceAll("-", "")}`;
    this.#head = { id, object: "text_completion", created: seconds(), model };
    this.#asked = asked;
  }

  async whole(pieces: AsyncIterable<Piece>): Promise<object> {
    const choices: {
      text: string;
      index: number;
      logprobs: LogProbabilities | null;
      finish_reason: string | null;
    }[] = [];
    for await (const { index, text, logprobs, finish, written } of pieces) {
      const choice = choices[index] ??= { text: "", index, logprobs: null, finish_reason: null };
      choice.text += text;
      choice.finish_reason = finish;
      this.#written += written;
      if (logprobs === null) continue;
      choice.logprobs ??= { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
      choice.logprobs.tokens.push(...logprobs.tokens);
      choice.logprobs.token_logprobs.push(...logprobs.token_logprobs);
      choice.logprobs.top_logprobs.push(...logprobs.top_logprobs);
      choice.logprobs.text_offset.push(...logprobs.text_offset);
    }
    return { ...this.#head, choices, usage: this.#usage() };
  }

  part({ index, text, logprobs, finish, written }: Piece): object {
    this.#written += written;
    return { ...this.#head, choices: [{ text, index, logprobs, finish_reason: finish }] };
  }

  usageEvent(): object | undefined {
    return this.#asked.includeUsage
      ? { ...this.#head, choices: [], usage: this.#usage() }
      : undefined;
  }

  #usage() {
    const prompt = this.#asked.prompts.reduce((sum, { tokens }) => sum + tokens.length, 0);
    return {
      prompt_tokens: prompt,
      completion_tokens: this.#written,
      total_tokens: prompt + this.#written,
    };
  }
}

function seconds(): number {
  return Math.floor(Date.now() / 1000);
}

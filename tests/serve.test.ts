/** `deno task serve`, with a client that reads replies as lm-evaluation-harness's `local-completions` does. */
import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertNotEquals,
  assertThrows,
} from "@std/assert";
import fc from "fast-check";
import { RequestError } from "../examples/serve/errors.ts";
import { type Place, Queue } from "../examples/serve/queue.ts";
import { createHandler, type Handler, type ServeOptions } from "../examples/serve/server.ts";
import { byteTokenizer } from "../examples/models/byte_tokenizer.ts";
import { loadTokenizer, type TextTokenizer } from "../examples/models/tokenizer.ts";
import type { Device } from "../mod.ts";
import { generate, type LanguageModel, loadModel, logLikelihoods } from "../src/models/mod.ts";
import { bytePair } from "./byte_pair.ts";
import { inFolder, llama, writeCheckpoint } from "./checkpoints.ts";
import { test, testOnCpu } from "./harness.ts";

interface Choice {
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

interface Served {
  model: LanguageModel;
  tokenizer: TextTokenizer;
  /** Logits of the next token, in float64 by code that shares nothing with Levin. */
  logits: (ids: number[]) => number[];
  handlerOf: (options?: Partial<ServeOptions>) => Handler;
  errors: unknown[];
}

const KIND = llama({ vocab_size: 258, max_position_embeddings: 128 });

async function writeModel(folder: string) {
  await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(bytePair([["t", "h"]])));
  await Deno.writeTextFile(`${folder}/tokenizer_config.json`, '{"eos_token":"<|endoftext|>"}');
  return await writeCheckpoint(folder, KIND);
}

/** Registers a test of a small model's handler; errors that no client is to blame for fail it. */
function testServed(name: string, fn: (served: Served, device: Device) => Promise<void>): void {
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

const JSON_TYPE = { "content-type": "application/json" };
const URL_OF_COMPLETIONS = "http://127.0.0.1/v1/completions";

function post(body: unknown, init: RequestInit = {}): Request {
  return new Request(URL_OF_COMPLETIONS, {
    method: "POST",
    headers: JSON_TYPE,
    body: JSON.stringify(body),
    ...init,
  });
}

async function choicesOf(reply: Response): Promise<Choice[]> {
  const body = await reply.json();
  assertEquals(reply.status, 200, JSON.stringify(body));
  return body.choices;
}

/** The error in a reply: its status and the four fields that OpenAI's clients read. */
async function errorOf(reply: Response) {
  const { error, ...rest } = await reply.json();
  assertEquals(rest, {});
  assertEquals(Object.keys(error), ["message", "type", "param", "code"]);
  assert(typeof error.message === "string" && error.message !== "");
  return { status: reply.status, ...error };
}

/** What the harness's client asks to score prompts. */
const scoring = (prompt: unknown) => ({
  model: "small",
  prompt,
  temperature: 0,
  max_tokens: 1,
  logprobs: 1,
  seed: 1234,
  echo: true,
});

/** What the harness's client makes of the reply: it takes off the context and the token that was written. */
function parseLogprobs(choices: Choice[], contextLengths: number[]): [number, boolean][] {
  return choices.toSorted((a, b) => a.index - b.index).map(({ logprobs }, i) => {
    const tokens = logprobs!.token_logprobs.slice(contextLengths[i], -1) as number[];
    const top = logprobs!.top_logprobs.slice(contextLengths[i], -1);
    const isGreedy = tokens.every((p, j) => p === Math.max(...Object.values(top[j]!)));
    return [tokens.reduce((a, b) => a + b, 0), isGreedy];
  });
}

const argmax = (row: readonly number[]) => row.indexOf(Math.max(...row));
const logSoftmax = (row: readonly number[]) => {
  const all = Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0));
  return row.map((x) => x - all);
};

testServed("the harness's client gets the model's log-likelihoods", async (served) => {
  const { model, tokenizer, logits, handlerOf } = served;
  const handler = handlerOf();
  const context = tokenizer.encode("the fish");
  const greedy = argmax(logits(context));
  const continuations = [[32, 97], [greedy], [greedy, argmax(logits([...context, greedy])), 7]];
  const prompts = continuations.map((ids) => [...context, ...ids]);
  const choices = await choicesOf(await handler(post(scoring(prompts))));
  const found = parseLogprobs(choices, prompts.map(() => context.length));
  const own = await logLikelihoods(
    model,
    continuations.map((continuation) => ({ context, continuation })),
  );
  continuations.forEach((ids, i) => {
    const expected = ids.reduce(
      (sum, id, j) => sum + logSoftmax(logits([...context, ...ids.slice(0, j)]))[id],
      0,
    );
    assertAlmostEquals(found[i][0], expected, 1e-4);
    assertAlmostEquals(found[i][0], own[i].logLikelihood, 1e-5);
    assertEquals(found[i][1], own[i].isGreedy);
  });
  assertEquals(found.map(([, isGreedy]) => isGreedy), [false, true, false]);
  // As texts, and alone, it is the same.
  const text = tokenizer.decode(prompts[0]);
  const [alone] = await choicesOf(await handler(post(scoring(text))));
  assertEquals(parseLogprobs([alone], [context.length]), [found[0]]);
  assertEquals([alone.index, alone.finish_reason], [0, "length"]);
  assert(alone.text.startsWith(text));
});

testServed(
  "a text that ends still has a token to take off",
  async ({ tokenizer, logits, handlerOf }) => {
    const prompt = tokenizer.encode("fish");
    const ends = { ...tokenizer, endOfText: argmax(logits(prompt)) };
    const handler = handlerOf({ tokenizer: ends });
    const [choice] = await choicesOf(await handler(post(scoring([prompt]))));
    assertEquals(choice.finish_reason, "stop");
    assertEquals(choice.text, "fish");
    assertEquals(choice.logprobs!.token_logprobs.length, prompt.length + 1);
    assertEquals(choice.logprobs!.top_logprobs.length, prompt.length + 1);
    const all = prompt.slice(1).reduce(
      (sum, id, i) => sum + logSoftmax(logits(prompt.slice(0, i + 1)))[id],
      0,
    );
    assertAlmostEquals(parseLogprobs([choice], [1])[0][0], all, 1e-4);
  },
);

testServed(
  "probabilities stand beside their tokens, texts and places",
  async ({ logits, handlerOf }) => {
    const handler = handlerOf({ tokenizer: byteTokenizer });
    const prompt = "aé😀b";
    const ids = byteTokenizer.encode(prompt);
    const asked = {
      model: "small",
      prompt,
      max_tokens: 2,
      temperature: 0,
      logprobs: 3,
      echo: true,
    };
    const [{ text, logprobs }] = await choicesOf(await handler(post(asked)));
    const first = argmax(logits(ids));
    const written = [first, argmax(logits([...ids, first]))];
    const all = [...ids, ...written];
    assert(text.startsWith(prompt));
    assertEquals(logprobs!.tokens, all.map((id) => byteTokenizer.decode([id])));
    assertEquals(logprobs!.text_offset.slice(0, ids.length), [0, 1, 1, 2, 2, 2, 2, 3]);
    assertEquals([logprobs!.token_logprobs[0], logprobs!.top_logprobs[0]], [null, null]);
    all.slice(1).forEach((id, i) => {
      const row = logSoftmax(logits(all.slice(0, i + 1)));
      const order = [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, 3);
      assertAlmostEquals(logprobs!.token_logprobs[i + 1]!, row[id], 1e-4);
      const top = logprobs!.top_logprobs[i + 1]!;
      assertAlmostEquals(Math.max(...Object.values(top)), row[order[0]], 1e-4);
      const texts = new Set([...order, id].map((one) => byteTokenizer.decode([one])));
      assertEquals(new Set(Object.keys(top)), texts);
    });
    // Without echo there are those of what was written; with logprobs 0 the tokens' own; without, none.
    const [bare] = await choicesOf(await handler(post({ ...asked, echo: false, logprobs: 0 })));
    assertEquals(bare.logprobs!.token_logprobs, logprobs!.token_logprobs.slice(-2));
    assertEquals(bare.logprobs!.top_logprobs.map((top) => Object.keys(top!).length), [1, 1]);
    assertEquals(bare.text, text.slice(prompt.length));
    const none = { ...asked, logprobs: null };
    assertEquals((await choicesOf(await handler(post(none))))[0].logprobs, null);
    const zero = await choicesOf(await handler(post({ ...asked, max_tokens: 0 })));
    assertEquals([zero[0].text, zero[0].logprobs!.tokens.length], [prompt, ids.length]);
  },
);

testServed("what is written is what the model writes, by seed and choice", async (served) => {
  const { model, tokenizer, handlerOf } = served;
  const handler = handlerOf();
  const asked = { model: "small", prompt: ["the ", "fish"], max_tokens: 12, seed: 7 };
  const reply = await handler(post({ ...asked, temperature: 0 }));
  const { choices, usage, ...head } = await reply.json();
  const { id, object, model: name, created, ...rest } = head;
  assertEquals([object, name, rest], ["text_completion", "small", {}]);
  assert(/^cmpl-\w+$/.test(id) && Number.isInteger(created));
  let written = 0;
  for (const [i, prompt] of asked.prompt.entries()) {
    const ids = tokenizer.encode(prompt);
    const stop = [tokenizer.endOfText!];
    const tokens = await Array.fromAsync(
      generate(model, ids, { maxTokens: 12, temperature: 0, stop }),
    );
    written += tokens.length;
    const all = tokenizer.decode([...ids, ...tokens]);
    assertEquals(choices[i].text, all.slice(prompt.length));
  }
  const prompts = asked.prompt.flatMap((prompt) => tokenizer.encode(prompt)).length;
  assertEquals(usage, {
    prompt_tokens: prompts,
    completion_tokens: written,
    total_tokens: prompts + written,
  });
  const textsOf = async (more: object) =>
    (await choicesOf(await handler(post({ ...asked, ...more })))).map(({ text }) => text);
  const texts = await textsOf({ n: 2 });
  assertEquals(texts.length, 4);
  assertNotEquals(texts[0], texts[1]);
  assertEquals(await textsOf({ n: 2 }), texts);
  assertNotEquals(await textsOf({ n: 2, seed: 8 }), texts);
  assertNotEquals(await textsOf({ seed: null }), await textsOf({ seed: null }));
  assertEquals(await textsOf({ top_p: 1e-9 }), choices.map(({ text }: Choice) => text));
});

testServed("a stop ends the text before it", async ({ handlerOf }) => {
  const handler = handlerOf();
  const asked = { model: "small", prompt: "fish", max_tokens: 30, seed: 3 };
  const [whole] = await choicesOf(await handler(post(asked)));
  assert([...whole.text].length > 12, whole.text);
  const stop = [...whole.text].slice(6, 8).join("");
  for (const stops of [stop, ["never met", stop]]) {
    const [cut] = await choicesOf(await handler(post({ ...asked, stop: stops })));
    assertEquals(cut.text, whole.text.slice(0, whole.text.indexOf(stop)));
    assertEquals(cut.finish_reason, "stop");
  }
});

/** The data of a stream's events. */
function eventsOf(text: string): string[] {
  assert(text.endsWith("\n\n"));
  return text.slice(0, -2).split("\n\n").map((event) => {
    assert(event.startsWith("data: ") && !event.includes("\n"), event);
    return event.slice("data: ".length);
  });
}

testServed("a stream is the whole reply in parts", async ({ handlerOf }) => {
  const handler = handlerOf();
  const asked = {
    model: "small",
    prompt: ["fish", "the"],
    max_tokens: 9,
    seed: 5,
    logprobs: 1,
    echo: true,
  };
  const reply = await handler(
    post({ ...asked, stream: true, stream_options: { include_usage: true } }),
  );
  assertEquals(reply.headers.get("content-type"), "text/event-stream");
  const events = eventsOf(await reply.text());
  assertEquals(events.pop(), "[DONE]");
  const parts = events.map((event) => JSON.parse(event));
  const { usage, choices: none } = parts.pop();
  assertEquals(none, []);
  const whole = await (await handler(post(asked))).json();
  assertEquals(usage, whole.usage);
  assertEquals(new Set(parts.map(({ id }) => id)).size, 1);
  const choices = whole.choices.map(({ index }: Choice): Choice => {
    const own: Choice[] = parts.flatMap(({ choices }) => choices).filter((c) => c.index === index);
    const joined = <K extends keyof NonNullable<Choice["logprobs"]>>(key: K) =>
      own.flatMap(({ logprobs }) => logprobs![key] as unknown[]);
    assertEquals(own.slice(0, -1).map(({ finish_reason }) => finish_reason).filter(Boolean), []);
    return {
      text: own.map(({ text }) => text).join(""),
      index,
      logprobs: {
        tokens: joined("tokens"),
        token_logprobs: joined("token_logprobs"),
        top_logprobs: joined("top_logprobs"),
        text_offset: joined("text_offset"),
      } as Choice["logprobs"],
      finish_reason: own.at(-1)!.finish_reason,
    };
  });
  assertEquals(choices, whole.choices);
  assert(parts.length > 20);
});

testServed("models are listed", async ({ handlerOf }) => {
  const handler = handlerOf({ name: "a/b" });
  const get = (path: string) => handler(new Request(`http://127.0.0.1${path}`));
  const { object, data } = await (await get("/v1/models")).json();
  assertEquals([object, data.length], ["list", 1]);
  const { created, ...card } = data[0];
  assertEquals(card, { id: "a/b", object: "model", owned_by: "levin" });
  assert(Number.isInteger(created));
  assertEquals(await (await get("/v1/models/a%2Fb")).json(), data[0]);
  assertEquals((await errorOf(await get("/v1/models/c"))).status, 404);
  assertEquals((await errorOf(await get("/v1/completions"))).status, 405);
  assertEquals((await errorOf(await get("/constructor"))).status, 404);
});

testServed("what is wrong is refused by name", async ({ handlerOf }) => {
  const handler = handlerOf();
  const good = { model: "small", prompt: "fish", max_tokens: 1 };
  const cases: [unknown, number, string | null, string][] = [
    [[], 400, null, "a JSON object"],
    [null, 400, null, "a JSON object"],
    [{ ...good, model: "large" }, 404, "model", 'expected model "small", found "large"'],
    [{ ...good, model: 3 }, 400, "model", "expected a text, found 3"],
    [{ model: "small" }, 400, "prompt", "found nothing"],
    [{ ...good, prompt: "" }, 400, "prompt", "a token or more"],
    [{ ...good, prompt: [] }, 400, "prompt", "found []"],
    [{ ...good, prompt: ["fish", 1] }, 400, "prompt", "a text, a list of tokens"],
    [{ ...good, prompt: [[1], []] }, 400, "prompt", "a token or more"],
    [{ ...good, prompt: [1, 258] }, 400, "prompt", "from 0 to 257, found 258"],
    [{ ...good, prompt: [1.5] }, 400, "prompt", "found 1.5"],
    [{ ...good, prompt: [-1] }, 400, "prompt", "found -1"],
    [{ ...good, prompt: "a".repeat(128) }, 400, "prompt", "a prompt of 128 tokens"],
    [{ ...good, max_tokens: 125 }, 400, "prompt", "at most 128 tokens with the 125"],
    [{ ...good, prompt: Array(9).fill("a") }, 400, "prompt", "at most 8 prompts"],
    [{ ...good, prompt: ["a", "b", "c"], n: 3 }, 400, "prompt", "found 9"],
    [{ ...good, max_tokens: -1 }, 400, "max_tokens", "from 0 to 128"],
    [{ ...good, max_tokens: 1.5 }, 400, "max_tokens", "a whole number"],
    [{ ...good, temperature: "0" }, 400, "temperature", 'found "0"'],
    [{ ...good, temperature: 3 }, 400, "temperature", "from 0 to 2"],
    [{ ...good, top_p: 0 }, 400, "top_p", "above 0, up to 1"],
    [{ ...good, logprobs: 21 }, 400, "logprobs", "from 0 to 20"],
    [{ ...good, echo: 1 }, 400, "echo", "true or false"],
    [{ ...good, stop: ["a", ""] }, 400, "stop", "none empty"],
    [{ ...good, stop: Array(17).fill("a") }, 400, "stop", "up to 16"],
    [{ ...good, seed: 0.5 }, 400, "seed", "a whole number"],
    [{ ...good, stream_options: { include_usage: 1 } }, 400, "stream_options", "include_usage"],
    [{ ...good, presence_penalty: 1 }, 400, "presence_penalty", "not implemented"],
    [{ ...good, best_of: 2 }, 400, "best_of", "not implemented"],
    [{ ...good, constructor: 1 }, 400, "constructor", "no such field"],
  ];
  for (const [body, status, param, message] of cases) {
    const error = await errorOf(await handler(post(body)));
    assertEquals([error.status, error.param, error.type], [status, param, "invalid_request_error"]);
    assert(error.message.includes(message), `${error.message} should say ${message}`);
  }
  const neutral = { best_of: 1, suffix: null, logit_bias: {}, presence_penalty: 0, user: "me" };
  assertEquals((await handler(post({ ...good, ...neutral }))).status, 200);
});

testServed("bodies are bounded in size and time, and are JSON", async ({ handlerOf }) => {
  const handler = handlerOf({ bodyTimeout: 50, atWork: 1, waiting: 0 });
  const sent = async (init: RequestInit) => (await errorOf(await handler(post(null, init)))).status;
  assertEquals(await sent({ body: "x".repeat(4097), headers: JSON_TYPE }), 413);
  assertEquals(await sent({ body: "{" }), 400);
  assertEquals(await sent({ body: "[".repeat(4000) }), 400);
  assertEquals(await sent({ body: new Uint8Array([0x22, 0xff, 0x22]) }), 400);
  assertEquals(await sent({ body: undefined }), 400);
  assertEquals(await sent({ body: "{}", headers: { "content-type": "text/plain" } }), 415);
  // Without a length beforehand.
  let pulled = 0;
  const endless = new ReadableStream<Uint8Array>({
    pull: (controller) => controller.enqueue(new Uint8Array(1024).fill(32, 0, ++pulled)),
  }, { highWaterMark: 0 });
  assertEquals(await sent({ body: endless }), 413);
  assert(pulled <= 6, `${pulled} KiB were read`);
  assertEquals(
    await sent({ body: new ReadableStream({ pull: () => new Promise(() => {}) }) }),
    408,
  );
  // All of them have left their places.
  assertEquals((await handler(post({ model: "small", prompt: "a", max_tokens: 1 }))).status, 200);
});

testServed("so many requests and no more; who leaves makes room", async ({ handlerOf }, device) => {
  const handler = handlerOf({ atWork: 1, waiting: 1 });
  const asked = { model: "small", prompt: "fish", max_tokens: 100, stream: true, seed: 1 };
  // The model keeps the rotations of as many positions as it has met.
  await (await handler(post(asked))).text();
  const before = device.memory().liveBytes;
  const working = await handler(post(asked));
  const reader = working.body!.getReader();
  await reader.read();
  assert(device.memory().liveBytes > before);
  let isAnswered = false;
  const waiting = handler(post({ ...asked, stream: false, max_tokens: 2 }));
  waiting.then(() => isAnswered = true);
  await new Promise((resolve) => setTimeout(resolve, 30));
  const refused = await errorOf(await handler(post(asked)));
  assertEquals([refused.status, refused.type], [429, "rate_limit_error"]);
  assertEquals(refused.code, "rate_limit_exceeded");
  assert(!isAnswered);
  await reader.cancel();
  assertEquals((await choicesOf(await waiting)).length, 1);
  assertEquals(device.memory().liveBytes, before);
  // A stream that nobody reads, and a client that is gone before its reply.
  await (await handler(post(asked))).body!.cancel();
  const client = new AbortController();
  const gone = handler(post({ ...asked, stream: false }, { signal: client.signal }));
  setTimeout(() => client.abort(), 20);
  assertEquals((await errorOf(await gone)).status, 499);
  assertEquals(device.memory().liveBytes, before);
  assertEquals((await handler(post({ ...asked, stream: false, max_tokens: 1 }))).status, 200);
});

test("a queue never has more at work than it should, and serves in order", () =>
  fc.assert(fc.asyncProperty(
    fc.integer({ min: 1, max: 3 }),
    fc.integer({ min: 0, max: 3 }),
    fc.array(fc.nat(9), { maxLength: 40 }),
    async (atWork, waiting, steps) => {
      const queue = new Queue({ atWork, waiting });
      const places: { place: Place; number: number }[] = [];
      const started: number[] = [];
      for (const [number, step] of steps.entries()) {
        if (step < 5) {
          if (places.length === atWork + waiting) {
            assertThrows(() => queue.join(), RequestError, "waiting already");
            continue;
          }
          const place = queue.join();
          place.turn().then(() => started.push(number));
          places.push({ place, number });
        } else {
          // One that is at work leaves, twice as all may.
          const working = places.filter(({ number }) => started.includes(number));
          const one = working[step % Math.max(working.length, 1)];
          if (one === undefined) continue;
          places.splice(places.indexOf(one), 1);
          one.place[Symbol.dispose]();
          one.place[Symbol.dispose]();
        }
        await new Promise<void>((resolve) => queueMicrotask(() => queueMicrotask(resolve)));
        const working = places.filter(({ number }) => started.includes(number));
        assertEquals(working.length, Math.min(atWork, places.length));
        assertEquals(queue.taken, places.length);
        assertEquals(started, started.toSorted((a, b) => a - b));
      }
    },
  )));

testServed("a request that fails harms no other", async ({ tokenizer, handlerOf, errors }) => {
  const failing: TextTokenizer = {
    ...tokenizer,
    encode(text) {
      if (text.includes("bomb")) throw new Error("a secret of the server");
      return tokenizer.encode(text);
    },
    decode(tokens) {
      if (tokens.includes(1)) throw new Error("a secret of the server");
      return tokenizer.decode(tokens);
    },
  };
  const handler = handlerOf({ tokenizer: failing, atWork: 3, waiting: 0 });
  const good = { model: "small", prompt: "fish", max_tokens: 3, temperature: 0, echo: true };
  const [expected] = await choicesOf(await handler(post(good)));
  const [bomb, middle, other] = await Promise.all([
    handler(post({ ...good, prompt: "a bomb" })),
    handler(post({ ...good, prompt: [0, 1] })),
    handler(post(good)),
  ]);
  for (const reply of [bomb, middle]) {
    const error = await errorOf(reply);
    assertEquals([error.status, error.type], [500, "server_error"]);
    assert(!error.message.includes("secret"));
  }
  assertEquals(await choicesOf(other), [expected]);
  // A stream that fails says so and ends.
  const stream = await handler(post({ ...good, prompt: [0, 1], stream: true }));
  const events = eventsOf(await stream.text());
  assertEquals(JSON.parse(events.at(-1)!).error.type, "server_error");
  assertEquals(errors.splice(0).length, 3);
  assertEquals(await choicesOf(await handler(post(good))), [expected]);
});

testServed("no request, however odd, gets more than a refusal", async ({ handlerOf }) => {
  const handler = handlerOf();
  const good = { model: "small", prompt: [102, 105], max_tokens: 2, temperature: 0, logprobs: 1 };
  const [expected] = await choicesOf(await handler(post(good)));
  const fields = [
    ...["model", "prompt", "max_tokens", "temperature", "top_p", "n", "stream", "stream_options"],
    ...["logprobs", "echo", "stop", "seed", "user", "best_of", "suffix", "logit_bias", "__proto__"],
  ];
  const odd = fc.oneof(
    fc.jsonValue({ maxDepth: 3 }),
    fc.integer({ min: -3, max: 300 }),
    fc.double(),
    fc.boolean(),
    fc.string({ unit: "binary" }),
    fc.array(fc.oneof(fc.integer({ min: 0, max: 300 }), fc.string()), { maxLength: 4 }),
    fc.array(fc.array(fc.integer({ min: 0, max: 257 }), { maxLength: 4 }), { maxLength: 4 }),
  );
  const changed = fc.array(fc.tuple(fc.constantFrom(...fields), odd), { maxLength: 3 })
    .map((pairs) => JSON.stringify({ ...good, ...Object.fromEntries(pairs) }));
  const bodies = fc.oneof(
    { weight: 6, arbitrary: changed },
    { weight: 1, arbitrary: fc.json() },
    { weight: 1, arbitrary: fc.string({ unit: "binary" }) },
    { weight: 1, arbitrary: fc.uint8Array() },
  );
  const statuses = new Map<number, number>();
  await fc.assert(
    fc.asyncProperty(bodies, async (body) => {
      const reply = await handler(post(null, { body: body as BodyInit }));
      statuses.set(reply.status, (statuses.get(reply.status) ?? 0) + 1);
      if (reply.headers.get("content-type") === "text/event-stream") {
        assertEquals(eventsOf(await reply.text()).at(-1), "[DONE]");
      } else if (reply.status === 200) {
        assert((await choicesOf(reply)).length >= 1);
      } else {
        const { status, type } = await errorOf(reply);
        assert([400, 404].includes(status), `status ${status}`);
        assertEquals(type, "invalid_request_error");
      }
    }),
    { numRuns: 300 },
  );
  assert(statuses.get(200)! > 10 && statuses.get(400)! > 50, JSON.stringify([...statuses]));
  assertEquals(await choicesOf(await handler(post(good))), [expected]);
});

test("`deno task serve` listens here only, and answers what it was asked before it ends", () =>
  inFolder(async (folder) => {
    await writeModel(folder);
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--no-check", "--unstable-no-legacy-abort", "examples/serve.ts"],
        ...["--model", folder, "--name", "small", "--port", "0", "--backend", "cpu"],
        ...["--at-work", "1", "--waiting", "0"],
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
    const ask = (more: object, init: RequestInit = {}) =>
      fetch(`${url}/completions`, {
        method: "POST",
        headers: JSON_TYPE,
        body: JSON.stringify({ model: "small", prompt: "fish", ...more }),
        ...init,
      });
    const prompts = [byteTokenizer.encode("fish swim"), byteTokenizer.encode("eggs")];
    const scored = parseLogprobs(await choicesOf(await ask(scoring(prompts))), [4, 2]);
    assert(scored.every(([sum]) => Number.isFinite(sum) && sum < 0));
    assertEquals((await errorOf(await ask({ max_tokens: 1000 }))).status, 400);

    // Clients that leave in the middle leave no trace.
    const client = new AbortController();
    const left = await ask({ max_tokens: 120, stream: true }, { signal: client.signal });
    await left.body!.getReader().read();
    client.abort();
    let status = 429;
    for (let tries = 0; status === 429 && tries < 200; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      const reply = await ask({ max_tokens: 1 });
      status = reply.status;
      await reply.body!.cancel();
    }
    assertEquals(status, 200);

    const reply = await ask({ max_tokens: 120, stream: true, seed: 1, stop: null });
    const reader = reply.body!.pipeThrough(new TextDecoderStream()).getReader();
    let text = (await reader.read()).value!;
    child.kill("SIGINT");
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      text += value;
    }
    assertEquals(eventsOf(text).at(-1), "[DONE]");
    const { code } = await child.status;
    await lines.return?.();
    assertEquals([code, (await stderr).includes("ending:")], [0, true]);
  }));

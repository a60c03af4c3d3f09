/** `deno task serve`: what it refuses, how much it takes on at once, and that no client harms another. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { RequestError } from "../examples/serve/errors.ts";
import { type Place, Queue } from "../examples/serve/queue.ts";
import type { TextTokenizer } from "../examples/models/tokenizer.ts";
import { test } from "./harness.ts";
import { choicesOf, errorOf, eventsOf, JSON_TYPE, post, testServed } from "./served.ts";

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
  // A client that is gone in the middle is no fault of the server.
  const broken = new ReadableStream<Uint8Array>({
    pull: (controller) => controller.error(new TypeError("connection reset")),
  });
  assertEquals(await sent({ body: broken }), 400);
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

testServed("who leaves while waiting makes room at once", async ({ handlerOf }) => {
  const handler = handlerOf({ atWork: 1, waiting: 1 });
  const asked = { model: "small", prompt: "fish", max_tokens: 100, seed: 1 };
  const working = await handler(post({ ...asked, stream: true }));
  const client = new AbortController();
  const left = handler(post(asked, { signal: client.signal }));
  await new Promise((resolve) => setTimeout(resolve, 20));
  assertEquals((await errorOf(await handler(post(asked)))).status, 429);
  client.abort();
  assertEquals((await errorOf(await left)).status, 499);
  // Its place is free, though nobody has read a word of the stream.
  const next = handler(post({ ...asked, max_tokens: 1 }));
  await working.body!.cancel();
  assertEquals((await choicesOf(await next)).length, 1);
});

testServed(
  "a client that leaves while its next piece is made is no error",
  async ({ handlerOf }) => {
    const handler = handlerOf({ atWork: 1, waiting: 0 });
    const asked = { model: "small", prompt: "fish", max_tokens: 60, stream: true, seed: 1 };
    for (let pieces = 0; pieces < 6; pieces++) {
      const reader = (await handler(post(asked))).body!.getReader();
      for (let i = 0; i < pieces; i++) await reader.read();
      const next = reader.read();
      await reader.cancel();
      await next;
    }
    const [choice] = await choicesOf(await handler(post({ ...asked, stream: false })));
    assert(choice.text !== "");
  },
);

testServed("a client that does not read its stream loses its turn", async ({ handlerOf }) => {
  const handler = handlerOf({ atWork: 1, waiting: 1, readTimeout: 100 });
  const asked = { model: "small", prompt: "fish", max_tokens: 60, stream: true, seed: 1 };
  const whole = await (await handler(post(asked))).text();
  assertEquals(eventsOf(whole).at(-1), "[DONE]");
  for (const pieces of [0, 2]) {
    const stalled = await handler(post(asked));
    const reader = stalled.body!.getReader();
    for (let i = 0; i < pieces; i++) await reader.read();
    const next = await handler(post({ ...asked, stream: false, max_tokens: 2 }));
    assertEquals((await choicesOf(next)).length, 1);
    // What it still reads is an error, and not the end of a whole text.
    const decoder = new TextDecoder();
    let text = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      text += decoder.decode(part.value, { stream: true });
    }
    const events = eventsOf(text);
    assertEquals(events.length, 1);
    assert(JSON.parse(events[0]).error.message.includes("was not read for 100 ms"), events[0]);
  }
});

test("a queue never has more at work than it should, and serves in order", () =>
  fc.assert(fc.asyncProperty(
    fc.integer({ min: 1, max: 3 }),
    fc.integer({ min: 0, max: 3 }),
    fc.array(fc.nat(11), { maxLength: 40 }),
    async (atWork, waiting, steps) => {
      const queue = new Queue({ atWork, waiting });
      const places: { place: Place; number: number; client: AbortController }[] = [];
      const started: number[] = [];
      const isWorking = ({ number }: { number: number }) => started.includes(number);
      for (const [number, step] of steps.entries()) {
        if (step < 6) {
          if (places.length === atWork + waiting) {
            assertThrows(() => queue.join(), RequestError, "waiting already");
            continue;
          }
          const place = queue.join();
          const client = new AbortController();
          place.turn(client.signal).then(() => started.push(number), () => {});
          places.push({ place, number, client });
        } else {
          // One that is at work, or one that waits, leaves, twice as all may.
          const some = places.filter((one) => isWorking(one) === (step < 9));
          const one = some[step % Math.max(some.length, 1)];
          if (one === undefined) continue;
          places.splice(places.indexOf(one), 1);
          one.client.abort();
          one.place[Symbol.dispose]();
          one.place[Symbol.dispose]();
        }
        await new Promise<void>((resolve) => queueMicrotask(() => queueMicrotask(resolve)));
        assertEquals(places.filter(isWorking).length, Math.min(atWork, places.length));
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

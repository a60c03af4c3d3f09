/** `deno task serve`: what it answers, to a client that reads replies as lm-evaluation-harness's does. */
import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertNotEquals,
  assertRejects,
} from "@std/assert";
import { byteTokenizer } from "../examples/models/byte_tokenizer.ts";
import { generate, logLikelihoods } from "../src/models/mod.ts";
import { inFolder } from "./checkpoints.ts";
import { testInDeno } from "./harness.ts";
import {
  type Choice,
  choicesOf,
  errorOf,
  eventsOf,
  JSON_TYPE,
  parseLogprobs,
  post,
  scoring,
  startServer,
  testServed,
  writeModel,
} from "./served.ts";

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

testServed(
  "a prompt goes through the model once, however often it is continued",
  async (served) => {
    const { model, tokenizer, handlerOf } = served;
    const asked = { model: "small", max_tokens: 3, seed: 2, logprobs: 1, echo: true };
    const prompts = ["the fish swim on", "x"];
    const alone = await choicesOf(await handlerOf()(post({ ...asked, prompt: prompts[0] })));
    const { extend } = model;
    let seen = 0;
    model.extend = (context, ids, options) => {
      seen += ids.size;
      return extend.call(model, context, ids, options);
    };
    const choices = await choicesOf(await handlerOf()(post({ ...asked, prompt: prompts, n: 3 })));
    // All but each prompt's last token; then for each choice this one and two of those written.
    const lengths = prompts.map((prompt) => tokenizer.encode(prompt).length);
    assertEquals(seen, lengths.reduce((sum, length) => sum + length - 1 + 3 * 3, 0));
    assertEquals(choices[0], alone[0]);
    assertEquals(new Set(choices.slice(0, 3).map(({ text }) => text)).size, 3);
    const ofPrompt = choices.slice(0, 3).map(({ logprobs }) =>
      logprobs!.token_logprobs.slice(0, lengths[0])
    );
    assertEquals(ofPrompt, Array(3).fill(ofPrompt[0]));
  },
);

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
  const wrong = await get("/v1/completions");
  assertEquals([wrong.status, wrong.headers.get("allow")], [405, "POST"]);
  await errorOf(wrong);
  assertEquals((await errorOf(await get("/constructor"))).status, 404);
});

testInDeno(
  "`deno task serve` listens here only, and answers what it was asked before it ends",
  () =>
    inFolder(async (folder) => {
      await writeModel(folder);
      const { child, url, stderr } = await startServer(folder, "--at-work 1 --waiting 0");
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
      for (const stream of [true, false]) {
        const client = new AbortController();
        // Long enough not to be there before the client leaves.
        const left = ask({ max_tokens: 120, n: 16, stream }, { signal: client.signal });
        if (stream) await (await left).body!.getReader().read();
        else await new Promise((resolve) => setTimeout(resolve, 20));
        client.abort();
        if (!stream) await assertRejects(() => left, DOMException);
        let status = 429;
        for (let tries = 0; status === 429 && tries < 200; tries++) {
          await new Promise((resolve) => setTimeout(resolve, 10));
          const reply = await ask({ max_tokens: 1 });
          status = reply.status;
          await reply.body!.cancel();
        }
        assertEquals(status, 200);
      }

      const reply = await ask({ max_tokens: 120, stream: true, seed: 1, stop: null });
      const reader = reply.body!.pipeThrough(new TextDecoderStream()).getReader();
      let text = (await reader.read()).value!;
      child.kill("SIGINT");
      const told = performance.now();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += value;
      }
      assertEquals(eventsOf(text).at(-1), "[DONE]");
      const { code } = await child.status;
      // Those who left in the middle are waited for no longer than it takes.
      assert(performance.now() - told < 30_000, "it took half a minute to end");
      assertEquals(code, 0);
      assert(/^ending: .+\n$/.test(await stderr), await stderr);
    }),
);

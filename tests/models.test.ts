import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { io, LevinError, loss, noGrad, ShapeError, type Tensor, tensor } from "../mod.ts";
import { generate, type GenerateOptions, TransNormerLLM } from "../src/models/mod.ts";
import { assertNear, testOnBackends, testOnCpu } from "./harness.ts";

const CONFIG = { vocabulary: 13, size: 12, layers: 2, heads: 3, inner: 20 };
const ids = (...values: number[]): Tensor => tensor([values], { dtype: "i32" });
const sequence = fc.array(fc.nat(12), { minLength: 2, maxLength: 20 });

/** A model whose weights are large enough for its logits to differ. */
function loudModel(seed = 1): TransNormerLLM {
  const model = new TransNormerLLM(CONFIG, { seed, blockSize: 4 });
  const louder = Object.entries(model.parameters()).map(([name, p]) =>
    [name, noGrad(() => p.mul(name.includes("theta") ? 1 : 15))] as const
  );
  model.load(Object.fromEntries(louder));
  for (const [, p] of louder) p.dispose();
  return model;
}

testOnBackends(
  "a sequence split anywhere, its state carried, has the logits of the whole",
  async () => {
    using model = loudModel();
    await fc.assert(
      fc.asyncProperty(sequence, fc.nat(), async (values, at) => {
        const cut = 1 + at % (values.length - 1);
        using whole = model.forward(ids(...values));
        const first = model.forwardWithState(ids(...values.slice(0, cut)));
        const rest = model.forwardWithState(ids(...values.slice(cut)), first.state);
        const joined = first.logits.concat(rest.logits, 1);
        assertEquals(rest.state.position, values.length);
        await assertNear(joined, await whole.data(), 1e-4);
        first.state[Symbol.dispose]();
        rest.state[Symbol.dispose]();
      }),
      { numRuns: 8 },
    );
  },
);

testOnBackends("a later token changes nothing before it", async () => {
  using model = loudModel();
  const read = async (...values: number[]) =>
    await model.forward(ids(...values)).slice(null, [0, 5]).data();
  const before = await read(1, 2, 3, 4, 5, 6, 7);
  assert(before.some((value) => value !== 0));
  assertEquals(await read(1, 2, 3, 4, 5, 12, 0), before);
});

testOnBackends("every parameter gets a gradient", async () => {
  using model = loudModel();
  loss.crossEntropy(model.forward(ids(1, 2, 3, 4)), ids(2, 3, 4, 5)).backward();
  for (const [name, { grad }] of Object.entries(model.parameters())) {
    const values = await grad!.data();
    assert(values.some((value) => value !== 0), `${name} has a gradient of zeros`);
    assert(values.every(Number.isFinite), `${name} has a gradient that is not finite`);
  }
});

testOnBackends("a model that is saved and loaded has equal logits", async () => {
  const path = await Deno.makeTempFile();
  try {
    using model = loudModel();
    using other = new TransNormerLLM(CONFIG, { seed: 2, blockSize: 4 });
    const expected = await model.forward(ids(1, 2, 3)).data();
    await io.saveSafetensors(path, model.parameters());
    other.load((await io.loadSafetensors(path)).tensors);
    assertEquals(await other.forward(ids(1, 2, 3)).data(), expected);
  } finally {
    await Deno.remove(path);
  }
});

async function written(model: TransNormerLLM, options: GenerateOptions): Promise<number[]> {
  return await Array.fromAsync(generate(model, [1, 2, 3], options));
}

testOnBackends("writing follows its seed, and at temperature 0 the likeliest token", async () => {
  using model = loudModel();
  const options = { maxTokens: 12, seed: 5 };
  const tokens = await written(model, options);
  assertEquals(tokens.length, 12);
  assert(tokens.every((token) => Number.isInteger(token) && token >= 0 && token < 13));
  assertEquals(await written(model, options), tokens);
  assert((await written(model, { ...options, seed: 6 })).some((token, i) => token !== tokens[i]));

  const greedy = await written(model, { maxTokens: 6, temperature: 0 });
  const logits = model.forward(ids(1, 2, 3, ...greedy.slice(0, -1)));
  const likeliest = await logits.argmax(-1).data();
  assertEquals(greedy, [...likeliest.slice(2)]);
  assertEquals(await written(model, { maxTokens: 6, topK: 1, seed: 9 }), greedy);
  assertEquals(await written(model, { maxTokens: 6, topP: 1e-9, seed: 9 }), greedy);
});

testOnBackends("writing takes the same memory after any number of tokens", async (device) => {
  using model = loudModel();
  const before = device.memory();
  const bytes: number[] = [];
  for await (const _ of generate(model, [1, 2, 3], { maxTokens: 60, seed: 1 })) {
    bytes.push(device.memory().liveBytes);
    if (bytes.length === 40) break;
  }
  assert(bytes[5] > before.liveBytes);
  assertEquals(bytes[39], bytes[5]);
  assertEquals(device.memory(), { ...before, pooledBytes: device.memory().pooledBytes });
});

testOnCpu("options, sizes and states that make no sense are refused", async () => {
  using model = new TransNormerLLM(CONFIG);
  const first = (prompt: number[], options: GenerateOptions) =>
    generate(model, prompt, options).next();
  await assertRejects(() => first([], {}), ShapeError, "prompt");
  await assertRejects(() => first([1], { temperature: -1 }), ShapeError, "temperature");
  await assertRejects(() => first([1], { topP: 0 }), ShapeError, "topP");
  await assertRejects(() => first([1], { topK: 0 }), ShapeError, "topK");
  assertThrows(() => new TransNormerLLM({ ...CONFIG, layers: 0 }), ShapeError, "layers");
  assertThrows(() => new TransNormerLLM({ ...CONFIG, heads: 5 }), ShapeError, "divide");
  assertThrows(() => model.forward(tensor([1], { dtype: "i32" })), ShapeError, "ids");
  using other = new TransNormerLLM({ ...CONFIG, layers: 1 });
  const { state } = other.forwardWithState(ids(1));
  assertThrows(() => model.forwardWithState(ids(1), state), LevinError, "layers");
  state[Symbol.dispose]();
});

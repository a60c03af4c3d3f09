/** TransNormerLLM: its state, its gradients, its files, and writing with it. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { io, LevinError, loss, noGrad, ShapeError, type Tensor, tensor } from "../mod.ts";
import { generate, type GenerateOptions, TransNormerLLM } from "../src/models/mod.ts";
import { assertNear, runs, testOnBackends, testOnCpu } from "./harness.ts";

const CONFIG = { vocabulary: 13, size: 12, layers: 2, heads: 3, inner: 20 };
const ids = (...values: number[]): Tensor => tensor([values], { dtype: "i32" });
const sequence = fc.array(fc.nat(12), { minLength: 2, maxLength: 20 });

/** A model whose weights are large enough for its logits to differ. */
function loudModel(seed = 1, attention: 1 | 2 = 2): TransNormerLLM {
  const model = new TransNormerLLM(CONFIG, { seed, attention, blockSize: 4 });
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
        using context = model.start();
        const first = model.extend(context, ids(...values.slice(0, cut)));
        const rest = model.extend(context, ids(...values.slice(cut)));
        const joined = first.concat(rest, 1);
        assertEquals(context.positions, [values.length]);
        const expected = await whole.data();
        assert(expected.some((value) => value !== 0));
        await assertNear(joined, expected, 1e-4);
      }),
      runs(8),
    );
  },
);

testOnBackends("a batch has the logits of its sequences alone, token by token", async () => {
  using model = loudModel();
  const rows = [[1, 2, 3, 4, 5, 6], [12, 0, 7, 7, 1, 9]];
  const whole = model.forward(tensor(rows, { dtype: "i32" }));
  for (const [i, row] of rows.entries()) {
    using context = model.start();
    const steps = row.map((id) => model.extend(context, ids(id)));
    const alone = steps[0].concat(steps.slice(1), 1);
    const expected = await whole.slice(i).data();
    assert(expected.some((value) => value !== 0));
    await assertNear(alone, expected, 1e-4, `sequence ${i}`);
  }
});

testOnCpu("a model has as many parameters as its sizes say", () => {
  const sizes = fc.record({
    vocabulary: fc.integer({ min: 1, max: 30 }),
    layers: fc.integer({ min: 1, max: 3 }),
    heads: fc.integer({ min: 1, max: 4 }),
    inner: fc.integer({ min: 1, max: 20 }),
    head: fc.integer({ min: 1, max: 5 }),
  });
  fc.assert(
    fc.property(sizes, ({ head, ...rest }) => {
      const { vocabulary, layers, heads, inner } = rest;
      const size = heads * head;
      using model = new TransNormerLLM({ ...rest, size });
      const layer = 5 * size ** 2 + 3 * size * inner;
      assertEquals(model.parameterCount(), 2 * vocabulary * size + size + layers * layer);
    }),
    runs(30),
  );
});

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

testOnBackends("Lightning Attention-1 and -2 give the same logits and gradients", async () => {
  using first = loudModel(1, 1);
  using second = loudModel(1, 2);
  const values = Array.from({ length: 70 }, (_, i) => (i * i + 3) % 13);
  const [x, y] = [ids(...values.slice(0, -1)), ids(...values.slice(1))];
  const [one, two] = [first, second].map((model) => model.forward(x));
  const expected = await two.data();
  assert(expected.some((value) => value !== 0));
  await assertNear(one, expected, 1e-5, "logits");
  [one, two].forEach((logits) => loss.crossEntropy(logits, y).backward());
  for (const [name, { grad }] of Object.entries(first.parameters())) {
    const expected = await second.parameters()[name].grad!.data();
    assert(expected.some((value) => value !== 0), name);
    await assertNear(grad!, expected, 1e-4, `the gradient of ${name}`);
  }
});

testOnBackends("a model that is saved and loaded has equal logits", async () => {
  using model = loudModel();
  using other = new TransNormerLLM(CONFIG, { seed: 2, blockSize: 4 });
  const expected = await model.forward(ids(1, 2, 3)).data();
  assert(expected.some((value) => value !== 0));
  const file = await io.encodeSafetensors(model.parameters());
  other.load(io.decodeSafetensors(file).tensors);
  assertEquals(await other.forward(ids(1, 2, 3)).data(), expected);
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
  for (const maxTokens of [-1, NaN]) {
    await assertRejects(() => first([1], { maxTokens }), ShapeError, "maxTokens");
  }
  for (const token of [13, -1, 1.5]) {
    await assertRejects(() => first([1, token], {}), ShapeError, `found ${token}`);
  }
  assertEquals(await first([12], { maxTokens: 0 }), { done: true, value: undefined });
  assertThrows(() => new TransNormerLLM({ ...CONFIG, layers: 0 }), ShapeError, "layers");
  assertThrows(() => new TransNormerLLM({ ...CONFIG, heads: 5 }), ShapeError, "divide");
  assertThrows(() => model.forward(tensor([1], { dtype: "i32" })), ShapeError, "ids");
  using other = new TransNormerLLM({ ...CONFIG, layers: 1 });
  using shallow = other.start();
  assertThrows(() => model.extend(shallow, ids(1)), LevinError, "layers");
  using narrow = new TransNormerLLM({ ...CONFIG, heads: 2 });
  using wider = narrow.start();
  narrow.extend(wider, ids(1));
  assertThrows(() => model.extend(wider, ids(1)), LevinError, "[1, 2, 12, 6]");
  using pair = model.start({ batch: 2 });
  assertThrows(() => model.extend(pair, ids(1)), ShapeError, "2 sequences");
});

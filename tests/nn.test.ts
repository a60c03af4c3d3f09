/** Layers against plain float64 arithmetic, and modules' parameters by name. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { LevinError, nn, randn, ShapeError, type Tensor, tensor, zeros } from "../mod.ts";
import { LRPE } from "../src/nn/transnormer.ts";
import { TransNormerLLM } from "../src/models/mod.ts";
import {
  assertNear,
  cpu,
  FLOATS,
  runs,
  testOnBackends,
  testOnCpu,
  testOnWebgpu,
  testReductions,
} from "./harness.ts";
import { attend, zeroMatrix } from "./oracle.ts";

const silu = (x: number) => x / (1 + Math.exp(-x));

/** Rows of x [rows, a] times the transpose of w [b, a]. */
function project(x: ArrayLike<number>, w: ArrayLike<number>, a: number): number[] {
  const [rows, b] = [x.length / a, w.length / a];
  return Array.from({ length: rows * b }, (_, i) => {
    let sum = 0;
    for (let j = 0; j < a; j++) sum += x[Math.floor(i / b) * a + j] * w[i % b * a + j];
    return sum;
  });
}

function normalised(x: ArrayLike<number>, size: number): number[] {
  return Array.from({ length: x.length }, (_, i) => {
    const start = i - i % size;
    let squares = 0;
    for (let j = 0; j < size; j++) squares += x[start + j] ** 2;
    return x[i] / Math.sqrt(squares / size + 1e-6);
  });
}

testOnBackends("Linear multiplies by its transposed weight and adds its bias", async () => {
  using layer = new nn.Linear(5, 3, { seed: 1, bias: true });
  const x = randn([2, 4, 5], { seed: 2 });
  const expected = project(await x.data(), await layer.weight.data(), 5);
  assertEquals([...await layer.bias!.data()], [0, 0, 0]);
  const bias = [1, -2, 0.5];
  layer.load({ weight: layer.weight, bias: tensor(bias) });
  const y = layer.forward(x);
  assertEquals(y.shape, [2, 4, 3]);
  await assertNear(y, expected.map((value, i) => value + bias[i % 3]), 1e-6);
});

testOnBackends("Embedding takes the rows that the ids name", async () => {
  using layer = new nn.Embedding(7, 3, { seed: 1 });
  const rows = await layer.weight.data();
  const y = layer.forward(tensor([[6, 0], [2, 6]], { dtype: "i32" }));
  assertEquals(y.shape, [2, 2, 3]);
  const expected = [6, 0, 2, 6].flatMap((id) => [...rows.slice(3 * id, 3 * id + 3)]);
  assertEquals([...await y.data()], expected);
  y.mul(tensor([[[1], [2]], [[3], [4]]])).sum().backward();
  const counts = [2, 0, 3, 0, 0, 0, 5].flatMap((count) => Array<number>(3).fill(count));
  assertEquals([...await layer.weight.grad!.data()], counts);
});

testReductions("SRMSNorm divides by the root of the mean square", async () => {
  using layer = new nn.SRMSNorm();
  const sizes = fc.record({
    rows: fc.integer({ min: 1, max: 5 }),
    size: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(127, 128, 129, 300)),
    dtype: fc.constantFrom(...FLOATS),
    seed: fc.nat(),
  });
  await fc.assert(
    fc.asyncProperty(sizes, async ({ rows, size, dtype, seed }) => {
      const x = randn([rows, size], { seed, dtype });
      const y = layer.forward(x);
      assertEquals([y.shape, y.dtype], [[rows, size], dtype]);
      await assertNear(y, normalised(await x.data(), size), dtype === "f16" ? 1e-3 : 1e-6);
    }),
    runs(20),
  );
});

testReductions("SRMSNorm of zeros is zero, and of small numbers what epsilon leaves", async () => {
  using layer = new nn.SRMSNorm();
  const x = tensor([[0, 0], [1e-3, 1e-3]]);
  const y = await layer.forward(x).data();
  assertEquals([...y.slice(0, 2)], [0, 0]);
  assert([...y.slice(2)].every((value) => Math.abs(value - Math.SQRT1_2) < 1e-5), `${y}`);
});

testOnBackends("SGLU is ((x W1) * (x W2)) W3", async () => {
  using layer = new nn.SGLU(6, 10, { seed: 1, std: 0.5 });
  const x = randn([2, 3, 6], { seed: 2 });
  const values = await x.data();
  const [w1, w2, w3] = await Promise.all(
    [layer.l1, layer.l2, layer.l3].map((l) => l.weight.data()),
  );
  const gate = project(values, w1, 6);
  const inner = project(values, w2, 6).map((value, i) => value * gate[i]);
  await assertNear(layer.forward(x), project(inner, w3, 10), 1e-5);
});

for (const positions of [false, true]) {
  const name = `gated linear attention ${positions ? "with" : "without"} positions`;
  testOnBackends(`${name} equals its definition in float64`, async () => {
    const [n, size, heads, start] = [9, 8, 2, 5];
    const head = size / heads;
    const slopes = [0.3, 0.01];
    const options = { heads, slopes, positions, seed: 3, std: 0.4 };
    using layer = new nn.GatedLinearAttention(size, options);
    const x = randn([1, n, size], { seed: 4 });
    const all = project(await x.data(), await layer.qkvu_proj.weight.data(), size);
    const theta = await layer.lrpe?.theta.data();
    const part = (which: number, h: number) =>
      Array.from({ length: n }, (_, t) =>
        Array.from({ length: head }, (_, i) => {
          const value = all[t * 4 * size + which * size + h * head + i];
          return which < 2 ? silu(value) : value;
        }));
    const place = (rows: number[][], h: number) =>
      theta === undefined ? rows : rows.map((row, t) => {
        const angles = row.map((_, i) => theta[h * head + i] * (start + t));
        return [
          ...row.map((value, i) => value * Math.cos(angles[i])),
          ...row.map((value, i) => value * Math.sin(angles[i])),
        ];
      });
    const o = new Float64Array(n * size);
    slopes.forEach((slope, h) => {
      const { o: rows } = attend({
        q: place(part(0, h), h),
        k: place(part(1, h), h),
        v: part(2, h),
        g: Array<number>(n).fill(-slope),
        scale: 1,
        initial: zeroMatrix(layer.keySize, head),
      });
      rows.forEach((row, t) => o.set(row, t * size + h * head));
    });
    const gated = normalised(o, size).map((value, i) =>
      value * all[Math.floor(i / size) * 4 * size + 3 * size + i % size]
    );
    const expected = project(gated, await layer.out_proj.weight.data(), size);
    await assertNear(layer.forward(x, start), expected, 1e-5);
    using first = new nn.GatedLinearAttention(size, { ...options, attention: 1 });
    await assertNear(first.forward(x, start), expected, 1e-5, "Lightning Attention-1");
    using memory = new nn.LinearMemory();
    await assertNear(layer.forward(x, start, memory), expected, 1e-5, "with a memory");
    assertEquals(memory.state!.shape, [1, heads, positions ? 2 * head : head, head]);
  });
}

testOnBackends("with LRPE a score depends only on how far apart query and key are", async () => {
  using lrpe = new LRPE(2, 4);
  const [q, k] = [1, 2].map((seed) => randn([1, 2, 1, 4], { seed }));
  const score = (i: number, j: number) => lrpe.forward(q, i).mul(lrpe.forward(k, j)).sum(-1);
  const expected = await score(7, 3).data();
  assert(expected.some((value) => Math.abs(value) > 0.1));
  await assertNear(score(104, 100), expected, 1e-4);
  const other = await score(7, 4).data();
  assert(other.some((value, i) => Math.abs(value - expected[i]) > 1e-3));
});

testOnCpu("a model's parameters have the names of released checkpoints", () => {
  using model = new TransNormerLLM({ vocabulary: 11, size: 8, layers: 2, heads: 2, inner: 12 });
  const names = ["token_mixer.qkvu_proj", "token_mixer.out_proj", "channel_mixer.l1"]
    .concat(["channel_mixer.l2", "channel_mixer.l3"]);
  const expected = [
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.layers.0.token_mixer.lrpe.theta",
    ...[0, 1].flatMap((i) => names.map((name) => `model.layers.${i}.${name}.weight`)),
  ];
  assertEquals(Object.keys(model.parameters()).sort(), expected.sort());
  const { "model.layers.0.token_mixer.lrpe.theta": theta } = model.parameters();
  assertEquals(theta.shape, [2, 1, 4]);
  assertEquals(model.parameterCount(), 2 * 11 * 8 + 8 + 2 * (5 * 8 * 8 + 3 * 8 * 12));
});

testOnCpu("loading names everything that does not fit, and then changes nothing", async () => {
  using layer = new nn.SGLU(2, 3, { seed: 1 });
  const before = await layer.l1.weight.data();
  const values: Record<string, Tensor> = {
    "l1.weight": zeros([3, 2]),
    "l2.weight": zeros([3, 3]),
    "l4.weight": zeros([1]),
  };
  const error = assertThrows(() => layer.load(values), LevinError) as LevinError;
  for (const name of ["l2.weight", "l3.weight", "l4.weight"]) assert(error.message.includes(name));
  assertEquals(await layer.l1.weight.data(), before);
});

testOnBackends("loading a tensor that was disposed names it and changes nothing", async () => {
  using layer = new nn.SGLU(2, 3, { seed: 1 });
  const before = await layer.l1.weight.data();
  const gone = zeros([3, 2]);
  gone.dispose();
  const values = { "l1.weight": zeros([3, 2]), "l2.weight": gone, "l3.weight": zeros([2, 3]) };
  assertThrows(() => layer.load(values), LevinError, "l2.weight was disposed");
  assertEquals(await layer.l1.weight.data(), before);
});

testOnWebgpu("loading a tensor of another device names it and changes nothing", async () => {
  using layer = new nn.SGLU(2, 3, { seed: 1 });
  const before = await layer.l1.weight.data();
  using stranger = zeros([3, 2], { device: cpu });
  const values = { "l1.weight": zeros([3, 2]), "l2.weight": stranger, "l3.weight": zeros([2, 3]) };
  assertThrows(() => layer.load(values), LevinError, "l2.weight is on another device");
  assertEquals(await layer.l1.weight.data(), before);
});

testOnBackends("loading copies values and converts dtypes", async () => {
  using layer = new nn.Linear(2, 2, { seed: 1 });
  layer.load({ weight: tensor([[1, 2], [3, 4]], { dtype: "i32" }) });
  assertEquals([...await layer.weight.data()], [1, 2, 3, 4]);
});

testOnBackends("a module may load its own parameters, turned or exchanged", async () => {
  using layer = new nn.SGLU(2, 2, { seed: 1 });
  const [l1, l2, l3] = [[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 10], [11, 12]]];
  const weights = { "l1.weight": tensor(l1), "l2.weight": tensor(l2), "l3.weight": tensor(l3) };
  const read = () => Promise.all([layer.l1, layer.l2, layer.l3].map((l) => l.weight.array()));
  layer.load(weights);
  layer.load({ ...layer.parameters(), "l2.weight": weights["l1.weight"] });
  assertEquals(await read(), [l1, l1, l3]);
  layer.load(weights);
  layer.load({
    "l1.weight": layer.l2.weight,
    "l2.weight": layer.l1.weight,
    "l3.weight": layer.l3.weight.transpose(),
  });
  assertEquals(await read(), [l2, l1, [[9, 11], [10, 12]]]);
});

testOnCpu("heads that do not divide the size are refused", () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 40 }), fc.integer({ min: 2, max: 12 }), (size, heads) => {
      fc.pre(size % heads !== 0);
      const slopes = Array<number>(heads).fill(0);
      assertThrows(() => new nn.GatedLinearAttention(size, { heads, slopes, seed: 1 }), ShapeError);
    }),
  );
});

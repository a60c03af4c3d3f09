/** Flash attention against softmax attention in float64, and its cache of keys and values. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  type Device,
  DTypeError,
  flashAttention,
  grad,
  gradcheck,
  KeyValueCache,
  LevinError,
  LimitError,
  naiveAttention,
  noGrad,
  randn,
  ShapeError,
  type Tensor,
  tensor,
  uniform,
  zeros,
} from "../mod.ts";
import {
  assertNear,
  FLOATS,
  matricesOf,
  relativeError,
  runs,
  sumsOf,
  testOnBackends,
  testOnCpu,
} from "./harness.ts";
import {
  attendSoftmax,
  attendSoftmaxGradients,
  type SoftmaxHead,
  softmaxTerms,
} from "./softmax_oracle.ts";

interface Problem {
  b: number;
  groups: number;
  members: number;
  n: number;
  before: number;
  d: number;
  e: number;
  causal: boolean;
  scale: number | undefined;
  dtype: "f32" | "f16";
  seed: number;
}

/**
 * Sizes and dtypes by the shaders that they need, of which a software adapter compiles one a second: tiles
 * narrow or wide, operands read one by one or by four.
 */
const sizes = fc.oneof(
  { weight: 2, arbitrary: sizesOf(fc.integer({ min: 0, max: 15 }).map((i) => 4 * i + 1), "f32") },
  { weight: 2, arbitrary: sizesOf(fc.integer({ min: 1, max: 16 }).map((i) => 4 * i), "f32") },
  sizesOf(fc.constantFrom(68, 100, 128, 132), "f32"),
  sizesOf(fc.constantFrom(68, 100, 128, 132), FLOATS.at(-1)!),
);

function sizesOf(size: fc.Arbitrary<number>, dtype: "f32" | "f16") {
  return fc.record({ d: size, e: size, dtype: fc.constant(dtype) });
}

const length = fc.oneof(fc.integer({ min: 0, max: 140 }), fc.constantFrom(1, 63, 64, 65, 128, 129));

/** Random problems: lengths often beside a tile's, and keys before the queries. */
const problems: fc.Arbitrary<Problem> = fc.record({
  b: fc.integer({ min: 1, max: 2 }),
  groups: fc.integer({ min: 1, max: 2 }),
  members: fc.integer({ min: 1, max: 3 }),
  n: length,
  before: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 100 })),
  causal: fc.boolean(),
  scale: fc.constantFrom(undefined, 0.5, -0.3),
  sizes,
  seed: fc.nat(),
}).map(({ sizes, ...rest }) => ({ ...rest, ...sizes }));

type Inputs = Record<"q" | "k" | "v", Tensor>;

function inputsOf(problem: Problem, requiresGrad = false): Inputs {
  const { b, groups, members, n, before, d, e, dtype, seed } = problem;
  const m = n + before;
  return {
    q: randn([b, groups * members, n, d], { seed, dtype, requiresGrad }),
    k: randn([b, groups, m, d], { seed: seed + 1, dtype, requiresGrad }),
    v: randn([b, groups, m, e], { seed: seed + 2, dtype, requiresGrad }),
  };
}

async function headsOf({ members, causal, scale, d }: Problem, inputs: Inputs) {
  const [q, k, v] = await Promise.all([inputs.q, inputs.k, inputs.v].map(matricesOf));
  return q.map((rows, i): SoftmaxHead => {
    const group = Math.floor(i / members);
    return { q: rows, k: k[group], v: v[group], scale: scale ?? d ** -0.5, causal };
  });
}

const within = ({ dtype }: Problem, exact: number) => dtype === "f16" ? 5e-3 : exact;

/** One problem, its outputs and all its gradients. */
async function check(problem: Problem): Promise<void> {
  const { members, n, e, causal, scale, dtype, seed } = problem;
  const inputs = inputsOf(problem, true);
  const o = flashAttention(inputs.q, inputs.k, inputs.v, { causal, scale });
  assertEquals([o.dtype, ...o.shape], [dtype, ...inputs.q.shape.with(3, e)]);
  const g = randn(o.shape, { seed: seed + 3, dtype });
  o.backward({ gradient: g });
  const heads = await headsOf(problem, inputs);
  const expected = heads.flatMap((head) => attendSoftmax(head, e));
  const sizes = heads.flatMap((head) => softmaxTerms(head, e));
  await assertNear(o, expected.flat(), within(problem, 1e-5), "o", sizes.flat());
  const gs = await matricesOf(g);
  const gradients = heads.map((head, i) => attendSoftmaxGradients(head, gs[i]));
  const queries = gradients.flatMap((one) => one.q.flat());
  const terms = gradients.flatMap((one) => one.terms.q.flat());
  // One key gets a gradient of 0 through the scores, of which rounding leaves no digit.
  const alone = n + problem.before === 1;
  const exact = within(problem, 1e-4);
  if (!alone) await assertNear(inputs.q.grad!, queries, exact, "dq", terms);
  for (const name of ["k", "v"] as const) {
    if (name === "k" && alone) continue;
    const sums = sumsOf(gradients.map((one) => one[name]), members);
    const terms = sumsOf(gradients.map((one) => one.terms[name]), members);
    await assertNear(inputs[name].grad!, sums, exact, `d${name}`, terms);
  }
  for (const t of Object.values(inputs)) t.grad = null;
}

testOnBackends("outputs and all gradients equal softmax attention in float64", async () => {
  await fc.assert(fc.asyncProperty(problems, check), runs(30));
});

testOnBackends("a score of nearly all the weight leaves few digits of dq, not none", async () => {
  // A counterexample of the property, while its bound was relative to dq alone.
  const seen = { before: 0, causal: true, scale: 0.5, seed: 787578311 };
  await check({ b: 1, groups: 1, members: 1, n: 2, d: 44, e: 4, dtype: "f32", ...seen });
});

testOnBackends("sizes of 256, sizes of 1, and no tokens at all", async () => {
  const base = { b: 1, groups: 1, members: 2, before: 3, causal: true, scale: undefined, seed: 7 };
  for (const [n, d, e] of [[70, 256, 256], [66, 129, 255], [65, 1, 1], [0, 8, 4], [1, 3, 1]]) {
    await check({ ...base, n, d, e, dtype: "f32" });
  }
  await check({ ...base, n: 70, d: 256, e: 256, dtype: "f16" });
});

testOnBackends("without keys there is nothing to see, and outputs are zeros", async () => {
  const q = randn([1, 2, 3, 4], { requiresGrad: true });
  const o = flashAttention(q, zeros([1, 2, 0, 4]), zeros([1, 2, 0, 5]), { causal: false });
  o.square().sum().backward();
  assertEquals(await o.data(), new Float32Array(30));
  assertEquals(await q.grad!.data(), new Float32Array(24));
  q.grad = null;
});

testOnBackends("changing a token changes nothing before it", async () => {
  const problem = fc.record({ n: fc.integer({ min: 2, max: 150 }), at: fc.nat(), seed: fc.nat() });
  await fc.assert(
    fc.asyncProperty(problem, async ({ n, at, seed }) => {
      const t = at % n;
      const inputs = [0, 1, 2].map((i) => randn([1, 2, n, 5], { seed: seed + i }));
      const changed = inputs.map((x, i) =>
        x.slice(null, null, [0, t]).concat(randn([1, 2, n - t, 5], { seed: seed + 9 + i }), 2)
      );
      const before = flashAttention(inputs[0], inputs[1], inputs[2]);
      const after = flashAttention(changed[0], changed[1], changed[2]);
      const past = (o: Tensor) => o.slice(null, null, [0, t]).data();
      assertEquals(await past(before), await past(after));
      const now = (o: Tensor) => o.slice(null, null, t).data();
      assert(relativeError(await now(before), await now(after)) > 1e-3);
    }),
    runs(15),
  );
});

testOnBackends("scores of ±10⁴ choose one key, and no gradient is NaN", async () => {
  // Rows of length 100: the score of a row and itself is 10⁴, of any two others far less.
  const drawn = randn([1, 1, 150, 16], { seed: 1 });
  const rows = drawn.mul(drawn.square().sum(-1, { keepDims: true }).rsqrt()).mul(100);
  const values = await rows.data();
  const leaf = () => tensor(values, { shape: rows.shape, requiresGrad: true });
  const [q, k] = [leaf(), leaf()];
  const v = randn([1, 1, 150, 16], { seed: 2, requiresGrad: true });
  const o = flashAttention(q, k, v, { scale: 1 });
  const g = randn(o.shape, { seed: 3 });
  o.backward({ gradient: g });
  await assertNear(o, await v.data(), 1e-6, "o");
  await assertNear(v.grad!, await g.data(), 1e-2, "dv");
  // Each query hates its own key most and takes the best of the others.
  flashAttention(q, k.neg(), v, { scale: 1, causal: false }).backward({ gradient: g });
  for (const t of [q, k, v]) {
    assert((await t.grad!.data()).every(Number.isFinite), `the gradient of ${t}`);
    t.grad = null;
  }
});

testOnBackends("results are the same bit for bit from run to run", async () => {
  const run = async () => {
    const [q, k, v] = [6, 2, 2].map((heads, i) =>
      randn([1, heads, 150, 16], { seed: i, requiresGrad: true })
    );
    const o = flashAttention(q, k, v);
    o.square().sum().backward();
    const found = await Promise.all([o, q.grad!, k.grad!, v.grad!].map((t) => t.data()));
    for (const t of [q, k, v]) t.grad = null;
    return found;
  };
  const first = await run();
  for (const values of first) assert(values.some((x) => x !== 0));
  assertEquals(first, await run());
});

testOnBackends("any strides are read without a copy", async (device: Device) => {
  const [b, n, h, d] = [2, 70, 4, 8];
  const apart = [h, 2, 2].map((heads, i) => randn([b, n, heads, d], { seed: i }));
  const byHead = apart.map((t) => t.permute([0, 2, 1, 3]));
  const before = device.memory().liveBytes;
  const strided = flashAttention(byHead[0], byHead[1], byHead[2]);
  const taken = device.memory().liveBytes - before;
  assert(taken <= strided.size * 4 * 17 / 16 + 256, `took ${taken} bytes`);
  const copied = byHead.map((t) => t.contiguous());
  const dense = flashAttention(copied[0], copied[1], copied[2]);
  const values = await strided.data();
  assert(values.some((x) => x !== 0));
  assertEquals(values, await dense.data());
});

testOnBackends("memory grows linearly with the sequence, gradients' too", (device: Device) => {
  const held = [256, 512, 1024].map((n) => {
    device.trim();
    const before = device.memory().liveBytes;
    const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 2, n, 8], { seed, requiresGrad: true }));
    const o = flashAttention(q, k, v);
    o.square().sum().backward();
    // Everything it used, scratch memory too, is live or in the pool now.
    const { liveBytes, pooledBytes } = device.memory();
    for (const t of [q, k, v]) t.grad = null;
    for (const t of [q, k, v, o]) t.dispose();
    return liveBytes + pooledBytes - before;
  });
  assert(held[1] / held[0] < 2.2 && held[2] / held[1] < 2.2, `bytes ${held}`);
  assert(held[2] < 1024 * 1024 * 2 * 4, `bytes ${held}`);
});

testOnBackends("it equals naive attention, to the second derivative", async () => {
  const inputs = [
    randn([1, 2, 4, 3], { seed: 1 }),
    randn([1, 1, 5, 3], { seed: 2 }),
    randn([1, 1, 5, 2], { seed: 3 }),
  ];
  for (const causal of [true, false]) {
    await gradcheck((q, k, v) => flashAttention(q, k, v, { causal, scale: 0.8 }), inputs);
    const gradients = (attend: (q: Tensor, k: Tensor, v: Tensor) => Tensor) =>
      grad(([q, k, v]: Tensor[]) => attend(q, k, v).square().sum());
    const flash = gradients((q, k, v) => flashAttention(q, k, v, { causal }));
    await gradcheck((...all) => flash(all), inputs);
    const naive = gradients((q, k, v) => naiveAttention(q, k, v, { kind: "softmax", causal }));
    const [found, expected] = [flash(inputs), naive(inputs)];
    for (const i of [0, 1, 2]) await assertNear(found[i], await expected[i].data(), 1e-4);
  }
});

testOnBackends("the gradient of one input alone is the same", async () => {
  const values = [1, 2, 3].map((seed) => randn([1, 2, 70, 8], { seed }));
  const all = grad(([q, k, v]: Tensor[]) => flashAttention(q, k, v).square().sum())(values);
  for (const i of [0, 1, 2]) {
    const alone = grad((x: Tensor) => {
      const [q, k, v] = values.with(i, x);
      return flashAttention(q, k, v).square().sum();
    })(values[i]);
    const found = await alone.data();
    assert(found.some((x) => x !== 0));
    assertEquals(found, await all[i].data());
  }
});

testOnBackends("decoding with a cache equals one pass", async (device: Device) => {
  const decoding = fc.record({
    parts: fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 5 }),
    spare: fc.integer({ min: 0, max: 20 }),
    dtype: fc.constantFrom(...FLOATS),
    seed: fc.nat(),
  });
  await fc.assert(
    fc.asyncProperty(decoding, async ({ parts, spare, dtype, seed }) => {
      const n = parts.reduce((a, b) => a + b, 0);
      const [b, heads] = [2, 2];
      using cache = new KeyValueCache({
        batch: b,
        heads,
        capacity: n + spare,
        keySize: 5,
        valueSize: 3,
        dtype,
      });
      const q = randn([b, 2 * heads, n, 5], { seed, dtype });
      const k = randn([b, heads, n, 5], { seed: seed + 1, dtype });
      const v = randn([b, heads, n, 3], { seed: seed + 2, dtype });
      const whole = flashAttention(q, k, v);
      const { liveBytes } = device.memory();
      let start = 0;
      const outputs = parts.map((tokens) => {
        const part = (t: Tensor) => t.slice(null, null, [start, start + tokens]);
        cache.append(part(k), part(v));
        const o = flashAttention(part(q), cache.k, cache.v);
        start += tokens;
        assertEquals(cache.length, start);
        return o;
      });
      const made = outputs.reduce((sum, o) => sum + o.size * 4 * 17 / 16 + 256, 0);
      assert(device.memory().liveBytes - liveBytes <= made, "the cache was reallocated");
      const together = outputs[0].concat(outputs.slice(1), 2);
      await assertNear(together, await whole.data(), dtype === "f16" ? 1e-3 : 1e-6);
      cache.truncate(Math.floor(n / 2));
      assertEquals(cache.k.shape, [b, heads, Math.floor(n / 2), 5]);
      assertEquals(
        await cache.v.data(),
        await v.slice(null, null, [0, Math.floor(n / 2)]).data(),
      );
    }),
    runs(12),
  );
});

testOnBackends("a cache takes its own views, and survives the scope it was made in", async () => {
  using cache = new KeyValueCache({ heads: 1, capacity: 8, keySize: 2 });
  const x = uniform([1, 1, 3, 2], { seed: 1 });
  cache.append(x, x.neg());
  cache.append(cache.k, cache.v);
  const [half, twice] = await Promise.all([x.data(), cache.k.data()]);
  assertEquals(twice, Float32Array.from([...half, ...half]));
});

testOnCpu("a gradient through what the cache has overwritten is refused", () => {
  using cache = new KeyValueCache({ heads: 1, capacity: 8, keySize: 2 });
  const x = randn([1, 1, 2, 2]);
  cache.append(x, x);
  const q = randn([1, 1, 2, 2], { requiresGrad: true });
  const o = flashAttention(q, cache.k, cache.v);
  cache.append(x, x);
  assertThrows(() => o.sum().backward(), LevinError, "written in place");
  assertThrows(() => cache.append(q, x), LevinError, "in place, which has no gradient");
  noGrad(() => cache.append(q, x));
  assertEquals(cache.length, 6);
});

testOnCpu("bad input is refused by the name of the argument", () => {
  const [q, v] = [randn([1, 4, 5, 4]), randn([1, 4, 5, 3])];
  const f = flashAttention;
  const part = (t: Tensor, end: number) => t.slice(null, null, [0, end]);
  assertThrows(() => f(q.squeeze(0), q, v), ShapeError, "q [4, 5, 4]");
  assertThrows(() => f(q, q, part(v, 4)), ShapeError, "v [1, 4, 4, 3]");
  assertThrows(() => f(q, q.slice(null, [0, 3]), v.slice(null, [0, 3])), ShapeError, "g dividing");
  assertThrows(() => f(q, part(q, 4), part(v, 4)), ShapeError, "5 causal queries");
  assertThrows(() => f(zeros([1, 1, 2, 0]), zeros([1, 1, 2, 0]), v), ShapeError, "d, e ≥ 1");
  assertThrows(() => f(q, q.to("f16"), v), DTypeError, "all f32 or all f16");
  assertThrows(() => f(q, q, v, { scale: NaN }), ShapeError, "scale");

  using cache = new KeyValueCache({ heads: 4, capacity: 6, keySize: 4, valueSize: 3 });
  cache.append(q, v);
  assertThrows(() => cache.append(q, v), LimitError, "5 positions of a capacity of 6");
  assertThrows(() => cache.append(v, v), ShapeError, "expected k of shape [1, 4, tokens, 4]");
  assertThrows(() => cache.append(part(q, 1), v), ShapeError, "expected v of shape");
  assertThrows(() => cache.append(q.to("f16"), v), DTypeError, "expected k of dtype f32");
  assertThrows(() => cache.truncate(6), ShapeError, "from 0 to 5");
  assertThrows(() => new KeyValueCache({ heads: 1, capacity: -1, keySize: 1 }), ShapeError, "-1");
  assertEquals(cache.length, 5);
});

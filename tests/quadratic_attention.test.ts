/**
 * The quadratic attentions that others are compared with: naive attention of both kinds against float64,
 * and what lightning_attention1.test.ts leaves of Lightning Attention-1.
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  type Device,
  DTypeError,
  grad,
  gradcheck,
  lightningAttention,
  lightningAttention1,
  naiveAttention,
  noGrad,
  randn,
  ShapeError,
  type Tensor,
  tensor,
  zeros,
} from "../mod.ts";
import { assertNear, matricesOf, runs, sumsOf, testOnBackends, testOnCpu } from "./harness.ts";
import { attend, attendGradients, type Head, type HeadSums, zeroMatrix } from "./oracle.ts";
import { attendSoftmax, attendSoftmaxGradients, softmaxTerms } from "./softmax_oracle.ts";

const RUNS = runs(15);

interface Problem {
  b: number;
  groups: number;
  members: number;
  n: number;
  d: number;
  e: number;
  slope: number;
  seed: number;
}

/** Sizes that no vector width divides: their shaders are few. */
const problems: fc.Arbitrary<Problem> = fc.record({
  b: fc.integer({ min: 1, max: 2 }),
  groups: fc.integer({ min: 1, max: 2 }),
  members: fc.integer({ min: 1, max: 3 }),
  n: fc.oneof(fc.integer({ min: 1, max: 130 }), fc.constantFrom(1, 63, 64, 65, 128)),
  d: fc.integer({ min: 0, max: 9 }).map((i) => 2 * i + 1),
  e: fc.integer({ min: 0, max: 9 }).map((i) => 2 * i + 1),
  slope: fc.constantFrom(0, 1e-8, 0.05, 0.917, 10),
  seed: fc.nat(),
});

function inputsOf({ b, groups, members, n, d, e, seed }: Problem, m = n): Tensor[] {
  const leaf = (heads: number, rows: number, width: number, i: number) =>
    randn([b, heads, rows, width], { seed: seed + i, requiresGrad: true });
  return [leaf(groups * members, n, d, 0), leaf(groups, m, d, 1), leaf(groups, m, e, 2)];
}

type Sums = Record<"q" | "k" | "v", number[][]>;
type Gradients = Sums & { terms: Sums };

async function assertGradients(
  [q, k, v]: Tensor[],
  expected: Gradients[],
  members: number,
): Promise<void> {
  const terms = expected.map((one) => one.terms);
  const sharers = { q: 1, k: members, v: members };
  for (const [name, t] of Object.entries({ q, k, v })) {
    const key = name as keyof Sums;
    const all = (sums: Sums[]) => sumsOf(sums.map((one) => one[key]), sharers[key]);
    await assertNear(t.grad!, all(expected), 1e-4, `d${name}`, all(terms));
    t.grad = null;
  }
}

/** The heads of a linear problem, in the order of time. */
async function linearHeads(
  { members, n, d, e, slope }: Problem,
  inputs: Tensor[],
  scale: number,
  reverse: boolean,
): Promise<Head[]> {
  const turned = (rows: number[][]) => reverse ? rows.toReversed() : rows;
  const [q, k, v] = await Promise.all(inputs.map(matricesOf));
  return q.map((rows, i) => ({
    q: turned(rows),
    k: turned(k[Math.floor(i / members)]),
    v: turned(v[Math.floor(i / members)]),
    g: Array<number>(n).fill(-Math.fround(slope)),
    scale,
    initial: zeroMatrix(d, e),
  }));
}

testOnBackends("Lightning Attention-1, grouped and either way, is the naive form", async () => {
  await fc.assert(
    fc.asyncProperty(problems, fc.boolean(), async (problem, reverse) => {
      const { members, d, e, slope, seed } = problem;
      const inputs = inputsOf(problem);
      const [q, k, v] = inputs;
      const o = lightningAttention1(q, k, v, { slopes: slope, scale: 0.5, reverse });
      const g = randn(o.shape, { seed: seed + 3 });
      o.backward({ gradient: g });
      const heads = await linearHeads(problem, inputs, 0.5, reverse);
      const turned = (rows: number[][]) => reverse ? rows.toReversed() : rows;
      const results = heads.map(attend);
      const all = (sums: HeadSums[]) => sums.flatMap((one) => turned(one.o).flat());
      await assertNear(o, all(results), 1e-5, "o", all(results.map((one) => one.terms)));
      const gs = await matricesOf(g);
      const expected = heads.map((head, i) => {
        const both = attendGradients(head, turned(gs[i]), zeroMatrix(d, e));
        const again = ({ q, k, v }: Sums) => ({ q: turned(q), k: turned(k), v: turned(v) });
        return { ...again(both), terms: again(both.terms) };
      });
      await assertGradients(inputs, expected, members);
    }),
    RUNS,
  );
});

testOnBackends("naive linear attention is the form it is named after", async () => {
  await fc.assert(
    fc.asyncProperty(problems, async (problem) => {
      const { members, d, e, slope, seed } = problem;
      const inputs = inputsOf(problem);
      const [q, k, v] = inputs;
      const o = naiveAttention(q, k, v, { slopes: slope, scale: 0.5 });
      const g = randn(o.shape, { seed: seed + 3 });
      o.backward({ gradient: g });
      const heads = await linearHeads(problem, inputs, 0.5, false);
      const results = heads.map(attend);
      const all = (sums: HeadSums[]) => sums.flatMap((one) => one.o.flat());
      await assertNear(o, all(results), 1e-5, "o", all(results.map((one) => one.terms)));
      const gs = await matricesOf(g);
      const expected = heads.map((head, i) => attendGradients(head, gs[i], zeroMatrix(d, e)));
      await assertGradients(inputs, expected, members);
    }),
    RUNS,
  );
});

testOnBackends("naive softmax attention is the form it is named after", async () => {
  const more = fc.record({ before: fc.integer({ min: 1, max: 40 }), causal: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(problems, more, async (problem, { before, causal }) => {
      const { members, n, e, seed } = problem;
      const inputs = inputsOf(problem, n + before);
      const [q, k, v] = inputs;
      const o = naiveAttention(q, k, v, { kind: "softmax", causal, scale: 0.5 });
      const g = randn(o.shape, { seed: seed + 3 });
      o.backward({ gradient: g });
      const [qs, ks, vs, gs] = await Promise.all([...inputs, g].map(matricesOf));
      const heads = qs.map((rows, i) => {
        const group = Math.floor(i / members);
        return { q: rows, k: ks[group], v: vs[group], scale: 0.5, causal };
      });
      const terms = heads.flatMap((head) => softmaxTerms(head, e).flat());
      await assertNear(o, heads.flatMap((head) => attendSoftmax(head, e).flat()), 1e-5, "o", terms);
      const expected = heads.map((head, i) => attendSoftmaxGradients(head, gs[i]));
      await assertGradients(inputs, expected, members);
    }),
    RUNS,
  );
});

testOnBackends("their default scales and slopes are those of the fast kernels", async () => {
  const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 3, 40, 5], { seed }));
  const expected = await lightningAttention(q, k, v).data();
  await assertNear(lightningAttention1(q, k, v), expected, 1e-5);
  await assertNear(naiveAttention(q, k, v), expected, 1e-5);
  const scaled = await naiveAttention(q.mul(5 ** -0.5), k, v, { kind: "softmax", scale: 1 }).data();
  await assertNear(naiveAttention(q, k, v, { kind: "softmax" }), scaled, 1e-6);
});

testOnBackends("changing a token changes nothing before it", async () => {
  const [n, t] = [140, 70];
  const inputs = [0, 1, 2].map((seed) => randn([1, 2, n, 5], { seed }));
  const changed = inputs.map((x, i) =>
    x.slice(null, null, [0, t]).concat(randn([1, 2, n - t, 5], { seed: 9 + i }), 2)
  );
  const o = (x: Tensor[]) => lightningAttention1(x[0], x[1], x[2], { slopes: [0.01, 0] });
  const [before, after] = await Promise.all([o(inputs).data(), o(changed).data()]);
  const at = (head: number, token: number) => (head * n + token) * 5;
  for (const head of [0, 1]) {
    const [from, to] = [at(head, 0), at(head, t)];
    assertEquals(before.slice(from, to), after.slice(from, to));
    assert(before[to] !== after[to]);
  }
});

testOnBackends("memory of Lightning Attention-1 grows linearly", (device: Device) => {
  const held = [256, 512, 1024].map((n) => {
    device.trim();
    const before = device.memory().liveBytes;
    const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 2, n, 5], { seed, requiresGrad: true }));
    const o = lightningAttention1(q, k, v);
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

testOnBackends(
  "Lightning Attention-1 holds its inputs for the gradient, not its output",
  (device) => {
    const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 2, 64, 16], { seed, requiresGrad: true }));
    const { liveBytes } = device.memory();
    const o = lightningAttention1(q, k, v);
    const sum = o.sum();
    o.dispose();
    assert(device.memory().liveBytes - liveBytes < 64 * 16 * 4, "the output is held");
    sum.dispose();
  },
);

testOnBackends("no tokens are no outputs", () => {
  const [q, v] = [zeros([1, 2, 0, 4]), zeros([1, 2, 0, 3])];
  assertEquals(lightningAttention1(q, q, v).shape, [1, 2, 0, 3]);
  assertEquals(naiveAttention(q, q, v).shape, [1, 2, 0, 3]);
  assertEquals(naiveAttention(q, q, v, { kind: "softmax" }).shape, [1, 2, 0, 3]);
});

testOnBackends("finite differences agree with the gradient's gradient", async () => {
  const inputs = [
    randn([1, 2, 4, 3], { seed: 1 }),
    randn([1, 1, 4, 3], { seed: 2 }),
    randn([1, 1, 4, 2], { seed: 3 }),
  ];
  const options = { slopes: [0.1, 0.5], scale: 0.7 };
  for (const attend of [lightningAttention1, naiveAttention]) {
    const gradient = grad(([q, k, v]: Tensor[]) => attend(q, k, v, options).square().sum());
    await gradcheck((...all) => gradient(all), inputs);
  }
});

testOnCpu("bad input is refused by the name of the argument", () => {
  const [q, k] = [randn([1, 2, 5, 4]), randn([1, 2, 6, 4])];
  for (const [name, f] of Object.entries({ lightningAttention1, naiveAttention })) {
    assertThrows(() => f(q.squeeze(0), q, q), ShapeError, `${name}: expected q, k and v`);
    assertThrows(() => f(q, q, k), ShapeError, "v [1, 2, 6, 4]");
    assertThrows(() => f(k, q, q), ShapeError, "6 causal queries");
    assertThrows(() => f(q, q, q.to("f16")), DTypeError, "all f32 or all f16");
    assertThrows(() => f(q, q, q, { scale: Infinity }), ShapeError, "scale");
    assertThrows(() => f(q, q, q, { slopes: [0.1] }), ShapeError, "2 heads");
    assertThrows(() => f(q, q, q, { slopes: tensor([1]) }), ShapeError, "slopes of shape");
  }
  assertThrows(() => lightningAttention1(q, k, k), ShapeError, "as many keys as queries");
  assertThrows(
    () => naiveAttention(q, q, q, { kind: "softmax", slopes: 1 }),
    ShapeError,
    "slopes are for linear",
  );
  const learnt = tensor([0.1, 0.2], { requiresGrad: true });
  assertEquals(noGrad(() => lightningAttention1(q, q, q, { slopes: learnt })).shape, q.shape);
});

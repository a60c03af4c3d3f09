/** Lightning Attention-2 against the naive quadratic form in float64, on random problems. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  decaySlopes,
  type Device,
  DTypeError,
  grad,
  gradcheck,
  lightningAttention,
  lightningAttentionWithState,
  randn,
  ShapeError,
  type Tensor,
  tensor,
  zeros,
} from "../mod.ts";
import {
  assertNear,
  FLOATS,
  matricesOf,
  relativeError,
  runs,
  testOnBackends,
  testOnCpu,
  toleranceOf,
} from "./harness.ts";
import {
  attend,
  attendGradients,
  type Head,
  type HeadGradientSums,
  type HeadSums,
} from "./oracle.ts";

interface Problem {
  b: number;
  h: number;
  n: number;
  d: number;
  e: number;
  slopes: number[];
  blockSize: number;
  scale: number;
  withState: boolean;
  dtype: "f32" | "f16";
  seed: number;
}

const slope = fc.oneof(
  fc.constantFrom(0, 0.917, 1e-8, 3.9e-8),
  fc.double({ min: 0, max: 0.917, noNaN: true }),
);

/** Random problems: n to a few hundred and often one beside a multiple of the block. */
const problems: fc.Arbitrary<Problem> = fc.record({
  b: fc.integer({ min: 1, max: 2 }),
  h: fc.integer({ min: 1, max: 3 }),
  d: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(33, 64, 65, 80)),
  e: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(33, 64, 65, 80)),
  blockSize: fc.constantFrom(1, 7, 16, 32, 64, 100, 128),
  scale: fc.constantFrom(1, 0.25),
  withState: fc.boolean(),
  dtype: fc.constantFrom(...FLOATS),
  seed: fc.nat(),
  length: fc.oneof(
    fc.integer({ min: 1, max: 300 }).map((n) => () => n),
    fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: -1, max: 1 }))
      .map(([k, r]) => (block: number) => Math.max(1, Math.min(300, k * block + r))),
  ),
}).chain(({ length, ...rest }) =>
  fc.array(slope, { minLength: rest.h, maxLength: rest.h })
    .map((slopes) => ({ ...rest, slopes, n: length(rest.blockSize) }))
);

interface Inputs {
  q: Tensor;
  k: Tensor;
  v: Tensor;
  initial: Tensor;
}

function inputsOf({ b, h, n, d, e, dtype, seed }: Problem, requiresGrad = false): Inputs {
  return {
    q: randn([b, h, n, d], { seed, dtype, requiresGrad }),
    k: randn([b, h, n, d], { seed: seed + 1, dtype, requiresGrad }),
    v: randn([b, h, n, e], { seed: seed + 2, dtype, requiresGrad }),
    initial: randn([b, h, d, e], { seed: seed + 3, requiresGrad }),
  };
}

function run({ slopes, blockSize, scale, withState }: Problem, { q, k, v, initial }: Inputs) {
  const initialState = withState ? initial : undefined;
  return lightningAttentionWithState(q, k, v, { slopes, blockSize, scale, initialState });
}

async function headsOf(problem: Problem, inputs: Inputs): Promise<Head[]> {
  const { b, h, n, slopes, scale, withState } = problem;
  const { q, k, v, initial } = inputs;
  const [qs, ks, vs, s0] = await Promise.all([q, k, v, initial].map(matricesOf));
  return Array.from({ length: b * h }, (_, i) => ({
    q: qs[i],
    k: ks[i],
    v: vs[i],
    g: Array<number>(n).fill(-Math.fround(slopes[i % h])),
    scale: Math.fround(scale),
    initial: s0[i].map((row) => row.map((x) => withState ? x : 0)),
  }));
}

const flatten = (heads: HeadSums[], key: keyof HeadSums) => heads.flatMap((r) => r[key].flat());
const flattenGradients = (heads: HeadGradientSums[], key: "q" | "k" | "v" | "initial") =>
  heads.flatMap((r) => r[key].flat());

const tolerance = ({ dtype }: Problem, exact: number) => dtype === "f16" ? 5e-3 : exact;

testOnBackends("outputs and states equal the naive quadratic form in float64", async () => {
  await fc.assert(
    fc.asyncProperty(problems, async (problem) => {
      const inputs = inputsOf(problem);
      const { output, state } = run(problem, inputs);
      assertEquals([output.dtype, state.dtype], [problem.dtype, "f32"]);
      const expected = (await headsOf(problem, inputs)).map(attend);
      const terms = expected.map((result) => result.terms);
      const within = tolerance(problem, 1e-5);
      await assertNear(output, flatten(expected, "o"), within, "output", flatten(terms, "o"));
      const exact = toleranceOf(inputs.q, 1e-5);
      await assertNear(state, flatten(expected, "state"), exact, "state", flatten(terms, "state"));
    }),
    runs(40),
  );
});

testOnBackends("all gradients equal those of the naive form, states' included", async () => {
  await fc.assert(
    fc.asyncProperty(problems, async (problem) => {
      const { b, h, n, d, e, seed, dtype, withState } = problem;
      const inputs = inputsOf(problem, true);
      const { output, state } = run(problem, inputs);
      const go = randn([b, h, n, e], { seed: seed + 4, dtype });
      const gs = randn([b, h, d, e], { seed: seed + 5 });
      output.mul(go).to("f32").sum().add(state.mul(gs).sum()).backward();
      const [gos, gss] = await Promise.all([go, gs].map(matricesOf));
      const expected = (await headsOf(problem, inputs)).map((head, i) =>
        attendGradients(head, gos[i], gss[i])
      );
      for (const name of ["q", "k", "v", ...(withState ? ["initial"] : [])] as const) {
        const key = name as "q" | "k" | "v" | "initial";
        const within = key === "initial" ? toleranceOf(inputs.q, 1e-4) : tolerance(problem, 1e-4);
        const terms = flattenGradients(expected.map((result) => result.terms), key);
        const values = flattenGradients(expected, key);
        await assertNear(inputs[key].grad!, values, within, `d${key}`, terms);
      }
      for (const t of Object.values(inputs)) t.grad = null;
    }),
    runs(30),
  );
});

testOnBackends("changing a token changes nothing before it", async () => {
  const problem = fc.record({ n: fc.integer({ min: 2, max: 200 }), at: fc.nat(), seed: fc.nat() });
  await fc.assert(
    fc.asyncProperty(problem, async ({ n, at, seed }) => {
      const t = at % n;
      const inputs = [0, 1, 2].map((i) => randn([1, 2, n, 5], { seed: seed + i }));
      const changed = inputs.map((x, i) =>
        x.slice(null, null, [0, t]).concat(randn([1, 2, n - t, 5], { seed: seed + 9 + i }), 2)
      );
      const options = { slopes: [0.1, 0], blockSize: 16 };
      const before = lightningAttention(inputs[0], inputs[1], inputs[2], options);
      const after = lightningAttention(changed[0], changed[1], changed[2], options);
      const past = (o: Tensor) => o.slice(null, null, [0, t]).data();
      assertEquals(await past(before), await past(after));
      const now = (o: Tensor) => o.slice(null, null, t).data();
      assert(relativeError(await now(before), await now(after)) > 1e-3);
    }),
    runs(20),
  );
});

testOnBackends("it is linear in v", async () => {
  const [q, k, v, w] = [1, 2, 3, 4].map((seed) => randn([1, 2, 150, 8], { seed }));
  const f = (x: Tensor) => lightningAttention(q, k, x, { slopes: [0.3, 1e-4] });
  const together = await f(v.mul(2).add(w)).data();
  await assertNear(f(v).mul(2).add(f(w)), together, 1e-6);
});

testOnBackends("the block size changes only rounding", async () => {
  const [q, k, v] = [1, 2, 3].map((seed) => randn([2, 2, 333, 12], { seed }));
  const f = (blockSize: number) =>
    lightningAttention(q, k, v, { slopes: [0.05, 0.917], blockSize });
  const reference = await f(64).data();
  for (const size of [1, 2, 17, 63, 65, 128, 200, 333, 1000]) {
    await assertNear(f(size), reference, 3e-6, `block of ${size}`);
  }
});

testOnBackends(
  "splitting anywhere and carrying the state equals the whole, gradients too",
  async () => {
    const split = fc.record({ n: fc.integer({ min: 1, max: 200 }), at: fc.nat(), seed: fc.nat() });
    await fc.assert(
      fc.asyncProperty(split, async ({ n, at, seed }) => {
        const cut = at % (n + 1);
        const leaves = () =>
          [0, 1, 2].map((i) => randn([1, 2, n, 6], { seed: seed + i, requiresGrad: true }));
        const weights = randn([1, 2, n, 6], { seed: seed + 7 });
        const options = { slopes: [0.2, 1e-6], blockSize: 32 };
        const whole = leaves();
        const all = lightningAttentionWithState(whole[0], whole[1], whole[2], options);
        all.output.mul(weights).sum().backward();

        const parts = leaves();
        const part = (from: number, to: number, initialState?: Tensor) => {
          const [q, k, v] = parts.map((t) => t.slice(null, null, [from, to]));
          return lightningAttentionWithState(q, k, v, { ...options, initialState });
        };
        const first = part(0, cut);
        const rest = part(cut, n, first.state);
        const output = first.output.concat(rest.output, 2);
        output.mul(weights).sum().backward();

        await assertNear(output, await all.output.data(), 1e-5, "output");
        await assertNear(rest.state, await all.state.data(), 1e-5, "state");
        for (const i of [0, 1, 2]) {
          await assertNear(parts[i].grad!, await whole[i].grad!.data(), 1e-5, `gradient ${i}`);
        }
        for (const t of [...whole, ...parts]) t.grad = null;
      }),
      runs(20),
    );
  },
);

testOnBackends("finite differences agree, to the second order", async () => {
  const inputs = [
    randn([1, 2, 6, 3], { seed: 1 }),
    randn([1, 2, 6, 3], { seed: 2 }),
    randn([1, 2, 6, 2], { seed: 3 }),
    randn([1, 2, 3, 2], { seed: 4 }),
  ];
  const f = (q: Tensor, k: Tensor, v: Tensor, initialState: Tensor) => {
    const options = { slopes: [0.1, 0.5], blockSize: 4, scale: 0.7, initialState };
    const { output, state } = lightningAttentionWithState(q, k, v, options);
    return [output, state];
  };
  await gradcheck(f, inputs);
  const loss = ([q, k, v, s]: Tensor[]) => {
    const [output, state] = f(q, k, v, s);
    return output.square().sum().add(state.square().sum());
  };
  await gradcheck((...all) => grad(loss)(all), inputs);
});

testOnBackends("any strides are read without a copy", async (device: Device) => {
  const [b, n, h, d] = [2, 70, 3, 8];
  const apart = [1, 2, 3].map((seed) => randn([b, n, h, d], { seed }));
  const byHead = apart.map((t) => t.permute([0, 2, 1, 3]));
  const before = device.memory().liveBytes;
  const strided = lightningAttention(byHead[0], byHead[1], byHead[2], { slopes: 0.1 });
  const taken = device.memory().liveBytes - before;
  assert(taken <= strided.size * 4 * 17 / 16 + 256, `took ${taken} bytes`);
  const copied = byHead.map((t) => t.contiguous());
  const dense = lightningAttention(copied[0], copied[1], copied[2], { slopes: 0.1 });
  assertEquals(await strided.data(), await dense.data());
});

testOnBackends("no tokens are no outputs and leave the state as it is", async () => {
  const [q, v] = [zeros([1, 2, 0, 4]), zeros([1, 2, 0, 3])];
  const initialState = randn([1, 2, 4, 3], { seed: 1 });
  const { output, state } = lightningAttentionWithState(q, q, v, { slopes: 1, initialState });
  assertEquals(output.shape, [1, 2, 0, 3]);
  assertEquals(await state.data(), await initialState.data());
});

testOnBackends("the last layer's slopes, which hardly decay, keep a long sum exact", async () => {
  const n = 4096;
  const slopes = decaySlopes(2, { layer: 11, layers: 12 });
  const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 2, n, 4], { seed }));
  const { state } = lightningAttentionWithState(q, k, v, { slopes });
  const [ks, vs] = await Promise.all([k.data(), v.data()]);
  const expected = slopes.flatMap((s, head) => {
    const sum = Array<number>(16).fill(0);
    for (let t = 0; t < n; t++) {
      const weight = Math.exp(-Math.fround(s) * (n - 1 - t));
      for (let i = 0; i < 16; i++) {
        const [a, b] = [Math.floor(i / 4), i % 4];
        sum[i] += weight * ks[(head * n + t) * 4 + a] * vs[(head * n + t) * 4 + b];
      }
    }
    return sum;
  });
  await assertNear(state, expected, 1e-5);
});

testOnCpu("slopes follow ALiBi for any number of heads, and fade with the layer", () => {
  assertEquals(decaySlopes(8), [1, 2, 3, 4, 5, 6, 7, 8].map((i) => 2 ** -i));
  const twelve = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625];
  const between = [2 ** -0.5, 2 ** -1.5, 2 ** -2.5, 2 ** -3.5];
  assertEquals(
    decaySlopes(12).map((s) => s.toFixed(12)),
    [...twelve, ...between].map((s) => s.toFixed(12)),
  );
  assertEquals(decaySlopes(1), [2 ** -8]);
  assertEquals(
    decaySlopes(2, { layer: 3, layers: 4 }),
    [2 ** -4 * 1e-5, 2 ** -8 * 1e-5].map((s) => {
      return s * (1 - 1 + 1e-5) / 1e-5;
    }),
  );
  assertThrows(() => decaySlopes(0), ShapeError, "positive number of heads");
  assertThrows(() => decaySlopes(2, { layer: 4, layers: 4 }), ShapeError, "layer 4 of 4");
});

testOnCpu("bad input is refused by the name of the argument", () => {
  const q = randn([1, 2, 5, 4]);
  const v = randn([1, 2, 5, 3]);
  const f = lightningAttention;
  assertThrows(() => f(q.squeeze(0), q, v), ShapeError, "[batch, heads, n, size]");
  assertThrows(() => f(q, q.slice(null, null, [0, 4]), v), ShapeError, "key heads dividing heads");
  assertThrows(() => f(q, q, v.slice(null, [0, 1])), ShapeError, "key heads dividing heads");
  assertThrows(() => f(q, q.to("f16"), v), DTypeError, "all f32 or all f16");
  assertThrows(() => f(q.to("i32"), q.to("i32"), v.to("i32")), DTypeError, "i32");
  assertThrows(() => f(q, q, v, { slopes: -0.1 }), ShapeError, "slopes ≥ 0");
  assertThrows(() => f(q, q, v, { slopes: [0.1, NaN] }), ShapeError, "found NaN");
  assertThrows(() => f(q, q, v, { slopes: [0.1] }), ShapeError, "2 heads");
  assertThrows(() => f(q, q, v, { slopes: tensor([[0.1, 0.2]]) }), ShapeError, "[heads]");
  assertThrows(() => f(q, q, v, { initialState: q }), ShapeError, "initialState");
  assertThrows(() => f(q, q, v, { blockSize: 0 }), ShapeError, "blockSize");
  assertThrows(() => f(q, q, v, { scale: NaN }), ShapeError, "scale");
});

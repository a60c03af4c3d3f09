/** Lightning Attention-1, the tiled quadratic form, against the naive form in float64. */
import { assert, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  DTypeError,
  grad,
  gradcheck,
  LevinError,
  lightningAttention,
  lightningAttention1,
  randn,
  ShapeError,
  type Tensor,
  tensor,
} from "../mod.ts";
import { assertNear, FLOATS, matricesOf, runs, testOnBackends, testOnCpu } from "./harness.ts";
import { attend, attendGradients, type HeadGradientSums, type HeadSums } from "./oracle.ts";

const problems = fc.record({
  b: fc.integer({ min: 1, max: 2 }),
  slopes: fc.array(fc.constantFrom(0, 1e-8, 0.05, 0.917, 10), { minLength: 1, maxLength: 3 }),
  n: fc.oneof(fc.integer({ min: 1, max: 150 }), fc.constantFrom(63, 64, 65, 128)),
  d: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(65, 80)),
  e: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(65, 80)),
  dtype: fc.constantFrom(...FLOATS),
  seed: fc.nat(),
});

testOnBackends("outputs and gradients equal the naive quadratic form in float64", async () => {
  await fc.assert(
    fc.asyncProperty(problems, async ({ b, slopes, n, d, e, dtype, seed }) => {
      const h = slopes.length;
      const make = (width: number, i: number) =>
        randn([b, h, n, width], { seed: seed + i, dtype, requiresGrad: i < 4 });
      const [q, k, v, dO] = [make(d, 1), make(d, 2), make(e, 3), make(e, 4)];
      const o = lightningAttention1(q, k, v, { slopes, scale: 0.5 });
      o.mul(dO).to("f32").sum().backward();
      const [qs, ks, vs, gs] = await Promise.all([q, k, v, dO].map(matricesOf));
      const none = Array.from({ length: d }, () => Array<number>(e).fill(0));
      const heads = qs.map((_, i) => ({
        q: qs[i],
        k: ks[i],
        v: vs[i],
        g: Array<number>(n).fill(-Math.fround(slopes[i % h])),
        scale: 0.5,
        initial: none,
      }));
      const results = heads.map(attend);
      const gradients = heads.map((head, i) => attendGradients(head, gs[i], none));
      const most = dtype === "f16" ? [5e-3, 5e-3] : [1e-5, 1e-4];
      const all = (sums: HeadSums[]) => sums.flatMap((r) => r.o.flat());
      await assertNear(o, all(results), most[0], "o", all(results.map((r) => r.terms)));
      for (const [name, t] of Object.entries({ q, k, v })) {
        const all = (sums: HeadGradientSums[]) =>
          sums.flatMap((r) => r[name as "q" | "k" | "v"].flat());
        const terms = all(gradients.map((r) => r.terms));
        await assertNear(t.grad!, all(gradients), most[1], `d${name}`, terms);
      }
    }),
    runs(10),
  );
});

testOnBackends("it equals Lightning Attention-2, sizes of 256 included", async () => {
  const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 2, 200, 256], { seed }));
  const slopes = [0.3, 0.001];
  const o = lightningAttention1(q, k, v, { slopes });
  const expected = await lightningAttention(q, k, v, { slopes }).data();
  assert(expected.some((x) => x !== 0));
  await assertNear(o, expected, 1e-5);
});

testOnBackends("finite differences agree, to the second order", async () => {
  const inputs = [1, 2, 3].map((seed) => randn([1, 1, 4, 2], { seed }));
  const attend = (q: Tensor, k: Tensor, v: Tensor) =>
    lightningAttention1(q, k, v, { slopes: 0.2 }).square().sum();
  await gradcheck(attend, inputs);
  await gradcheck(
    (q: Tensor, k: Tensor, v: Tensor) => grad((q: Tensor) => attend(q, k, v))(q).square().sum(),
    inputs,
  );
});

testOnCpu("bad input is refused by the name of the argument", () => {
  const x = randn([1, 2, 5, 3], { seed: 1 });
  const half = randn([1, 2, 5, 3], { seed: 1, dtype: "f16" });
  assertThrows(() => lightningAttention1(x, x, half), DTypeError);
  assertThrows(() => lightningAttention1(x, x.slice(null, [0, 1]), x), ShapeError);
  assertThrows(() => lightningAttention1(x, x, x, { slopes: -1 }), ShapeError, "slopes");
  const learnt = tensor([0.1, 0.2], { requiresGrad: true });
  assertThrows(() => lightningAttention1(x, x, x, { slopes: learnt }), LevinError);
});

testOnBackends(
  "slopes of Infinity in a tensor forget at once, and negative ones count as 0",
  async () => {
    const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 2, 70, 4], { seed }));
    const found = lightningAttention1(q, k, v, { slopes: tensor([Infinity, -1]) });
    const expected = lightningAttention1(q, k, v, { slopes: [200, 0] });
    const values = await expected.data();
    assert(values.some((x) => x !== 0));
    await assertNear(found, values, 1e-6);
  },
);

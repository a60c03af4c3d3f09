/** Operations that do in one pass what single ones do in several: against float64, and against those. */
import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { DTypeError, grad, gradcheck, nn, randn, ShapeError, type Tensor } from "../mod.ts";
import { gatedNorm } from "../src/ops/gated_norm.ts";
import { addMatmul } from "../src/ops/matmul.ts";
import { mulGradients } from "../src/ops/mul_gradients.ts";
import { qkvu } from "../src/ops/qkvu.ts";
import { split } from "../src/ops/views.ts";
import { assertNear, FLOATS, testOnBackends, testOnCpu, testReductions } from "./harness.ts";

/**
 * u ⊙ n and, from its gradient g, those of x and u, with n = x / √(mean x² + ε), in float64; the terms of dx cancel.
 */
function gatedNorms(x: Float32Array, u: Float32Array, g: Float32Array, size: number) {
  const [y, dx, du, terms] = [0, 1, 2, 3].map(() => new Float64Array(x.length));
  for (let start = 0; start < x.length; start += size) {
    let [squares, product] = [0, 0];
    for (let i = start; i < start + size; i++) {
      squares += x[i] ** 2;
      product += g[i] * u[i] * x[i];
    }
    const r = 1 / Math.sqrt(squares / size + 1e-6);
    for (let i = start; i < start + size; i++) {
      y[i] = u[i] * x[i] * r;
      terms[i] = r * g[i] * u[i];
      dx[i] = terms[i] - x[i] * r * r * r * product / size;
      du[i] = g[i] * x[i] * r;
    }
  }
  return { y, dx, du, terms };
}

testReductions("the gated norm and its gradients equal float64, wherever rows lie", async () => {
  const problems = fc.record({
    b: fc.integer({ min: 1, max: 2 }),
    n: fc.integer({ min: 1, max: 5 }),
    size: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(127, 128, 129, 300)),
    layout: fc.constantFrom("dense", "slices", "columns"),
    dtype: fc.constantFrom(...FLOATS),
    seed: fc.nat(),
  });
  const property = fc.asyncProperty(problems, async ({ b, n, size, layout, dtype, seed }) => {
    const made = { seed, dtype, requiresGrad: true };
    const shape = [b, n, size];
    const parts = layout === "dense"
      ? [randn(shape, made), randn(shape, { ...made, seed: seed + 1 })]
      : layout === "slices"
      ? split(randn([b, n, 2 * size], made), 2, -1)
      : split(randn([2 * size, b, n], made).permute([1, 2, 0]), 2, -1);
    const [x, u] = parts;
    const weights = randn(shape, { seed: seed + 2, dtype });
    const y = gatedNorm(x, u);
    const [dx, du] = grad(([x, u]: Tensor[]) => gatedNorm(x, u).mul(weights).sum())([x, u]);
    const [xs, us, gs] = await Promise.all([x, u, weights].map((t) => t.data()));
    const expected = gatedNorms(xs, us, gs, size);
    const tolerance = dtype === "f16" ? 1e-3 : 1e-6;
    await assertNear(y, expected.y, tolerance, "y");
    await assertNear(dx, expected.dx, tolerance, "dx", expected.terms);
    await assertNear(du, expected.du, tolerance, "du");
    assertEquals([y.dtype, dx.dtype, du.dtype], [dtype, dtype, dtype]);
  });
  await fc.assert(property, { numRuns: 30 });
});

testOnBackends("the gated norm has gradients of gradients", async () => {
  const [x, u, weights] = [1, 2, 3].map((seed) => randn([2, 5], { seed }));
  await gradcheck((x, u) => gatedNorm(x, u), [x, u]);
  const loss = ([x, u]: Tensor[]) => gatedNorm(x, u).square().mul(weights).sum();
  await gradcheck((...all) => grad(loss)(all), [x, u]);
});

testOnCpu("a gate that does not fit is refused", () => {
  assertThrows(() => gatedNorm(randn([2, 3]), randn([3])), ShapeError, "[2, 3] and [3]");
  assertThrows(() => gatedNorm(randn([]), randn([])), ShapeError, "found a scalar");
  const half = randn([3], { dtype: "f16" });
  assertThrows(() => gatedNorm(randn([3]), half), DTypeError, "f32 and f16");
});

testOnBackends("q, k, v and u and their gradients equal float64, wherever rows lie", async () => {
  const problems = fc.record({
    n: fc.integer({ min: 1, max: 5 }),
    size: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(64, 129)),
    layout: fc.constantFrom("dense", "part", "columns"),
    dtype: fc.constantFrom(...FLOATS),
    seed: fc.nat(),
  });
  const property = fc.asyncProperty(problems, async ({ n, size, layout, dtype, seed }) => {
    const made = { seed, dtype };
    const x = layout === "dense"
      ? randn([2, n, 4 * size], made)
      : layout === "part"
      ? split(randn([2, n, 8 * size], made), 2, -1)[1]
      : randn([4 * size, 2, n], made).permute([1, 2, 0]);
    const wide = randn([2, n, 5 * size], { ...made, seed: seed + 1 });
    const weights = split(wide, 5, -1).slice(1);
    const parts = qkvu(x);
    const dx = grad((x: Tensor) => {
      const terms = qkvu(x).map((part, i) => part.mul(weights[i]).to("f32").sum());
      return terms.reduce((sum, term) => sum.add(term));
    })(x);
    const [values, ...gs] = await Promise.all([x, ...weights].map((t) => t.data()));
    const at = (i: number, part: number) =>
      values[Math.floor(i / size) * 4 * size + part * size + i % size];
    const sigmoid = (value: number) => 1 / (1 + Math.exp(-value));
    const tolerance = dtype === "f16" ? 1e-3 : 1e-6;
    for (const [part, t] of parts.entries()) {
      const value = (i: number) => part < 2 ? at(i, part) * sigmoid(at(i, part)) : at(i, part);
      assertEquals([t.shape, t.dtype], [[2, n, size], dtype]);
      await assertNear(t, Float64Array.from({ length: t.size }, (_, i) => value(i)), tolerance);
    }
    const expected = Float64Array.from(values, (value, i) => {
      const [row, part] = [Math.floor(i / size / 4), Math.floor(i / size) % 4];
      const g = gs[part][row * size + i % size];
      const s = sigmoid(value);
      return part < 2 ? g * s * (1 + value * (1 - s)) : g;
    });
    await assertNear(dx, expected, tolerance, "dx");
  });
  await fc.assert(property, { numRuns: 30 });
});

testOnBackends("a gradient of some of q, k, v and u alone is that of all with zeros", async () => {
  const x = randn([3, 8], { seed: 1 });
  for (const some of [[0], [3], [1, 2]]) {
    const picked = (parts: Tensor[]) => some.map((i) => parts[i].square());
    await gradcheck((x) => picked(qkvu(x)), [x]);
  }
  await gradcheck((x) => qkvu(x), [x]);
  const weights = [1, 2, 3, 4].map((seed) => randn([3, 2], { seed }));
  const loss = (x: Tensor) =>
    qkvu(x).map((t, i) => t.square().mul(weights[i]).sum()).reduce((a, b) => a.add(b));
  await gradcheck((x) => grad(loss)(x), [x]);
});

testOnBackends("both gradients of a product are the two products, to the bit", async (device) => {
  const [g, x, y] = [1, 2, 3].map((seed) => randn([3, 37], { seed }));
  const [dx, dy] = mulGradients(g, x, y);
  assertEquals(await dx.data(), await g.mul(y).data());
  assertEquals(await dy.data(), await g.mul(x).data());
  await gradcheck((...all) => mulGradients(...all), [g, x, y].map((t) => t.slice([0, 2], [0, 3])));
  const factors = [2, 3].map((seed) => randn([3, 37], { seed, requiresGrad: true }));
  const loss = factors[0].mul(factors[1]);
  const { spans } = await device.profile(() => loss.backward({ gradient: g }));
  assertEquals(spans.map(({ name }) => name), ["mulGradients"]);
  assertEquals(await factors[0].grad!.data(), await dx.data());
});

testOnCpu("what cannot be quartered is refused", () => {
  assertThrows(() => qkvu(randn([2, 6])), ShapeError, "found [2, 6]");
  assertThrows(() => qkvu(randn([])), ShapeError, "found []");
});

testReductions(
  "a norm's gradient adds what has gone past the norm, in one pass",
  async (device) => {
    const norm = new nn.SRMSNorm();
    const [x, w, g] = [1, 2, 3].map((seed) => randn([5, 33], { seed }));
    const f = (x: Tensor) => x.add(norm.forward(x).mul(w));
    const leaf = randn([5, 33], { seed: 1, requiresGrad: true });
    const y = f(leaf);
    const { spans } = await device.profile(() => y.backward({ gradient: g }));
    assertEquals(spans.map(({ name }) => name), ["mul", "srmsNormGradient"]);
    const apart = grad((x: Tensor) => norm.forward(x).mul(w).mul(g).sum())(x).add(g);
    await assertNear(leaf.grad!, await apart.data(), 1e-6);
    const some = [x.slice([0, 2], [0, 4]), w.slice([0, 2], [0, 4])];
    const small = (x: Tensor, w: Tensor) => x.add(norm.forward(x).mul(w)).mul(norm.forward(x));
    await gradcheck(small, some);
    await gradcheck((...all) => grad(([x, w]: Tensor[]) => small(x, w).square().sum())(all), some);
  },
);

testOnBackends("a product that is added to something equals float64, small and wide", async () => {
  const problems = fc.record({
    b: fc.integer({ min: 1, max: 3 }),
    n: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.constantFrom(64, 130)),
    k: fc.integer({ min: 1, max: 40 }),
    columns: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(128, 700, 1024)),
    layout: fc.constantFrom("dense", "slices", "turned"),
    dtype: fc.constantFrom(...FLOATS),
    seed: fc.nat(),
  });
  const property = fc.asyncProperty(problems, async (problem) => {
    const { b, n, k, columns, layout, dtype, seed } = problem;
    const draw = (size: number, seed: number) =>
      layout === "dense"
        ? randn([b, n, size], { seed, dtype })
        : layout === "slices"
        ? split(randn([b, n, 3 * size], { seed, dtype }), 3, -1)[1]
        : randn([size, n, b], { seed, dtype }).permute([2, 1, 0]);
    const [x, c] = [draw(k, seed), draw(columns, seed + 1)];
    const y = randn([columns, k], { seed: seed + 2, dtype }).transpose();
    const [xs, cs, ys] = await Promise.all([x, c, y].map((t) => t.data()));
    const [expected, terms] = [0, 1].map(() => new Float64Array(cs.length));
    for (let i = 0; i < cs.length; i++) {
      const [row, column] = [Math.floor(i / columns), i % columns];
      expected[i] = terms[i] = cs[i];
      for (let j = 0; j < k; j++) {
        expected[i] += xs[row * k + j] * ys[j * columns + column];
        terms[i] = Math.hypot(terms[i], xs[row * k + j] * ys[j * columns + column]);
      }
    }
    const sum = addMatmul(c, x, y);
    assertEquals([sum.shape, sum.dtype], [[b, n, columns], dtype]);
    await assertNear(sum, expected, dtype === "f16" ? 1e-3 : 1e-6, "sum", terms);
  });
  await fc.assert(property, {
    numRuns: 20,
    examples: [[{
      ...{ b: 2, n: 256, k: 33, columns: 1024, layout: "slices", dtype: "f32", seed: 1 },
    }], [{
      ...{ b: 3, n: 171, k: 16, columns: 1023, layout: "dense", dtype: "f32", seed: 2 },
    }]],
  });
});

testOnBackends("a product's gradient adds what other products of x have sent, in one pass", async (
  device,
) => {
  const [x, u, w, g] = [[2, 5, 7], [7, 3], [7, 3], [2, 5, 3]]
    .map((shape, i) => randn(shape, { seed: i + 1 }));
  const leaf = randn([2, 5, 7], { seed: 1, requiresGrad: true });
  const gated = leaf.matmul(u).mul(leaf.matmul(w));
  const { spans } = await device.profile(() => gated.backward({ gradient: g }));
  assertEquals(spans.map(({ name }) => name), ["mulGradients", "matmul", "matmul"]);
  const apart = [u, w].map((other, i) =>
    grad((x: Tensor) => x.matmul([u, w][1 - i]).mul(x.detach().matmul(other)).mul(g).sum())(x)
  );
  await assertNear(leaf.grad!, await apart[0].add(apart[1]).data(), 1e-6);
  const f = (c: Tensor, x: Tensor, u: Tensor) => addMatmul(c, x, u).mul(x.matmul(u));
  await gradcheck(f, [g, x, u]);
  await gradcheck((...all) => grad(([c, x, u]: Tensor[]) => f(c, x, u).square().sum())(all), [
    ...[g.slice(1, [0, 2]), x.slice(1, [0, 2]), u],
  ]);
});

testOnCpu("what cannot be added to a product is refused", () => {
  const [x, y] = [randn([2, 5, 3]), randn([3, 4])];
  assertThrows(() => addMatmul(randn([5, 4]), x, y), ShapeError, "expected [.., n], [.., k]");
  assertThrows(() => addMatmul(randn([2, 5, 4]), x, randn([2, 3, 4])), ShapeError, "Cannot add");
  const half = randn([2, 5, 4], { dtype: "f16" });
  assertThrows(() => addMatmul(half, x, y), DTypeError, "Cannot add f16");
});

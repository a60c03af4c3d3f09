/** Operations that do in one pass what single ones do in several: against float64, and against those. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { DTypeError, grad, gradcheck, randn, ShapeError, type Tensor } from "../mod.ts";
import { gatedNorm } from "../src/ops/gated_norm.ts";
import { split } from "../src/ops/views.ts";
import { assertNear, FLOATS, testOnBackends, testOnCpu } from "./harness.ts";

/** u ⊙ n and, from its gradient g, those of x and u, with n = x / √(mean x² + ε), in float64. */
function gatedNorms(x: Float32Array, u: Float32Array, g: Float32Array, size: number) {
  const [y, dx, du] = [0, 1, 2].map(() => new Float64Array(x.length));
  for (let start = 0; start < x.length; start += size) {
    let [squares, product] = [0, 0];
    for (let i = start; i < start + size; i++) {
      squares += x[i] ** 2;
      product += g[i] * u[i] * x[i];
    }
    const r = 1 / Math.sqrt(squares / size + 1e-6);
    for (let i = start; i < start + size; i++) {
      y[i] = u[i] * x[i] * r;
      dx[i] = r * (g[i] * u[i] - x[i] * r * r * product / size);
      du[i] = g[i] * x[i] * r;
    }
  }
  return { y, dx, du };
}

testOnBackends("the gated norm and its gradients equal float64, wherever rows lie", async () => {
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
    await assertNear(dx, expected.dx, tolerance, "dx", gs.map((g, i) => g * us[i]));
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

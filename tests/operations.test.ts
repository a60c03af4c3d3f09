/** Every operation: against float64 on both backends, and its gradient against finite differences. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  concat,
  DTypeError,
  grad,
  gradcheck,
  randn,
  ShapeError,
  type Tensor,
  tensor,
  uniform,
  where,
} from "../mod.ts";
import {
  assertNear,
  FLOATS,
  relativeError,
  runs,
  testOnBackends,
  testOnCpu,
  testReductions,
} from "./harness.ts";

interface PointwiseCase {
  f: (x: Tensor) => Tensor;
  reference: (x: number) => number;
  /** Where it is defined and smooth. */
  from?: number;
  to?: number;
}

const erf = (x: number) => {
  // ∫ by Simpson's rule, independent of the approximations under test.
  const steps = 2000;
  let sum = 0;
  for (let i = 0; i <= steps; i++) {
    const weight = i === 0 || i === steps ? 1 : i % 2 === 1 ? 4 : 2;
    sum += weight * Math.exp(-((x * i / steps) ** 2));
  }
  return 2 / Math.sqrt(Math.PI) * sum * x / steps / 3;
};

const UNARY: Record<string, PointwiseCase> = {
  neg: { f: (x) => x.neg(), reference: (x) => -x },
  abs: { f: (x) => x.abs(), reference: Math.abs, from: 0.1, to: 3 },
  square: { f: (x) => x.square(), reference: (x) => x * x },
  reciprocal: { f: (x) => x.reciprocal(), reference: (x) => 1 / x, from: 0.5, to: 3 },
  exp: { f: (x) => x.exp(), reference: Math.exp },
  log: { f: (x) => x.log(), reference: Math.log, from: 0.2, to: 5 },
  sqrt: { f: (x) => x.sqrt(), reference: Math.sqrt, from: 0.2, to: 5 },
  rsqrt: { f: (x) => x.rsqrt(), reference: (x) => 1 / Math.sqrt(x), from: 0.4, to: 5 },
  sin: { f: (x) => x.sin(), reference: Math.sin, from: -6, to: 6 },
  cos: { f: (x) => x.cos(), reference: Math.cos, from: -6, to: 6 },
  tanh: { f: (x) => x.tanh(), reference: Math.tanh },
  erf: { f: (x) => x.erf(), reference: erf },
  sigmoid: { f: (x) => x.sigmoid(), reference: (x) => 1 / (1 + Math.exp(-x)) },
  silu: { f: (x) => x.silu(), reference: (x) => x / (1 + Math.exp(-x)) },
  relu: { f: (x) => x.relu(), reference: (x) => Math.max(x, 0), from: 0.1, to: 3 },
  gelu: { f: (x) => x.gelu(), reference: (x) => x / 2 * (1 + erf(x / Math.SQRT2)) },
  "pow 2.5": { f: (x) => x.pow(2.5), reference: (x) => x ** 2.5, from: 0.3, to: 3 },
  "pow 3": { f: (x) => x.pow(3), reference: (x) => x ** 3 },
  "pow -1": { f: (x) => x.pow(-1), reference: (x) => 1 / x, from: 0.5, to: 3 },
  "pow 5": { f: (x) => x.pow(5), reference: (x) => x ** 5 },
};

for (const [name, { f, reference, from = -3, to = 3 }] of Object.entries(UNARY)) {
  testOnBackends(`${name} agrees with float64 and so does its gradient`, async () => {
    // Dense in fours; dense, but not in fours; strided.
    const x = uniform([4, 37], { low: from, high: to, seed: 1 });
    const values = Array.from(await x.data());
    await assertNear(f(x), values.map(reference), 1e-6);
    await assertNear(
      f(x.slice([1, 4])),
      values.slice(37).map(reference),
      1e-6,
      "from the second row",
    );
    await assertNear(f(x.transpose()).transpose(), values.map(reference), 1e-6, "strided");
    await gradcheck(f, [x.slice(0, [0, 9])]);
  });
}

testOnBackends("sin and cos stay exact far from zero", async () => {
  const x = uniform([200], { low: -50_000, high: 50_000, seed: 2 });
  const values = Array.from(await x.data());
  await assertNear(x.sin(), values.map(Math.sin), 1e-6);
  await assertNear(x.cos(), values.map(Math.cos), 1e-6);
});

testOnBackends("saturating functions saturate instead of overflowing", async () => {
  const x = tensor([-1000, -100, 100, 1000]);
  assertEquals(Array.from(await x.tanh().data()), [-1, -1, 1, 1]);
  const [low, lower, high, higher] = await x.sigmoid().data();
  assert(low === 0 && lower < 1e-40 && high === 1 && higher === 1);
  assertEquals((await x.silu().data())[3], 1000);
});

testOnBackends("logarithms of 0 are −Infinity, of what is below it NaN", async () => {
  const found = tensor([0, -0, -1, -Infinity, Infinity, NaN, 1]).log();
  assertEquals([...await found.data()], [-Infinity, -Infinity, NaN, NaN, Infinity, NaN, 0]);
});

testOnBackends("a negative base has powers only for integral exponents", async () => {
  const x = tensor([-2, -2, -2]);
  const powers = await x.pow(tensor([5, 4, 0.5])).data();
  assert(Math.abs(powers[0] + 32) < 1e-4 && Math.abs(powers[1] - 16) < 1e-4);
  assert(Number.isNaN(powers[2]));
});

const BINARY: Record<string, [(x: Tensor, y: Tensor) => Tensor, (x: number, y: number) => number]> =
  {
    add: [(x, y) => x.add(y), (x, y) => x + y],
    sub: [(x, y) => x.sub(y), (x, y) => x - y],
    mul: [(x, y) => x.mul(y), (x, y) => x * y],
    div: [(x, y) => x.div(y), (x, y) => x / y],
    pow: [(x, y) => x.pow(y), (x, y) => x ** y],
    maximum: [(x, y) => x.maximum(y), (x, y) => Math.max(x, y)],
    minimum: [(x, y) => x.minimum(y), (x, y) => Math.min(x, y)],
  };

for (const [name, [f, reference]] of Object.entries(BINARY)) {
  testOnBackends(
    `${name} broadcasts, and gradients are summed over what was repeated`,
    async () => {
      // Far enough from each other for the differences not to step over a kink.
      const x = tensor([0.5, 0.9, 1.3, 1.7, 0.7, 1.1], { shape: [2, 1, 3] });
      const y = tensor([0.6, 1.0, 1.4, 1.8], { shape: [4, 1] });
      const [xs, ys] = [await x.data(), await y.data()];
      const expected: number[] = [];
      for (let i = 0; i < 2; i++) {
        for (let j = 0; j < 4; j++) {
          for (let k = 0; k < 3; k++) expected.push(reference(xs[3 * i + k], ys[j]));
        }
      }
      const result = f(x, y);
      assertEquals(result.shape, [2, 4, 3]);
      await assertNear(result, expected, 1e-6);
      await gradcheck(f, [x, y]);
    },
  );

  testOnBackends(`${name} takes a number, also against negative elements`, async () => {
    const x = tensor([-2, -0.5, 0.25, 3]);
    const exponent = name === "pow" ? 4 : 0.5;
    const found = (x as unknown as Record<string, (y: number) => Tensor>)[name](exponent);
    await assertNear(found, [-2, -0.5, 0.25, 3].map((v) => reference(v, exponent)), 1e-6);
  });
}

testOnBackends("integer arithmetic wraps and truncates", async () => {
  const i = (values: number[]) => tensor(values, { dtype: "i32" });
  const x = i([7, -7, 2 ** 30, 123456789]);
  assertEquals(Array.from(await x.div(2).data()), [3, -3, 2 ** 29, 61728394]);
  assertEquals(Array.from(await x.mul(i([3, 3, 4, 1000])).data()), [21, -21, 0, -1097262584]);
  assertEquals(Array.from(await x.add(2 ** 30).data())[2], -(2 ** 31));
  assertEquals(Array.from(await x.maximum(0).data()), [7, 0, 2 ** 30, 123456789]);
});

testOnBackends("comparisons give bool, and where chooses by it", async () => {
  const x = tensor([1, 2, 3]);
  const y = tensor([3, 2, 1]);
  const all = [
    x.less(y),
    x.lessEqual(y),
    x.equal(y),
    x.notEqual(y),
    x.greaterEqual(y),
    x.greater(y),
  ];
  assertEquals(all.map((t) => t.dtype), Array(6).fill("bool"));
  const read = await Promise.all(all.map((t) => t.array()));
  assertEquals(read, [
    [true, false, false],
    [true, true, false],
    [false, true, false],
    [true, false, true],
    [false, true, true],
    [false, false, true],
  ]);
  assertEquals(await where(x.less(2.5), x.mul(10), -1).array(), [10, 20, -1]);
  assertEquals(await x.greater(1).where(1, 0).array(), [0, 1, 1]);
  const mask = x.less(2.5);
  await gradcheck((a, b) => where(mask, a, b), [
    randn([2, 3], { seed: 1 }),
    randn([3], { seed: 2 }),
  ]);
});

testOnBackends("operands of any dtype give the same in fours and one by one", async () => {
  const whole = tensor(Int32Array.from({ length: 24 }, (_, i) => (i * 7) % 11 - 5), {
    shape: [24],
  });
  for (const dtype of [...new Set(FLOATS), "i32", "u32"] as const) {
    const x = (dtype === "u32" ? whole.abs() : whole).to(dtype);
    const y = x.add(1).maximum(1);
    const operations: Record<string, (x: Tensor, y: Tensor) => Tensor> = {
      add: (x, y) => x.add(y),
      div: (x, y) => x.mul(3).div(y),
      "1 less": (x) => x.sub(1),
      "less": (x, y) => x.mul(2).less(y),
      where: (x, y) => where(x.less(y.mul(2)), x, y),
      "where 7": (x, y) => where(x.less(2), 7, y),
      not: (x, y) => x.less(y).equal(x.less(3)).to("f32"),
      ones: (x) => x.mul(0).add(1),
      cast: (x) => x.to("f32").to("i32").to("bool").to("f32"),
    };
    for (const [name, f] of Object.entries(operations)) {
      const dense = Array.from(await f(x, y).to("f32").data());
      assert(dense.some((value) => value !== 0), `${name} of ${dtype} is 0`);
      const apart = f(x.slice([1, 24]), y.slice([1, 24])).to("f32");
      assertEquals(dense.slice(1), Array.from(await apart.data()), `${name} of ${dtype}`);
    }
  }
  for (const length of [24, 23]) {
    const [x, y] = [1, 2].map((seed) => randn([length], { seed, requiresGrad: true }));
    const [u, v] = [await x.data(), await y.data()].map((data) => Array.from(data));
    x.mul(y).sum().backward();
    assertEquals([Array.from(await x.grad!.data()), Array.from(await y.grad!.data())], [v, u]);
    x.grad = y.grad = null;
  }
});

testOnBackends("conversions round, truncate and saturate", async () => {
  const x = tensor([1.75, -1.75, 1e10, -1e10, 0, 65504]);
  assertEquals(Array.from(await x.to("i32").data()), [1, -1, 2147483520, -2147483648, 0, 65504]);
  assertEquals(Array.from(await x.to("bool").data()), [1, 1, 1, 1, 0, 1]);
  assertEquals((await x.to("u32").data())[1], 0);
  assertEquals(Array.from(await x.slice([0, 2]).to("f16").data()), [1.75, -1.75]);
  assertEquals(Array.from(await tensor([true, false]).to("f32").data()), [1, 0]);
  const y = tensor([0.5, 2], { requiresGrad: true });
  y.to("f16").mul(3).to("f32").sum().backward();
  assertEquals(Array.from(await y.grad!.data()), [3, 3]);
});

testOnBackends("integers convert exactly, or to the nearest that there is", async () => {
  const signed = tensor([-5, 0, 2 ** 31 - 1, -(2 ** 31)], { dtype: "i32" });
  assertEquals(Array.from(await signed.to("u32").data()), [0, 0, 2 ** 31 - 1, 0]);
  const unsigned = tensor([5, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1], { dtype: "u32" });
  const most = 2 ** 31 - 1;
  assertEquals(Array.from(await unsigned.to("i32").data()), [5, most, most, most]);
  assertEquals(Array.from(await unsigned.greater(5).to("i32").data()), [0, 1, 1, 1]);
});

testOnBackends("integers divided by zero are zero, as a number and as a tensor", async () => {
  for (const dtype of ["i32", "u32"] as const) {
    const x = tensor([7, 0, 9, 5], { dtype });
    const y = tensor([0, 0, 2, 1], { dtype });
    assertEquals(Array.from(await x.div(y).data()), [0, 0, 4, 5]);
    assertEquals(Array.from(await x.div(0).data()), [0, 0, 0, 0]);
  }
});

testOnCpu("numbers that a dtype does not hold are refused, wherever they are given", () => {
  const x = tensor([1, 2], { dtype: "u32" });
  const mask = tensor([true, false]);
  const refused: [() => unknown, string][] = [
    [() => x.add(-1), "Cannot compute add with -1 in dtype u32: expected a whole number from 0 to"],
    [() => x.equal(-1), "Cannot compute equal with -1 in dtype u32"],
    [
      () => mask.equal(2),
      "Cannot compute equal with 2 in dtype bool: expected a whole number from 0 to 1",
    ],
    [() => x.to("i32").mul(0.5), "Cannot compute mul with 0.5 in dtype i32"],
    [() => where(mask, x, -1), "Cannot choose -1 in dtype u32"],
    [() => tensor(new Int32Array([-1]), { dtype: "u32" }), "Cannot hold -1 in dtype u32"],
    [() => tensor([2 ** 31], { dtype: "i32" }), "Cannot hold 2147483648 in dtype i32"],
    [() => x.less(tensor([1, 2])), "Cannot compute less of u32 and f32: convert one of them"],
    [() => mask.min(), "Cannot take the min of a bool tensor"],
    [() => mask.max(), "Cannot take the max of a bool tensor"],
  ];
  for (const [fn, message] of refused) assertThrows(fn, DTypeError, message);
});

testReductions("float16 is storage: sums over it are made in float32", async () => {
  const x = tensor(new Float32Array(4096).fill(1.5)).to("f16");
  assertEquals(await x.sum().item(), 6144);
  assertEquals(x.mul(2).dtype, "f16");
  const a = randn([33, 65], { seed: 1, dtype: "f16" });
  const b = randn([65, 17], { seed: 2, dtype: "f16" });
  await assertNear(a.matmul(b), multiply(await a.data(), await b.data(), [33, 65, 17]), 5e-4);
});

function multiply(x: ArrayLike<number>, y: ArrayLike<number>, [m, k, n]: number[]): number[] {
  const out: number[] = [];
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let d = 0; d < k; d++) sum += x[i * k + d] * y[d * n + j];
      out.push(sum);
    }
  }
  return out;
}

testOnBackends("matmul agrees with float64 for all sizes and transposes", async () => {
  const size = fc.integer({ min: 1, max: 90 });
  await fc.assert(
    fc.asyncProperty(
      size,
      size,
      size,
      fc.boolean(),
      fc.boolean(),
      fc.nat(),
      async (m, k, n, tx, ty, seed) => {
        const x = randn(tx ? [k, m] : [m, k], { seed });
        const y = randn(ty ? [n, k] : [k, n], { seed: seed + 1 });
        const [a, b] = [tx ? x.transpose() : x, ty ? y.transpose() : y];
        const expected = multiply(await a.data(), await b.data(), [m, k, n]);
        // A few sums may cancel almost to nothing: they are judged by the size they are drawn from.
        const rms = Math.sqrt(expected.reduce((sum, x) => sum + x * x, 0) / expected.length);
        await assertNear(a.matmul(b), expected, 1e-6 * Math.max(1, Math.sqrt(k) / rms));
      },
    ),
    { ...runs(25), examples: [[1, 64, 1, false, false, 1471925953]] },
  );
});

testOnBackends("matmul batches, broadcasts and takes vectors as NumPy does", async () => {
  const x = randn([2, 1, 3, 4], { seed: 1 });
  const y = randn([5, 4, 2], { seed: 2 });
  const [xs, ys] = [await x.data(), await y.data()];
  const expected: number[] = [];
  for (let i = 0; i < 2; i++) {
    for (let j = 0; j < 5; j++) {
      expected.push(...multiply(xs.slice(12 * i), ys.slice(8 * j), [3, 4, 2]));
    }
  }
  assertEquals(x.matmul(y).shape, [2, 5, 3, 2]);
  await assertNear(x.matmul(y), expected, 1e-6);
  assertEquals(randn([4]).matmul(randn([4])).shape, []);
  assertEquals(randn([4]).matmul(y).shape, [5, 2]);
  assertEquals(x.matmul(randn([4])).shape, [2, 1, 3]);
  assertEquals(randn([0, 4]).matmul(randn([4, 3])).shape, [0, 3]);
  assertEquals(await randn([2, 0]).matmul(randn([0, 1])).array(), [[0], [0]]);
  await gradcheck((a, b) => a.matmul(b), [x, y]);
  await gradcheck((a, b) => a.matmul(b), [
    randn([2, 3, 4], { seed: 3 }),
    randn([4, 2], { seed: 4 }),
  ]);
  await gradcheck((a, b) => a.matmul(b), [randn([3], { seed: 3 }), randn([3], { seed: 4 })]);
});

testReductions("reductions agree with float64 over any axes of any strides", async () => {
  const shape = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(
      shape,
      fc.nat(),
      fc.boolean(),
      fc.boolean(),
      async (shape, seed, keepDims, flip) => {
        const axes = shape.map((_, i) => i).filter((i) => (seed >> i) % 2 === 0);
        let x = randn(shape, { seed });
        if (flip) x = x.flip().transpose(0, -1);
        const values = await x.data();
        const [sums, maxima] = [new Map<string, number>(), new Map<string, number>()];
        values.forEach((value, at) => {
          const entry: number[] = [];
          for (let axis = x.rank - 1, rest = at; axis >= 0; axis--) {
            entry.unshift(axes.includes(axis) ? 0 : rest % x.shape[axis]);
            rest = Math.floor(rest / x.shape[axis]);
          }
          const key = entry.join();
          sums.set(key, (sums.get(key) ?? 0) + value);
          maxima.set(key, Math.max(maxima.get(key) ?? -Infinity, value));
        });
        const kept = x.shape.map((n, i) => axes.includes(i) ? 1 : n);
        const wanted = keepDims ? kept : x.shape.filter((_, i) => !axes.includes(i));
        const sum = x.sum(axes, { keepDims });
        assertEquals(sum.shape, wanted);
        // A sum may cancel, so the tolerance is on the scale of its terms.
        const error = (await sum.data()).map((s, i) => s - [...sums.values()][i]);
        assert(error.every((e) => Math.abs(e) < 1e-4));
        await assertNear(x.max(axes, { keepDims }), [...maxima.values()], 0);
      },
    ),
    runs(40),
  );
});

testReductions("long sums are split over workgroups and stay exact", async () => {
  const x = uniform([3, 100_003], { seed: 5 });
  const values = await x.data();
  const rows = [0, 1, 2].map((r) => values.slice(r * 100_003, (r + 1) * 100_003));
  const sums = rows.map((row) => row.reduce((a: number, b: number) => a + b, 0));
  await assertNear(x.sum(1), sums, 1e-6);
  await assertNear(x.sum(), [sums[0] + sums[1] + sums[2]], 1e-6);
  await assertNear(x.transpose().sum(0), sums, 1e-6);
  await assertNear(x.mean(-1), sums.map((s) => s / 100_003), 1e-6);
  await assertNear(
    x.min(1),
    rows.map((row) => row.reduce((a: number, b: number) => Math.min(a, b))),
    0,
  );
});

testReductions(
  "the least and the largest of integers are exact to both ends of their range",
  async () => {
    const signed = tensor([[5, -(2 ** 31), 7], [2 ** 31 - 1, 3, 4]], { dtype: "i32" });
    assertEquals(Array.from(await signed.min(1).data()), [-(2 ** 31), 3]);
    assertEquals(Array.from(await signed.max(1).data()), [7, 2 ** 31 - 1]);
    const unsigned = tensor([[5, 2 ** 32 - 1, 7], [2 ** 31, 3, 0]], { dtype: "u32" });
    assertEquals(Array.from(await unsigned.min(1).data()), [5, 0]);
    assertEquals(Array.from(await unsigned.max(1).data()), [2 ** 32 - 1, 2 ** 31]);
    const refused = assertThrows(() => tensor([], { shape: [2, 0] }).min(1), ShapeError);
    assertEquals(refused.message, "Cannot take the min of [2, 0]: axis 1 has no entries");
  },
);

testReductions("reductions have gradients, shared between equal maxima", async () => {
  const x = randn([2, 3, 4], { seed: 1 });
  await gradcheck((t) => t.sum(1), [x]);
  await gradcheck((t) => t.mean([0, 2]), [x]);
  await gradcheck((t) => t.max(-1), [x]);
  await gradcheck((t) => t.min(), [x]);
  const ties = tensor([1, 3, 3], { requiresGrad: true });
  ties.max().backward();
  assertEquals(await ties.grad!.array(), [0, 0.5, 0.5]);
});

testOnBackends("argmax gives the first largest, as i32", async () => {
  const x = tensor([[1, 5, 5], [7, 2, 3]]);
  assertEquals(await x.argmax(-1).array(), [1, 0]);
  assertEquals(await x.argmax(0).array(), [1, 0, 0]);
  assertEquals(await x.argmax().item(), 3);
  assertEquals(x.argmax(1, { keepDims: true }).shape, [2, 1]);
  assertEquals(x.argmax(1).dtype, "i32");
});

testReductions("softmax and its logarithm agree with float64 along any axis", async () => {
  const x = randn([3, 5, 4], { seed: 1 }).mul(20);
  for (const axis of [0, 1, 2, -1]) {
    const rows = x.transpose(axis, -1);
    const values = Array.from(await rows.data());
    const length = rows.shape[2];
    const expected = values.map((v, i) => {
      const row = values.slice(i - i % length, i - i % length + length);
      const top = Math.max(...row);
      return v - top - Math.log(row.reduce((sum, w) => sum + Math.exp(w - top), 0));
    });
    await assertNear(x.logSoftmax(axis).transpose(axis, -1), expected, 2e-6);
    await assertNear(x.softmax(axis).transpose(axis, -1), expected.map(Math.exp), 2e-6);
  }
  const small = randn([2, 3], { seed: 2 });
  await gradcheck((t) => t.softmax(), [small]);
  await gradcheck((t) => t.logSoftmax(0), [small]);
});

testReductions(
  "rows of huge numbers keep what their logarithms of probabilities differ by",
  async (device) => {
    // In float64 too the maximum and the logarithm of a sum are not to be added up first.
    const rows = [[3e38, 3e38, 3e38, 3e38], [-3e38, -3e38, 3e38, 3e38]];
    const found = await tensor(rows, { device }).logSoftmax().data();
    const expected = [1, 1, 1, 1].map(() => -Math.log(4)).concat([-Infinity, -Infinity]);
    expected.push(-Math.LN2, -Math.LN2);
    for (const [i, x] of expected.entries()) {
      assert(x === found[i] || Math.abs(found[i] - x) < 1e-6, `${i}: ${found[i]}, expected ${x}`);
    }
  },
);

testOnBackends(
  "gather looks up, scatters its gradient, and marks what is out of range",
  async () => {
    const table = randn([5, 3], { seed: 1 });
    const rows = await table.array() as number[][];
    const ids = tensor([[4, 0], [0, 2]], { dtype: "i32" });
    assertEquals(await table.gather(ids).array(), [[rows[4], rows[0]], [rows[0], rows[2]]]);
    assertEquals(table.gather(ids, 1 - 2).shape, [5, 2, 2]);
    await gradcheck((t) => t.gather(ids), [table]);
    await gradcheck((t) => t.gather(tensor([2, 2, 0], { dtype: "u32" }), 1), [table]);
    const outside = await table.gather(tensor([-1, 5], { dtype: "i32" })).data();
    assert(outside.every(Number.isNaN));
    assertEquals(
      await tensor([7, 8], { dtype: "i32" }).gather(tensor([1, 9], { dtype: "i32" })).array(),
      [8, 0],
    );
  },
);

testOnBackends(
  "the gradient of a table looked up thousands of times is every row's sum",
  async () => {
    for (const count of [31, 32, 2047, 2048, 2049, 5000]) {
      const table = randn([7, 70], { seed: 1, requiresGrad: true });
      const ids = Array.from({ length: count }, (_, j) => (j * j + (j >> 5)) % 7);
      const g = randn([count, 70], { seed: 2 });
      table.gather(tensor(ids, { dtype: "i32" })).backward({ gradient: g });
      const expected = new Float64Array(7 * 70);
      (await g.data()).forEach((value, at) =>
        expected[ids[Math.floor(at / 70)] * 70 + at % 70] += value
      );
      await assertNear(table.grad!, expected, 1e-5, `${count} rows`);
    }
  },
);

testOnBackends("views and concatenation have gradients", async () => {
  const x = randn([2, 3, 4], { seed: 1 });
  await gradcheck((t) => t.reshape([6, 4]).square(), [x]);
  await gradcheck((t) => t.permute([2, 0, 1]).square(), [x]);
  await gradcheck((t) => t.slice(null, [2, 0, -1], 1).square(), [x]);
  await gradcheck((t) => t.flip([0, 2]).square(), [x]);
  await gradcheck((t) => t.unsqueeze(1).expand([2, 5, 3, 4]).square(), [x]);
  await gradcheck((a, b) => concat([a, b, a], 1).square(), [x, randn([2, 1, 4], { seed: 2 })]);
  await gradcheck((t) => t.transpose().contiguous().square(), [x]);
});

testOnBackends("second derivatives are derivatives of derivatives", async () => {
  const smooth: Record<string, (x: Tensor) => Tensor> = {
    exp: (x) => x.exp(),
    tanh: (x) => x.tanh(),
    silu: (x) => x.silu(),
    gelu: (x) => x.gelu(),
    sigmoid: (x) => x.sigmoid(),
    sin: (x) => x.sin(),
    rsqrt: (x) => x.square().add(1).rsqrt(),
    div: (x) => x.div(x.square().add(1)),
    softmax: (x) => x.softmax().square(),
    logSoftmax: (x) => x.logSoftmax().square(),
    matmul: (x) => x.matmul(x.transpose()).square(),
    mean: (x) => x.square().mean(0).square(),
    slice: (x) => x.slice(0, [1, 3]).pow(3),
    gather: (x) => x.gather(tensor([1, 1, 0], { dtype: "i32" })).pow(3),
  };
  for (const f of Object.values(smooth)) {
    await gradcheck(grad((x: Tensor) => f(x).sum()), [randn([2, 4], { seed: 3 })]);
  }
});

testOnCpu("bad arguments are refused with what was found", () => {
  const x = randn([3, 4]);
  assertThrows(() => x.matmul(randn([5, 6])), ShapeError, "inner sizes 4 and 5 differ");
  assertThrows(() => x.add(randn([3])), ShapeError, "Cannot add [3, 4] and [3]");
  assertThrows(() => x.add(x.to("i32")), DTypeError, "f32 and i32");
  assertThrows(() => x.to("i32").exp(), DTypeError, "exp");
  assertThrows(() => x.to("i32").add(0.5), DTypeError, "0.5");
  assertThrows(() => x.sum(2), ShapeError, "axis 2 does not exist");
  assertThrows(() => x.sum([0, 0]), ShapeError, "twice");
  assertThrows(() => x.reshape([5, -1]), ShapeError, "Cannot reshape [3, 4] to [5, -1]");
  assertThrows(() => x.permute([0, 0]), ShapeError, "once");
  assertThrows(() => x.slice(3), ShapeError, "entry 3");
  assertThrows(() => x.expand([3, 5]), ShapeError, "expand");
  assertThrows(() => x.where(1, 0), DTypeError, "bool");
  assertThrows(() => x.gather(x), DTypeError, "indices");
  assertThrows(() => randn([0]).max(), ShapeError, "no entries");
  assertThrows(() => concat([x, randn([3, 4, 1])]), ShapeError, "concat");
});

testOnBackends("a large matmul, in any layout and dtype, equals float64", async () => {
  // Large enough for wide tiles, ragged at every edge, and each of the four ways to be dense.
  for (const [m, k, n] of [[1100, 20, 1030], [1024, 37, 1028]]) {
    for (const dtype of ["f32", "f16"] as const) {
      const [x, y] = [randn([m, k], { seed: 1, dtype }), randn([k, n], { seed: 2, dtype })];
      const [xs, ys] = await Promise.all([x.data(), y.data()]);
      const rows = [0, 63, 64, 500, m - 1];
      const expected = rows.flatMap((row) =>
        Array.from({ length: n }, (_, column) => {
          let sum = 0;
          for (let i = 0; i < k; i++) sum += xs[row * k + i] * ys[i * n + column];
          return sum;
        })
      );
      const turned = (t: Tensor) => t.transpose().contiguous().transpose();
      for (
        const [left, right] of [[x, y], [turned(x), y], [x, turned(y)], [turned(x), turned(y)]]
      ) {
        const product = await left.matmul(right).data();
        const found = rows.flatMap((row) => [...product.slice(row * n, (row + 1) * n)]);
        const error = relativeError(found, expected);
        assert(error <= (dtype === "f16" ? 1e-3 : 1e-6), `${[m, k, n]} in ${dtype}: ${error}`);
      }
    }
  }
});

/** Rotary positions, and the norms with weights, against plain float64 arithmetic. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  DTypeError,
  grad,
  gradcheck,
  LevinError,
  LimitError,
  nn,
  randn,
  rotary,
  ShapeError,
  type Tensor,
  tensor,
} from "../mod.ts";
import { crowded } from "./crowded.ts";
import { assertNear, FLOATS, runs, testOnBackends, testOnCpu } from "./harness.ts";

/** Each pair (j, j + r/2) of a row of x turned by its angle, or back by it. */
function turned(x: number[], angles: number[], sign = 1): number[] {
  const y = [...x];
  angles.forEach((angle, j) => {
    const [a, b] = [x[j], x[j + angles.length]];
    y[j] = a * Math.cos(angle) - sign * b * Math.sin(angle);
    y[j + angles.length] = b * Math.cos(angle) + sign * a * Math.sin(angle);
  });
  return y;
}

const problems = fc.record({
  b: fc.integer({ min: 1, max: 3 }),
  h: fc.integer({ min: 1, max: 3 }),
  n: fc.integer({ min: 1, max: 9 }),
  half: fc.integer({ min: 1, max: 9 }),
  rest: fc.nat(5),
  starts: fc.oneof(
    fc.nat(100000),
    fc.array(fc.nat(500), { minLength: 3, maxLength: 3 }),
  ),
  byToken: fc.boolean(),
  dtype: fc.constantFrom(...FLOATS),
  seed: fc.nat(),
});

testOnBackends(
  "pairs are turned by their positions, and gradients back, as in float64",
  async () => {
    await fc.assert(
      fc.asyncProperty(problems, async ({ b, h, n, half, rest, starts, byToken, dtype, seed }) => {
        const d = 2 * half + rest;
        using positions = new nn.Rotary(2 * half, { base: 500 });
        const start = typeof starts === "number" ? starts : starts.slice(0, b);
        const rotations = positions.at(start, n);
        // Of either layout in memory.
        const make = (i: number) =>
          byToken
            ? randn([b, n, h, d], { seed: seed + i, dtype }).permute([0, 2, 1, 3])
            : randn([b, h, n, d], { seed: seed + i, dtype });
        const [x, g] = [make(1), make(2)];
        const y = rotary(x, rotations);
        assertEquals([y.shape, y.dtype], [[b, h, n, d], dtype]);
        const dx = grad((x: Tensor) => rotary(x, rotations).mul(g).to("f32").sum())(x);
        const expected = async (t: Tensor, sign: number) => {
          const values = Array.from(await t.data());
          return Array.from({ length: b * h * n }, (_, i) => {
            const row = Math.floor(i / (h * n));
            const position = (typeof start === "number" ? start : start[row]) + i % n;
            const angles = Array.from(
              { length: half },
              (_, j) => position * 500 ** (-2 * j / (2 * half)),
            );
            return turned(values.slice(i * d, i * d + d), angles, sign);
          }).flat();
        };
        const tolerance = dtype === "f16" ? 1e-3 : 1e-6;
        await assertNear(y, await expected(x, 1), tolerance);
        await assertNear(dx, await expected(g, -1), tolerance, "gradient");
      }),
      runs(25),
    );
  },
);

testOnBackends("the gradient of rotary is that of differences, and has one itself", async () => {
  using positions = new nn.Rotary(4);
  const rotations = positions.at([3, 70], 3);
  await gradcheck((x) => rotary(x, rotations), [randn([2, 2, 3, 5], { seed: 1 })]);
  await gradcheck(
    (x) => grad((x: Tensor) => rotary(x, rotations).square().mul(x).sum())(x),
    [randn([2, 1, 3, 4], { seed: 2 })],
  );
});

testOnBackends("far positions are turned as exactly as near ones", async () => {
  using positions = new nn.Rotary(8);
  const far = await positions.at(100_000, 2).data();
  const expected = [100_000, 100_001].flatMap((t) =>
    [Math.cos, Math.sin].flatMap((f) => [0, 1, 2, 3].map((j) => f(t * 10000 ** (-j / 4))))
  );
  assert(far.every((value, i) => Math.abs(value - expected[i]) < 1e-7));
});

testOnCpu("rotary refuses what does not fit, and says what does", () => {
  using positions = new nn.Rotary(4);
  const x = randn([2, 1, 3, 4]);
  assertThrows(() => rotary(x, positions.at(0, 2)), ShapeError, "rotations [1, 2, 4]");
  assertThrows(() => rotary(x, positions.at([0, 1, 2], 3)), ShapeError, "rotations [3, 3, 4]");
  assertThrows(() => rotary(randn([2, 1, 3, 3]), positions.at(0, 3)), ShapeError);
  assertThrows(() => rotary(x.to("i32"), positions.at(0, 3)), DTypeError, "i32");
  const learnt = randn([1, 3, 4], { requiresGrad: true });
  assertThrows(() => rotary(x, learnt), LevinError, "detach");
  assertThrows(() => new nn.Rotary(3), ShapeError, "even");
});

for (const [name, Norm] of [["RMSNorm", nn.RMSNorm], ["LayerNorm", nn.LayerNorm]] as const) {
  testOnBackends(`${name} and the gradients of its parameters are those of float64`, async () => {
    const sizes = fc.record({
      rows: fc.integer({ min: 1, max: 5 }),
      size: fc.oneof(fc.integer({ min: 2, max: 20 }), fc.constantFrom(127, 128, 129, 300)),
      // Far from 0, where a variance by E x² − (E x)² would be lost.
      centre: fc.constantFrom(0, 1, 100),
      seed: fc.nat(),
    });
    await fc.assert(
      fc.asyncProperty(sizes, async ({ rows, size, centre, seed }) => {
        using norm = new Norm(size, { epsilon: 1e-3 });
        norm.load(Object.fromEntries(
          Object.keys(norm.parameters()).map((
            name,
            i,
          ) => [name, randn([size], { seed: seed + i })]),
        ));
        const x = randn([rows, size], { seed: seed + 5 }).add(centre);
        const g = randn([rows, size], { seed: seed + 6 });
        const y = norm.forward(x);
        y.mul(g).sum().backward();
        const [xs, gs, ws] = await Promise.all([x, g, norm.weight].map((t) => t.data()));
        const bs = norm instanceof nn.LayerNorm ? await norm.bias.data() : undefined;
        const expected = { y: [] as number[], w: Array(size).fill(0), b: Array(size).fill(0) };
        // What is left of v − mean is as near as float32 has them, over what the row deviates by.
        const terms = { y: [] as number[], w: Array(size).fill(0) };
        for (let r = 0; r < rows; r++) {
          const row = Array.from(xs.slice(r * size, (r + 1) * size));
          const mean = bs === undefined ? 0 : row.reduce((a, v) => a + v, 0) / size;
          const square = row.reduce((a, v) => a + (v - mean) ** 2, 0) / size;
          const deviation = Math.sqrt(square + 1e-3);
          row.forEach((v, i) => {
            const unit = (v - mean) / deviation;
            expected.y.push(unit * ws[i] + (bs?.[i] ?? 0));
            expected.w[i] += unit * gs[r * size + i];
            expected.b[i] += gs[r * size + i];
            terms.y.push(v / deviation * ws[i]);
            terms.w[i] += Math.abs(v / deviation * gs[r * size + i]);
          });
        }
        await assertNear(y, expected.y, 1e-5, "y", terms.y);
        await assertNear(norm.weight.grad!, expected.w, 1e-5, "dw", terms.w);
        if (norm instanceof nn.LayerNorm) await assertNear(norm.bias.grad!, expected.b, 1e-5, "db");
      }),
      // Two columns that hardly differ: what float32 loses of a mean of 100 counts there.
      { ...runs(12), examples: [[{ rows: 4, size: 2, centre: 100, seed: 883383580 }]] },
    );
    using norm = new Norm(5);
    norm.load({ ...norm.parameters(), weight: tensor([1, -2, 0.5, 3, 0.1]) });
    await gradcheck((x) => norm.forward(x), [randn([2, 5], { seed: 1 })]);
  });
}

testOnCpu("rotations that cannot grow are still there as they were", async () => {
  using angles = new nn.Rotary(4, { device: crowded(2048) });
  const before = await angles.at(0, 64).data();
  assertThrows(() => angles.at(0, 1000), LimitError, "no room");
  assertEquals(await angles.at(0, 64).data(), before);
});

/** AdamW, clipping, the schedule and cross-entropy against float64, and a model that learns. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  Device,
  DTypeError,
  gradcheck,
  LevinError,
  loss,
  nn,
  optim,
  randn,
  scope,
  setDefaultDevice,
  ShapeError,
  type Tensor,
  tensor,
  tidy,
  uniform,
} from "../mod.ts";
import { TransNormerLLM } from "../src/models/mod.ts";
import { asLeaf } from "../src/ops/create.ts";
import { WebgpuBackend } from "../src/backend/webgpu/backend.ts";
import {
  assertNear,
  FLOATS,
  openGpu,
  runs,
  testOnBackends,
  testOnCpu,
  testOnWebgpu,
  testReductions,
} from "./harness.ts";

/** AdamW (Loshchilov and Hutter, arXiv 1711.05101) in float64, for one parameter's gradients. */
function adamw(start: ArrayLike<number>, gradients: number[][], rate: number, decay: number) {
  const p = Float64Array.from(start);
  const [m, v] = [new Float64Array(p.length), new Float64Array(p.length)];
  gradients.forEach((g, t) => {
    for (let i = 0; i < p.length; i++) {
      m[i] = 0.9 * m[i] + 0.1 * g[i];
      v[i] = 0.95 * v[i] + 0.05 * g[i] ** 2;
      const step = m[i] / (1 - 0.9 ** (t + 1)) / (Math.sqrt(v[i] / (1 - 0.95 ** (t + 1))) + 1e-8);
      p[i] -= rate * (step + decay * p[i]);
    }
  });
  return p;
}

const GRADIENTS = [[1, -2, 0.5, 3], [0.1, 0.2, -5, 1], [-1, 0, 2, 1e-3]];

testOnBackends("AdamW follows its formula, decaying matrices and not vectors", async () => {
  const start = [1, -1, 0.5, 2];
  const parameters = {
    matrix: tensor(start, { shape: [2, 2], requiresGrad: true }),
    vector: tensor(start, { requiresGrad: true }),
  };
  using optimizer = new optim.AdamW(parameters, { learningRate: 0.01, weightDecay: 0.3 });
  for (const g of GRADIENTS) {
    for (const p of Object.values(parameters)) {
      p.mul(tensor(g, { shape: p.shape })).sum().backward();
    }
    optimizer.step();
    optimizer.zeroGrad();
  }
  await assertNear(parameters.matrix, adamw(start, GRADIENTS, 0.01, 0.3), 1e-6);
  await assertNear(parameters.vector, adamw(start, GRADIENTS, 0.01, 0), 1e-6);
});

/** Parameters by the names p0, p1, … */
function byNumber(parameters: readonly Tensor[]): Record<string, Tensor> {
  return Object.fromEntries(parameters.map((p, i) => [`p${i}`, p]));
}

/** Parameters of AdamW with gradients that start from `seed`, stepped as often as given; what they are in the end. */
async function stepMany(
  shapes: readonly number[][],
  seed: number,
  steps: readonly (readonly boolean[])[],
): Promise<void> {
  const parameters = shapes.map((shape, i) => randn(shape, { seed: seed + i, requiresGrad: true }));
  const starts = await Promise.all(parameters.map((p) => p.data()));
  using optimizer = new optim.AdamW(byNumber(parameters), { learningRate: 0.01, weightDecay: 0.3 });
  const zeros = () => starts.map((start) => new Float64Array(start.length));
  const [m, v] = [zeros(), zeros()];
  const expected = starts.map((start) => Float64Array.from(start));
  // The sums of the sizes of what m and p are sums of: where they cancel, rounding does not.
  const mTerms = zeros();
  const terms = starts.map((start) => Float64Array.from(start, Math.abs));
  for (const [t, given] of steps.entries()) {
    const gradients = shapes.map((shape, i) => randn(shape, { seed: seed + 100 * (t + 1) + i }));
    for (const [i, p] of parameters.entries()) {
      if (!given[i]) continue;
      p.mul(gradients[i]).sum().backward();
      const g = await gradients[i].data();
      const decay = shapes[i].length >= 2 ? 0.3 : 0;
      for (let j = 0; j < g.length; j++) {
        m[i][j] = 0.9 * m[i][j] + 0.1 * g[j];
        mTerms[i][j] = 0.9 * mTerms[i][j] + 0.1 * Math.abs(g[j]);
        v[i][j] = 0.95 * v[i][j] + 0.05 * g[j] ** 2;
        const root = Math.sqrt(v[i][j] / (1 - 0.95 ** (t + 1))) + 1e-8;
        const step = m[i][j] / (1 - 0.9 ** (t + 1)) / root;
        expected[i][j] -= 0.01 * (step + decay * expected[i][j]);
        terms[i][j] += 0.01 * mTerms[i][j] / (1 - 0.9 ** (t + 1)) / root;
      }
    }
    optimizer.step();
    optimizer.zeroGrad();
  }
  const state = optimizer.state();
  for (const [i, p] of parameters.entries()) {
    assertEquals(state[`p${i}.m`].shape, shapes[i]);
    for (
      const [what, found, numbers, sizes] of [
        ["parameter", p, expected[i], terms[i]],
        ["m", state[`p${i}.m`], m[i], mTerms[i]],
        ["v", state[`p${i}.v`], v[i], v[i]],
      ] as const
    ) {
      const off = (await found.data()).findIndex((value, j) =>
        !(Math.abs(value - numbers[j]) <= 1e-6 * sizes[j])
      );
      assertEquals(off, -1, `${what} ${i} at ${off}`);
    }
  }
}

testOnBackends("AdamW steps any number of parameters, of which some have no gradient", async () => {
  const shape = fc.oneof(
    fc.constant<number[]>([]),
    fc.tuple(fc.constantFrom(1, 3, 256, 40_001)),
    fc.tuple(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 50 })),
  );
  const steps = fc.array(fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }), {
    minLength: 1,
    maxLength: 3,
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(shape, { minLength: 1, maxLength: 8 }),
      fc.nat(1000),
      steps,
      async (shapes, seed, steps) => {
        using _ = scope();
        await stepMany(shapes, seed, [Array(8).fill(true), ...steps]);
      },
    ),
    {
      ...runs(10),
      // Found: an average whose terms cancel.
      examples: [[[[], [], [1]], 0, [Array.from({ length: 8 }, (_, i) => i === 2)]]],
    },
  );
});

testOnWebgpu("AdamW takes parameters that are larger than a binding", async () => {
  await onSmallBindings(2 ** 16, async () => {
    await stepMany([[5], [40_000], [100, 30], [100, 40], [8], [20_001]], 1, [
      [true, true, true, true, true, true],
      [true, true, false, true, false, true],
    ]);
  });
});

testOnBackends("three parameters are stepped by one kernel", async (device) => {
  const shapes = Array.from({ length: 10 }, (_, i) => [i + 1, 3]);
  const parameters = shapes.map((shape, i) => randn(shape, { seed: i, requiresGrad: true }));
  using optimizer = new optim.AdamW(byNumber(parameters));
  for (const p of parameters) p.sum().backward();
  const { spans } = await device.profile(() => optimizer.step());
  assertEquals(spans.filter(({ name }) => name === "adamw").length, 4);
});

testOnBackends(
  "AdamW steps parameters that share memory with each other or with gradients",
  async () => {
    const both = tensor([1, -1, 0.5, 2, 7, 8, 9, 10]);
    const leaves = [[0, 4], [4, 8]].map(([from, to]) => asLeaf(both.slice([from, to])));
    // The gradient of Σ a ⊙ b with respect to a is b itself.
    const [a, b] = [[1, -1, 0.5, 2], [1, 2, 3, 4]].map((x) => tensor(x, { requiresGrad: true }));
    a.backward({ gradient: b.detach() });
    b.backward({ gradient: a.detach() });
    using optimizer = new optim.AdamW({ a, b, c: leaves[0], d: leaves[1] }, { learningRate: 0.01 });
    [leaves[0].grad, leaves[1].grad] = [tensor(GRADIENTS[0]), tensor(GRADIENTS[0])];
    optimizer.step();
    await assertNear(a, adamw([1, -1, 0.5, 2], [[1, 2, 3, 4]], 0.01, 0), 1e-6);
    await assertNear(b, adamw([1, 2, 3, 4], [[1, -1, 0.5, 2]], 0.01, 0), 1e-6);
    await assertNear(leaves[0], adamw([1, -1, 0.5, 2], [GRADIENTS[0]], 0.01, 0), 1e-6);
    await assertNear(leaves[1], adamw([7, 8, 9, 10], [GRADIENTS[0]], 0.01, 0), 1e-6);
  },
);

testOnBackends("a step by the clipping factor is a step after clipping", async () => {
  const run = async (clip: (p: Record<string, Tensor>, optimizer: optim.AdamW) => Tensor) => {
    const shapes = [[30, 4], [5], [17, 3], [], [900]];
    const list = shapes.map((shape, seed) => randn(shape, { seed, requiresGrad: true }));
    const parameters = byNumber(list);
    using optimizer = new optim.AdamW(parameters, { learningRate: 0.1 });
    for (const [i, p] of list.entries()) p.square().mul(i + 1).sum().backward();
    const norm = await clip(parameters, optimizer).item();
    return [norm, ...(await Promise.all(list.map((p) => p.data()))).flatMap((x) => [...x])];
  };
  const expected = await run((parameters, optimizer) => {
    const norm = optim.clipGradNorm(parameters, 0.5);
    optimizer.step();
    return norm;
  });
  const found = await run((parameters, optimizer) => {
    const { factor, norm } = optim.clipFactor(parameters, 0.5);
    optimizer.step({ factor });
    return norm;
  });
  assert(expected[0] > 10);
  await assertNear(tensor(found), expected, 1e-6);
});

testOnBackends("an option of AdamW that is undefined has its default", async () => {
  const nothing = undefined;
  const left = { learningRate: nothing, betas: nothing, epsilon: nothing, weightDecay: nothing };
  const p = tensor([[1, -1, 0.5, 2]], { requiresGrad: true });
  using optimizer = new optim.AdamW({ p }, { ...left, decays: nothing });
  p.mul(tensor([GRADIENTS[0]])).sum().backward();
  optimizer.step();
  await assertNear(p, adamw([1, -1, 0.5, 2], [GRADIENTS[0]], 1e-3, 0.1), 1e-6);
});

testOnBackends("AdamW continues bit for bit from its saved state", async () => {
  const run = async (breakAt: number | undefined) => {
    let p = randn([5, 3], { seed: 1, requiresGrad: true });
    let optimizer = new optim.AdamW({ p }, { learningRate: 0.1 });
    for (let step = 0; step < 6; step++) {
      if (step === breakAt) {
        const saved = Object.fromEntries(
          await Promise.all(
            Object.entries(optimizer.state()).map(async ([name, t]) =>
              [name, tensor(await t.data(), { shape: t.shape })] as const
            ),
          ),
        );
        const copy = tensor(await p.data(), { shape: p.shape, requiresGrad: true });
        const next = new optim.AdamW({ p: copy }, { learningRate: 0.1 });
        next.load(saved, optimizer.steps);
        optimizer[Symbol.dispose]();
        [p, optimizer] = [copy, next];
      }
      p.square().sum().backward();
      optimizer.step();
      optimizer.zeroGrad();
    }
    optimizer[Symbol.dispose]();
    return [...await p.data()];
  };
  const whole = await run(undefined);
  assert(whole.some((value) => value !== 0));
  assertEquals(await run(3), whole);
});

testOnBackends("AdamW may load its own state, and one of another dtype", async () => {
  const p = tensor([[1, 2]], { requiresGrad: true });
  using optimizer = new optim.AdamW({ p });
  const [m, v] = [[[0.5, -2]], [[0.25, 3]]];
  optimizer.load({ "p.m": tensor(m, { dtype: "f16" }), "p.v": tensor(v, { dtype: "f16" }) }, 2);
  optimizer.load(optimizer.state(), 3);
  const state = optimizer.state();
  assertEquals([await state["p.m"].array(), await state["p.v"].array()], [m, v]);
  assertEquals([optimizer.steps, state["p.m"].dtype], [3, "f32"]);
});

testOnCpu("AdamW refuses a state that lacks a tensor or has one of another shape", () => {
  const p = tensor([1, 2], { requiresGrad: true });
  using optimizer = new optim.AdamW({ p });
  assertThrows(() => optimizer.load({}, 1), LevinError, "p.m");
  assertThrows(() => optimizer.load({ "p.m": tensor([1]), "p.v": tensor([1]) }, 1), ShapeError);
  assertThrows(() => new optim.AdamW({ h: tensor([1], { dtype: "f16" }) }), DTypeError);
});

testOnBackends(
  "clipping scales all gradients by their common norm, and only if it is large",
  async () => {
    const [a, b] = [tensor([1], { requiresGrad: true }), tensor([1], { requiresGrad: true })];
    a.mul(3).add(b.mul(4)).sum().backward();
    assertEquals(await optim.clipGradNorm({ a, b }, 10).item(), 5);
    await assertNear(a.grad!, [3], 1e-6);
    optim.clipGradNorm({ a, b }, 1);
    await assertNear(a.grad!, [0.6], 1e-5);
    await assertNear(b.grad!, [0.8], 1e-5);
    [a.grad, b.grad] = [null, null];
    assertThrows(() => optim.clipGradNorm({ a, b }, 1), LevinError, "no parameter has a gradient");
  },
);

/** Runs `fn` on a device that binds no more than `bindingBytes` at once. */
async function onSmallBindings(bindingBytes: number, fn: () => Promise<void>): Promise<void> {
  const gpu = await openGpu();
  const backend = new WebgpuBackend(gpu, { owned: true, bindingBytes });
  backend.debug = true;
  const device = new Device(backend, "a test made it");
  const before = tensor(0).device;
  setDefaultDevice(device);
  try {
    using _ = scope();
    await fn();
  } finally {
    setDefaultDevice(before);
    device.destroy();
  }
}

/** Checks the norm and the clipped gradients of leaves whose gradients are given tensors. */
async function checkClipping(gradients: Tensor[], maxNorm: number): Promise<void> {
  const values = await Promise.all(gradients.map(async (g) => Array.from(await g.data())));
  const leaves = gradients.map((g, i) => {
    // The gradient of Σ p ⊙ g is g; every other one arrives through a transpose.
    const turned = i % 2 === 1 && g.rank === 2;
    const start = turned ? g.transpose().contiguous() : g;
    const p = tensor(new Float32Array(g.size), {
      shape: start.shape,
      dtype: g.dtype,
      requiresGrad: true,
    });
    (turned ? p.transpose() : p).mul(g).sum().backward();
    return { p, turned };
  });
  const norm = Math.sqrt(values.flat().reduce((sum, g) => sum + g * g, 0));
  const parameters = byNumber(leaves.map(({ p }) => p));
  await assertNear(optim.clipGradNorm(parameters, maxNorm), [norm], 1e-5, "norm");
  const factor = Math.min(1, maxNorm / (norm + 1e-6));
  for (const [i, { p, turned }] of leaves.entries()) {
    const found = turned ? p.grad!.transpose() : p.grad!;
    const expected = values[i].map((g) => g * factor);
    assertEquals(found.dtype, p.dtype);
    if (p.dtype === "f32") await assertNear(found, expected, 1e-5, `gradient ${i}`);
    else {
      // To the last place of float16, which below 2⁻¹⁴ is 2⁻²⁴ whatever the number.
      const off = (await found.data()).findIndex((value, at) =>
        !(Math.abs(value - expected[at]) <= 2 ** -24 + 2 ** -10 * Math.abs(expected[at]))
      );
      assertEquals(off, -1, `gradient ${i} at ${off}`);
    }
    p.grad = null;
  }
}

testReductions("clipping any number of gradients follows its formula", async () => {
  const shape = fc.oneof(
    fc.tuple(fc.constantFrom(1, 700, 70_001)),
    fc.tuple(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 150 })),
  );
  const gradient = fc.record({ shape, dtype: fc.constantFrom(...FLOATS) });
  await fc.assert(
    fc.asyncProperty(
      fc.array(gradient, { minLength: 1, maxLength: 15 }),
      fc.double({ min: 1e-3, max: 2000, noNaN: true }),
      fc.nat(1000),
      async (list, maxNorm, seed) => {
        using _ = scope();
        const draw = ({ shape, dtype }: { shape: number[]; dtype: "f32" | "f16" }, i: number) =>
          randn(shape, { seed: seed + i, dtype });
        await checkClipping(list.map(draw), maxNorm);
      },
    ),
    {
      ...runs(12),
      // Found: a gradient, of float16 where there is some, among its subnormals beside a large one.
      examples: [[
        [...Array(5).fill({ shape: [1], dtype: FLOATS.at(-1) }), {
          shape: [70_001],
          dtype: "f32",
        }],
        1,
        4,
      ]],
    },
  );
});

testOnWebgpu("clipping takes gradients that are larger than a binding", async () => {
  await onSmallBindings(2 ** 16, async () => {
    const sizes = [100, 40_000, 300, 5, 7];
    await checkClipping(sizes.map((size, seed) => randn([size], { seed })), 1);
  });
});

testOnBackends("gradients that share their memory are each scaled once", async () => {
  const [a, b, c] = [1, 2, 3].map(() => tensor([1, 1], { requiresGrad: true }));
  a.add(b).add(c).sum().backward();
  await assertNear(optim.clipGradNorm({ a, b, c }, 1), [Math.sqrt(6)], 1e-6);
  for (const p of [a, b, c]) {
    await assertNear(p.grad!, [1 / Math.sqrt(6), 1 / Math.sqrt(6)], 1e-5);
    p.grad = null;
  }
});

testOnCpu("the learning rate rises, falls along a cosine and stays at the floor", () => {
  const rate = optim.warmupCosine({ peak: 2, warmup: 4, total: 24, floor: 1 });
  assertEquals([0, 3].map(rate), [0.5, 2]);
  assert(Math.abs(rate(14) - 1.5) < 1e-12);
  assertEquals([24, 1000].map(rate), [1, 1]);
  assertThrows(() => optim.warmupCosine({ peak: 1, warmup: 5, total: 4 }), ShapeError);
});

/** Each row's log Σ exp x − x[target], in float64. */
function crossEntropies(x: ArrayLike<number>, targets: number[]): number[] {
  const classes = x.length / targets.length;
  return targets.map((target, row) => {
    const logits = Array.from({ length: classes }, (_, i) => x[row * classes + i]);
    const top = Math.max(...logits);
    const sum = logits.reduce((total, value) => total + Math.exp(value - top), 0);
    return top + Math.log(sum) - logits[target];
  });
}

for (const dtype of ["f32", "f16"] as const) {
  testReductions(`cross-entropy in ${dtype} equals its formula, however reduced`, async () => {
    const logits = randn([2, 3, 300], { seed: 1, dtype });
    const numbers = [0, 299, 7, 100, 55, 1];
    const targets = tensor(numbers, { shape: [2, 3], dtype: "i32" });
    const rows = crossEntropies(await logits.data(), numbers);
    const sum = rows.reduce((a, b) => a + b);
    await assertNear(loss.crossEntropy(logits, targets, { reduction: "none" }), rows, 1e-5);
    await assertNear(loss.crossEntropy(logits, targets, { reduction: "sum" }), [sum], 1e-5);
    await assertNear(loss.crossEntropy(logits, targets), [sum / 6], 1e-5);
  });
}

testReductions("cross-entropy has the right gradient", async () => {
  const targets = tensor([2, 0, 1], { dtype: "i32" });
  const logits = randn([3, 4], { seed: 1 });
  for (const reduction of ["mean", "sum", "none"] as const) {
    await gradcheck((x: Tensor) => loss.crossEntropy(x, targets, { reduction }), [logits]);
  }
});

testReductions("the gradient of cross-entropy in f16 is softmax less the target", async () => {
  const logits = randn([2, 5], { seed: 1, dtype: "f16", requiresGrad: true });
  const targets = tensor([4, 0], { dtype: "u32" });
  loss.crossEntropy(logits, targets, { reduction: "sum" }).backward();
  const x = await logits.data();
  const expected = Array.from(x, (value, i) => {
    const row = x.slice(i - i % 5, i - i % 5 + 5);
    const sum = row.reduce((total, other) => total + Math.exp(other), 0);
    return Math.exp(value) / sum - (i === 4 || i === 5 ? 1 : 0);
  });
  assertEquals(logits.grad!.dtype, "f16");
  await assertNear(logits.grad!, expected, 1e-3);
});

testReductions("a target that is no class makes its own loss NaN, and no other", async () => {
  const logits = randn([4, 4], { seed: 1 });
  const targets = tensor([2, -1, 4, 3], { dtype: "i32" });
  const rows = await loss.crossEntropy(logits, targets, { reduction: "none" }).data();
  const expected = crossEntropies(await logits.data(), [2, 0, 0, 3]);
  assertEquals([...rows].map(Number.isNaN), [false, true, true, false]);
  for (const row of [0, 3]) assert(Math.abs(rows[row] - expected[row]) < 1e-5);
});

testReductions("cross-entropy of extreme logits is finite", async () => {
  const extreme = [[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]];
  const logits = tensor(extreme, { requiresGrad: true });
  const targets = tensor([1, 2, 0], { dtype: "i32" });
  const rows = loss.crossEntropy(logits, targets, { reduction: "none" });
  await assertNear(rows.slice([0, 1]), [2e4], 1e-6);
  // The sum of exponentials is kept beside a logit of 1e4, whose last place is worth 1e-3.
  await assertNear(rows.slice([1]), [Math.LN2, Math.log(3)], 1e-3);
  rows.sum().backward();
  // Half a unit in the last place of a logit of 1e4 is 5e-4, and moves a probability by as much.
  const third = 1 / 3;
  await assertNear(logits.grad!, [1, -1, 0, 0, 0.5, -0.5, -2 * third, third, third], 5e-4);
});

testOnCpu("cross-entropy refuses targets of another shape or dtype", () => {
  const logits = randn([2, 3], { seed: 1 });
  assertThrows(() => loss.crossEntropy(logits, tensor([1], { dtype: "i32" })), ShapeError);
  assertThrows(() => loss.crossEntropy(logits, tensor([0, 1])), DTypeError);
  const targets = tensor([0, 1], { dtype: "i32" });
  assertThrows(() => loss.crossEntropy(logits.to("i32"), targets), DTypeError);
  assertThrows(() => loss.crossEntropy(tensor(1), targets), ShapeError);
  const reduction = "median" as "mean";
  assertThrows(() => loss.crossEntropy(logits, targets, { reduction }), ShapeError, "median");
});

testOnBackends("a small model learns a sequence by heart, in constant memory", async (device) => {
  const options = { vocabulary: 8, size: 16, layers: 2, heads: 2, inner: 24 };
  using model = new TransNormerLLM(options, { seed: 1 });
  using optimizer = new optim.AdamW(model.parameters(), { learningRate: 0.02, weightDecay: 0 });
  const sequence = [1, 5, 2, 7, 0, 3, 3, 6, 4, 1, 1, 2];
  const ids = tensor([sequence.slice(0, -1)], { dtype: "i32" });
  const targets = tensor([sequence.slice(1)], { dtype: "i32" });
  const bytes: number[] = [];
  const losses: number[] = [];
  for (let step = 0; step < 40; step++) {
    const value = tidy(() => {
      const value = loss.crossEntropy(model.forward(ids), targets);
      value.backward();
      optim.clipGradNorm(model.parameters(), 1);
      optimizer.step();
      optimizer.zeroGrad();
      return value.detach();
    });
    losses.push(await value.item());
    value.dispose();
    bytes.push(device.memory().liveBytes);
  }
  assert(losses[0] > 1.5, `the first loss is ${losses[0]}`);
  assert(losses.at(-1)! < 0.3, `the last loss is ${losses.at(-1)}`);
  assert(bytes[2] > 0);
  assertEquals([bytes[9], bytes.at(-1)], [bytes[2], bytes[2]]);
});

testOnCpu("numbers that nothing could come of are refused, before any work", () => {
  using _ = scope();
  const w = randn([2, 2], { seed: 1, requiresGrad: true });
  using adamw = new optim.AdamW({ w });
  const cosine = { peak: 1, warmup: 1, total: 10 };
  for (const x of [NaN, -1, Infinity]) {
    const refused: Record<string, () => unknown> = {
      "AdamW: expected a learningRate of 0 or more": () =>
        new optim.AdamW({ w }, { learningRate: x }),
      "AdamW: expected betas of [0, 1)": () => new optim.AdamW({ w }, { betas: [0.9, x] }),
      "AdamW: expected an epsilon of 0 or more": () => new optim.AdamW({ w }, { epsilon: x }),
      "AdamW: expected a weightDecay of 0 or more": () =>
        new optim.AdamW({ w }, { weightDecay: x }),
      "warmupCosine: expected rates of 0 or more": () => optim.warmupCosine({ ...cosine, peak: x }),
      "warmupCosine: expected whole numbers of steps": () =>
        optim.warmupCosine({ ...cosine, total: x }),
      "SRMSNorm: expected an epsilon of 0 or more": () => new nn.SRMSNorm(x),
      "RMSNorm: expected an epsilon of 0 or more": () => new nn.RMSNorm(2, { epsilon: x }),
      "LayerNorm: expected an epsilon of 0 or more": () => new nn.LayerNorm(2, { epsilon: x }),
      "Linear: expected an std of 0 or more": () => new nn.Linear(2, 2, { std: x }),
      "Embedding: expected an std of 0 or more": () => new nn.Embedding(2, 2, { std: x }),
    };
    for (const [message, fn] of Object.entries(refused)) {
      assertThrows(fn, ShapeError, `${message}, found ${x}`);
    }
  }
  for (const x of [NaN, 0.5]) {
    assertThrows(() => randn([2], { seed: x }), ShapeError, `a whole number as seed, found ${x}`);
    assertThrows(() => w.slice([x, 1]), ShapeError, `Cannot slice at ${x}: expected an integer`);
    assertThrows(() => w.slice([0, x]), ShapeError, `Cannot slice at ${x}`);
  }
  assertEquals(w.slice([0, Infinity]).shape, [2, 2]);
  assertThrows(() => uniform([2], { low: NaN }), ShapeError, "expected a finite low and high");
  assertThrows(() => optim.clipGradNorm({ w }, -1), ShapeError, "a maxNorm above 0, found -1");
  assertThrows(() => new optim.LossScaler({ interval: 0 }), ShapeError, "an interval of 1 step");
  assertThrows(() => new optim.LossScaler({ growth: Infinity }), ShapeError, "a finite growth");
  adamw.learningRate = NaN;
  assertThrows(() => adamw.step(), ShapeError, "a learningRate of 0 or more, found NaN");
  assertEquals(adamw.steps, 0);
});

/** The forms of Lightning Attention-2 beyond the paper's: decays, directions, packing, groups, decoding. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  concat,
  DTypeError,
  grad,
  gradcheck,
  LevinError,
  lightningAttention,
  type LightningAttentionOptions,
  lightningAttentionStep,
  lightningAttentionWithState,
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

const RUNS = runs(12);

function draw(b: number, h: number, n: number, size: number, seed: number, options = {}): Tensor {
  return randn([b, h, n, size], { seed, ...options });
}

/** The heads of a problem with g [b, h, n] and an initial state, for the float64 oracle. */
async function headsOf(q: Tensor, k: Tensor, v: Tensor, g: Tensor, s: Tensor): Promise<Head[]> {
  const [qs, ks, vs, ss] = await Promise.all([q, k, v, s].map(matricesOf));
  const gs = await g.data();
  const n = q.shape[2];
  return qs.map((_, i) => ({
    q: qs[i],
    k: ks[i],
    v: vs[i],
    g: Array.from(gs.slice(i * n, (i + 1) * n)),
    scale: 1,
    initial: ss[i],
  }));
}

const sizes = fc.record({
  b: fc.integer({ min: 1, max: 2 }),
  h: fc.integer({ min: 1, max: 2 }),
  n: fc.integer({ min: 1, max: 80 }),
  d: fc.integer({ min: 1, max: 12 }),
  e: fc.integer({ min: 1, max: 12 }),
  blockSize: fc.constantFrom(1, 5, 16, 64),
  seed: fc.nat(),
  strongest: fc.constantFrom(0.01, 1, 50),
});

/** Decays of far more than 88 between the rows of two chunks: a kernel that weighed the next one's made NaN. */
const DECAYS_FAR = { b: 1, h: 1, n: 55, d: 1, e: 1, blockSize: 5, seed: 0, strongest: 50 };

testOnBackends("a decay of every token's own, and its gradient, equal the naive form", async () => {
  await fc.assert(
    fc.asyncProperty(sizes, async ({ b, h, n, d, e, blockSize, seed, strongest }) => {
      const options = { requiresGrad: true };
      const [q, k] = [1, 2].map((i) => draw(b, h, n, d, seed + i, options));
      const v = draw(b, h, n, e, seed + 3, options);
      const initialState = draw(b, h, d, e, seed + 4, options);
      const logDecay = uniform([b, h, n], { seed, low: -strongest, high: 0, ...options });
      const found = lightningAttentionWithState(q, k, v, { logDecay, initialState, blockSize });
      const [dO, dS] = [draw(b, h, n, e, seed + 5), draw(b, h, d, e, seed + 6)];
      found.output.mul(dO).sum().add(found.state.mul(dS).sum()).backward();

      const heads = await headsOf(q, k, v, logDecay, initialState);
      const [gO, gS] = [await matricesOf(dO), await matricesOf(dS)];
      const expected = heads.map((head) => attend(head));
      const gradients = heads.map((head, i) => attendGradients(head, gO[i], gS[i]));
      for (const [name, t] of Object.entries({ o: found.output, state: found.state })) {
        const all = (sums: HeadSums[]) => sums.flatMap((r) => r[name as keyof HeadSums].flat());
        await assertNear(t, all(expected), 1e-5, name, all(expected.map((r) => r.terms)));
      }
      // dg is a sum of differences between q · dq and k · dk, and exact relative to those: where all
      // is forgotten, it is far smaller than they are.
      for (const [name, t] of Object.entries({ q, k, v, g: logDecay, initial: initialState })) {
        const all = (sums: HeadGradientSums[]) =>
          sums.flatMap((r) => r[name as keyof HeadGradientSums].flat());
        const terms = all(gradients.map((r) => r.terms));
        await assertNear(t.grad!, all(gradients), 1e-4, `d${name}`, terms);
      }
    }),
    { ...RUNS, examples: [[DECAYS_FAR]] },
  );
});

testOnBackends(
  "a decay's gradient is the same learnt alone, or with all that it decays",
  async () => {
    const [h, n, d, e] = [2, 41, 5, 7];
    for (const reverse of [false, true]) {
      const gradientOf = async (requiresGrad: boolean) => {
        const [q, k] = [1, 2].map((seed) => randn([1, h, n, d], { seed, requiresGrad }));
        const v = randn([1, h, n, e], { seed: 3, requiresGrad });
        const initialState = randn([1, h, d, e], { seed: 4, requiresGrad });
        const logDecay = uniform([1, h, n], { seed: 5, low: -0.5, high: 0, requiresGrad: true });
        const options = { logDecay, initialState, reverse, blockSize: 16 };
        const { output, state } = lightningAttentionWithState(q, k, v, options);
        const weights = randn(state.shape, { seed: 6 });
        output.square().sum().add(state.mul(weights).sum()).backward();
        const found = await logDecay.grad!.data();
        for (const t of [q, k, v, initialState, logDecay]) t.grad?.dispose();
        return found;
      };
      const together = await gradientOf(true);
      assert(together.every((x) => x !== 0));
      await assertNear(tensor(await gradientOf(false)), together, 1e-5, `reverse ${reverse}`);
    }
  },
);

testOnBackends("slopes can be learnt: their gradient equals the naive form's", async () => {
  await fc.assert(
    fc.asyncProperty(sizes, async ({ b, h, n, d, e, blockSize, seed }) => {
      const [q, k] = [1, 2].map((i) => draw(b, h, n, d, seed + i));
      const v = draw(b, h, n, e, seed + 3);
      const initialState = draw(b, h, d, e, seed + 4);
      const slopes = uniform([h], { seed, high: 0.5, requiresGrad: true });
      const dO = draw(b, h, n, e, seed + 5);
      lightningAttention(q, k, v, { slopes, initialState, blockSize }).mul(dO).sum().backward();
      const g = slopes.detach().neg().reshape([1, h, 1]).expand([b, h, n]);
      const heads = await headsOf(q, k, v, g, initialState);
      const gO = await matricesOf(dO);
      const none = Array.from({ length: d }, () => Array<number>(e).fill(0));
      const expected = Array<number>(h).fill(0);
      const terms = Array<number>(h).fill(0);
      heads.forEach((head, i) => {
        const { g: dg, terms: { g: of } } = attendGradients(head, gO[i], none);
        expected[i % h] -= dg.reduce((sum, x) => sum + x, 0);
        terms[i % h] += of.reduce((sum, x) => sum + x, 0);
      });
      for (const i of expected.keys()) {
        await assertNear(slopes.grad!.slice(i), [expected[i]], 1e-4, `slope ${i}`, [terms[i]]);
      }
    }),
    // The example: a gradient a thousand times smaller than its terms.
    {
      ...RUNS,
      examples: [[{ b: 2, h: 1, n: 26, d: 2, e: 11, blockSize: 1, seed: 11, strongest: 0.01 }]],
    },
  );
});

testOnBackends("float16 inputs give the gradient of a decay the accuracy of float16", async () => {
  const [b, h, n, d] = [1, 2, 300, 16];
  const [q, k, v] = [1, 2, 3].map((seed) => draw(b, h, n, d, seed, { dtype: "f16" }));
  const logDecay = uniform([b, h, n], { seed: 4, low: -0.2, high: 0, requiresGrad: true });
  const dO = draw(b, h, n, d, 5, { dtype: "f16" });
  lightningAttention(q, k, v, { logDecay }).mul(dO).to("f32").sum().backward();
  const initial = zeros([b, h, d, d]);
  const heads = await headsOf(q, k, v, logDecay, initial);
  const [gO, gS] = [await matricesOf(dO), await matricesOf(initial)];
  const expected = heads.flatMap((head, i) => attendGradients(head, gO[i], gS[i]).g);
  await assertNear(logDecay.grad!, expected, 5e-3);
});

testOnBackends(
  "decays to nothing, of slope 10 and g of -50 and -Infinity, leave no NaN",
  async () => {
    const [q, k, v] = [1, 2, 3].map((seed) => draw(1, 1, 130, 4, seed));
    const strong = await lightningAttention(q, k, v, { slopes: 10 }).data();
    const own = await q.mul(k).sum(-1, { keepDims: true }).mul(v).data();
    assert(strong.every(Number.isFinite));
    for (const g of [-50, -Infinity]) {
      const logDecay = tensor(Array<number>(130).fill(g), { shape: [1, 1, 130] });
      await assertNear(lightningAttention(q, k, v, { logDecay }), own, 1e-6, `g = ${g}`);
    }
    // A token that forgets everything makes what follows independent of what came before.
    const wall = Array.from({ length: 130 }, (_, t) => t === 70 ? -Infinity : -0.01);
    const logDecay = tensor(wall, { shape: [1, 1, 130] });
    const from = (t: Tensor) => t.slice(null, null, [70, 130]);
    const whole = lightningAttention(q, k, v, { logDecay });
    const alone = lightningAttention(from(q), from(k), from(v), { slopes: 0.01 });
    await assertNear(from(whole), await alone.data(), 1e-5);
  },
);

testOnBackends("what is nearly forgotten keeps its digits", async () => {
  // Found by the property above, of a scan that computed S + (decay − 1) S.
  for (const g of [-31, -10, -0.2, -0.05, -1e-7]) {
    const initialState = tensor([[[[3]]]], { requiresGrad: true });
    const [zero, one] = [zeros([1, 1, 1, 1]), tensor([[[[1]]]])];
    const { state } = lightningAttentionWithState(one, one, zero, {
      logDecay: tensor([[[g]]]),
      initialState,
    });
    state.sum().backward();
    await assertNear(state, [3 * Math.exp(Math.fround(g))], 1e-6, `S at ${g}`);
    await assertNear(initialState.grad!, [Math.exp(Math.fround(g))], 1e-6, `dS at ${g}`);
  }
});

testOnBackends("reverse is the same of time turned round, gradients too", async () => {
  await fc.assert(
    fc.asyncProperty(sizes, async ({ b, h, n, d, e, blockSize, seed }) => {
      const make = () => ({
        q: draw(b, h, n, d, seed + 1, { requiresGrad: true }),
        k: draw(b, h, n, d, seed + 2, { requiresGrad: true }),
        v: draw(b, h, n, e, seed + 3, { requiresGrad: true }),
        logDecay: uniform([b, h, n], { seed, low: -0.5, high: 0, requiresGrad: true }),
      });
      const [a, z] = [make(), make()];
      const dO = draw(b, h, n, e, seed + 5);
      const reversed = lightningAttentionWithState(a.q, a.k, a.v, {
        logDecay: a.logDecay,
        blockSize,
        reverse: true,
      });
      const turned = lightningAttentionWithState(z.q.flip(2), z.k.flip(2), z.v.flip(2), {
        logDecay: z.logDecay.flip(2),
        blockSize,
      });
      reversed.output.mul(dO).sum().backward();
      turned.output.flip(2).mul(dO).sum().backward();
      await assertNear(reversed.output, await turned.output.flip(2).data(), 1e-6);
      await assertNear(reversed.state, await turned.state.data(), 1e-6);
      for (const name of ["q", "k", "v", "logDecay"] as const) {
        await assertNear(a[name].grad!, await z[name].grad!.data(), 1e-5, name);
      }
    }),
    RUNS,
  );
});

testOnBackends("bidirectional attention decays with the distance, either way", async () => {
  const [n, d, slope] = [70, 6, 0.1];
  const [q, k, v] = [1, 2, 3].map((seed) => draw(1, 1, n, d, seed, { requiresGrad: true }));
  const both = lightningAttention(q, k, v, { slopes: slope, scale: 0.5, bidirectional: true });
  const [[qs], [ks], [vs]] = [await matricesOf(q), await matricesOf(k), await matricesOf(v)];
  const expected = qs.flatMap((query, i) => {
    const o = Array<number>(d).fill(0);
    ks.forEach((key, j) => {
      const score = query.reduce((sum, x, c) => sum + x * key[c], 0);
      const weight = 0.5 * Math.exp(-Math.fround(slope) * Math.abs(i - j)) * score;
      vs[j].forEach((x, c) => o[c] += weight * x);
    });
    return o;
  });
  await assertNear(both, expected, 1e-5);
  const small = [1, 2, 3].map((seed) => draw(1, 2, 5, 3, seed));
  await gradcheck(
    (q: Tensor, k: Tensor, v: Tensor) =>
      lightningAttention(q, k, v, { slopes: [0.1, 0.5], bidirectional: true, blockSize: 2 }),
    small,
  );
});

testOnBackends("an empty packed sequence has two directions as well", async () => {
  // Found by the fuzzing of arguments below.
  const [q, k, v] = [1, 2, 3].map((seed) => draw(1, 2, 6, 3, seed));
  const options = { slopes: 0.1, bidirectional: true };
  const packed = lightningAttentionWithState(q, k, v, { ...options, offsets: [0, 6, 6] });
  assertEquals(packed.state.shape, [2, 2, 3, 3]);
  const expected = await lightningAttention(q, k, v, options).data();
  assert(expected.some((x) => x !== 0));
  await assertNear(packed.output, expected, 1e-6);
});

const packings = fc.record({
  lengths: fc.array(fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 40 })), {
    minLength: 1,
    maxLength: 5,
  }),
  seed: fc.nat(),
  reverse: fc.boolean(),
});

testOnBackends("packed sequences equal each alone, empty ones and gradients included", async () => {
  await fc.assert(
    fc.asyncProperty(packings, async ({ lengths, seed, reverse }) => {
      const [h, d, e] = [2, 5, 3];
      const offsets = [0];
      for (const length of lengths) offsets.push(offsets[offsets.length - 1] + length);
      const n = offsets[lengths.length];
      const make = () => [
        draw(1, h, n, d, seed + 1, { requiresGrad: true }),
        draw(1, h, n, d, seed + 2, { requiresGrad: true }),
        draw(1, h, n, e, seed + 3, { requiresGrad: true }),
        draw(lengths.length, h, d, e, seed + 4, { requiresGrad: true }),
      ];
      const [packed, single] = [make(), make()];
      const settings = { slopes: [0.3, 0.02], blockSize: 8, reverse };
      const dO = draw(1, h, n, e, seed + 5);
      const dS = draw(lengths.length, h, d, e, seed + 6);

      const [q, k, v, initialState] = packed;
      const found = lightningAttentionWithState(q, k, v, { ...settings, offsets, initialState });
      assertEquals(found.state.shape, [lengths.length, h, d, e]);
      found.output.mul(dO).sum().add(found.state.mul(dS).sum()).backward();

      lengths.forEach((_, i) => {
        const span = [offsets[i], offsets[i + 1]] as const;
        const part = (t: Tensor) => t.slice(null, null, span);
        const alone = lightningAttentionWithState(
          part(single[0]),
          part(single[1]),
          part(single[2]),
          {
            ...settings,
            initialState: single[3].slice([i, i + 1]),
          },
        );
        alone.output.mul(part(dO)).sum().add(alone.state.mul(dS.slice([i, i + 1])).sum())
          .backward();
      });
      for (let i = 0; i < 4; i++) {
        if (packed[i].size === 0) continue;
        await assertNear(packed[i].grad!, await single[i].grad!.data(), 1e-5, `gradient ${i}`);
      }
    }),
    runs(8),
  );
});

testOnBackends(
  "outputs alone of packed sequences need no more work than one sequence",
  async (device) => {
    const directions = fc.constantFrom({}, { reverse: true }, { bidirectional: true });
    await fc.assert(
      fc.asyncProperty(packings, directions, async ({ lengths, seed }, direction) => {
        const [h, d, e] = [2, 5, 3];
        const offsets = [0];
        for (const length of lengths) offsets.push(offsets[offsets.length - 1] + length);
        const n = offsets[lengths.length];
        if (n === 0) return;
        const options = { requiresGrad: true };
        const [q, k, v] = [d, d, e].map((size, i) => draw(1, h, n, size, seed + i, options));
        const logDecay = uniform([1, h, n], { seed, low: -0.5, high: 0, ...options });
        const inputs = [q, k, v, logDecay];
        const dO = draw(1, h, n, e, seed + 5);
        const gradients = async () => {
          const found = await Promise.all(inputs.map((t) => t.grad!.data()));
          for (const t of inputs) t.grad = null;
          return found;
        };

        const settings = { logDecay, blockSize: 8, ...direction };
        const began = device.activity().dispatches;
        const packed = lightningAttention(q, k, v, { ...settings, offsets });
        const between = device.activity().dispatches;
        lightningAttention(q, k, v, settings);
        const ofOne = device.activity().dispatches - between;
        assert(between - began <= ofOne + 4, `${between - began} dispatches, ${ofOne} of one`);
        packed.mul(dO).sum().backward();
        const found = await gradients();

        const parts = lengths.map((_, i) => {
          const part = (t: Tensor) => t.slice(null, null, [offsets[i], offsets[i + 1]]);
          return lightningAttention(part(q), part(k), part(v), {
            ...settings,
            logDecay: part(logDecay),
          });
        });
        const apart = concat(parts, 2);
        apart.mul(dO).sum().backward();
        const expected = await gradients();
        await assertNear(packed, await apart.data(), 1e-5);
        for (const i of [0, 1, 2]) {
          const error = relativeError(found[i], expected[i]);
          assert(error <= 1e-4, `gradient ${i}: ${error}`);
        }
        // Where a sequence is one token, its decay's gradient is 0, of which rounding leaves no digit.
        const values = await q.data();
        const terms = expected[0].reduce((sum, x, i) => sum + Math.abs(x * values[i]), 0);
        found[3].forEach((x, i) => {
          const error = Math.abs(x - expected[3][i]);
          assert(error <= 1e-6 * terms + 1e-4 * Math.abs(x), `dg ${i}: ${error} of ${terms}`);
        });
      }),
      runs(10),
    );
  },
);

testOnBackends("fewer key heads than heads equal keys and values repeated", async () => {
  for (const [b, h, groups] of [[1, 4, 2], [2, 6, 2], [2, 3, 1]]) {
    const [n, d, e] = [37, 6, 5];
    const make = () => [
      draw(b, h, n, d, 1, { requiresGrad: true }),
      draw(b, groups, n, d, 2, { requiresGrad: true }),
      draw(b, groups, n, e, 3, { requiresGrad: true }),
      draw(b, h, d, e, 4, { requiresGrad: true }),
    ];
    const slopes = Array.from({ length: h }, (_, i) => 0.05 * (i + 1));
    const [grouped, repeated] = [make(), make()];
    const repeat = (t: Tensor) =>
      t.unsqueeze(2).expand([b, groups, h / groups, n, t.shape[3]]).reshape([b, h, n, t.shape[3]]);
    const dO = draw(b, h, n, e, 5);
    const call = (q: Tensor, k: Tensor, v: Tensor, initialState: Tensor) =>
      lightningAttentionWithState(q, k, v, { slopes, initialState, blockSize: 16 });
    const [q, k, v, s] = grouped;
    const found = call(q, k, v, s);
    const expected = call(repeated[0], repeat(repeated[1]), repeat(repeated[2]), repeated[3]);
    await assertNear(found.output, await expected.output.data(), 1e-6);
    await assertNear(found.state, await expected.state.data(), 1e-6);
    found.output.mul(dO).sum().backward();
    expected.output.mul(dO).sum().backward();
    for (let i = 0; i < 4; i++) {
      await assertNear(grouped[i].grad!, await repeated[i].grad!.data(), 1e-5, `gradient ${i}`);
    }
  }
});

testOnBackends(
  "heads of 256, and of other widths than powers of two, equal the naive form",
  async () => {
    for (const [d, e] of [[256, 256], [1, 256], [255, 1], [96, 200]]) {
      const [q, k] = [1, 2].map((seed) => draw(1, 1, 70, d, seed));
      const v = draw(1, 1, 70, e, 3);
      const initial = zeros([1, 1, d, e]);
      const g = tensor(Array<number>(70).fill(-0.1), { shape: [1, 1, 70] });
      const [head] = await headsOf(q, k, v, g, initial);
      const { o } = attend(head);
      await assertNear(lightningAttention(q, k, v, { slopes: 0.1 }), o.flat(), 1e-5, `${d}, ${e}`);
    }
  },
);

testOnBackends("a chunked prefill and then steps equal one pass", async (device) => {
  for (const dtype of ["f32", "f16"] as const) {
    const [b, h, groups, n, d, e] = [2, 4, 2, 30, 7, 70];
    const q = draw(b, h, n, d, 1, { dtype });
    const k = draw(b, groups, n, d, 2, { dtype });
    const v = draw(b, groups, n, e, 3, { dtype });
    const slopes = [0.5, 0.1, 0, 0.02];
    const settings = { slopes, scale: 0.5 };
    const whole = lightningAttentionWithState(q, k, v, settings);
    const part = (from: number, to: number) =>
      [q, k, v].map((t) => t.slice(null, null, [from, to])) as [Tensor, Tensor, Tensor];
    const prefill = lightningAttentionWithState(...part(0, 20), settings);
    const { state } = prefill;
    const outputs = [prefill.output];
    const spans = [[20, 21], [21, 25], [25, 25], [25, 26], [26, 30]];
    const bytes: number[] = [];
    for (const [from, to] of spans) {
      const before = device.memory().liveBytes;
      const tokens = part(from, to);
      const output = lightningAttentionStep(...tokens, state, settings);
      bytes.push(device.memory().liveBytes - before);
      outputs.push(output);
    }
    const tolerance = dtype === "f16" ? 2e-3 : 1e-5;
    const joined = outputs[0].concat(outputs.slice(1), 2);
    await assertNear(joined, await whole.output.data(), tolerance, dtype);
    await assertNear(state, await whole.state.data(), toleranceOf(q, 1e-5), dtype);
    // Only the outputs are new.
    const width = dtype === "f16" ? 2 : 4;
    const most = Math.max(...spans.map(([from, to]) => (to - from) * b * h * e * width));
    assert(Math.max(...bytes) <= most + 1024, `${bytes}`);
  }
});

testOnCpu("a step refuses to lose a gradient, and takes a decay of the token's own", async () => {
  const state = zeros([1, 1, 2, 2]);
  const token = tensor([[[[1, 2]]]], { requiresGrad: true });
  assertThrows(() => lightningAttentionStep(token, token, token, state), LevinError, "in place");
  const logDecay = tensor([[[Math.log(0.5)]]]);
  for (let i = 0; i < 2; i++) {
    noGrad(() => lightningAttentionStep(token, token, token, state, { logDecay }));
  }
  await assertNear(state, [1.5, 3, 3, 6], 1e-6);
});

testOnBackends(
  "gradients of gradients agree with finite differences, decays included",
  async () => {
    const [q, k, v] = [1, 2, 3].map((seed) => draw(1, 1, 4, 2, seed));
    const logDecay = uniform([1, 1, 4], { seed: 4, low: -1, high: -0.1 });
    const initialState = draw(1, 1, 2, 2, 5);
    const loss = (q: Tensor, k: Tensor, v: Tensor, logDecay: Tensor, initialState: Tensor) => {
      const { output, state } = lightningAttentionWithState(q, k, v, {
        logDecay,
        initialState,
        blockSize: 3,
      });
      return output.square().sum().add(state.square().sum());
    };
    await gradcheck(
      (q: Tensor, k: Tensor, v: Tensor, g: Tensor, s: Tensor) => {
        const [dq, dg] = grad(([q, g]: Tensor[]) => loss(q, k, v, g, s))([q, g]);
        return dq.square().sum().add(dg.square().sum());
      },
      [q, k, v, logDecay, initialState],
    );
  },
);

testOnBackends("gradients of gradients equal those of the float64 oracle", async () => {
  // L = Σ o · gO + Σ S · gS. The gradient of Σ ∇L · w is the derivative of ∇L along w, since the
  // Hessian is symmetric; in float64, a difference of the oracle's own gradients at x ± ε w.
  const [n, d, e] = [37, 5, 3];
  const make = (seed: number) => [
    draw(1, 1, n, d, seed),
    draw(1, 1, n, d, seed + 1),
    draw(1, 1, n, e, seed + 2),
    uniform([1, 1, n], { seed: seed + 3, low: -0.6, high: -0.1 }),
    draw(1, 1, d, e, seed + 4),
  ];
  const [inputs, along] = [make(1), make(11)];
  const [gO, gS] = [draw(1, 1, n, e, 21), draw(1, 1, d, e, 22)];
  const gradients = grad(([q, k, v, logDecay, initialState]: Tensor[]) => {
    const { output, state } = lightningAttentionWithState(q, k, v, {
      logDecay,
      initialState,
      blockSize: 16,
    });
    return output.mul(gO).sum().add(state.mul(gS).sum());
  });
  const found = grad((xs: Tensor[]) =>
    gradients(xs).map((g, i) => g.mul(along[i]).sum()).reduce((a, b) => a.add(b))
  )(inputs);

  const flat = async (ts: Tensor[]) =>
    await Promise.all(ts.map(async (t) => Array.from(await t.data())));
  const [x, w, dO, dS] = [
    await flat(inputs),
    await flat(along),
    await matricesOf(gO),
    await matricesOf(gS),
  ];
  const rows = (list: number[], width: number) =>
    Array.from({ length: list.length / width }, (_, r) => list.slice(r * width, (r + 1) * width));
  const at = (step: number) => {
    const [q, k, v, g, s] = x.map((list, i) => list.map((value, j) => value + step * w[i][j]));
    const head: Head = {
      q: rows(q, d),
      k: rows(k, d),
      v: rows(v, e),
      g,
      scale: 1,
      initial: rows(s, e),
    };
    const result = attendGradients(head, dO[0], dS[0]);
    return [result.q, result.k, result.v, result.g, result.initial].map((part) => part.flat());
  };
  const epsilon = 1e-4;
  const [above, below] = [at(epsilon), at(-epsilon)];
  for (const [i, name] of ["q", "k", "v", "g", "initial state"].entries()) {
    const expected = above[i].map((value, j) => (value - below[i][j]) / (2 * epsilon));
    await assertNear(found[i], expected, 1e-5, `second derivative by ${name}`);
  }
});

testOnBackends("no heads at all give no outputs", () => {
  const [q, logDecay] = [zeros([1, 0, 5, 4]), zeros([1, 0, 5])];
  const { output, state } = lightningAttentionWithState(q, q, q, { logDecay });
  assertEquals([output.shape, state.shape], [[1, 0, 5, 4], [1, 0, 4, 4]]);
});

testOnBackends("grouped heads of any layout are read without a copy", async (device) => {
  const [b, n, h, d] = [2, 70, 4, 8];
  const byHead = [h, 2, 2].map((heads, i) =>
    randn([b, n, heads, d], { seed: i + 1 }).permute([0, 2, 1, 3])
  );
  const before = device.memory().liveBytes;
  const strided = lightningAttention(byHead[0], byHead[1], byHead[2]);
  const taken = device.memory().liveBytes - before;
  assert(taken <= strided.size * 4 * 17 / 16 + 256, `took ${taken} bytes`);
  const [q, k, v] = byHead.map((t) => t.contiguous());
  const values = await strided.data();
  assert(values.some((x) => x !== 0));
  await assertNear(lightningAttention(q, k, v), values, 1e-6);
});

testOnBackends("linear naive attention agrees, grouped heads and gradients included", async () => {
  const make = () => [
    draw(2, 4, 33, 5, 1, { requiresGrad: true }),
    draw(2, 2, 33, 5, 2, { requiresGrad: true }),
    draw(2, 2, 33, 6, 3, { requiresGrad: true }),
  ];
  const [a, z] = [make(), make()];
  const options = { slopes: [0, 0.9, 0.1, 1e-8], scale: 0.3 };
  const [fast, naive] = [
    lightningAttention(a[0], a[1], a[2], options),
    naiveAttention(z[0], z[1], z[2], options),
  ];
  await assertNear(fast, await naive.data(), 1e-5);
  const dO = draw(2, 4, 33, 6, 5);
  fast.mul(dO).sum().backward();
  naive.mul(dO).sum().backward();
  for (let i = 0; i < 3; i++) await assertNear(a[i].grad!, await z[i].grad!.data(), 1e-5);
});

testOnBackends("the same call twice gives the same bits, gradients too", async () => {
  const once = async () => {
    const [q, k, v] = [1, 2, 3].map((seed) => draw(2, 2, 150, 20, seed, { requiresGrad: true }));
    const slopes = tensor([0.1, 0.01], { requiresGrad: true });
    const o = lightningAttention(q, k, v, { slopes });
    o.square().sum().backward();
    return await Promise.all([o, q.grad!, k.grad!, v.grad!, slopes.grad!].map((t) => t.data()));
  };
  const first = await once();
  assert(first.every((values) => values.some((x) => x !== 0)));
  assertEquals(await once(), first);
});

/** What fits, and now and then what may not. */
const mostly = <T>(fits: T, ...odd: T[]) =>
  fc.oneof({ weight: 12, arbitrary: fc.constant(fits) }, {
    weight: 1,
    arbitrary: fc.constantFrom(fits, ...odd),
  });

const oddArguments = fc.record({
  q: mostly([1, 2, 6, 3], [1, 1, 6, 3], [2, 2, 6, 3], [6, 3], [1, 2, 6, 0]),
  k: mostly([1, 2, 6, 3], [1, 1, 6, 3], [1, 2, 5, 3], [1, 2, 6, 4], [1, 0, 6, 3]),
  v: mostly([1, 2, 6, 4], [1, 1, 6, 4], [1, 2, 7, 4], [1, 2, 6, 0], []),
  dtype: mostly<"f32" | "f16">("f32", "f16"),
  slopes: mostly<number | number[]>([0.1, 0.2], 0.1, -1, NaN, Infinity, [0.1], [0.1, -0.2], [
    NaN,
    0,
  ]),
  offsets: mostly<number[] | undefined>(
    undefined,
    ...[[0, 6], [0, 2, 6], [0, 6, 6], [0, 4, 2, 6], [0, 7], [1, 6], [0, 1.5, 6], []],
  ),
  blockSize: mostly<number | undefined>(undefined, 4, 0, -1, 2.5, NaN, 1e9),
  scale: mostly<number | undefined>(undefined, 1, 0, NaN, Infinity),
  state: mostly<number[] | undefined>(undefined, [1, 2, 3, 4], [2, 2, 3, 4], [1, 2, 4, 3], [3]),
  logDecay: mostly<number[] | undefined>(undefined, [1, 2, 6], [1, 6], [2, 1, 6]),
  reverse: mostly(false, true),
  bidirectional: mostly(false, true),
});

testOnBackends(
  "arguments of any kind give a finite result or a LevinError, and lose nothing",
  async (device) => {
    let [accepted, refused] = [0, 0];
    await fc.assert(
      fc.asyncProperty(oddArguments, async (odd) => {
        const { dtype, slopes, offsets, blockSize, scale, reverse, bidirectional } = odd;
        const q = randn(odd.q, { seed: 1 });
        const [k, v] = [randn(odd.k, { seed: 2, dtype }), randn(odd.v, { seed: 3 })];
        const initialState = odd.state && randn(odd.state, { seed: 4 });
        const logDecay = odd.logDecay && uniform(odd.logDecay, { seed: 5, low: -1, high: 0 });
        const options: LightningAttentionOptions = {
          ...(logDecay === undefined ? { slopes } : { logDecay }),
          ...{ offsets, blockSize, scale, reverse, bidirectional, initialState },
        };
        const before = device.memory().liveBytes;
        let found;
        try {
          found = lightningAttentionWithState(q, k, v, options);
          accepted++;
        } catch (error) {
          assert(error instanceof LevinError, String(error));
          assert((error as Error).message.startsWith("lightningAttention: "), String(error));
          assertEquals(device.memory().liveBytes, before);
          refused++;
          return;
        }
        assertEquals(found.output.shape, [...q.shape.slice(0, 3), 4]);
        const values = await found.output.data();
        assert(values.every(Number.isFinite));
        assert(scale === 0 || values.some((x) => x !== 0));
      }),
      { numRuns: 200 },
    );
    assert(accepted > 30 && refused > 30, `${accepted} accepted, ${refused} refused`);
  },
);

testOnCpu("each argument that does not fit is named", () => {
  const x = zeros([1, 2, 4, 3]);
  const refuse = (options: LightningAttentionOptions, message: string) =>
    assertThrows(() => lightningAttention(x, x, x, options), LevinError, message);
  refuse({ slopes: -0.1 }, "slopes ≥ 0");
  refuse({ slopes: [0.1] }, "one slope for each of 2 heads");
  refuse({ logDecay: zeros([1, 2, 3]) }, "logDecay of shape");
  refuse({ logDecay: zeros([1, 2, 4]), slopes: 1 }, "found both");
  refuse({ initialState: zeros([1, 2, 3, 4]) }, "initialState of shape");
  refuse({ offsets: [0, 3, 2, 4] }, "rise from 0 to n = 4");
  refuse({ offsets: [0, 5] }, "rise from 0 to n = 4");
  refuse({ bidirectional: true, reverse: true }, "bidirectional");
  const half = zeros([1, 2, 4], { dtype: "f16" });
  assertThrows(() => lightningAttention(x, x, x, { logDecay: half }), DTypeError, "logDecay");
  const two = zeros([2, 2, 4, 3]);
  assertThrows(
    () => lightningAttention(two, two, two, { offsets: [0, 4] }),
    ShapeError,
    "batch of 1",
  );
  assertThrows(() => lightningAttentionStep(x, x, x, zeros([1, 2, 3, 4])), ShapeError, "state");
});

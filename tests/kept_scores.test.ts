/** In WebAssembly attention's scores within blocks are kept for its gradient: what is made of them, and when. */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import fc from "fast-check";
import {
  Device,
  grad,
  lightningAttention,
  type LightningAttentionOptions,
  lightningAttentionWithState,
  randn,
  scope,
  setDefaultDevice,
  type Tensor,
  uniform,
} from "../mod.ts";
import { WasmBackend, type WasmBackendOptions } from "../src/backend/wasm/backend.ts";
import { assertNear, cpu, matricesOf, relativeError, runs, test, testOnWasm } from "./harness.ts";
import { attendGradients, type HeadGradientSums } from "./oracle.ts";

/** Bytes of the scores of so many heads: blocks of 18 tokens, in rows of 20. */
const scoresBytes = (heads: number, n: number) => heads * Math.ceil(n / 18) * 18 * 20 * 4;

function inputsOf(h: number, n: number, d: number, e: number, seed = 1): Tensor[] {
  return [[n, d], [n, d], [n, e], [d, e]].map((shape, i) =>
    randn([1, h, ...shape], { seed: seed + i, requiresGrad: true })
  );
}

/** Live bytes that a call leaves beyond its outputs, until its graph is let go. */
function keptBytes(device: Device, call: () => Tensor): number {
  const before = device.memory().liveBytes;
  using kept = scope();
  const o = kept.keep(call());
  const bytes = device.memory().liveBytes - before - 4 * o.size;
  o.dispose();
  assertEquals(device.memory().liveBytes, before);
  return bytes;
}

testOnWasm(
  "scores are kept where all three gradients are wanted, and freed with the graph",
  (device) => {
    const [h, n, d, e] = [8, 180, 40, 40];
    const [q, k, v] = inputsOf(h, n, d, e);
    const size = scoresBytes(h, n);
    const kept = (q: Tensor, k: Tensor, v: Tensor, options: LightningAttentionOptions = {}) =>
      keptBytes(device, () => lightningAttention(q, k, v, { slopes: 0.1, ...options })) >= size;
    assert(kept(q, k, v));
    assert(!kept(q.detach(), k, v));
    assert(!kept(q, k.detach(), v));
    assert(!kept(q, k, v.detach()));
    // Blocks that are no whole tiles, and scores of more than an eighth of q, k, v and o.
    assert(!kept(q, k, v, { blockSize: 17 }));
    assert(!kept(q, k, v, { blockSize: 60 }));
    const narrow = [q, k, v].map((t) => t.slice(null, null, null, [0, 39]));
    assert(!kept(narrow[0], narrow[1], narrow[2]));
  },
);

interface Problem {
  h: number;
  blocks: number;
  rest: number;
  d: number;
  e: number;
  reverse: boolean;
  everyToken: boolean;
  strongest: number;
  seed: number;
}

/** Few heads are cut into parts from 256 tokens on. */
const problems: fc.Arbitrary<Problem> = fc.record({
  h: fc.constantFrom(1, 2, 5),
  blocks: fc.constantFrom(1, 2, 3, 15),
  rest: fc.integer({ min: 0, max: 17 }),
  d: fc.constantFrom(40, 45, 64),
  e: fc.constantFrom(40, 51, 64, 66),
  reverse: fc.boolean(),
  everyToken: fc.boolean(),
  strongest: fc.constantFrom(1e-8, 0.05, 50),
  seed: fc.nat(),
});

testOnWasm("gradients out of kept scores equal those of the naive form in float64", async () => {
  await fc.assert(
    fc.asyncProperty(problems, async (problem) => {
      const { h, blocks, rest, d, e, reverse, everyToken, strongest, seed } = problem;
      const n = 18 * blocks + rest;
      const [q, k, v, initial] = inputsOf(h, n, d, e, seed);
      const g = uniform([1, h, n], { seed, low: -strongest, high: 0, requiresGrad: everyToken });
      const decay = everyToken ? { logDecay: g } : { slopes: strongest / 2 };
      const options = { ...decay, initialState: initial, reverse };
      const { output, state } = lightningAttentionWithState(q, k, v, options);
      const [dO, dS] = [randn(output.shape, { seed: 7 }), randn(state.shape, { seed: 8 })];
      output.mul(dO).sum().add(state.mul(dS).sum()).backward();

      const inTime = (rows: number[][]) => reverse ? rows.toReversed() : rows;
      const given = await Promise.all([q, k, v, initial, dO, dS].map(matricesOf));
      const [qs, ks, vs, states, dOs, dSs] = given;
      const gs = everyToken ? await g.data() : new Float32Array(h * n).fill(-strongest / 2);
      const expected = qs.map((_, i) => {
        const decays = Array.from(gs.slice(i * n, (i + 1) * n));
        const head = {
          ...{ q: inTime(qs[i]), k: inTime(ks[i]), v: inTime(vs[i]), initial: states[i] },
          ...{ g: reverse ? decays.toReversed() : decays, scale: 1 },
        };
        return attendGradients(head, inTime(dOs[i]), dSs[i]);
      });
      /** Of all heads, in the order of tokens. */
      const all = (key: keyof HeadGradientSums, sums: HeadGradientSums[]) =>
        sums.flatMap(({ [key]: x }) => (reverse && key !== "initial" ? x.toReversed() : x).flat());
      const inputs = { q, k, v, initial, ...(everyToken ? { g } : {}) };
      for (const [name, t] of Object.entries(inputs)) {
        const key = name as keyof HeadGradientSums;
        const terms = all(key, expected.map((r) => r.terms));
        await assertNear(t.grad!, all(key, expected), 1e-4, `d${name}`, terms);
        t.grad = null;
      }
    }),
    runs(20),
  );
});

testOnWasm("gradients of gradients go past kept scores", async (device) => {
  const [h, n, d, e] = [4, 41, 64, 64];
  const second = async () => {
    const [q, k, v, initialState] = inputsOf(h, n, d, e);
    const u = randn([1, h, n, e], { seed: 9 });
    const attend = ([q, k, v, initialState]: Tensor[]) =>
      lightningAttention(q, k, v, { slopes: 0.05, initialState }).square().mul(u).sum();
    const squares = (inputs: Tensor[]) =>
      grad(attend)(inputs).map((t) => t.square().sum()).reduce((sum, x) => sum.add(x));
    return await Promise.all(grad(squares)([q, k, v, initialState]).map((t) => t.data()));
  };
  const found = await second();
  setDefaultDevice(cpu);
  using _ = scope();
  const expected = await second();
  setDefaultDevice(device);
  found.forEach((array, i) => {
    const error = relativeError(array, expected[i]);
    assert(error <= 1e-5, `${i}: ${error}`);
  });
});

test("gradients out of kept scores are the same bits on any number of threads, in both variants", async () => {
  // Whole heads, and heads in parts.
  for (const h of [5, 1]) {
    const gradients = async (options: WasmBackendOptions) => {
      const device = new Device(new WasmBackend(options), "the test made it");
      setDefaultDevice(device);
      try {
        using _ = scope();
        const [q, k, v] = inputsOf(h, 301, 40, 64);
        lightningAttention(q, k, v, { slopes: 0.01 }).square().sum().backward();
        return await Promise.all([q, k, v].map((t) => t.grad!.data()));
      } finally {
        device.destroy();
        setDefaultDevice(cpu);
      }
    };
    const one = await gradients({ threads: 1, variant: "relaxed" });
    assertNotEquals(one[2][0], 0);
    assertEquals(await gradients({ threads: 3, variant: "relaxed" }), one);
    const plain = await gradients({ threads: 2, variant: "simd" });
    plain.forEach((array, i) => assert(relativeError(array, one[i]) <= 1e-5));
  }
});

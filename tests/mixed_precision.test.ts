/** float16 arithmetic over float32 weights, loss scaling, and losses in pieces. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { LevinError, loss, optim, randn, ShapeError, type Tensor, tensor, tidy } from "../mod.ts";
import { Llama, Pythia, TransNormerLLM } from "../src/models/mod.ts";
import { assertNear, runs, testOnBackends, testOnCpu } from "./harness.ts";

/** A leaf whose gradient is `g`. */
function withGradient(values: number[], g: readonly number[]): Tensor {
  const p = tensor(values, { requiresGrad: true });
  p.grad = tensor([...g]);
  return p;
}

testOnBackends("the scale follows any row of finite and infinite gradients", async () => {
  const kinds = fc.array(fc.constantFrom(1, 100, Infinity, NaN, -Infinity), {
    minLength: 1,
    maxLength: 12,
  });
  await fc.assert(
    fc.asyncProperty(kinds, fc.constantFrom(0.5, 10, Infinity), async (gradients, maxNorm) => {
      using scaler = new optim.LossScaler({ initial: 8, interval: 2, largest: 16 });
      let [scale, row, skipped] = [8, 0, 0];
      for (const g of gradients) {
        const found = await tidy(() => {
          const p = withGradient([0], [g * scale]);
          const { factor, norm } = scaler.unscale({ p }, { maxNorm });
          return Promise.all([factor.item(), norm.item()]);
        });
        if (Number.isFinite(g)) {
          const expected = Math.min(1, maxNorm / g) / scale;
          assert(Math.abs(found[0] - expected) <= 1e-6 * expected, `${found[0]}, not ${expected}`);
          assert(Math.abs(found[1] - g) <= 1e-5 * g);
          if (++row === 2) [scale, row] = [Math.min(16, 2 * scale), 0];
        } else {
          assertEquals(found[0], 0);
          [scale, row, skipped] = [Math.max(1, scale / 2), 0, skipped + 1];
        }
        assertEquals(await scaler.report(), { scale, skipped });
      }
    }),
    runs(20),
  );
});

testOnBackends("a step whose gradient overflowed changes nothing and is not counted", async () => {
  const run = async (gradients: number[][]) => {
    const p = tensor([1, -2], { requiresGrad: true });
    using scaler = new optim.LossScaler({ initial: 4, interval: 1 });
    using adamw = new optim.AdamW({ p }, { learningRate: 0.1, betas: [0.9, 0.999] });
    for (const g of gradients) {
      const before = [...await p.data()];
      const { scale } = await scaler.report();
      p.grad = tensor(g.map((value) => value * scale));
      const { factor } = scaler.unscale({ p }, { maxNorm: 1 });
      adamw.step({ factor });
      const finite = g.every(Number.isFinite);
      assertEquals((await p.data()).every((value, i) => value === before[i]), !finite);
    }
    return [...await p.data()];
  };
  const plain = await run([[3, -4], [0.1, 0.2]]);
  const skipping = await run([[Infinity, 1], [3, -4], [NaN, 0], [1, -Infinity], [0.1, 0.2]]);
  await assertNear(tensor(skipping), plain, 1e-6);
});

testOnBackends("gradients that float16 rounds to 0 arrive if the loss is scaled", async () => {
  const run = async (scaler: optim.LossScaler | undefined) => {
    const w = tensor([2, -3], { requiresGrad: true });
    const value = w.to("f16").mul(tensor([1, 2], { dtype: "f16" })).to("f32").mul(1e-8).sum();
    (scaler?.scale(value) ?? value).backward();
    const factor = scaler?.unscale({ w }).factor ?? tensor(1);
    return [...await w.grad!.mul(factor).data()];
  };
  assertEquals(await run(undefined), [0, 0]);
  using scaler = new optim.LossScaler();
  await assertNear(tensor(await run(scaler)), [1e-8, 2e-8], 1e-3);
});

const SIZES = { vocabulary: 32, size: 16, layers: 2, heads: 2, inner: 24 };
const IDS = [[1, 2, 3, 4, 5, 6, 7], [7, 8, 9, 10, 11, 12, 13]];
const NEXT = IDS.map((row) => row.map((id) => id + 1));
const tokens = () => [IDS, NEXT].map((rows) => tensor(rows, { dtype: "i32" }));

async function gradients(
  model: { parameters(): Record<string, Tensor> },
): Promise<Map<string, number[]>> {
  const found = new Map<string, number[]>();
  for (const [name, p] of Object.entries(model.parameters())) {
    assertEquals(p.grad!.dtype, "f32");
    found.set(name, [...await p.grad!.data()]);
    p.grad = null;
  }
  return found;
}

testOnBackends("models that compute in float16 have float32 gradients near float32's", async () => {
  for (const Model of [TransNormerLLM, Llama, Pythia]) {
    using model = new Model(SIZES, { seed: 3 });
    const [ids, next] = tokens();
    model.loss(ids, next).backward();
    const exact = await gradients(model);
    model.compute = "f16";
    assertEquals(model.forward(ids).dtype, "f16");
    using scaler = new optim.LossScaler({ initial: 1024 });
    scaler.scale(model.loss(ids, next)).backward();
    for (const [name, values] of await gradients(model)) {
      const found = tensor(values.map((value) => value / 1024));
      // Random weights of 0.02 leave little signal, so a gradient may be a small difference.
      await assertNear(found, exact.get(name)!, 2e-2, `${Model.name} ${name}`);
    }
  }
});

testOnBackends("a loss in chunks, and one recomputed in float16, is the loss", async () => {
  using model = new TransNormerLLM(SIZES, { seed: 5 });
  const [ids, next] = tokens();
  const whole = model.loss(ids, next);
  assertEquals(await whole.item(), await loss.crossEntropy(model.forward(ids), next).item());
  whole.backward();
  const exact = await gradients(model);
  for (const chunk of [1, 4, 100]) {
    const chunked = model.loss(ids, next, { chunk });
    await assertNear(chunked.reshape([1]), [await whole.item()], 1e-6);
    chunked.backward();
    for (const [name, values] of await gradients(model)) {
      await assertNear(tensor(values), exact.get(name)!, 1e-5, name);
    }
  }
  model.compute = "f16";
  const run = () => {
    model.loss(ids, next).mul(256).backward();
    return gradients(model);
  };
  const kept = await run();
  model.recompute = true;
  assertEquals(await run(), kept);
});

testOnBackends("gradients of micro-batches add up to the batch's", async () => {
  using model = new TransNormerLLM(SIZES, { seed: 5 });
  const [ids, next] = tokens();
  model.loss(ids, next).backward();
  const whole = await gradients(model);
  for (const row of [0, 1]) {
    const [a, b] = [ids, next].map((t) => t.slice([row, row + 1]));
    model.loss(a, b).mul(0.5).backward();
  }
  for (const [name, values] of await gradients(model)) {
    await assertNear(tensor(values), whole.get(name)!, 1e-5, name);
  }
});

testOnBackends(
  "a model learns by heart in float16, from a scale that overflows at first",
  async () => {
    using model = new TransNormerLLM(SIZES, { seed: 1 });
    model.compute = "f16";
    const [ids, next] = tokens();
    using adamw = new optim.AdamW(model.parameters(), { learningRate: 0.02 });
    using scaler = new optim.LossScaler({ initial: 2 ** 24, largest: 2 ** 24 });
    let last = Infinity;
    for (let i = 0; i < 60; i++) {
      using value = tidy(() => {
        const value = model.loss(ids, next);
        scaler.scale(value).backward();
        adamw.step({ factor: scaler.unscale(model.parameters(), { maxNorm: 1 }).factor });
        adamw.zeroGrad();
        return value.detach();
      });
      last = await value.item();
    }
    const { scale, skipped } = await scaler.report();
    assert(skipped > 0 && scale < 2 ** 24, `${skipped} steps were skipped, the scale is ${scale}`);
    assert(last < 0.1, `the loss is ${last}`);
  },
);

testOnCpu("loss scaling refuses what makes no sense", () => {
  assertThrows(() => new optim.LossScaler({ initial: 0 }), ShapeError, "initial");
  assertThrows(() => new optim.LossScaler({ backoff: 2 }), ShapeError, "backoff");
  using scaler = new optim.LossScaler();
  assertThrows(() => scaler.unscale({ p: randn([2]) }), LevinError, "no parameter");
  assertThrows(() => scaler.load({}), LevinError, "state");
  using model = new TransNormerLLM(SIZES);
  const [ids, next] = tokens();
  assertThrows(() => model.loss(ids, next.slice(null, [1])), ShapeError, "targets");
  assertThrows(() => model.loss(ids, next, { chunk: 0 }), ShapeError, "chunk of 1");
});

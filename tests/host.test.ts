/** What the host does for a device: batches, uploads, buffers and bind groups, counted. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { type Device, loss, optim, scope, type Tensor, tensor, tidy, zeros } from "../mod.ts";
import { TransNormerLLM } from "../src/models/mod.ts";
import { Pool } from "../src/backend/pool.ts";
import { testOnBackends, testOnCpu, testOnWebgpu } from "./harness.ts";

/** What `fn` makes the device do. */
function countsOf(device: Device, fn: () => void) {
  const before = device.activity();
  fn();
  const after = device.activity();
  return {
    dispatches: after.dispatches - before.dispatches,
    submits: after.submits - before.submits,
    uploads: after.uploads - before.uploads,
    bindGroups: after.bindGroups - before.bindGroups,
  };
}

testOnBackends("activity counts dispatches and uploads", (device) => {
  const x = tensor([1, 2]);
  const { dispatches, uploads } = countsOf(device, () => {
    const y = tensor([3, 4]);
    x.add(y).mul(2).reshape([1, 2]);
  });
  assertEquals([dispatches, uploads], [2, 1]);
});

testOnWebgpu(
  "a training step makes few submits, and no bind groups once it is warm",
  async (device) => {
    using model = new TransNormerLLM(
      { vocabulary: 256, size: 32, layers: 4, heads: 4, inner: 48 },
      { seed: 1 },
    );
    const parameters = model.parameters();
    using adamw = new optim.AdamW(parameters);
    const step = () =>
      tidy(() => {
        const numbers = Array.from({ length: 32 }, (_, i) => i * 7 % 256);
        const ids = tensor(numbers, { shape: [2, 16], dtype: "i32" });
        const value = loss.crossEntropy(model.forward(ids), ids);
        value.backward({ releaseGraph: true });
        optim.clipGradNorm(parameters, 1);
        adamw.step();
        adamw.zeroGrad();
        return value.detach();
      });
    const losses: number[] = [];
    for (let t = 0; t < 4; t++) {
      let value: Tensor | undefined;
      const counts = countsOf(device, () => value = step());
      losses.push(await value!.item());
      value!.dispose();
      if (t < 2) continue;
      assert(counts.uploads > 0, "a step uploads tokens at least");
      assertEquals(counts.bindGroups, 0);
      // A batch holds 256 dispatches; uploads must not cut it short.
      assertEquals(counts.submits, Math.floor((counts.dispatches - 1) / 256));
    }
    assert(losses[3] < losses[0], `losses ${losses}`);
  },
);

testOnWebgpu(
  "uploads between recorded work, small and large, keep their places",
  async (device) => {
    await fc.assert(
      fc.asyncProperty(
        // Sizes around those of the small uploads' room, which a batch shares.
        fc.array(fc.tuple(fc.constantFrom(1, 3, 64, 5_000, 30_000, 70_000), fc.nat(1000)), {
          minLength: 1,
          maxLength: 12,
        }),
        async (uploads) => {
          using _ = scope();
          const sums: [Tensor, number][] = [];
          for (const [size, value] of uploads) {
            const x = tensor(new Float32Array(size).fill(value));
            sums.push([x.max().add(x.slice(-1)), 2 * value]);
            x.dispose(); // so that the next upload of its size meets a buffer in use
          }
          const found = await Promise.all(sums.map(([sum]) => sum.item()));
          assertEquals(found, sums.map(([, expected]) => expected));
        },
      ),
      { numRuns: 30 },
    );
    await device.synchronize();
  },
);

testOnWebgpu("equal work is done in equal buffers", (device) => {
  const work = () =>
    tidy(() => {
      const a = zeros([100]).add(1);
      const b = zeros([100]).add(2);
      b.mul(a).sum();
    });
  work();
  work();
  assertEquals(countsOf(device, work).bindGroups, 0);
});

testOnCpu(
  "a pool hands out the buffer with the lowest number, or else the last one given back",
  () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(20), { minLength: 1, maxLength: 20 }), (order) => {
        let made = 0;
        const numbered = new Pool(() => made++, () => {}, (buffer) => buffer);
        const latest = new Pool(() => made++, () => {});
        for (let i = 0; i < 21; i++) numbered.take(256);
        for (let i = 0; i < 21; i++) latest.take(256);
        for (const buffer of order) numbered.give(buffer, 256);
        for (const buffer of order) latest.give(buffer, 256);
        const sorted = [...order].sort((a, b) => a - b);
        assertEquals(order.map(() => numbered.take(256)), sorted);
        assertEquals(order.map(() => latest.take(256)), order.toReversed());
      }),
    );
  },
);

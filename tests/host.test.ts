/** What the host does for a device: batches, uploads, buffers and bind groups, counted. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import fc from "fast-check";
import {
  Device,
  DeviceError,
  loss,
  optim,
  scope,
  type Tensor,
  tensor,
  tidy,
  zeros,
} from "../mod.ts";
import { WebgpuBackend } from "../src/backend/webgpu/backend.ts";
import { TransNormerLLM } from "../src/models/mod.ts";
import { Pool } from "../src/backend/pool.ts";
import {
  FLOATS,
  gpu,
  openGpu,
  runs,
  test,
  testOnBackends,
  testOnCpu,
  testOnWebgpu,
} from "./harness.ts";

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
      runs(30),
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

test("a pool full of sizes that are no longer asked for makes room for those that are", () => {
  const mebibyte = 2 ** 20;
  let [made, held] = [0, 0];
  const pool = new Pool<number>(
    (bytes) => (made++, held += bytes, bytes),
    (bytes) => held -= bytes,
  );
  const use = (...sizes: number[]) => {
    sizes.map((size) => pool.take(size)).forEach((buffer, i) => pool.give(buffer, sizes[i]));
  };
  const early = [60, 50, 40].map((size) => size * mebibyte);
  const late = [70, 45].map((size) => size * mebibyte);
  use(...early);
  for (let i = 0; i < 100; i++) use(...late);
  const before = made;
  for (let i = 0; i < 100; i++) use(...late);
  assertEquals(made, before);
  assertEquals(held, pool.pooledBytes);
  // What is used by turns stays, though together it is more than was ever in use at one time.
  for (let i = 0; i < 10; i++) use(...late), use(30 * mebibyte);
  const again = made;
  for (let i = 0; i < 100; i++) use(...late), use(30 * mebibyte);
  assertEquals(made, again);
});

testOnBackends("the gradient of a weight behind a transpose is dense", async () => {
  const x = tensor([[1, 2], [3, 4], [5, 6]]);
  const w = tensor([[1, 0], [2, 1], [0, 3], [1, 1]], { requiresGrad: true });
  const g = tensor([[1, 0, 2, 0], [0, 1, 0, 3], [1, 1, 1, 1]]);
  x.matmul(w.transpose()).mul(g).sum().backward();
  assertEquals(w.grad!.isContiguous, true);
  // gᵀ x.
  assertEquals(await w.grad!.array(), [[6, 8], [8, 10], [7, 10], [14, 18]]);
  w.grad = null;
});

/** A device of its own that reads at once, or as WebGPU says one must. */
async function reader(readsAtOnce: boolean): Promise<[Device, GPUDevice]> {
  const own = await openGpu();
  const backend = new WebgpuBackend(own, { owned: true, readsAtOnce });
  return [new Device(backend, "a test made it"), own];
}

// Only Deno's own WebGPU maps inside the call; elsewhere that path is never taken.
const ways = "Deno" in globalThis && gpu === navigator.gpu ? [true, false] : [false];

testOnWebgpu("reads bring the same bytes at once as after waiting", async () => {
  for (const atOnce of ways) {
    const [device] = await reader(atOnce);
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.tuple(fc.constantFrom(1, 2, 3, 100, 5000), fc.nat(100), fc.constantFrom(...FLOATS)),
          {
            minLength: 1,
            maxLength: 8,
          },
        ),
        async (reads) => {
          using _ = scope();
          const pending = reads.map(([size, first, dtype]) => {
            const numbers = Float32Array.from({ length: size + 1 }, (_, i) => (first + i) % 200);
            const x = tensor(numbers, { dtype, device });
            // From element 1, which in float16 lies in the middle of a word.
            return x.mul(2).slice([1]).data().then((found) => Array.from(found));
          });
          const expected = reads.map(([size, first]) =>
            Array.from({ length: size }, (_, i) => 2 * ((first + 1 + i) % 200))
          );
          assertEquals(await Promise.all(pending), expected);
          await device.synchronize();
        },
      ),
      runs(20),
    );
    device.destroy();
  }
});

testOnWebgpu("a device that is lost after reads at once rejects the next ones", async () => {
  for (const atOnce of ways) {
    const [device, gpu] = await reader(atOnce);
    using _ = scope();
    const x = tensor([1, 2], { device });
    for (let i = 0; i < 3; i++) assertEquals(await x.add(i).array(), [1 + i, 2 + i]);
    await device.synchronize();
    const pending = [x.add(1).data(), device.synchronize()];
    gpu.destroy();
    for (const result of await Promise.allSettled(pending)) {
      assert(result.status === "rejected" && result.reason instanceof DeviceError);
    }
    await assertRejects(() => x.data(), DeviceError, "lost");
    await gpu.lost;
  }
});

testOnWebgpu("a read does not wait for a timer where the runtime maps at once", async (device) => {
  const { Deno: deno } = globalThis as { Deno?: typeof Deno };
  if (deno?.version.deno !== "2.9.6") return;
  const x = tensor([1, 2]);
  const times: number[] = [];
  for (let i = 0; i < 50; i++) {
    const began = performance.now();
    assertEquals(await x.mul(i).array(), [i, 2 * i]);
    await device.synchronize();
    times.push(performance.now() - began);
  }
  // Two waits of the ordinary kind take 20 ms at least.
  assert(Math.min(...times) < 5, `a read and a wait took ${Math.min(...times)} ms`);
});

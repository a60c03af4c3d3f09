/** Memory: what is freed, when, and that nothing is consumed. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  type Device,
  lightningAttention,
  LimitError,
  loss,
  optim,
  randn,
  scope,
  type Tensor,
  tensor,
  tidy,
  zeros,
} from "../mod.ts";
import { TransNormerLLM } from "../src/models/mod.ts";
import { copyInto } from "../src/ops/pointwise.ts";
import { adopt } from "../src/scope.ts";
import { collectGarbage, testOnBackends, testOnCpu, testOnWebgpu } from "./harness.ts";

testOnBackends("a scope frees what was made in it and not kept", (device: Device) => {
  const x = randn([100]);
  const before = device.memory();
  let kept: Tensor;
  {
    using region = scope();
    kept = region.keep(x.mul(2).add(1).exp());
    assert(device.memory().liveBytes > before.liveBytes + 400);
  }
  assertEquals(kept.disposed, false);
  assertEquals(device.memory().tensors, before.tensors + 1);
  kept.dispose();
  assertEquals(device.memory().liveBytes, before.liveBytes);
});

testOnBackends("tidy keeps what it returns, nested in arrays and objects", (device: Device) => {
  const before = device.memory().tensors;
  const { a, list } = tidy(() => {
    const x = zeros([4]);
    return { a: x.add(1), list: [x.add(2), [x.add(3)]] as const };
  });
  assertEquals(device.memory().tensors, before + 3);
  [a, list[0], list[1][0]].forEach((t) => t.dispose());
  assertEquals(device.memory().tensors, before);
});

testOnBackends("arguments are never consumed, and views outlive what they show", async () => {
  const x = tensor([1, 2, 3, 4]);
  x.add(1).dispose();
  const view = x.reshape([2, 2]).transpose();
  x.dispose();
  assertEquals(await view.array(), [[1, 3], [2, 4]]);
});

testOnBackends("the graph keeps what gradients need, even disposed intermediates", async () => {
  const x = tensor([2], { requiresGrad: true });
  const y = x.mul(3);
  const z = y.mul(y);
  y.dispose();
  z.sum().backward();
  assertEquals(await x.grad!.item(), 36);
});

testOnBackends("the graph lets go with its last result", (device: Device) => {
  const x = randn([1000], { requiresGrad: true });
  const before = device.memory().liveBytes;
  const y = tidy(() => x.exp().mul(2).tanh());
  assert(device.memory().liveBytes > before + 8000, "the graph holds exp(x) and tanh(..)");
  y.dispose();
  assertEquals(device.memory().liveBytes, before);
});

testOnBackends("buffers are reused instead of allocated", (device: Device) => {
  device.trim();
  const step = () =>
    tidy(() => randn([64, 64], { seed: 1 }).matmul(randn([64, 64], { seed: 2 })).sum());
  step().dispose();
  const { pooledBytes } = device.memory();
  assert(pooledBytes > 3 * 64 * 64 * 4);
  for (let i = 0; i < 5; i++) step().dispose();
  assertEquals(device.memory().pooledBytes, pooledBytes);
  device.trim();
  assertEquals(device.memory().pooledBytes, 0);
});

testOnBackends("a training step leaves live bytes where they were", async (device: Device) => {
  using model = new TransNormerLLM(
    { vocabulary: 17, size: 16, layers: 2, heads: 2, inner: 24 },
    { seed: 1 },
  );
  const parameters = model.parameters();
  using adamw = new optim.AdamW(parameters);
  const ids = tensor(Array.from({ length: 20 }, (_, i) => i % 17), {
    shape: [2, 10],
    dtype: "i32",
  });
  const live: number[] = [];
  const counts: number[] = [];
  const losses: number[] = [];
  for (let i = 0; i < 4; i++) {
    {
      using _ = scope();
      const value = loss.crossEntropy(model.forward(ids), ids);
      value.backward({ releaseGraph: true });
      optim.clipGradNorm(parameters, 1);
      adamw.step();
      adamw.zeroGrad();
      losses.push(await value.item());
    }
    live.push(device.memory().liveBytes);
    counts.push(device.memory().tensors);
  }
  assertEquals(new Set(live).size, 1, `live bytes: ${live}`);
  assertEquals(new Set(counts).size, 1, `tensors: ${counts}`);
  assert(losses[3] < losses[0], `losses ${losses}`);
});

testOnBackends("attention's memory grows linearly with the sequence", (device: Device) => {
  const taken = [512, 1024, 2048].map((n) => {
    using _ = scope();
    const before = device.memory().liveBytes;
    const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 2, n, 8], { seed, requiresGrad: true }));
    lightningAttention(q, k, v, { slopes: 0.1 }).sum().backward();
    const bytes = device.memory().liveBytes - before;
    for (const t of [q, k, v]) t.grad = null;
    return bytes;
  });
  assert(taken[1] / taken[0] < 2.1 && taken[2] / taken[1] < 2.1, `bytes ${taken}`);
});

testOnBackends("an operation that is refused leaves nothing behind", (device: Device) => {
  const x = zeros([2, 3]);
  const before = device.memory();
  assertThrows(() => x.matmul(x));
  assertThrows(() => x.add(1).reshape([7]));
  assertThrows(() => tidy(() => x.mul(2).matmul(x)));
  assert(device.memory().liveBytes <= before.liveBytes + 256);
});

testOnWebgpu("a write in place that is refused leaves the graph as it was", async () => {
  const shape = Array<number>(9).fill(2);
  const x = randn(shape, { seed: 1, requiresGrad: true });
  const y = x.square().sum();
  const turned = randn(shape, { seed: 2 }).permute(shape.map((_, axis) => 8 - axis));
  assertThrows(() => copyInto(turned, x), LimitError, "9 axes cannot be merged");
  y.backward();
  assertEquals(await x.grad!.data(), await x.detach().mul(2).data());
  x.grad = null;
});

testOnCpu("the garbage collector frees what was forgotten", async (device: Device) => {
  const before = device.memory();
  // However they came to be nobody's: adopted, results of recorded operations too, or let go by a scope.
  const forget = () => {
    using region = scope();
    const leaf = randn([100], { requiresGrad: true });
    for (let i = 0; i < 20; i++) adopt(zeros([100]));
    for (let i = 0; i < 20; i++) adopt(leaf.mul(2));
    for (let i = 0; i < 10; i++) region.forget(zeros([100]));
  };
  forget();
  assertEquals(device.memory().tensors, before.tensors + 50);
  for (let i = 0; i < 50 && device.memory().tensors > before.tensors; i++) {
    collectGarbage();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assertEquals(device.memory(), {
    ...device.memory(),
    ...before,
    pooledBytes: device.memory().pooledBytes,
  });
});

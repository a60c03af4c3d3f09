/** Activation checkpointing: the same bits as without, in less memory. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  checkpoint,
  type Device,
  grad,
  gradcheck,
  LevinError,
  noGrad,
  optim,
  randn,
  type Tensor,
  tensor,
  tidy,
} from "../mod.ts";
import { Llama, TransNormerLLM } from "../src/models/mod.ts";
import { testOnBackends, testOnCpu } from "./harness.ts";

const leaf = (shape: number[], seed: number) => randn(shape, { seed, requiresGrad: true });

async function gradientsOf(parameters: Record<string, Tensor>): Promise<Record<string, number[]>> {
  const entries = Object.entries(parameters).map(async ([name, p]) =>
    [name, [...await p.grad!.data()]] as [string, number[]]
  );
  return Object.fromEntries(await Promise.all(entries));
}

testOnBackends(
  "a checkpoint that uses a parameter thrice, and so do others, has the same bits",
  async () => {
    // The order in which gradients of `w` and `x` are added up would show in the last bit.
    const run = (wrap: (fn: (x: Tensor) => Tensor, x: Tensor) => Tensor) => {
      const [w, x] = [leaf([7, 7], 1), leaf([5, 7], 2)];
      const inner = (x: Tensor) => x.matmul(w).silu().matmul(w).add(x).mul(x.matmul(w));
      const y = wrap(inner, x.mul(w.sum()));
      wrap(inner, y).mul(y).matmul(w).add(x).sum().backward();
      return gradientsOf({ w, x });
    };
    const plain = await run((fn, x) => fn(x));
    assert(plain.w.some((value) => Math.abs(value) > 1e-3));
    assertEquals(await run((fn, x) => checkpoint(fn, [x])), plain);
    const nested = (fn: (x: Tensor) => Tensor, x: Tensor) =>
      checkpoint((x) => checkpoint(fn, [x]), [x]);
    assertEquals(await run(nested), plain);
  },
);

testOnCpu("random graphs cut into checkpoints have the same bits", async () => {
  const step = fc.record({ op: fc.constantFrom("mul", "add", "matmul", "silu"), other: fc.nat(3) });
  const blocks = fc.array(fc.array(step, { minLength: 1, maxLength: 4 }), {
    minLength: 1,
    maxLength: 4,
  });
  await fc.assert(fc.asyncProperty(blocks, fc.array(fc.boolean()), async (blocks, cut) => {
    const run = async (cuts: boolean) => {
      const leaves = [1, 2, 3, 4].map((seed) => leaf([3, 3], seed));
      tidy(() => {
        let x: Tensor = leaves[0];
        blocks.forEach((block, i) => {
          const fn = (x: Tensor) =>
            block.reduce((x, { op, other }) => {
              if (op === "silu") return x.silu();
              return x[op as "mul" | "add" | "matmul"](leaves[other]);
            }, x);
          x = cuts && cut[i] ? checkpoint(fn, [x]) : fn(x);
        });
        x.mul(x).sum().backward();
      });
      const found = await Promise.all(
        leaves.map(async ({ grad }) => grad && [...await grad.data()]),
      );
      leaves.forEach((t) => t.dispose());
      return found;
    };
    assertEquals(await run(true), await run(false));
  }));
});

testOnBackends(
  "models trained with layers recomputed have the same gradients, bit for bit",
  async () => {
    const config = { vocabulary: 32, size: 16, layers: 3, heads: 2, inner: 24 };
    const ids = tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]], { dtype: "i32" });
    for (const Model of [TransNormerLLM, Llama]) {
      using model = new Model(config, { seed: 3 });
      const run = async () => {
        tidy(() => model.forward(ids).square().sum().backward());
        const found = await gradientsOf(model.parameters());
        for (const p of Object.values(model.parameters())) p.grad = null;
        return found;
      };
      const plain = await run();
      model.recompute = true;
      assertEquals(await run(), plain);
      assert(Object.values(plain).every((values) => values.some((value) => value !== 0)));
    }
  },
);

testOnBackends(
  "memory between forward and backward does not grow with what is inside",
  (device: Device) => {
    const w = leaf([64, 64], 1);
    const held = (wrap: boolean) =>
      tidy(() => {
        const inner = (x: Tensor) =>
          Array.from({ length: 8 }).reduce<Tensor>((x) => x.matmul(w).silu(), x);
        const x = leaf([64, 64], 2);
        const before = device.memory().liveBytes;
        let y: Tensor = x;
        for (let i = 0; i < 4; i++) y = tidy(() => wrap ? checkpoint(inner, [y]) : inner(y));
        const bytes = device.memory().liveBytes - before;
        y.sum().backward();
        return bytes;
      });
    const [plain, checkpointed] = [held(false), held(true)];
    assertEquals(checkpointed, 4 * 64 * 64 * 4);
    assert(plain >= 10 * checkpointed, `${plain} bytes without, ${checkpointed} with`);
  },
);

testOnBackends(
  "a checkpoint returns several results, unused ones and what no gradient reaches",
  async () => {
    const [a, b] = [leaf([4], 1), leaf([4], 2)];
    const [sum, product, constant, same] = checkpoint((a, b) => [
      a.add(b),
      a.mul(b),
      tensor([1, 2, 3, 4]),
      a,
    ], [a, b]);
    assertEquals([constant.requiresGrad, same.requiresGrad], [false, true]);
    product.add(same).sum().backward();
    assertEquals([...await a.grad!.data()], [...await b.add(1).data()]);
    assertEquals([...await b.grad!.data()], [...await a.data()]);
    a.grad = b.grad = null;
    sum.sum().backward();
    assertEquals([...await a.grad!.data()], [1, 1, 1, 1]);
  },
);

testOnCpu("a checkpoint can be differentiated twice, and walked twice", async () => {
  const w = leaf([3], 2);
  await gradcheck((x) => checkpoint((x) => x.mul(w).exp().mul(x), [x]), [randn([3], { seed: 1 })]);
  const twice = (wrap: boolean) => {
    const fn = (x: Tensor) => x.mul(x).mul(x).exp();
    return grad((x: Tensor) =>
      grad((x: Tensor) => (wrap ? checkpoint(fn, [x]) : fn(x)).sum())(x).sum()
    );
  };
  const x = tensor([0.3, -0.7]);
  assertEquals(await twice(true)(x).array(), await twice(false)(x).array());
  const y = checkpoint((w) => w.square().sum(), [w]);
  y.backward();
  const once = [...await w.grad!.data()];
  y.backward();
  assertEquals([...await w.grad!.data()], once.map((value) => 2 * value));
  w.grad = null;
  y.backward({ releaseGraph: true });
  assertEquals([...await w.grad!.data()], once);
  assertThrows(() => y.backward(), LevinError, "again");
});

testOnBackends(
  "a checkpoint refuses parameters written since, and keeps nothing without recording",
  () => {
    const w = leaf([2, 2], 1);
    const bias = leaf([2, 2], 3);
    using adamw = new optim.AdamW({ w, bias });
    const y = checkpoint((x) => x.matmul(w).add(bias).silu(), [randn([2, 2], { seed: 2 })]);
    bias.sum().backward();
    adamw.step();
    assertThrows(() => y.sum().backward(), LevinError, "written in place");
    assertEquals(noGrad(() => checkpoint((x) => x.mul(w), [w])).requiresGrad, false);
  },
);

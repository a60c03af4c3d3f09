/** The tape: what accumulates where, what is recorded, and functions of functions. */
import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  defineOp,
  grad,
  gradcheck,
  LevinError,
  noGrad,
  ones,
  randn,
  ShapeError,
  type Tensor,
  tensor,
  tidy,
  valueAndGrad,
} from "../mod.ts";
import { assertNear, testOnBackends, testOnCpu } from "./harness.ts";

testOnBackends("gradients accumulate in leaves, over uses and over calls", async () => {
  const x = tensor([2, 3], { requiresGrad: true });
  const y = x.mul(x).add(x);
  y.sum().backward();
  assertEquals(await x.grad!.array(), [5, 7]);
  y.sum().backward();
  assertEquals(await x.grad!.array(), [10, 14]);
  x.grad = null;
  assertEquals(x.grad, null);
  y.backward({ gradient: tensor([1, 10]) });
  assertEquals(await x.grad!.array(), [5, 70]);
});

testOnBackends("a gradient may be handed on unchanged to several inputs", async () => {
  const x = tensor([1, 2], { requiresGrad: true });
  const y = x.add(x);
  y.add(y).sum().backward();
  assertEquals(await x.grad!.array(), [4, 4]);
});

testOnCpu("only what depends on a leaf is recorded, and nothing within noGrad", async () => {
  const x = tensor([1], { requiresGrad: true });
  assertEquals(x.mul(2).requiresGrad, true);
  assertEquals(tensor([1]).mul(2).requiresGrad, false);
  assertEquals(x.detach().mul(2).requiresGrad, false);
  assertEquals(x.greater(0).requiresGrad, false);
  assertEquals(noGrad(() => x.mul(2).requiresGrad), false);
  const slow = noGrad(async () => {
    await Promise.resolve();
    return x.mul(2).requiresGrad;
  });
  assertEquals(await slow, false);
  assertEquals(x.mul(2).requiresGrad, true);
});

testOnBackends("grad of grad of grad, inside and outside of noGrad", async () => {
  const f = (x: Tensor) => x.pow(5).sum();
  const first = grad(f);
  const second = grad((x: Tensor) => first(x).sum());
  const third = grad((x: Tensor) => second(x).sum());
  const x = tensor([1, -2]);
  await assertNear(first(x), [5, 80], 1e-5);
  await assertNear(second(x), [20, -160], 1e-5);
  await assertNear(third(x), [60, 240], 1e-5);
  await assertNear(noGrad(() => second(x)), [20, -160], 1e-5);
});

testOnBackends("gradients have the structure of their argument", async () => {
  const loss = ({ layers, b }: { layers: Tensor[]; b: Tensor }, x: Tensor) =>
    layers.reduce((h, w) => h.matmul(w), x).add(b).square().sum();
  const parameters = {
    layers: [randn([2, 2], { seed: 1 }), randn([2, 2], { seed: 2 })],
    b: randn([2], { seed: 3 }),
  };
  const x = randn([3, 2], { seed: 4 });
  const [value, gradient] = valueAndGrad(loss)(parameters, x);
  assertEquals(gradient.layers.map((t) => t.shape), [[2, 2], [2, 2]]);
  assertEquals(gradient.b.shape, [2]);
  assertEquals(value.size, 1);
  await gradcheck((w, v, b) => loss({ layers: [w, v], b }, x), [
    ...parameters.layers,
    parameters.b,
  ]);
});

testOnBackends("a gradient is differentiable through what the function closes over", async () => {
  const w = tensor([3], { requiresGrad: true });
  const slope = grad((x: Tensor) => x.mul(x).mul(w).sum()); // 2 w x
  slope(tensor([5])).sum().backward();
  assertEquals(await w.grad!.array(), [10]);
});

testOnBackends("createGraph makes a leaf's gradient differentiable", async () => {
  const x = tensor([2], { requiresGrad: true });
  x.pow(3).sum().backward({ createGraph: true });
  const first = x.grad!.mul(1);
  x.grad = null;
  first.sum().backward();
  assertEquals(await x.grad!.array(), [12]);
});

testOnCpu("an argument that does not matter has gradient zero", async () => {
  const [a, b] = grad(([x, _]: Tensor[]) => x.square().sum())([tensor([1, 2]), tensor([3])]);
  assertEquals([await a.array(), await b.array()], [[2, 4], [0]]);
});

const scale = defineOp<{ factor: number }>({
  name: "scale",
  output: ([{ shape, dtype }]) => ({ shape, dtype }),
  cpu: ([x], [y], { factor }) => y.data.forEach((_, i) => y.data[i] = factor * x.data[i]),
  gpu: ([x], [y], { factor }) => ({
    shader: `
      struct Params { size: u32, x_offset: u32, y_offset: u32, factor: u32 }
      @group(0) @binding(0) var<storage, read> x: array<f32>;
      @group(0) @binding(1) var<storage, read_write> y: array<f32>;
      @group(0) @binding(2) var<uniform> params: Params;
      @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
        if (id.x >= params.size) { return; }
        y[params.y_offset + id.x] = f32(params.factor) * x[params.x_offset + id.x];
      }`,
    params: [x.shape.reduce((a, b) => a * b, 1), x.offset, y.offset, factor],
    workgroups: [Math.ceil(x.shape.reduce((a, b) => a * b, 1) / 64)],
  }),
  backward: ({ grads: [g], options: { factor } }) => [g.mul(factor)],
});

testOnBackends("a user's own operation differentiates to any order and reads views", async () => {
  const x = randn([4, 5], { seed: 1 });
  const expected = (await x.transpose().data()).map((v) => 3 * v);
  await assertNear(scale(x.transpose(), { factor: 3 }), expected, 1e-7);
  await gradcheck((t) => scale(t, { factor: 3 }).square(), [x]);
  await gradcheck(grad((t: Tensor) => scale(t, { factor: 3 }).pow(3).sum()), [x]);
});

testOnCpu("a rule that adds is given what has arrived before, once", async () => {
  const given: (number | null)[] = [];
  const double = defineOp({
    name: "double",
    output: ([x]) => ({ shape: x.shape, dtype: x.dtype }),
    cpu: ([x, z], [y]) => y.data.forEach((_, i) => y.data[i] = x.data[i] + z.data[i]),
    adds: [0, 1],
    backward: ({ grads: [g], before }) => {
      given.push(...before.map((t) => t?.size ?? null));
      return [before[0] === undefined ? g : g.add(before[0]), before[1]?.add(g) ?? g];
    },
  });
  const x = tensor([1, 2], { requiresGrad: true });
  // The later use sends its gradient first; a use of x twice is given it at the first place alone.
  double(x, x).add(x.mul(3)).sum().backward();
  assertEquals([await x.grad!.array(), given.splice(0)], [[5, 5], [2, null]]);
  const z = tensor([1, 2], { requiresGrad: true });
  x.mul(3).mul(double(z, x.detach())).add(double(x, z)).sum().backward();
  assertEquals(await z.grad!.array(), [4, 7]);
  assertEquals(await grad((t: Tensor) => double(t, t.mul(t)).mul(t).sum())(x).array(), [5, 16]);
});

testOnCpu("gradcheck finds a wrong rule, and names the element", async () => {
  const wrong = defineOp({
    name: "wrong",
    output: ([{ shape, dtype }]) => ({ shape, dtype }),
    cpu: ([x], [y]) => y.data.forEach((_, i) => y.data[i] = x.data[i] ** 2),
    backward: ({ grads: [g], inputs: [x] }) => [g.mul(x)],
  });
  await assertRejects(() => gradcheck(wrong, [tensor([1, 2])]), LevinError, "input 0 [2], element");
});

testOnCpu("what cannot be differentiated says so", () => {
  const x = tensor([1, 2], { requiresGrad: true });
  assertThrows(() => x.mul(2).backward(), ShapeError, "one element");
  assertThrows(() => tensor(1).backward(), LevinError, "nothing it was computed from");
  assertThrows(
    () => x.mul(2).backward({ gradient: ones([3]) }),
    ShapeError,
    "shapes must be equal",
  );
  assertThrows(() => grad((t: Tensor) => t.mul(2))(x), ShapeError, "one element");
  const noRule = defineOp({
    name: "opaque",
    output: ([{ shape, dtype }]) => ({ shape, dtype }),
    cpu: ([a], [b]) => b.data.set(a.data),
  });
  assertThrows(() => noRule(x).sum().backward(), LevinError, "opaque: it has no gradient rule");
  const once = x.square().sum();
  once.backward({ releaseGraph: true });
  assertThrows(() => once.backward(), LevinError, "gave up");
});

testOnCpu("a chain of many thousand operations neither overflows the stack nor leaks", async () => {
  const x = tensor([1], { requiresGrad: true });
  const y = tidy(() => {
    let sum = x.mul(1);
    for (let i = 0; i < 20_000; i++) {
      const next = sum.add(1);
      sum.dispose();
      sum = next;
    }
    return sum;
  });
  y.backward();
  assertEquals(await x.grad!.array(), [1]);
});

/** Making tensors, looking at them through views, and reading them back. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  arange,
  concat,
  DTypeError,
  full,
  LevinError,
  ones,
  randn,
  ShapeError,
  tensor,
  uniform,
  zeros,
} from "../mod.ts";
import { cpu, runs, testOnBackends, testOnCpu, testOnWebgpu } from "./harness.ts";

testOnBackends("values come back as they went in, for every dtype and nesting", async () => {
  assertEquals(await tensor([[1, 2], [3, 4]]).array(), [[1, 2], [3, 4]]);
  assertEquals(await tensor(3).item(), 3);
  assertEquals(tensor(3).shape, []);
  assertEquals(await tensor([true, false]).array(), [true, false]);
  assertEquals(await tensor([1, -2], { dtype: "i32" }).data<Int32Array>(), Int32Array.of(1, -2));
  assertEquals(await tensor(Uint32Array.of(7, 2 ** 32 - 1)).array(), [7, 2 ** 32 - 1]);
  assertEquals(await tensor(new Float16Array([0.5, 3])).array(), [0.5, 3]);
  assertEquals(await tensor(Float64Array.of(1, 2, 3, 4), { shape: [2, 2] }).array(), [[1, 2], [
    3,
    4,
  ]]);
  assertEquals(await tensor([], { shape: [0, 3] }).array(), []);
  assertEquals(
    (await tensor([1, 0], { dtype: "bool" }).data<Uint8Array>()).constructor,
    Uint8Array,
  );
});

testOnBackends("constants and counts have the elements that they promise", async () => {
  assertEquals(await zeros([2, 2]).array(), [[0, 0], [0, 0]]);
  assertEquals(await ones([2], { dtype: "i32" }).array(), [1, 1]);
  assertEquals(await full([3], -1.5, { dtype: "f16" }).array(), [-1.5, -1.5, -1.5]);
  assertEquals(await full([2], 1, { dtype: "bool" }).array(), [true, true]);
  assertEquals(await arange(4).array(), [0, 1, 2, 3]);
  assertEquals(await arange(1, { end: 2, step: 0.25 }).array(), [1, 1.25, 1.5, 1.75]);
  assertEquals(await arange(5, { end: 0, step: -2, dtype: "i32" }).array(), [5, 3, 1]);
});

testOnBackends("views agree with indexing, however they are combined", async () => {
  const steps = fc.array(
    fc.tuple(fc.constantFrom("permute", "slice", "flip", "reshape", "expand"), fc.nat(), fc.nat()),
    { maxLength: 6 },
  );
  await fc.assert(
    fc.asyncProperty(steps, async (list) => {
      let x = arange(120).reshape([4, 5, 6]);
      let reference = { shape: [4, 5, 6], at: (i: number) => i };
      for (const [kind, a, b] of list) {
        const { shape, at } = reference;
        const axis = shape.length === 0 ? 0 : a % shape.length;
        const position = (i: number, sizes: number[]) => {
          const entry = [];
          for (let k = sizes.length - 1; k >= 0; k--) {
            entry.unshift(i % sizes[k]);
            i = Math.floor(i / sizes[k]);
          }
          return entry;
        };
        const index = (entry: number[]) => entry.reduce((sum, e, k) => sum * shape[k] + e, 0);
        if (kind === "permute") {
          const order = shape.map((_, i) => (i + a) % shape.length);
          x = x.permute(order);
          const next = order.map((i) => shape[i]);
          reference = {
            shape: next,
            at: (i) => at(index(shape.map((_, k) => position(i, next)[order.indexOf(k)]))),
          };
        } else if (kind === "slice") {
          const start = b % shape[axis];
          x = x.slice(...shape.map((_, i) => i === axis ? [start] as const : null));
          const next = shape.with(axis, shape[axis] - start);
          reference = {
            shape: next,
            at: (i) => at(index(position(i, next).map((e, k) => k === axis ? e + start : e))),
          };
        } else if (kind === "flip") {
          x = x.flip(axis);
          reference = {
            shape,
            at: (i) =>
              at(index(position(i, shape).map((e, k) => k === axis ? shape[k] - 1 - e : e))),
          };
        } else if (kind === "reshape") {
          const size = shape.reduce((p, n) => p * n, 1);
          const next = size % 2 === 0 && b % 2 === 0 ? [2, size / 2] : [size];
          x = x.reshape(next);
          reference = { shape: next, at };
        } else if (shape.length < 4) {
          x = x.unsqueeze(0).expand([2, ...shape]);
          const size = shape.reduce((p, n) => p * n, 1);
          reference = { shape: [2, ...shape], at: (i) => at(i % size) };
        }
      }
      const size = reference.shape.reduce((p, n) => p * n, 1);
      assertEquals(x.shape, reference.shape);
      assertEquals(
        Array.from(await x.data()),
        Array.from({ length: size }, (_, i) => reference.at(i)),
      );
    }),
    runs(60),
  );
});

testOnBackends("slices follow Python's rules", async () => {
  const x = arange(6);
  assertEquals(await x.slice([1, -1]).array(), [1, 2, 3, 4]);
  assertEquals(await x.slice([-2]).array(), [4, 5]);
  assertEquals(await x.slice([undefined, undefined, -2]).array(), [5, 3, 1]);
  assertEquals(await x.slice([4, 1, -1]).array(), [4, 3, 2]);
  assertEquals(await x.slice([3, 100]).array(), [3, 4, 5]);
  assertEquals(await x.slice([4, 2]).array(), []);
  assertEquals(await x.reshape([2, 3]).slice(-1, 0).item(), 3);
});

testOnBackends("concatenation joins along any axis, also views and empty parts", async () => {
  const x = arange(4).reshape([2, 2]);
  assertEquals(await concat([x, x.transpose()], 1).array(), [[0, 1, 0, 2], [2, 3, 1, 3]]);
  assertEquals(await x.concat([zeros([0, 2]), x.slice([0, 1])]).array(), [[0, 1], [2, 3], [0, 1]]);
});

testOnBackends("many reads asked together see the values of their own moment", async () => {
  const x = arange(3);
  const reads = [1, 2, 3].map((k) => {
    const y = x.mul(k);
    const read = y.data();
    y.dispose();
    return read;
  });
  x.add(1).dispose();
  assertEquals((await Promise.all(reads)).map((d) => Array.from(d)), [[0, 1, 2], [0, 2, 4], [
    0,
    3,
    6,
  ]]);
});

testOnWebgpu("random numbers are the same on every backend", async (gpu) => {
  for (const make of [randn, uniform]) {
    for (const dtype of ["f32", "f16"] as const) {
      const [a, b] = [cpu, gpu].map((device) =>
        make([7, 33], { seed: 12345678901, dtype, device })
      );
      assertEquals(await a.data(), await b.data());
      a.dispose();
    }
  }
  const [low, high] = [-3, 5];
  const [a, b] = [cpu, gpu].map((device) => uniform([1001], { seed: 1, low, high, device }));
  assertEquals(await a.data(), await b.data());
  a.dispose();
});

testOnCpu("random numbers depend on the seed and have the moments they should", async () => {
  const count = 100_000;
  const normal = await randn([count], { seed: 1 }).data();
  const moment = (k: number) => normal.reduce((sum, x) => sum + x ** k, 0) / count;
  assert(Math.abs(moment(1)) < 0.02 && Math.abs(moment(2) - 1) < 0.02);
  assert(Math.abs(moment(3)) < 0.05 && Math.abs(moment(4) - 3) < 0.1);
  const even = await uniform([count], { seed: 1 }).data();
  assert(even.every((x) => x >= 0 && x < 1));
  assert(Math.abs(even.reduce((sum, x) => sum + x, 0) / count - 0.5) < 0.01);
  assertEquals(
    await randn([9], { seed: 2 }).data(),
    (await randn([20], { seed: 2 }).data()).slice(0, 9),
  );
  const [a, b, c] = await Promise.all(
    [randn([9]), randn([9]), randn([9], { seed: 3 })].map((t) => t.data()),
  );
  assert(a.some((x, i) => x !== b[i]) && a.some((x, i) => x !== c[i]));
});

testOnCpu("threefry gives the published test vectors", async () => {
  // Salmon et al., Random123's known-answer tests for Threefry-2x32 with 20 rounds.
  const { threefry } = await import("../src/random.ts");
  const vectors = [
    [[0, 0], [0, 0], [0x6b200159, 0x99ba4efe]],
    [[0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff], [0x1cb996fc, 0xbb002be7]],
    [[0x13198a2e, 0x03707344], [0x243f6a88, 0x85a308d3], [0xc4923a9c, 0x483df7a0]],
  ];
  for (const [[low, high], counter, expected] of vectors) {
    const out = new Uint32Array(2);
    threefry({ low, high }, counter[0], counter[1], out);
    assertEquals([...out], expected);
  }
});

testOnCpu("a tensor says what it is", () => {
  const x = randn([2, 3], { requiresGrad: true });
  assertEquals(String(x), "Tensor f32 [2, 3]");
  assertEquals([x.size, x.rank, x.requiresGrad, x.isContiguous], [6, 2, true, true]);
  assertEquals(x.transpose().isContiguous, false);
});

testOnCpu("what cannot be a tensor is refused, and so is a disposed one", async () => {
  assertThrows(() => tensor([[1, 2], [3]]), ShapeError, "ragged");
  assertThrows(() => tensor([1, [2]] as number[][]), ShapeError, "ragged");
  assertThrows(() => tensor([1, 2, 3], { shape: [2, 2] }), ShapeError, "4 elements");
  assertThrows(() => zeros([2, -1]), ShapeError, "not a shape");
  assertThrows(() => zeros([1.5]), ShapeError, "not a shape");
  assertThrows(() => tensor([1.5], { dtype: "i32" }), DTypeError, "1.5");
  assertThrows(() => tensor([2], { dtype: "bool" }), DTypeError, "2");
  assertThrows(() => tensor(["a"] as unknown as number[]), DTypeError, "string");
  assertThrows(() => tensor(new BigInt64Array(1)), DTypeError, "BigInt64Array");
  assertThrows(() => tensor([1], { dtype: "f64" as "f32" }), DTypeError, "f64");
  assertThrows(() => tensor([1], { dtype: "i32", requiresGrad: true }), DTypeError, "requiresGrad");
  await assertRejects(() => zeros([2]).item(), ShapeError, "one element");
  const x = zeros([2]);
  x.dispose();
  x.dispose();
  assertThrows(() => x.add(1), LevinError, "disposed");
  await assertRejects(() => x.data(), LevinError, "disposed");
});

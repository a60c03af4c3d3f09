/** Attentions give outputs and gradients in the layout of what they were given, so that nobody has to copy them. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  type Device,
  flashAttention,
  lightningAttention,
  lightningAttention1,
  randn,
  type Tensor,
} from "../mod.ts";
import { orderOfAxes, stridesInOrder } from "../src/shape.ts";
import { test, testOnBackends } from "./harness.ts";

const attentions: Record<string, (q: Tensor, k: Tensor, v: Tensor) => Tensor> = {
  lightningAttention: (q, k, v) => lightningAttention(q, k, v, { slopes: 0.1 }),
  lightningAttention1: (q, k, v) => lightningAttention1(q, k, v, { slopes: 0.1 }),
  flashAttention: (q, k, v) => flashAttention(q, k, v),
};

for (const [name, attend] of Object.entries(attentions)) {
  testOnBackends(`${name} of [b, n, heads, d] copies nothing on its way there and back`, async (
    device: Device,
  ) => {
    const [b, n, heads, d, e] = [2, 70, 4, 8, 12];
    // Where members of a group share keys, lightning attention's gradients are sums, which are row-major.
    const keyHeads = name === "flashAttention" ? 2 : heads;
    const sizes = [[heads, d], [keyHeads, d], [keyHeads, e]];
    const made = sizes.map(([h, size], i) => randn([b, n, h, size], { seed: i + 1 }));
    const weights = randn([b, n, heads, e], { seed: 4 });
    const results = async (dense: boolean) => {
      const leaves = made.map((t) =>
        randn(t.shape, { seed: 1 + made.indexOf(t), requiresGrad: true })
      );
      const profile = await device.profile(() => {
        const byHead = leaves.map((t) => t.permute([0, 2, 1, 3]));
        const [q, k, v] = dense ? byHead.map((t) => t.contiguous()) : byHead;
        const output = attend(q, k, v).permute([0, 2, 1, 3]);
        if (!dense) assert(output.isContiguous, "the output");
        output.backward({ gradient: weights });
        results.output = output.detach();
      });
      const copies = profile.spans.filter(({ name }) => name.startsWith("copy")).length;
      const all = [results.output!, ...leaves.map((t) => t.grad!)];
      if (!dense) assert(leaves.every((t) => t.grad!.isContiguous), "gradients");
      return { copies, values: await Promise.all(all.map((t) => t.data())) };
    };
    results.output = undefined as Tensor | undefined;
    const [as, dense] = [await results(false), await results(true)];
    assertEquals(as.copies, 0);
    assert(dense.copies > 0, "what is to be compared with copies");
    assertEquals(as.values, dense.values);
    assert(as.values.every((list) => list.some((x) => x !== 0)), "all are zeros");
  });
}

test("the order of axes is that of their steps; an axis without one follows the axis before it", () => {
  const shapes = fc.array(fc.integer({ min: 2, max: 4 }), { minLength: 1, maxLength: 5 });
  const property = fc.property(shapes, fc.integer(), (shape, seed) => {
    const order = shape.map((_, i) => i).sort((a, b) => Math.sin(seed + a) - Math.sin(seed + b));
    const strides = stridesInOrder(shape, order);
    assertEquals(orderOfAxes({ shape, strides }), order);
    assertEquals(strides[order.at(-1)!], 1);
    assertEquals(orderOfAxes({ shape, strides: strides.map((stride) => -stride) }), order);
  });
  fc.assert(property);
  assertEquals(orderOfAxes({ shape: [2, 3, 4, 5, 6], strides: [540, 6, 0, 18, 1] }), [
    0,
    3,
    1,
    2,
    4,
  ]);
  assertEquals(orderOfAxes({ shape: [2, 3], strides: [0, 0] }), [0, 1]);
});

/**
 * Both gradients of a product in one pass, in which g is read once:
 *
 *     dx = g ⊙ y        dy = g ⊙ x
 *
 * for dense g, x and y of one shape. Saved: all three, for the gradients' own gradients.
 *
 * @module
 */
import { defineOp, type Op } from "../operation.ts";
import { sizeOf } from "../shape.ts";
import type { Tensor, TensorSpec } from "../tensor.ts";
import shader from "../../shaders/mul_gradients.wgsl" with { type: "text" };
import { grid, productProgram } from "./pointwise_program.ts";
import { inUnits } from "./rows.ts";

/** g, x, y → dx, dy. */
export const mulGradients: Op<undefined, TensorSpec[]> = defineOp<undefined, TensorSpec[]>({
  name: "mulGradients",
  output: ([{ shape, dtype }]) => [{ shape, dtype }, { shape, dtype }],
  cpu: ([g, x, y], [dx, dy]) => {
    for (let i = 0; i < g.data.length; i++) {
      dx.data[i] = g.data[i] * y.data[i];
      dy.data[i] = g.data[i] * x.data[i];
    }
  },
  wasm: ([g, x, y], [dx, dy], _, context) => [
    ...[productProgram.wasm!([g, y], [dx], undefined, context)!].flat(),
    ...[productProgram.wasm!([g, x], [dy], undefined, context)!].flat(),
  ],
  gpu: ([g, x, y], [dx, dy], _, context) => {
    const offsets = [g, x, y].map((view) => view.offset);
    const { constants, counts } = inUnits(g.dtype, [
      ...offsets,
      sizeOf(g.shape),
      dx.offset,
      dy.offset,
    ]);
    const workgroups = grid(Math.ceil(counts[3] / 256), context);
    return { shader, constants, params: counts, workgroups };
  },
  cuts: ([g]) => g.shape.map((_, axis) => [axis, axis, axis, axis, axis]),
  backward: ({ grads: [a, b], inputs: [g, x, y], needs }) => {
    const sum = (...terms: (Tensor | undefined)[]) => {
      const [first, second] = terms.filter((t) => t !== undefined);
      return second === undefined ? first : first.add(second);
    };
    return [needs[0] ? sum(a?.mul(y), b?.mul(x)) : null, b?.mul(g), a?.mul(g)];
  },
});

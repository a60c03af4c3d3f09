/**
 * Cross-entropy of logits x [.., classes] and integer targets [..]:
 *
 *     z = log Σ exp x, loss = z − x[target]        dx = g · (exp(x − z) − [i = target])
 *
 * Saves x, the targets and z [..]; probabilities are never stored. In float32, whatever x is stored in.
 *
 * @module
 */
import { floatBits } from "../backend/contract.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { isFloat } from "../dtype.ts";
import { grad } from "../grad.ts";
import { defineOp, type Op } from "../operation.ts";
import { tidy } from "../scope.ts";
import { format, sameShape, sizeOf } from "../shape.ts";
import type { Tensor, TensorSpec } from "../tensor.ts";
import gradientShader from "../../shaders/cross_entropy_gradient.wgsl" with { type: "text" };
import text from "../../shaders/cross_entropy.wgsl" with { type: "text" };
import { arange } from "./create.ts";
import { grid } from "./pointwise_program.ts";
import { rowsJob, unitOf, walkRows, withRows } from "./rows.ts";
import { isInGroups } from "./tiles.ts";

const shader = withRows(text);

/** x [rows, classes], targets [rows] → losses [rows] and z [rows]. */
const lossOp = defineOp<undefined, TensorSpec[]>({
  name: "crossEntropy",
  output: ([x]) => [
    { shape: x.shape.slice(0, 1), dtype: "f32" },
    { shape: x.shape.slice(0, 1), dtype: "f32" },
  ],
  cpu: ([x, targets], [losses, z]) => {
    const [rows, classes] = x.shape;
    for (let row = 0; row < rows; row++) {
      const first = row * classes;
      let largest = -Infinity;
      for (let i = 0; i < classes; i++) largest = Math.max(largest, x.data[first + i]);
      let sum = 0;
      for (let i = 0; i < classes; i++) sum += Math.exp(x.data[first + i] - largest);
      const total = largest + Math.log(sum);
      const target = targets.data[row];
      z.data[row] = total;
      losses.data[row] = target >= 0 && target < classes
        ? Math.log(sum) + (largest - x.data[first + target])
        : NaN;
    }
  },
  wasm: ([x, targets], [losses, z]) => rowsJob("crossEntropy", x.shape, [x, targets, losses, z]),
  gpu: ([x, targets], [losses, z], _, context) => {
    const [rows, classes] = x.shape;
    const { width, constants } = walkRows([x], context);
    const element_at = width === 4 ? "f32(x[first + i / 4u][i % 4u])" : "f32(x[first + i])";
    return {
      shader: shader(context),
      constants: { ...constants, element_at },
      params: [
        ...[rows, classes / width, x.offset / width],
        ...[targets.offset, losses.offset, z.offset, floatBits(Infinity)],
      ],
      workgroups: grid(rows, context),
    };
  },
  cuts: () => [[0, 0, 0, 0]],
  saves: { inputs: [0, 1], outputs: [1] },
  // z never leaves this file, so no gradient arrives at it.
  backward: ({ grads: [g], inputs: [x, targets], outputs: [, z] }) => [
    gradientOp(g, x, targets, z),
    null,
  ],
});

/** g [rows], x [rows, classes], targets [rows], z [rows] → dx [rows, classes]. */
const gradientOp: Op = defineOp({
  name: "crossEntropyGradient",
  output: ([, x]) => ({ shape: x.shape, dtype: x.dtype }),
  cpu: ([g, x, targets, z], [dx]) => {
    const [rows, classes] = x.shape;
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < classes; i++) {
        const at = row * classes + i;
        const probability = Math.exp(x.data[at] - z.data[row]);
        dx.data[at] = g.data[row] * (probability - (i === targets.data[row] ? 1 : 0));
      }
    }
  },
  wasm: ([g, x, targets, z], [dx]) =>
    rowsJob("crossEntropyGradient", x.shape, [g, x, targets, z, dx]),
  gpu: ([g, x, targets, z], [dx], _, context) => {
    const [rows, classes] = x.shape;
    const wide = [x, dx].every((view) => isInGroups(view, -1, 4));
    const width = wide ? 4 : 1;
    const columns = { Columns: "vec4u", columns_of: "4u * unit + vec4u(0u, 1u, 2u, 3u)" };
    return {
      shader: gradientShader,
      constants: { ...unitOf(x.dtype, wide), ...(wide ? columns : {}) },
      params: [
        ...[rows, classes / width, x.offset / width],
        ...[targets.offset, z.offset, g.offset, dx.offset / width],
      ],
      workgroups: grid(Math.ceil(sizeOf(x.shape) / width / 256), context),
    };
  },
  cuts: () => [[0, 0, 0, 0, 0]],
  saves: { inputs: [0, 1, 2] },
  // In single operations, for the gradient of the gradient; z is recomputed, as it depends on x.
  backward: ({ grads: [u], inputs: [g, x, targets] }) => {
    const [dg, dx] = grad(([g, x]: Tensor[]) => {
      const classes = arange(x.shape[1], { dtype: targets.dtype, device: x.device });
      const hits = targets.unsqueeze(1).equal(classes).to(x.dtype);
      const rows = g.to(x.dtype).unsqueeze(1);
      return x.softmax().sub(hits).mul(rows).mul(u).to("f32").sum();
    })([g, x]);
    return [dg, dx, null, null];
  },
});

/** The loss of every row: logits [.., classes], targets [..] → [..] in float32. */
export function crossEntropyRows(logits: Tensor, targets: Tensor): Tensor {
  if (logits.rank === 0 || !sameShape(logits.shape.slice(0, -1), targets.shape)) {
    throw new ShapeError(
      `crossEntropy: expected logits [.., classes] and targets [..], found ${
        format(logits.shape)
      } ` +
        `and ${format(targets.shape)}`,
    );
  }
  if (!isFloat(logits.dtype) || (targets.dtype !== "i32" && targets.dtype !== "u32")) {
    throw new DTypeError(
      `crossEntropy: expected logits f32 or f16 and targets i32 or u32, found ${logits.dtype} and ` +
        targets.dtype,
    );
  }
  const classes = logits.shape[logits.rank - 1];
  return tidy(() =>
    lossOp(logits.reshape([targets.size, classes]), targets.reshape([-1]))[0].reshape(targets.shape)
  );
}

/**
 * SRMSNorm behind a gate, as it ends TransNormerLLM's attention (arXiv 2307.14995), over the last axis:
 *
 *     y = u ⊙ n,  n = x · r,  r = 1 / √(mean x² + ε)
 *     dx = r · (g ⊙ u − n · mean(g ⊙ u ⊙ n))        du = g ⊙ n
 *
 * Shapes: x, u, y [.., size]; rows of x, u and g are read where they lie. Saved: x and u; n is nowhere stored. Both
 * gradients are one fused pass, itself an operation with a gradient.
 *
 * @module
 */
import {
  addressOf,
  type CpuView,
  type Dispatch,
  floatBits,
  type GpuContext,
  type View,
  type WasmJob,
  type WasmView,
} from "../backend/contract.ts";
import { grad } from "../grad.ts";
import { defineOp, type Op } from "../operation.ts";
import { tidy } from "../scope.ts";
import { sizeOf } from "../shape.ts";
import type { Tensor, TensorSpec } from "../tensor.ts";
import text from "../../shaders/gated_norm.wgsl" with { type: "text" };
import { grid } from "./pointwise_program.ts";
import { inEvenRows, rowsJob, rowStep, walkRows, withRows } from "./rows.ts";
import { checkNorm, inverseRms } from "./srms_norm.ts";

const shader = withRows(text);

interface NormOptions {
  readonly epsilon: number;
}

/** x, u → y. */
const gatedNormOp: Op<NormOptions> = defineOp<NormOptions>({
  name: "gatedNorm",
  strided: true,
  output: ([{ shape, dtype }]) => ({ shape, dtype }),
  cpu: ([x, u], [y], { epsilon }) =>
    forEachRow([x, u, y], (length, [atX, atU, atY]) => {
      const r = inverseRms(x.data, atX, length, epsilon);
      for (let i = 0; i < length; i++) y.data[atY + i] = u.data[atU + i] * (x.data[atX + i] * r);
    }),
  wasm: (inputs, outputs, { epsilon }) => planJob("gatedNorm", [...inputs, ...outputs], epsilon),
  gpu: ([x, u], [y], { epsilon }, context) => plan([x, u, x], [y], epsilon, context),
  cuts: ([x]) => x.shape.slice(0, -1).map((_, axis) => [axis, axis, axis]),
  backward: ({ grads: [g], inputs: [x, u], options }) => gradientOp(x, u, inEvenRows(g), options),
});

/** x, u, g → dx, du. */
const gradientOp: Op<NormOptions, TensorSpec[]> = defineOp<NormOptions, TensorSpec[]>({
  name: "gatedNormGradient",
  strided: true,
  output: ([{ shape, dtype }]) => [{ shape, dtype }, { shape, dtype }],
  cpu: ([x, u, g], [dx, du], { epsilon }) =>
    forEachRow([x, u, g, dx, du], (length, [atX, atU, atG, atDx, atDu]) => {
      const r = inverseRms(x.data, atX, length, epsilon);
      let product = 0;
      for (let i = 0; i < length; i++) {
        product += g.data[atG + i] * u.data[atU + i] * x.data[atX + i];
      }
      const pull = r * r * product / length;
      for (let i = 0; i < length; i++) {
        const [value, gradient] = [x.data[atX + i], g.data[atG + i]];
        dx.data[atDx + i] = r * (gradient * u.data[atU + i] - value * pull);
        du.data[atDu + i] = gradient * (value * r);
      }
    }),
  wasm: (inputs, outputs, { epsilon }) =>
    planJob("gatedNormGradient", [...inputs, ...outputs], epsilon),
  gpu: (inputs, outputs, { epsilon }, context) => plan(inputs, outputs, epsilon, context, true),
  cuts: ([x]) => x.shape.slice(0, -1).map((_, axis) => Array<number>(5).fill(axis)),
  // The same in single operations, for the gradient of the gradient.
  backward: ({ grads: [ofDx, ofDu], inputs: [x, u, g], options: { epsilon } }) =>
    grad(([x, u, g]: Tensor[]) => {
      const r = x.square().mean(-1, { keepDims: true }).add(epsilon).rsqrt();
      const n = x.mul(r);
      const gated = g.mul(u);
      const dx = gated.sub(n.mul(gated.mul(n).mean(-1, { keepDims: true }))).mul(r);
      const terms = [ofDx?.mul(dx), ofDu?.mul(g).mul(n)].filter((t) => t !== undefined);
      return terms.reduce((sum, term) => sum.add(term)).sum();
    })([x, u, g]),
});

/**
 * u ⊙ x / √(mean x² + ε) over the last axis, for x and u of one shape.
 *
 * @throws {ShapeError} if the shapes differ or have no axis.
 * @throws {DTypeError} if the dtypes differ or are not floating.
 */
export function gatedNorm(x: Tensor, u: Tensor, epsilon = 1e-6): Tensor {
  checkNorm("gatedNorm", x, u);
  return tidy(() => gatedNormOp(inEvenRows(x), inEvenRows(u), { epsilon }));
}

function forEachRow(views: CpuView[], visit: (length: number, at: number[]) => void): void {
  const [{ shape }] = views;
  const length = shape[shape.length - 1];
  const steps = views.map(rowStep);
  for (let row = 0, rows = sizeOf(shape.slice(0, -1)); row < rows; row++) {
    visit(length, views.map(({ offset }, i) => offset + row * steps[i]!));
  }
}

function planJob(kernel: string, views: WasmView[], epsilon: number): WasmJob {
  const places = views.flatMap((view) => [addressOf(view), 4 * rowStep(view)!]);
  return rowsJob(kernel, views[0].shape, [], { before: [floatBits(epsilon)], after: places });
}

function plan(
  inputs: View[],
  outputs: View[],
  epsilon: number,
  context: GpuContext,
  gradient = false,
): Dispatch {
  const [{ shape, dtype }] = inputs;
  const { width, constants } = walkRows([...inputs, ...outputs], context);
  const units = (elements: number) => elements / width;
  const length = shape[shape.length - 1];
  const rows = sizeOf(shape.slice(0, -1));
  // The forward has one output, and the shader two.
  const rest = gradient ? [] : [context.scratch(4, dtype)];
  return {
    shader: shader(context),
    constants: { ...constants, GRADIENT: gradient },
    bindings: [...inputs, ...outputs, ...rest],
    params: [
      ...[rows, units(length), floatBits(epsilon), 0],
      ...[...inputs.map((view) => units(rowStep(view)!)), 0],
      ...[...inputs.map((view) => units(view.offset)), 0],
      ...[...outputs.map((view) => units(view.offset)), ...rest.map(() => 0)],
    ],
    workgroups: grid(rows, context),
  };
}

/**
 * Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split form of LLaMA and GPT-NeoX:
 * elements j and j + r/2 of the first r are turned, as a pair, by the angle φ_j of their position.
 *
 *     y_j       = x_j cos φ_j − x_{j+r/2} sin φ_j          for j < r/2
 *     y_{j+r/2} = x_{j+r/2} cos φ_j + x_j sin φ_j          y_j = x_j for j ≥ r
 *
 * Shapes: x, y [b, h, n, d]; rotations [b or 1, n, r] in float32, the cosines of a position's r/2 angles and
 * then their sines. Saved: the rotations. The gradient turns back: dx = the same of g with −φ.
 *
 * @module
 */
import { isRecording } from "../autograd.ts";
import { addressOf } from "../backend/contract.ts";
import { DTypeError, LevinError, ShapeError } from "../errors.ts";
import { isFloat } from "../dtype.ts";
import { defineOp, type Op } from "../operation.ts";
import { format, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import shader from "../../shaders/rotary.wgsl" with { type: "text" };
import { grid } from "./pointwise_program.ts";

interface RotaryOptions {
  /** Turn by −φ. */
  readonly back: boolean;
}

/** Elements that are worth a task in WebAssembly. */
const TASK = 2 ** 14;

/** x, rotations → y. */
const turn: Op<RotaryOptions> = defineOp<RotaryOptions>({
  name: "rotary",
  strided: true,
  output: ([x]) => ({ shape: x.shape, dtype: x.dtype }),
  cpu: ([x, rotations], [y], { back }) => {
    const [b, h, n, d] = x.shape;
    const half = rotations.shape[2] / 2;
    const [, , , step] = x.strides;
    const [batchStep, rowStep, angleStep] = rotations.strides;
    let to = y.offset;
    for (let i = 0; i < b * h * n; i++, to += d) {
      const [batch, head, row] = [Math.floor(i / (h * n)), Math.floor(i / n) % h, i % n];
      const from = x.offset + batch * x.strides[0] + head * x.strides[1] + row * x.strides[2];
      const at = rotations.offset + (rotations.shape[0] > 1 ? batch * batchStep : 0) +
        row * rowStep;
      for (let j = 0; j < half; j++) {
        const cos = rotations.data[at + j * angleStep];
        const sine = rotations.data[at + (j + half) * angleStep];
        const sin = back ? -sine : sine;
        const first = x.data[from + j * step];
        const second = x.data[from + (j + half) * step];
        y.data[to + j] = first * cos - second * sin;
        y.data[to + j + half] = second * cos + first * sin;
      }
      for (let j = 2 * half; j < d; j++) y.data[to + j] = x.data[from + j * step];
    }
  },
  wasm: ([x, rotations], [y], { back }) => {
    const [b, h, n, d] = x.shape;
    const [count, , r] = rotations.shape;
    const rows = b * h * n;
    const perTask = Math.max(1, Math.floor(TASK / Math.max(1, d)));
    const steps = [count > 1 ? rotations.strides[0] : 0, ...rotations.strides.slice(1)];
    const bytes = (list: readonly number[]) => list.map((elements) => 4 * elements);
    return {
      kernel: "rotary",
      params: [
        ...[h, n, d, r / 2, rows, perTask, back ? 1 : 0],
        ...[addressOf(x), ...bytes(x.strides)],
        ...[addressOf(rotations), ...bytes(steps), addressOf(y)],
      ],
      tasks: Math.ceil(rows / perTask),
    };
  },
  gpu: ([x, rotations], [y], { back }, context) => {
    const [, h, n, d] = x.shape;
    const [count, , r] = rotations.shape;
    const size = sizeOf(x.shape);
    return {
      shader,
      constants: { Stored: x.dtype, BACK: back },
      params: [
        ...x.strides,
        ...[count > 1 ? rotations.strides[0] : 0, ...rotations.strides.slice(1)],
        ...[x, rotations, y].map((view) => view.offset),
        ...[h, n, d, r / 2, size],
      ],
      workgroups: grid(Math.ceil(size / 256), context),
    };
  },
  cuts: () => [[0, 0, 0], [1, -1, 1], [2, 1, 2]],
  saves: { inputs: [1] },
  backward: [
    ({ grads: [g], inputs: [, rotations], options }) => turn(g, rotations, { back: !options.back }),
  ],
});

/**
 * Turns pairs of elements by angles that grow with the position, so that the product of a query and a key
 * depends on how far apart they are.
 *
 * @param x Queries or keys [b, h, n, d], f32 or f16.
 * @param rotations float32 [b, n, r] or [1, n, r], r even and at most d: for each position the cosines of
 * its r/2 angles, then their sines. `nn.Rotary` makes them.
 * @returns The same shape and dtype; elements from r on are unchanged.
 *
 * @example
 * ```ts
 * import { nn, randn, rotary } from "@levin/levin";
 *
 * using positions = new nn.Rotary(8, { base: 10000 });
 * const q = randn([1, 2, 5, 8], { seed: 1 });
 * console.log(rotary(q, positions.at(100, 5)).shape); // [1, 2, 5, 8]
 * ```
 * @throws {ShapeError} if the shapes do not fit.
 * @throws {DTypeError} if `x` is not floating or the rotations are not float32.
 * @throws {LevinError} if a gradient of the rotations would be needed.
 */
export function rotary(x: Tensor, rotations: Tensor): Tensor {
  const [b, , n, d] = x.shape;
  const [count, rows, r] = rotations.shape;
  const fits = x.rank === 4 && rotations.rank === 3 && (count === b || count === 1) && rows === n &&
    r % 2 === 0 && r <= d;
  if (!fits) {
    throw new ShapeError(
      `rotary: expected x [b, h, n, d] and rotations [b or 1, n, r], r even and at most d; found x ` +
        `${format(x.shape)}, rotations ${format(rotations.shape)}`,
    );
  }
  if (!isFloat(x.dtype) || rotations.dtype !== "f32") {
    throw new DTypeError(
      `rotary: expected x f32 or f16 and rotations f32, found ${x.dtype} and ${rotations.dtype}`,
    );
  }
  if (isRecording() && rotations.requiresGrad) {
    throw new LevinError("rotary has no gradient of its rotations: pass rotations.detach()");
  }
  return turn(x, rotations, { back: false });
}

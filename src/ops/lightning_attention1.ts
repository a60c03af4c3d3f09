/**
 * Lightning Attention-1, the baseline of the paper: linear attention with decay by its quadratic form,
 * tiled so that no [n, n] matrix is stored. Time is quadratic in n, memory linear.
 *
 *     o = scale · [(q kᵀ) ⊙ M] v        M_ij = e^(−s (i−j)) for i ≥ j, else 0
 *
 * Shapes: q [b, h, n, d]; k [b, g, n, d]; v [b, g, n, e]; o [b, h, n, e]; slopes s [h] in float32. The
 * operation has its heads as [groups, members of a group]; the members of k and v are repeated by a stride
 * of 0. Saved: q, k, v and s.
 *
 * The form is closed under differentiation. With R its twin that runs backwards in time, M_ij = e^(−s (j−i))
 * for j ≥ i, and u the gradient of o,
 *
 *     dq = LA(u, v, k)        dk = R(v, u, q)        dv = R(k, q, u)
 *
 * so gradients of any order are calls of this one operation. Where one head outgrows a binding, q, k and v are cut,
 * and every output is the sum in float32 of what the pieces before it and its own add; i − j then counts the
 * distance between the pieces too.
 *
 * @module
 */
import { isRecording } from "../autograd.ts";
import {
  addressOf,
  type CpuView,
  floatBits,
  type Program,
  type View,
  type WasmJob,
  type WasmView,
} from "../backend/contract.ts";
import type { DType } from "../dtype.ts";
import { LevinError, ShapeError } from "../errors.ts";
import { defineOp, type Op, type ResultSpec } from "../operation.ts";
import { tidy } from "../scope.ts";
import { orderOfAxes } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import text from "../../shaders/lightning1.wgsl" with { type: "text" };
import { checkQuadratic, inGroups } from "./attention_arguments.ts";
import { piecesOf, rowsOfAPiece, sumInto } from "./attention_pieces.ts";
import { multiply } from "./matmul_cpu.ts";
import { grid } from "./pointwise_program.ts";
import { decaySlopes, slopesTensor } from "./slopes.ts";
import {
  denseMatrix,
  elements,
  entriesOf,
  matrixAt,
  placeInMemory,
  placesOf,
  results,
  reversed,
  stepsOf,
  tileColumns,
  tileName,
  tilesOf,
  tiling,
  transposed,
  turnsOf,
  withScores,
} from "./tiles.ts";
import { flip } from "./views.ts";

const shader = withScores(text);

/** Options of {@linkcode lightningAttention1}. */
export interface LightningAttention1Options {
  /**
   * The decay of each head, e^(−slope) a token: one number for all heads, an array or a float32 tensor
   * [heads], which must not require a gradient. All ≥ 0. Default: `decaySlopes(heads)`.
   */
  slopes?: number | readonly number[] | Tensor;
  /** A factor on the outputs. Default 1. */
  scale?: number;
  /** Run from the last token to the first: o_i sees tokens j ≥ i. Default false. */
  reverse?: boolean;
}

/**
 * Lightning Attention-1: what `lightningAttention` computes, in time quadratic in n; it is there to be
 * compared with. Strides are read as they are; f16 is accumulated in float32.
 *
 * @param q Queries [batch, heads, n, d], f32 or f16.
 * @param k Keys [batch, key heads, n, d], of the same dtype. With fewer key heads than heads, head i
 * reads key head ⌊i · key heads / heads⌋; nothing is copied.
 * @param v Values [batch, key heads, n, e], of the same dtype.
 * @returns The outputs [batch, heads, n, e], of the same dtype.
 *
 * @example
 * ```ts
 * import { lightningAttention1, randn } from "@levin/levin";
 *
 * const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 4, 100, 16], { seed }));
 * console.log(lightningAttention1(q, k, v, { slopes: 0.1 }).shape); // [1, 4, 100, 16]
 * ```
 * @throws {ShapeError} if shapes do not fit, a slope is negative or not finite, or the scale is not finite.
 * @throws {DTypeError} if dtypes are mixed or not floating, or a tensor of slopes is not float32.
 * @throws {LevinError} if a gradient of the slopes would be needed.
 */
export function lightningAttention1(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { slopes, scale = 1, reverse = false }: LightningAttention1Options = {},
): Tensor {
  const name = "lightningAttention1";
  const { heads, n, m } = checkQuadratic(name, q, k, v, { causal: true, scale });
  if (n !== m) {
    throw new ShapeError(`${name}: expected as many keys as queries, found ${m} and ${n}`);
  }
  return tidy(() => {
    const s = slopesTensor(name, slopes ?? decaySlopes(heads), heads, q.device);
    if (isRecording() && s.requiresGrad) {
      throw new LevinError(
        `${name} has no gradient of its slopes: pass slopes.detach(), or learn them with ` +
          `lightningAttention`,
      );
    }
    const [b, groups, , e] = v.shape;
    const queries = inGroups(q, groups);
    const members = queries.shape[2];
    const shared = (t: Tensor) => inGroups(t, groups).expand([b, groups, members, -1, -1]);
    const decays = s.reshape([groups, members]);
    const o = attend(queries, shared(k), shared(v), decays, { scale, reverse });
    return o.reshape([b, heads, n, e]);
  });
}

interface Lightning1Options {
  readonly scale: number;
  readonly reverse: boolean;
}

interface PairOptions extends Lightning1Options {
  /** How far the first row is behind the first source. Default 0. */
  readonly distance?: number;
}

const outputSpec = ([q, , v]: readonly Tensor[], dtype: DType): ResultSpec => {
  return { shape: q.shape.with(4, v.shape[4]), dtype, order: orderOfAxes(q) };
};

const program: Program<PairOptions> & { strided: true } = {
  name: "lightningAttention1",
  strided: true,
  cpu: ([q, k, v, slopes], [out], { scale, reverse, distance = 0 }) => {
    const views = reverse ? [q, k, v, out].map(turned) : [q, k, v, out];
    attendOnCpu(views, slopes, scale, distance);
  },
  wasm: ([q, k, v, slopes], [out], { scale, reverse, distance = 0 }) => {
    // Memory of one piece needs no pieces.
    if (distance !== 0) return undefined;
    const views = reverse ? [q, k, v, out].map(turned) : [q, k, v, out];
    return planJob(views, slopes, scale);
  },
  gpu: ([q, k, v, slopes], [out], { scale, reverse, distance = 0 }, context) => {
    const [b, groups, members, n, d] = q.shape;
    const [m, e] = v.shape.slice(3);
    const workgroups = b * groups * members * tilesOf(n, e);
    const views = reverse ? [q, k, v, out].map(turned) : [q, k, v, out];
    return {
      shader,
      tile: tileName(tileColumns(e)),
      constants: {
        ...elements({ q: views[0], k: views[1], v: views[2] }),
        ...results(out),
        ...tiling(context, d, e),
      },
      bindings: [views[1], views[2], views[0], slopes, views[3]],
      params: [
        ...placesOf(views[1], views[2], views[0], views[3]),
        ...[...slopes.strides, slopes.offset],
        ...[groups, members, n, m, distance, d, e, workgroups, floatBits(scale)],
      ],
      workgroups: grid(workgroups, context),
    };
  },
  // By batch, by group and by member of a group.
  cuts: () => [[0, 0, 0, -1, 0], [1, 1, 1, 0, 1], [2, 2, 2, 1, 2]],
  loopTurns: ([q, k]) => turnsOf(k.shape[3], q.shape[4]),
};

/** q, k, v and slopes → o. */
const attend: Op<Lightning1Options> = defineOp<Lightning1Options>({
  ...program,
  output: (inputs) => outputSpec(inputs, inputs[0].dtype),
  inPieces: attendInPieces,
  saves: { inputs: [0, 1, 2, 3] },
  backward: ({ grads: [u], inputs: [q, k, v, slopes], needs, options }) => {
    const back = { ...options, reverse: !options.reverse };
    return [
      needs[0] ? attend(u, v, k, slopes, options) : null,
      needs[1] ? attend(v, u, q, slopes, back) : null,
      needs[2] ? attend(k, q, u, slopes, back) : null,
      null,
    ];
  },
});

/** A piece of rows and a piece of sources, without a gradient: what they add to o, unrounded. */
const attendPair = defineOp<PairOptions>({
  ...program,
  output: (inputs) => outputSpec(inputs, "f32"),
});

function attendInPieces(
  [q, k, v, slopes]: readonly Tensor[],
  [out]: readonly Tensor[],
  { scale, reverse }: Lightning1Options,
): void {
  const inTimeOrder = [q, k, v, out].map((t) => reverse ? flip(t, 3) : t);
  const length = rowsOfAPiece(inTimeOrder);
  const [qs, ks, vs, outs] = inTimeOrder.map((t) => piecesOf(t, length));
  const begin = (piece: number) => Math.max(0, q.shape[3] - (piece + 1) * length);
  qs.forEach((q, i) => {
    const pairs = ks.map((k, j) => () => {
      const distance = begin(i) - begin(j);
      return [attendPair(q, k, vs[j], slopes, { scale, reverse: false, distance })];
    });
    sumInto([outs[i]], pairs.slice(i));
  });
}

/** The view with its rows in the order of processing when time runs backwards. */
const turned = <V extends View | CpuView | WasmView>(view: V): V => reversed(view, 3);

/** Rows and sources of a block in WebAssembly. */
const BLOCK_IN_MEMORY = 72;

/** WebAssembly: one task a block of rows. */
function planJob(views: WasmView[], slopes: WasmView, scale: number): WasmJob {
  const [q, , v] = views;
  const [b, groups, members, n, d] = q.shape;
  const e = v.shape[4];
  const [block, wide] = [BLOCK_IN_MEMORY, e + 8];
  const words = 2 * block * d + block * wide + 2 * block * block + block + 8;
  return {
    kernel: "lightningAttention1",
    params: [
      ...[groups, members, n, d, e, floatBits(scale)],
      ...views.flatMap(placeInMemory),
      ...[addressOf(slopes), ...stepsOf(slopes).map((step) => 4 * step)],
    ],
    tasks: b * groups * members * Math.ceil(n / block),
    scratchBytes: 192 + 4 * words,
  };
}

/** Rows and sources of a block of the CPU twin. */
const BLOCK = 64;

/** The CPU twin: for each block of rows, two matrix products a block of sources. */
function attendOnCpu(
  [q, k, v, out]: CpuView[],
  slopes: CpuView,
  scale: number,
  ahead: number,
): void {
  const [n, d] = q.shape.slice(3);
  const [m, e] = v.shape.slice(3);
  const scores = denseMatrix(BLOCK, BLOCK);
  for (const entry of entriesOf(q.shape.slice(0, 3))) {
    const [, group, member] = entry;
    // As in lightning1.wgsl: ∞ · 0 would be NaN.
    const slope = Math.min(
      127,
      Math.max(
        0,
        slopes.data[
          slopes.offset + group * slopes.strides[0] + member * slopes.strides[1]
        ],
      ),
    );
    for (let start = 0; start < n; start += BLOCK) {
      const rows = Math.min(BLOCK, n - start);
      const end = Math.min(m, start + rows + ahead);
      for (let from = 0; from < end; from += BLOCK) {
        const sources = Math.min(BLOCK, end - from);
        const sourcesT = transposed(matrixAt(k, entry, from));
        multiply([rows, sources, d], matrixAt(q, entry, start), sourcesT, scores);
        for (let r = 0; r < rows; r++) {
          for (let j = 0; j < sources; j++) {
            const distance = start + r + ahead - from - j;
            const weight = distance < 0 ? 0 : scale * Math.exp(-slope * distance);
            scores.data[r * BLOCK + j] *= weight;
          }
        }
        const to = matrixAt(out, entry, start);
        multiply([rows, e, sources], scores, matrixAt(v, entry, from), to, from > 0);
      }
    }
  }
}

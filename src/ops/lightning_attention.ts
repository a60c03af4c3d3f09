/**
 * Lightning Attention-2 (Qin et al., arXiv 2401.04658): causal linear attention with a decay per head,
 * in time linear in the sequence and with a state of constant size.
 *
 *     S_t = λ S_{t−1} + β k_tᵀ v_t        S [d, e], λ = exp(−s)
 *     o_t = α q_t S_t
 *
 * Computed in blocks of m rows; with p_r = r + 1 for row r of a block and S the state before it:
 *
 *     o_r = α λ^{p_r} q_r S + Σ_{t ≤ r} α β λ^{r−t} (q_r · k_t) v_t
 *     S  ← λ^m S + Σ_r β λ^{m−p_r} k_rᵀ v_r
 *
 * Shapes: q, k [b, h, n, d]; v, o [b, h, n, e]; slopes s [h]; states [b, h, d, e] in float32.
 * Saved: q, k, v, s and the initial state; no [n, n] matrix and no block state outlives the call.
 *
 * The operator is closed under differentiation. Let R be its twin that runs backwards in time and decays
 * a state after adding to it instead of before (p_r = r), so that the weight between two rows is the same
 * seen from either. From the gradients g of o and G of the last state,
 *
 *     dq = LA(g, v, k; S_0ᵀ)        dv = R(k, q, g; G), whose last state is dS_0
 *     dk = R(v, g, q; Gᵀ)
 *
 * with α and β exchanged in R. So gradients of any order are calls of this one operation.
 *
 * @module
 */
import {
  type CpuView,
  type Dispatch,
  floatBits,
  type GpuContext,
  type View,
} from "../backend/contract.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { defineOp, type Op } from "../operation.ts";
import { tidy } from "../scope.ts";
import { format, sameShape } from "../shape.ts";
import type { Tensor, TensorSpec } from "../tensor.ts";
import outputsShader from "../../shaders/lightning_outputs.wgsl" with { type: "text" };
import scanShader from "../../shaders/lightning_scan.wgsl" with { type: "text" };
import statesShader from "../../shaders/lightning_states.wgsl" with { type: "text" };
import { zeros } from "./create.ts";
import { type Matrix, multiply } from "./matmul_cpu.ts";
import { grid } from "./pointwise_program.ts";
import { decaySlopes, slopesTensor } from "./slopes.ts";

/** Options of {@linkcode lightningAttention}. */
export interface LightningAttentionOptions {
  /**
   * The decay of each head, e^(−slope) a token: one number for all heads, an array or a float32 tensor
   * [heads]. All ≥ 0; 0 is plain linear attention. Default: `decaySlopes(heads)`.
   */
  slopes?: number | readonly number[] | Tensor;
  /** A factor on the outputs; 1, the default, in the paper. */
  scale?: number;
  /** The state before the first token, float32 [batch, heads, d, e]. Default: zeros. */
  initialState?: Tensor;
  /**
   * Tokens of a block, an integer from 1; the result depends on it only by rounding. Default: 64, or
   * 32 on the CPU.
   */
  blockSize?: number;
}

/** What {@linkcode lightningAttentionWithState} returns. */
export interface OutputAndState {
  /** The outputs [batch, heads, n, e]. */
  output: Tensor;
  /** The state after the last token, float32 [batch, heads, d, e]. */
  state: Tensor;
}

/**
 * Lightning Attention-2: o_t = scale · q_t S_t with S_t = e^(−slope) S_{t−1} + k_tᵀ v_t. Equal to
 * scale · [(q kᵀ) ⊙ M] v with M_ij = e^(−slope · (i−j)) for i ≥ j and 0 elsewhere, in time and memory
 * linear in n.
 *
 * @param q Queries [batch, heads, n, d], f32 or f16.
 * @param k Keys [batch, heads, n, d], of the same dtype.
 * @param v Values [batch, heads, n, e], of the same dtype.
 * @returns The outputs [batch, heads, n, e], of the same dtype. f16 is accumulated in float32.
 *
 * @example
 * ```ts
 * import { decaySlopes, lightningAttention, randn } from "@levin/levin";
 *
 * const q = randn([1, 8, 256, 32], { requiresGrad: true });
 * const [k, v] = [randn([1, 8, 256, 32]), randn([1, 8, 256, 32])];
 * const o = lightningAttention(q, k, v, { slopes: decaySlopes(8), scale: 32 ** -0.5 });
 * o.sum().backward();
 * console.log(q.grad!.shape); // [1, 8, 256, 32]
 * ```
 * @throws {ShapeError} if shapes do not fit, a slope is negative or not finite, or the block size is not
 * a positive integer.
 * @throws {DTypeError} if dtypes are mixed or not floating.
 */
export function lightningAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: LightningAttentionOptions = {},
): Tensor {
  return tidy(() => lightningAttentionWithState(q, k, v, options).output);
}

/**
 * {@linkcode lightningAttention} together with the state after the last token: pass it as the
 * `initialState` of the tokens that follow, and the two calls equal one. Gradients flow through states.
 *
 * @example
 * ```ts
 * import { lightningAttentionWithState, randn } from "@levin/levin";
 *
 * const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 2, 10, 4], { seed }));
 * const part = (from: number, to: number) =>
 *   [q, k, v].map((t) => t.slice(null, null, [from, to])) as [typeof q, typeof k, typeof v];
 * const first = lightningAttentionWithState(...part(0, 6), { slopes: 0.1 });
 * const rest = lightningAttentionWithState(...part(6, 10), {
 *   slopes: 0.1,
 *   initialState: first.state,
 * });
 * console.log(first.output.concat(rest.output, 2).shape); // [1, 2, 10, 4], as from one call
 * ```
 */
export function lightningAttentionWithState(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { slopes, scale = 1, initialState, ...rest }: LightningAttentionOptions = {},
): OutputAndState {
  checkInputs(q, k, v, initialState);
  const { blockSize = q.device.backend === "cpu" ? 32 : 64 } = rest;
  if (!Number.isInteger(blockSize) || blockSize < 1) {
    throw new ShapeError(
      `lightningAttention: expected blockSize to be an integer from 1, found ${blockSize}`,
    );
  }
  if (!Number.isFinite(scale)) {
    throw new ShapeError(`lightningAttention: expected a finite scale, found ${scale}`);
  }
  const [output, state] = tidy(() => {
    const s = slopesTensor(
      "lightningAttention",
      slopes ?? decaySlopes(q.shape[1]),
      q.shape[1],
      q.device,
    );
    const states = initialState === undefined ? [] : [initialState];
    const options = { alpha: scale, beta: 1, reverse: false, decayAfter: false, blockSize };
    return core(q, k, v, s, ...states, options);
  });
  return { output, state };
}

interface CoreOptions {
  /** The factor α on outputs. */
  readonly alpha: number;
  /** The factor β on what is added to the state. */
  readonly beta: number;
  /** Run backwards in time. */
  readonly reverse: boolean;
  /** Decay the state after adding to it instead of before: p_r = r. */
  readonly decayAfter: boolean;
  readonly blockSize: number;
}

/** q, k, v, slopes and, if there is one, the initial state → the outputs and the last state. */
const core: Op<CoreOptions, TensorSpec[]> = defineOp<CoreOptions, TensorSpec[]>({
  name: "lightningAttention",
  strided: true,
  output: ([q, k, v]) => {
    const [b, h, n, d] = k.shape;
    const e = v.shape[3];
    return [{ shape: [b, h, n, e], dtype: q.dtype }, { shape: [b, h, d, e], dtype: "f32" }];
  },
  cpu: (inputs, outputs, options) => {
    const turned = inTimeOrder(inputs, outputs, options);
    attendOnCpu(turned.inputs, turned.outputs, options);
  },
  gpu: (inputs, outputs, options, context) => {
    const turned = inTimeOrder(inputs, outputs, options);
    return plan(turned.inputs, turned.outputs, options, context);
  },
  cuts: (inputs) => {
    const rest = inputs.length === 5 ? [[0], [1]] : [[], []];
    return [[0, 0, 0, -1, ...rest[0], 0, 0], [1, 1, 1, 0, ...rest[1], 1, 1]];
  },
  scratchBytes: ([, k, v], _, { blockSize }) => {
    const [b, h, n, d] = k.shape;
    return 4 * b * h * Math.ceil(n / blockSize) * d * v.shape[3];
  },
  saves: { inputs: [0, 1, 2, 3, 4] },
  backward: (
    { grads: [outputG, lastG], inputs: [q, k, v, slopes, initial], needs, options, specs },
  ) => {
    const [b, h, n] = specs[0].shape;
    const e = specs[2].shape[3];
    const g = outputG ?? zeros([b, h, n, e], { dtype: q.dtype, device: q.device });
    const back = {
      alpha: options.beta,
      beta: options.alpha,
      reverse: !options.reverse,
      decayAfter: !options.decayAfter,
      blockSize: options.blockSize,
    };
    const maybe = (t: Tensor | undefined) => t === undefined ? [] : [t];
    const [dv, dInitial] = needs[2] || needs[4] ? core(k, q, g, slopes, ...maybe(lastG), back) : [];
    return [
      needs[0] ? core(g, v, k, slopes, ...maybe(initial?.transpose()), options)[0] : null,
      needs[1] ? core(v, g, q, slopes, ...maybe(lastG?.transpose()), back)[0] : null,
      dv,
      null,
      dInitial,
    ];
  },
});

/** The views in the order of processing: reversed along n when time runs backwards. */
function inTimeOrder<V extends View | CpuView>(
  inputs: readonly V[],
  outputs: readonly V[],
  { reverse }: CoreOptions,
): { inputs: V[]; outputs: V[] } {
  const turn = (view: V): V => {
    const n = view.shape[2];
    if (n === 0) return view;
    const strides = view.strides.with(2, -view.strides[2]);
    return { ...view, strides, offset: view.offset + (n - 1) * view.strides[2] };
  };
  if (!reverse) return { inputs: [...inputs], outputs: [...outputs] };
  const [q, k, v, ...rest] = inputs;
  const [out, last] = outputs;
  return { inputs: [turn(q), turn(k), turn(v), ...rest], outputs: [turn(out), last] };
}

/** The CPU twin: four matrix products a block. */
function attendOnCpu(
  [q, k, v, slopes, initial]: CpuView[],
  [out, last]: CpuView[],
  { alpha, beta, decayAfter, blockSize }: CoreOptions,
): void {
  const [b, h, n, d] = k.shape;
  const e = v.shape[3];
  const scores = denseMatrix(blockSize, blockSize);
  const decayed = denseMatrix(blockSize, d);
  const fromState = denseMatrix(blockSize, e);
  const state = denseMatrix(d, e);
  for (let instance = 0; instance < b * h; instance++) {
    const [batch, head] = [Math.floor(instance / h), instance % h];
    const slope = slopes.data[slopes.offset + head * slopes.strides[0]];
    const decay = Float64Array.from({ length: blockSize + 1 }, (_, r) => Math.exp(-slope * r));
    if (initial === undefined) state.data.fill(0);
    else copyMatrix(matrixAt(initial, batch, head, 0), state, d, e);

    for (let start = 0; start < n; start += blockSize) {
      const m = Math.min(blockSize, n - start);
      const [qb, kb, vb, ob] = [q, k, v, out].map((view) => matrixAt(view, batch, head, start));
      // Scores, decayed and masked; then o = scores · v.
      multiply([m, m, d], qb, transposed(kb), scores);
      for (let r = 0; r < m; r++) {
        const row = r * blockSize;
        for (let t = 0; t < m; t++) {
          scores.data[row + t] *= t <= r ? alpha * beta * decay[r - t] : 0;
        }
      }
      multiply([m, e, m], scores, vb, ob);
      // What the state before the block contributes.
      multiply([m, e, d], qb, state, fromState);
      for (let r = 0; r < m; r++) {
        const weight = alpha * decay[decayAfter ? r : r + 1];
        for (let c = 0; c < e; c++) {
          ob.data[ob.offset + r * ob.row + c * ob.column] += weight * fromState.data[r * e + c];
        }
      }
      // The state after it.
      for (let r = 0; r < m; r++) {
        const weight = beta * decay[m - (decayAfter ? r : r + 1)];
        for (let c = 0; c < d; c++) {
          decayed.data[r * d + c] = weight * kb.data[kb.offset + r * kb.row + c * kb.column];
        }
      }
      for (let i = 0; i < state.data.length; i++) state.data[i] *= decay[m];
      multiply([d, e, m], transposed(decayed), vb, state, true);
    }
    copyMatrix(state, matrixAt(last, batch, head, 0), d, e);
  }
}

function denseMatrix(rows: number, columns: number): Matrix {
  return { data: new Float32Array(rows * columns), offset: 0, row: columns, column: 1 };
}

/** The matrix over the last two axes of `view` at a batch and a head, from row `start` on. */
function matrixAt(view: CpuView, batch: number, head: number, start: number): Matrix {
  const [b, h, row, column] = view.strides;
  return { data: view.data, offset: view.offset + batch * b + head * h + start * row, row, column };
}

function transposed({ data, offset, row, column }: Matrix): Matrix {
  return { data, offset, row: column, column: row };
}

function copyMatrix(from: Matrix, to: Matrix, rows: number, columns: number): void {
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      to.data[to.offset + i * to.row + j * to.column] =
        from.data[from.offset + i * from.row + j * from.column];
    }
  }
}

const TILE = 64;

/** The GPU: what every chunk adds to the state, a scan over the chunks, and then all outputs at once. */
function plan(
  [q, k, v, slopes, initial]: View[],
  [out, last]: View[],
  { alpha, beta, decayAfter, blockSize }: CoreOptions,
  context: GpuContext,
): Dispatch[] {
  const [b, h, n, d] = k.shape;
  const e = v.shape[3];
  const chunk = Math.min(blockSize, Math.max(n, 1));
  const chunks = Math.ceil(n / chunk);
  const states = context.scratch(b * h * chunks * d * e);
  const tiles = (length: number) => Math.ceil(length / TILE);
  const slopePlace = [slopes.offset, slopes.strides[0]];
  const geometry = [h, n, d, e, chunk, chunks];
  const constants = { Stored: k.dtype, EXCLUSIVE: decayAfter };
  const add = b * h * chunks * tiles(d) * tiles(e);
  const read = b * h * chunks * tiles(chunk) * tiles(e);
  const dispatches: Dispatch[] = [
    {
      shader: statesShader,
      constants,
      bindings: [k, v, slopes, states],
      params: [
        ...[k, v].flatMap((view) => view.strides),
        ...[k, v].map((view) => view.offset),
        ...[...slopePlace, ...geometry, add, floatBits(beta)],
      ],
      workgroups: grid(add, context),
    },
    {
      shader: scanShader,
      constants: { HAS_INITIAL: initial !== undefined },
      bindings: [states, slopes, initial ?? slopes, last],
      params: [
        ...[initial ?? last, last].flatMap((view) => view.strides),
        ...[initial ?? last, last].map((view) => view.offset),
        ...[...slopePlace, ...geometry, b * h * d * e],
      ],
      workgroups: grid(Math.ceil(b * h * d * e / 256), context),
    },
    {
      shader: outputsShader,
      constants: { ...constants, HAS_INITIAL: initial !== undefined },
      bindings: [q, k, v, slopes, states, out],
      params: [
        ...[q, k, v, out].flatMap((view) => view.strides),
        ...[q, k, v, out].map((view) => view.offset),
        ...[...slopePlace, ...geometry, read, floatBits(alpha), floatBits(beta)],
      ],
      workgroups: grid(read, context),
    },
  ];
  return dispatches.filter(({ workgroups }) => workgroups[0] > 0);
}

function checkInputs(q: Tensor, k: Tensor, v: Tensor, initialState: Tensor | undefined): void {
  const shapes = `q ${format(q.shape)}, k ${format(k.shape)}, v ${format(v.shape)}`;
  if ([q, k, v].some((t) => t.rank !== 4)) {
    throw new ShapeError(
      `lightningAttention: expected q, k and v of shape [batch, heads, n, size], found ${shapes}`,
    );
  }
  if (!sameShape(q.shape, k.shape) || !sameShape(k.shape.slice(0, 3), v.shape.slice(0, 3))) {
    throw new ShapeError(
      `lightningAttention: q and k must have one shape [batch, heads, n, d], and v must agree in ` +
        `batch, heads and n; found ${shapes}`,
    );
  }
  const dtypes = new Set([q.dtype, k.dtype, v.dtype]);
  if (dtypes.size > 1 || !(dtypes.has("f32") || dtypes.has("f16"))) {
    throw new DTypeError(
      `lightningAttention: expected q, k and v all f32 or all f16, found ${
        [...dtypes].join(", ")
      }; ` +
        `convert with to()`,
    );
  }
  if (initialState === undefined) return;
  const wanted = [...k.shape.slice(0, 2), k.shape[3], v.shape[3]];
  if (!sameShape(initialState.shape, wanted)) {
    throw new ShapeError(
      `lightningAttention: expected initialState of shape [batch, heads, d, e] = ${
        format(wanted)
      }, ` +
        `found ${format(initialState.shape)}`,
    );
  }
  if (initialState.dtype !== "f32") {
    throw new DTypeError(
      `lightningAttention: expected initialState of dtype f32, found ${initialState.dtype}`,
    );
  }
}

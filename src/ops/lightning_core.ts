/**
 * The operator behind every form of Lightning Attention-2 (Qin et al., arXiv 2401.04658): causal linear
 * attention with a decay, in time linear in the sequence and with a state of constant size.
 *
 *     S_t = exp(g_t) S_{t−1} + β k_tᵀ v_t        S [d, e]
 *     o_t = α q_t S_t
 *
 * Computed in blocks of m rows. Let P_r be the sum of g over the rows of the block up to r, P_m that of
 * all, and S the state before the block:
 *
 *     o_r = α exp(P_r) q_r S + Σ_{t ≤ r} α β exp(P_r − P_t) (q_r · k_t) v_t
 *     S  ← exp(P_m) S + Σ_r β exp(P_m − P_r) k_rᵀ v_r
 *
 * Shapes: q, k [b, groups, members, n, d]; v, o [.., n, e]; g [b, groups, members, n] and states
 * [b, groups, members, d, e] in float32. Heads that share keys are the members of a group, over which k
 * and v are repeated by a stride of 0.
 * Saved: q, k, v, g and the first and last state; no [n, n] matrix and no block state outlives the call.
 *
 * The operator is closed under differentiation. Let R be its twin that runs backwards in time and decays
 * a state after adding to it instead of before (P_r is then the sum before r), so that the weight between
 * two rows is the same seen from either. From the gradients u of o and U of the last state S_n,
 *
 *     dq = LA(u, v, k; S_0ᵀ)        dv = R(k, q, u; U), whose last state is dS_0
 *     dk = R(v, u, q; Uᵀ)
 *
 * with α and β exchanged in R. Every weight is an exponential of differences of P, so that
 *
 *     dP_r = q_r · dq_r − k_r · dk_r,   dP_n = ⟨S_n, U⟩,   dg_t = Σ_{r ≥ t} dP_r + dP_n
 *
 * (exact relative to the terms of the sum, not to a dg that is much smaller than they are), and a running
 * sum is this operator too, with q = k = 1 and g = 0. So gradients of any order are calls
 * of this one operation.
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
import { bytesOf } from "../dtype.ts";
import { grad } from "../grad.ts";
import { type BackwardContext, defineOp, type Op } from "../operation.ts";
import type { Tensor, TensorSpec } from "../tensor.ts";
import decays from "../../shaders/decays.wgsl" with { type: "text" };
import keys from "../../shaders/keys.wgsl" with { type: "text" };
import outputsText from "../../shaders/lightning_outputs.wgsl" with { type: "text" };
import scanText from "../../shaders/lightning_scan.wgsl" with { type: "text" };
import statesText from "../../shaders/lightning_states.wgsl" with { type: "text" };
import { contiguousStrides, sizeOf } from "../shape.ts";
import { full, zeros } from "./create.ts";
import { planForMatrixUnits, suitsMatrixUnits } from "./lightning_cores.ts";
import { LONGEST_CHUNK, positionsDispatch } from "./lightning_positions.ts";
import { type Matrix, multiply } from "./matmul_cpu.ts";
import { grid } from "./pointwise_program.ts";
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
  tilesAlong,
  tilesOf,
  tiling,
  transposed,
  withBlocks,
  withScores,
  withTiles,
} from "./tiles.ts";

const statesShader = withTiles(keys, decays, statesText);
const scanShader = withBlocks(`${decays}\n${scanText}`);
const outputsShader = withScores(decays, outputsText);

/** How the operator runs. */
export interface LightningOptions {
  /** The factor α on outputs. */
  readonly alpha: number;
  /** The factor β on what is added to the state. */
  readonly beta: number;
  /** Run backwards in time. */
  readonly reverse: boolean;
  /** Decay the state after adding to it instead of before. */
  readonly decayAfter: boolean;
  /** Rows of a block. */
  readonly blockSize: number;
  /** Give float32 outputs whatever the dtype of q. */
  readonly wide: boolean;
}

/** q, k, v, g and, if there is one, the initial state → the outputs and the last state. */
export const lightning: Op<LightningOptions, TensorSpec[]> = defineOp<
  LightningOptions,
  TensorSpec[]
>({
  name: "lightningAttention",
  strided: true,
  output: ([q, k, v], { wide }) => {
    const heads = k.shape.slice(0, 3);
    const [n, d] = k.shape.slice(3);
    const e = v.shape[4];
    return [
      { shape: [...heads, n, e], dtype: wide ? "f32" : q.dtype },
      { shape: [...heads, d, e], dtype: "f32" },
    ];
  },
  cpu: (inputs, outputs, options) => {
    const turned = inTimeOrder(inputs, outputs, options);
    attendOnCpu(turned.inputs, turned.outputs, options);
  },
  wasm: (inputs, outputs, options) => {
    const turned = inTimeOrder(inputs, outputs, options);
    return planJob(turned.inputs, turned.outputs, options);
  },
  gpu: (inputs, outputs, options, context) => {
    const turned = inTimeOrder(inputs, outputs, options);
    if (suitsMatrixUnits(turned.inputs, turned.outputs, options, context)) {
      return planForMatrixUnits(turned.inputs, turned.outputs, options, context);
    }
    return plan(turned.inputs, turned.outputs, options, context);
  },
  cuts: (inputs) => {
    return [0, 1, 2].map((axis) => Array<number>(inputs.length + 2).fill(axis));
  },
  scratchBytes: ([, k, v], _, options) => leastScratch(k, v, options),
  saves: { inputs: [0, 1, 2, 3, 4], outputs: [1] },
  backward: (context) => {
    const { grads: [outputG, lastG], inputs, outputs: [, last], needs, options, specs } = context;
    const [q, k, v, g, initial] = inputs;
    const { dtype, device } = q;
    const u = outputG?.to(dtype) ??
      zeros([...specs[0].shape.slice(0, 4), specs[2].shape[4]], { dtype, device });
    const { alpha, beta, reverse, decayAfter } = options;
    // dq and dk unrounded where dg is a long sum of their differences.
    const forth = { ...options, wide: needs[3] };
    const back = { ...forth, alpha: beta, beta: alpha, reverse: !reverse, decayAfter: !decayAfter };
    const maybe = (t: Tensor | undefined) => t === undefined ? [] : [t];
    const dq = needs[0] || needs[3]
      ? lightning(u, v, k, g, ...maybe(initial?.transpose()), forth)[0]
      : null;
    const { dk, dv, dInitial } = ofKeysAndValues(context, u, back);
    let dg: Tensor | null = null;
    if (needs[3]) {
      const dP = q.to("f32").mul(dq!).sub(k.to("f32").mul(dk!)).sum(-1);
      const later = sumToEnd(dP, options);
      dg = decayAfter ? later.sub(dP) : later;
      if (lastG !== undefined) dg = dg.add(last.mul(lastG).sum([3, 4]).unsqueeze(-1));
    }
    return [dq?.to(dtype), dk?.to(dtype), dv, dg, dInitial];
  },
});

/** dk, dv and dS_0, as far as they are needed: R(v, u, q; Uᵀ) and R(k, q, u; U), whose states are one. */
function ofKeysAndValues(
  { grads: [, lastG], inputs: [q, k, v, g], needs }: BackwardContext<LightningOptions>,
  u: Tensor,
  back: LightningOptions,
): { dk?: Tensor; dv?: Tensor; dInitial?: Tensor } {
  const ofKeys = needs[1] || needs[3];
  const ofValues = needs[2] || needs[4];
  const maybe = (t: Tensor | undefined) => t === undefined ? [] : [t];
  if (ofKeys && ofValues) {
    const [dv, dk, dInitial] = lightningPair(k, v, q, u, g, ...maybe(lastG), back);
    return { dk, dv, dInitial };
  }
  if (ofKeys) return { dk: lightning(v, u, q, g, ...maybe(lastG?.transpose()), back)[0] };
  if (!ofValues) return {};
  const [dv, dInitial] = lightning(k, q, u, g, ...maybe(lastG), { ...back, wide: false });
  return { dv, dInitial };
}

/**
 * LA(q, k, v) and LA(r, v, k), which read the same states, the second turned over: q [.., n, d], r [.., n, e],
 * k, v, g and, if there is one, the initial state → the outputs [.., n, e] and [.., n, d] and the last state. Only
 * the second is wide.
 */
const lightningPair: Op<LightningOptions, TensorSpec[]> = defineOp<LightningOptions, TensorSpec[]>({
  name: "lightningAttentionPair",
  strided: true,
  output: ([q, r, k, v], { wide }) => {
    const heads = k.shape.slice(0, 3);
    const [n, d] = k.shape.slice(3);
    const e = v.shape[4];
    return [
      { shape: [...heads, n, e], dtype: q.dtype },
      { shape: [...heads, n, d], dtype: wide ? "f32" : r.dtype },
      { shape: [...heads, d, e], dtype: "f32" },
    ];
  },
  cpu: ([q, r, k, v, g, initial], [out, turnedOut, last], options) => {
    const turnedLast = {
      ...last,
      data: new Float32Array(sizeOf(last.shape)),
      shape: transposedShape(last.shape),
      strides: contiguousStrides(transposedShape(last.shape)),
      offset: 0,
    };
    const turnedInitial = initial && transposedView(initial);
    for (
      const [inputs, outputs] of [
        [[q, k, v, g, initial], [out, last]],
        [[r, v, k, g, turnedInitial], [turnedOut, turnedLast]],
      ]
    ) {
      const given = inTimeOrder(inputs.filter((view) => view !== undefined), outputs, options);
      attendOnCpu(given.inputs, given.outputs, options);
    }
  },
  wasm: ([q, r, k, v, g, initial], [out, turnedOut, last], options, context) => {
    const shape = transposedShape(last.shape);
    const spare = {
      ...last,
      ...{ shape, strides: contiguousStrides(shape), offset: 0 },
      base: context.scratch(sizeOf(shape)),
    };
    const job = (inputs: (WasmView | undefined)[], outputs: WasmView[]) => {
      const given = inTimeOrder(inputs.filter((view) => view !== undefined), outputs, options);
      return planJob(given.inputs, given.outputs, options);
    };
    return [
      job([q, k, v, g, initial], [out, last]),
      job([r, v, k, g, initial && transposedView(initial)], [turnedOut, spare]),
    ];
  },
  gpu: ([q, r, k, v, g, initial], [out, turnedOut, last], options, context) => {
    const { inputs, outputs } = inTimeOrder([q, k, v, g], [out, last], options);
    const turned = inTimeOrder([r, v, k, g], [turnedOut, last], options);
    const second = { q: turned.inputs[0], out: turned.outputs[0] };
    const first = initial === undefined ? inputs : [...inputs, initial];
    const other = initial === undefined ? turned.inputs : [...turned.inputs, turnedOver(initial)];
    const units = [[first, outputs], [other, turned.outputs]].every(([inputs, outputs]) =>
      suitsMatrixUnits(inputs, outputs, options, context)
    );
    if (units) {
      // Two walks: on matrix units a state is left in the one orientation in which it is read.
      const shape = last.shape.with(-1, last.shape.at(-2)!).with(-2, last.shape.at(-1)!);
      const unused = {
        ...context.scratch(sizeOf(shape)),
        shape,
        strides: contiguousStrides(shape),
      };
      return [
        ...planForMatrixUnits(first, outputs, options, context),
        ...planForMatrixUnits(other, [turned.outputs[0], unused], options, context),
      ];
    }
    return plan(first, outputs, options, context, second);
  },
  cuts: (inputs) => [0, 1, 2].map((axis) => Array<number>(inputs.length + 3).fill(axis)),
  scratchBytes: ([, , k, v], _, options) => leastScratch(k, v, options),
  saves: { inputs: [0, 1, 2, 3, 4, 5], outputs: [] },
  // Only gradients of gradients come here.
  backward: ({ grads, inputs: [q, r, k, v, ...others], options }) => {
    const [u, turnedU, lastG] = grads;
    const weighed = ([q, r, k, v, g, initial]: Tensor[]) => {
      const maybe = (t: Tensor | undefined) => t === undefined ? [] : [t];
      const [o, last] = lightning(q, k, v, g, ...maybe(initial), { ...options, wide: false });
      const [turned] = lightning(r, v, k, g, ...maybe(initial?.transpose()), options);
      const pairs = [[o, u], [turned, turnedU], [last, lastG]] as const;
      const terms = pairs.filter(([, gradient]) => gradient !== undefined)
        .map(([t, gradient]) => t.to("f32").mul(gradient!.to("f32")).sum());
      return terms.reduce((sum, term) => sum.add(term));
    };
    return grad(weighed)([q, r, k, v, ...others]);
  },
});

function transposedShape(shape: readonly number[]): number[] {
  return [...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!];
}

function transposedView<V extends CpuView | WasmView>(view: V): V {
  return { ...view, shape: transposedShape(view.shape), strides: transposedShape(view.strides) };
}

/** For each row of x [.., n] the sum of it and the rows processed after it. */
function sumToEnd(x: Tensor, { reverse, blockSize }: LightningOptions): Tensor {
  const { shape, device } = x;
  const one = full([1], 1, { device }).expand([...shape, 1]);
  const undecayed = full([1], 0, { device }).expand(shape);
  const [sums] = lightning(one, one, x.unsqueeze(-1), undecayed, {
    alpha: 1,
    beta: 1,
    reverse: !reverse,
    decayAfter: false,
    blockSize,
    wide: false,
  });
  return sums.squeeze(-1);
}

/** The views in the order of processing: reversed along n when time runs backwards. */
function inTimeOrder<V extends View | CpuView | WasmView>(
  inputs: readonly V[],
  outputs: readonly V[],
  { reverse }: LightningOptions,
): { inputs: V[]; outputs: V[] } {
  if (!reverse) return { inputs: [...inputs], outputs: [...outputs] };
  const turn = (view: V): V => reversed(view, 3);
  const [out, last] = outputs;
  return {
    inputs: [...inputs.slice(0, 4).map(turn), ...inputs.slice(4)],
    outputs: [turn(out), last],
  };
}

/** The view with rows and columns exchanged. */
function turnedOver(view: View): View {
  const exchange = (list: readonly number[]) => list.with(-1, list.at(-2)!).with(-2, list.at(-1)!);
  return { ...view, shape: exchange(view.shape), strides: exchange(view.strides) };
}

/** The CPU twin: four matrix products a block. */
function attendOnCpu(
  [q, k, v, g, initial]: CpuView[],
  [out, last]: CpuView[],
  { alpha, beta, decayAfter, ...options }: LightningOptions,
): void {
  const [n, d] = k.shape.slice(3);
  const e = v.shape[4];
  const blockSize = Math.min(options.blockSize, Math.max(n, 1));
  const scores = denseMatrix(blockSize, blockSize);
  const decayed = denseMatrix(blockSize, d);
  const fromState = denseMatrix(blockSize, e);
  const state = denseMatrix(d, e);
  const decays = new BlockDecays(blockSize, decayAfter);
  for (const head of entriesOf(k.shape.slice(0, 3))) {
    decays.rows = 0;
    if (initial === undefined) state.data.fill(0);
    else copyMatrix(matrixAt(initial, head), state, d, e);

    for (let start = 0; start < n; start += blockSize) {
      const m = Math.min(blockSize, n - start);
      const [qb, kb, vb, ob] = [q, k, v, out].map((view) => matrixAt(view, head, start));
      decays.read(g, head, start, m);
      const { between, fromStart, toEnd } = decays;
      // Scores, decayed and masked; then o = scores · v.
      multiply([m, m, d], qb, transposed(kb), scores);
      for (let r = 0; r < m; r++) {
        const row = r * blockSize;
        for (let t = 0; t < m; t++) {
          scores.data[row + t] *= t <= r ? alpha * beta * between[row + t] : 0;
        }
      }
      multiply([m, e, m], scores, vb, ob);
      // What the state before the block contributes.
      multiply([m, e, d], qb, state, fromState);
      for (let r = 0; r < m; r++) {
        const weight = alpha * fromStart[r];
        for (let c = 0; c < e; c++) {
          ob.data[ob.offset + r * ob.row + c * ob.column] += weight * fromState.data[r * e + c];
        }
      }
      // The state after it.
      for (let r = 0; r < m; r++) {
        const weight = beta * toEnd[r];
        for (let c = 0; c < d; c++) {
          decayed.data[r * d + c] = weight * kb.data[kb.offset + r * kb.row + c * kb.column];
        }
      }
      for (let i = 0; i < state.data.length; i++) state.data[i] *= decays.whole;
      multiply([d, e, m], transposed(decayed), vb, state, true);
    }
    copyMatrix(state, matrixAt(last, head), d, e);
  }
}

/** A token's strongest decay: its exponential is 0 in float32. */
const STRONGEST = -127;

/** The decays within a block, from sums in float64. */
class BlockDecays {
  /** exp(P_r − P_t) at r · blockSize + t, for t ≤ r. */
  readonly between: Float64Array;
  /** exp(P_r). */
  readonly fromStart: Float64Array;
  /** exp(P_m − P_r). */
  readonly toEnd: Float64Array;
  /** exp(P_m). */
  whole = 1;
  /** Rows of the block read last; 0 if what was read must not be reused. */
  rows = 0;
  readonly #position: Float64Array;

  constructor(readonly blockSize: number, readonly decayAfter: boolean) {
    this.between = new Float64Array(blockSize * blockSize);
    this.fromStart = new Float64Array(blockSize);
    this.toEnd = new Float64Array(blockSize);
    this.#position = new Float64Array(blockSize);
  }

  read(g: CpuView, head: readonly number[], start: number, m: number): void {
    const step = g.strides[3];
    // A stride of 0 is one slope for all tokens.
    if (step === 0 && this.rows === m) return;
    this.rows = m;
    const base = head.reduce((sum, at, axis) => sum + at * g.strides[axis], g.offset) +
      start * step;
    let sum = 0;
    for (let r = 0; r < m; r++) {
      // As in lightning_positions.wgsl; a g of −∞ must not make ∞ − ∞.
      const next = sum + Math.min(0, Math.max(g.data[base + r * step], STRONGEST));
      this.#position[r] = this.decayAfter ? sum : next;
      sum = next;
    }
    this.whole = Math.exp(sum);
    for (let r = 0; r < m; r++) {
      const position = this.#position[r];
      this.fromStart[r] = Math.exp(position);
      this.toEnd[r] = Math.exp(sum - position);
      const row = r * this.blockSize;
      for (let t = 0; t <= r; t++) this.between[row + t] = Math.exp(position - this.#position[t]);
    }
  }
}

function copyMatrix(from: Matrix, to: Matrix, rows: number, columns: number): void {
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      to.data[to.offset + i * to.row + j * to.column] =
        from.data[from.offset + i * from.row + j * from.column];
    }
  }
}

/** The most rows of a block in WebAssembly: its decays and scores are matrices of rows by rows. */
const MOST_ROWS = 256;

/** WebAssembly: one task a head, its blocks one after the other. */
function planJob(
  [q, k, v, g, initial]: WasmView[],
  [out, last]: WasmView[],
  { alpha, beta, decayAfter, blockSize }: LightningOptions,
): WasmJob {
  const [b, groups, members, n, d] = k.shape;
  const e = v.shape[4];
  const block = Math.min(blockSize, MOST_ROWS, Math.max(n, 1));
  const [rows, deep, wide] = [block, d, e].map((size) => size + 8);
  const words = 6 * rows + 3 * rows * rows + 2 * rows * deep + rows * wide + 2 * deep * wide;
  const gSteps = [...stepsOf(g).slice(0, 3), g.strides[3]].map((step) => 4 * step);
  return {
    kernel: "lightningAttention",
    params: [
      ...[groups, members, n, d, e, block],
      ...[floatBits(alpha), floatBits(beta), decayAfter ? 1 : 0, initial === undefined ? 0 : 1],
      ...[q, k, v, out, last, initial ?? last].flatMap(placeInMemory),
      ...[addressOf(g), ...gSteps],
    ],
    tasks: b * groups * members,
    scratchBytes: 192 + 4 * words,
  };
}

/** Scratch memory that a call may take, as a share of its operands, and at least so many bytes. */
const SCRATCH_SHARE = 1 / 8;
const LEAST_SCRATCH = 150 * 2 ** 20;
/** Workgroups that walk over states side by side: two for each processor of a large GPU. */
const WALKERS = 256;
/** The fewest chunks of a segment, so that what each segment costs is shared. */
const LEAST_SEGMENT = 4;

/** Bytes of scratch memory that a chunk of every head takes. */
function scratchOfAChunk(heads: number, chunk: number, area: number): number {
  return heads * (4 * area + 8 * (chunk + 2));
}

/** The least scratch memory that a call can do with. */
function leastScratch(k: View, v: View, { blockSize }: LightningOptions): number {
  const chunk = Math.min(blockSize, LONGEST_CHUNK, Math.max(k.shape[3], 1));
  return 2 * scratchOfAChunk(sizeOf(k.shape.slice(0, 3)), chunk, k.shape[4] * v.shape[4]);
}

/** How the GPU goes about a sequence. */
function passesOf(
  inputs: readonly View[],
  out: View,
  blockSize: number,
  bindingBytes: number,
): { chunk: number; segment: number; segments: number } {
  const [q, k, v] = inputs;
  const [n, d] = k.shape.slice(3);
  const e = v.shape[4];
  const heads = sizeOf(k.shape.slice(0, 3));
  const chunk = Math.min(blockSize, LONGEST_CHUNK, Math.max(n, 1));
  const operands = [q, k, v, out].reduce((sum, t) => sum + sizeOf(t.shape) * bytesOf(t.dtype), 0);
  const budget = Math.min(Math.max(operands * SCRATCH_SHARE, LEAST_SCRATCH), bindingBytes);
  const chunks = Math.ceil(Math.max(n, 1) / chunk);
  const affordable = Math.floor(budget / scratchOfAChunk(heads, chunk, d * e)) - 1;
  // Passes as even as they can be.
  const atOnce = Math.ceil(chunks / Math.ceil(chunks / Math.max(1, affordable)));
  const walkers = heads * Math.ceil(d / 64) * tilesAlong(e);
  const wanted = Math.ceil(atOnce / Math.ceil(WALKERS / Math.max(1, walkers)));
  const segment = Math.min(atOnce, Math.max(LEAST_SEGMENT, wanted));
  return { chunk, segment, segments: Math.ceil(atOnce / segment) };
}

/**
 * The GPU, a stretch of every head in each pass, so that the states in between need little memory: the states
 * before all chunks, then all outputs at once. Where there are too few heads to occupy a GPU, segments of the
 * stretch are walked side by side, and a scan finds the states before them. `second` are the queries of a
 * {@linkcode lightningPair} and their outputs.
 */
function plan(
  [q, k, v, g, initial]: View[],
  [out, last]: View[],
  { alpha, beta, decayAfter, blockSize }: LightningOptions,
  context: GpuContext,
  second?: { readonly q: View; readonly out: View },
): Dispatch[] {
  const [b, groups, members, n, d] = k.shape;
  const heads = b * groups * members;
  const e = v.shape[4];
  const { chunk, segment, ...most } = passesOf([q, k, v], out, blockSize, context.bindingBytes);
  const length = chunk * segment * most.segments;
  const segmented = most.segments > 1 || n === 0;
  const chunksAtOnce = segment * most.segments;
  const positions = context.scratch(2 * heads * chunksAtOnce * (chunk + 1));
  const totals = context.scratch(2 * heads * (chunksAtOnce + most.segments));
  const states = context.scratch(heads * most.segments * (segment + 1) * d * e);
  const passes = Math.max(1, Math.ceil(n / length));
  const carried = [0, 1].slice(0, segmented ? passes - 1 : 0).map((): View => {
    const shape = [b, groups, members, d, e];
    return { ...context.scratch(sizeOf(shape)), shape, strides: contiguousStrides(shape) };
  });
  const fours = e % 4 === 0;
  const dispatches: Dispatch[] = [];
  for (let pass = 0; pass < passes; pass++) {
    const isLast = pass === passes - 1;
    const start = pass * length;
    const rows = Math.min(length, n - start);
    const chunks = Math.ceil(rows / chunk);
    const segments = Math.ceil(chunks / segment);
    const [qs, ks, vs, gs, outs] = [q, k, v, g, out].map((view) => slice(view, start, rows));
    const before = pass === 0 ? initial : segmented ? carried[(pass - 1) % 2] : undefined;
    const after = isLast ? last : carried[pass % 2];
    const walks = heads * segments * Math.ceil(d / 64) * tilesAlong(e);
    const elementsOfState = heads * d * e / (fours ? 4 : 1);
    dispatches.push(
      positionsDispatch(gs, positions, chunk, decayAfter, context),
      {
        label: "states",
        shader: statesShader,
        constants: {
          ...elements({ k: ks, v: vs }),
          ...(fours && {
            IN_FOURS: true,
            ResultElement: "vec4f",
            four_results: "values",
            stored: "out[at / 4u]",
          }),
          ...tiling(context, d, e, 64),
          HAS_INITIAL: !segmented && before !== undefined,
          GOES_ON: !segmented && pass > 0,
        },
        bindings: [ks, vs, positions, states, totals, before ?? positions],
        params: [
          ...placesOf(ks, vs),
          ...[groups, members, rows, d, e, chunk, chunks, segment, segments, walks],
          ...[floatBits(beta), (before ?? last).strides[4], (before ?? last).offset, 0, 0, 0],
          ...stepsOf(before ?? last).slice(0, 4),
        ],
        workgroups: grid(walks, context),
      },
    );
    if (segmented || isLast) {
      dispatches.push({
        label: "scan",
        shader: scanShader,
        constants: {
          HAS_INITIAL: before !== undefined,
          WALKED: !segmented,
          ...(fours && {
            Element: "vec4f",
            IN_FOURS: true,
            initial_at: "vec4f(initial[at], initial[at + step], initial[at + 2u * step], " +
              "initial[at + 3u * step])",
            four_of: "values",
          }),
        },
        bindings: [states, totals, before ?? totals, after],
        params: [
          ...placesOf(before ?? after, after),
          ...[groups, members, d, e, chunks, segment, segments, elementsOfState],
        ],
        workgroups: grid(Math.ceil(elementsOfState / 256), context),
      });
    }
    const readers = [{ q: qs, k: ks, v: vs, out: outs, turned: false }];
    if (second !== undefined) {
      const [q, out] = [second.q, second.out].map((view) => slice(view, start, rows));
      readers.push({ q, k: vs, v: ks, out, turned: true });
    }
    for (const { q, k, v, out, turned } of readers) {
      const [d, e] = [k.shape[4], v.shape[4]];
      const reads = heads * chunks * tilesOf(chunk, e);
      dispatches.push({
        label: "outputs",
        shader: outputsShader,
        constants: {
          ...elements({ q, k, v }),
          ...(fours && { StateElement: "vec4f", four_states: "states[at / 4u]" }),
          ...results(out),
          ...tiling(context, d, e),
          HAS_INITIAL: before !== undefined || pass > 0,
          SEGMENTED: segmented,
          STATE_TURNED: turned,
          ONE_BLOCK: chunk <= 64 && !context.software,
        },
        bindings: [k, v, q, positions, states, totals, out],
        params: [
          ...placesOf(k, v, q, out),
          ...[groups, members, rows, d, e, chunk, chunks, segment, segments, reads],
          ...[floatBits(alpha), floatBits(beta)],
        ],
        workgroups: grid(reads, context),
      });
    }
  }
  return dispatches.filter(({ workgroups }) => workgroups[0] > 0);
}

/** Some rows of a view. */
function slice(view: View, start: number, rows: number): View {
  return {
    ...view,
    shape: view.shape.with(3, rows),
    offset: view.offset + start * view.strides[3],
  };
}

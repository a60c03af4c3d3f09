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
 * and v are repeated by a stride of 0. Outputs have their axes in the order in memory that those of q have, so that
 * what was projected as [b, n, heads, d] comes out, and its gradients too, as the next product reads it.
 * Saved: q, k, v, g and the first state; in WebAssembly also the scores within blocks. No [n, n] matrix and no
 * block state outlives the call.
 *
 * The operator is closed under differentiation. Let R be its twin that runs backwards in time and decays
 * a state after adding to it instead of before (P_r is then the sum before r), so that the weight between
 * two rows is the same seen from either. From the gradients u of o and U of the last state S_n,
 *
 *     dq = LA(u, v, k; S_0ᵀ)        dv = R(k, q, u; U), whose last state is dS_0
 *     dk = R(v, u, q; Uᵀ)
 *
 * with α and β exchanged in R. Scores within a block, its products with their weights, are in dv those of the outputs and
 * in dk those of dq, turned over. Every weight is an exponential of differences of P, so that
 *
 *     dP_r = q_r · dq_r − k_r · dk_r,   dP_n = ⟨S_n, U⟩,   dg_t = Σ_{r ≥ t} dP_r + dP_n
 *
 * As outputs are linear in q, and with S_n in k and S_0 together, Σ_r dP_r + dP_n = ⟨S_0, dS_0⟩. So dg comes of what backward
 * makes unrounded, and S_n, which matrix units make of rounded products, has no say:
 *
 *     dg_t = ⟨S_0, dS_0⟩ − Σ_{r < t} dP_r
 *
 * (exact relative to the terms of the sum, not to a dg that is much smaller than they are). A running
 * sum is this operator too, with q = k = 1 and g = 0. So gradients of any order are calls
 * of this one operation.
 *
 * @module
 */
import type { CpuView, View, WasmView } from "../backend/contract.ts";
import { grad } from "../grad.ts";
import { type BackwardContext, defineOp, type Op, type ResultSpec } from "../operation.ts";
import { contiguousStrides, orderOfAxes, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { full, zeros } from "./create.ts";
import { planForMatrixUnits, suitsMatrixUnits } from "./lightning_cores.ts";
import { attendOnCpu } from "./lightning_cpu.ts";
import { leastScratch, plan } from "./lightning_gpu.ts";
import { partsOf, planJob, scoresShape } from "./lightning_wasm.ts";
import { reversed } from "./tiles.ts";

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
  /** Rows of a block on matrix units. Default: the same. */
  readonly unitsBlockSize?: number;
  /** Give float32 outputs whatever the dtype of q. */
  readonly wide: boolean;
  /** In WebAssembly: give the scores for backward too, as a third output. Default false. */
  readonly givesScores?: boolean;
}

/** q, k, v, g and, if there is one, the initial state → the outputs and the last state. */
export const lightning: Op<LightningOptions, ResultSpec[]> = defineOp<
  LightningOptions,
  ResultSpec[]
>({
  name: "lightningAttention",
  strided: true,
  output: ([q, k, v], options) => {
    const heads = k.shape.slice(0, 3);
    const [n, d] = k.shape.slice(3);
    const e = v.shape[4];
    return [
      { shape: [...heads, n, e], dtype: options.wide ? "f32" : q.dtype, order: orderOfAxes(q) },
      { shape: [...heads, d, e], dtype: "f32" },
      ...(options.givesScores
        ? [{ shape: scoresShape(k.shape, options), dtype: "f32" } as const]
        : []),
    ];
  },
  cpu: (inputs, outputs, options) => {
    const turned = inTimeOrder(inputs, outputs, options);
    attendOnCpu(turned.inputs, turned.outputs, options);
  },
  wasm: (inputs, outputs, options) => {
    const turned = inTimeOrder(inputs, outputs, options);
    return planJob(turned.inputs, turned.outputs, options, { gives: outputs[2] });
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
  saves: { inputs: [0, 1, 2, 3, 4], outputs: [2] },
  backward: (context) => {
    const { grads: [outputG], inputs, outputs, needs, options, specs } = context;
    const scoresOfQ = outputs[2];
    const [q, k, v, g, initial] = inputs;
    const { dtype, device } = q;
    const u = outputG?.to(dtype) ??
      zeros([...specs[0].shape.slice(0, 4), specs[2].shape[4]], { dtype, device });
    const { alpha, beta, reverse, decayAfter } = options;
    // dq and dk unrounded where dg is a long sum of their differences.
    const forth = { ...options, wide: needs[3], givesScores: false };
    const back = { ...forth, alpha: beta, beta: alpha, reverse: !reverse, decayAfter: !decayAfter };
    const maybe = (t: Tensor | undefined) => t === undefined ? [] : [t];
    const givesScores = scoresOfQ !== undefined && needsOfPair(needs).every(Boolean);
    const [dq, , scoresOfU] = needs[0] || needs[3]
      ? lightning(u, v, k, g, ...maybe(initial?.transpose()), { ...forth, givesScores })
      : [];
    const scores = scoresOfU === undefined ? [] : [scoresOfQ, scoresOfU];
    const { dk, dv, dInitial } = ofKeysAndValues(context, u, scores, back);
    let dg: Tensor | null = null;
    if (needs[3]) {
      const dP = q.to("f32").mul(dq!).sub(k.to("f32").mul(dk!)).sum(-1);
      const sums = runningSum(dP, options);
      dg = decayAfter ? sums.neg() : dP.sub(sums);
      if (initial !== undefined) dg = dg.add(initial.mul(dInitial!).sum([3, 4]).unsqueeze(-1));
    }
    return [dq?.to(dtype), dk?.to(dtype), dv, dg, dInitial];
  },
});

/** Whether dk and dv, or what is made of them, are needed. */
function needsOfPair(needs: readonly boolean[]): [ofKeys: boolean, ofValues: boolean] {
  return [needs[1] || needs[3], needs[2] || needs[4]];
}

/** dk, dv and dS_0, as far as they are needed: R(v, u, q; Uᵀ) and R(k, q, u; U), whose states are one. */
function ofKeysAndValues(
  { grads: [, lastG], inputs: [q, k, v, g], needs }: BackwardContext<LightningOptions>,
  u: Tensor,
  scores: Tensor[],
  back: LightningOptions,
): { dk?: Tensor; dv?: Tensor; dInitial?: Tensor } {
  const [ofKeys, ofValues] = needsOfPair(needs);
  const maybe = (t: Tensor | undefined) => t === undefined ? [] : [t];
  if (ofKeys && ofValues) {
    const options = { ...back, takesScores: scores.length > 0 };
    const [dv, dk, dInitial] = lightningPair(k, v, q, u, g, ...scores, ...maybe(lastG), options);
    return { dk, dv, dInitial };
  }
  if (ofKeys) {
    const [dk, turned] = lightning(v, u, q, g, ...maybe(lastG?.transpose()), back);
    return { dk, dInitial: turned.transpose() };
  }
  if (!ofValues) return {};
  const [dv, dInitial] = lightning(k, q, u, g, ...maybe(lastG), { ...back, wide: false });
  return { dv, dInitial };
}

interface PairOptions extends LightningOptions {
  /** Whether scores are given: those that LA(k, q, _) and LA(v, r, _) gave, the other way in time. */
  readonly takesScores: boolean;
}

/** What follows q, r, k, v and g of a pair. */
function restOf<T>(rest: T[], { takesScores }: PairOptions): { scores: T[]; initial?: T } {
  const count = takesScores ? 2 : 0;
  return { scores: rest.slice(0, count), initial: rest[count] };
}

/**
 * LA(q, k, v) and LA(r, v, k), which read the same states, the second turned over: q [.., n, d], r [.., n, e],
 * k, v, g, the scores of both, if they are given, and, if there is one, the initial state → the outputs [.., n, e] and
 * [.., n, d] and the last state. Only the second is wide.
 */
const lightningPair: Op<PairOptions, ResultSpec[]> = defineOp<PairOptions, ResultSpec[]>({
  name: "lightningAttentionPair",
  strided: true,
  output: ([q, r, k, v], { wide }) => {
    const heads = k.shape.slice(0, 3);
    const [n, d] = k.shape.slice(3);
    const e = v.shape[4];
    return [
      { shape: [...heads, n, e], dtype: q.dtype, order: orderOfAxes(q) },
      { shape: [...heads, n, d], dtype: wide ? "f32" : r.dtype, order: orderOfAxes(r) },
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
  wasm: ([q, r, k, v, g, ...rest], [out, turnedOut, last], options, context) => {
    const { scores: [takes, pairTakes], initial } = restOf(rest, options);
    const first = inTimeOrder([q, k, v, g, ...(initial ? [initial] : [])], [out, last], options);
    const second = inTimeOrder([r, v, k, g], [turnedOut, last], options);
    const pair = { q: second.inputs[0], out: second.outputs[0], takes: pairTakes };
    if (partsOf(k.shape, v.shape) === 1) {
      return planJob(first.inputs, first.outputs, options, { pair, takes });
    }
    // A part of the columns has no whole row of r Sᵀ: two walks, the last state of the second for nobody.
    const shape = transposedShape(last.shape);
    const spare = {
      ...last,
      ...{ shape, strides: contiguousStrides(shape), offset: 0 },
      base: context.scratch(sizeOf(shape)),
    };
    const turned = initial === undefined ? [] : [transposedView(initial)];
    return [
      planJob(first.inputs, first.outputs, options, { takes }),
      planJob([...second.inputs, ...turned], [pair.out, spare], options, {
        takes: pairTakes,
        turned: true,
      }),
    ];
  },
  gpu: ([q, r, k, v, g, initial], [out, turnedOut, last], options, context) => {
    const { inputs, outputs } = inTimeOrder([q, k, v, g], [out, last], options);
    const turned = inTimeOrder([r, v, k, g], [turnedOut, last], options);
    const second = { q: turned.inputs[0], out: turned.outputs[0] };
    const first = initial === undefined ? inputs : [...inputs, initial];
    const bothSuit = [[first, outputs], [turned.inputs, turned.outputs]].every(
      ([inputs, outputs]) => suitsMatrixUnits(inputs, outputs, options, context),
    );
    if (bothSuit) return planForMatrixUnits(first, outputs, options, context, second);
    return plan(first, outputs, options, context, second);
  },
  cuts: (inputs) => [0, 1, 2].map((axis) => Array<number>(inputs.length + 3).fill(axis)),
  scratchBytes: ([, , k, v], _, options) => leastScratch(k, v, options),
  saves: { inputs: [0, 1, 2, 3, 4, 5, 6, 7], outputs: [] },
  // Only gradients of gradients come here. Scores are what q, r, k, v and g make them.
  backward: ({ grads, inputs: [q, r, k, v, g, ...rest], options }) => {
    const [u, turnedU, lastG] = grads;
    const { initial } = restOf(rest, options);
    const weighed = ([q, r, k, v, g, initial]: Tensor[]) => {
      const maybe = (t: Tensor | undefined) => t === undefined ? [] : [t];
      const [o, last] = lightning(q, k, v, g, ...maybe(initial), { ...options, wide: false });
      const [turned] = lightning(r, v, k, g, ...maybe(initial?.transpose()), options);
      const pairs = [[o, u], [turned, turnedU], [last, lastG]] as const;
      const terms = pairs.filter(([, gradient]) => gradient !== undefined)
        .map(([t, gradient]) => t.to("f32").mul(gradient!.to("f32")).sum());
      return terms.reduce((sum, term) => sum.add(term));
    };
    const [dq, dr, dk, dv, dg, dInitial] = grad(weighed)([
      ...[q, r, k, v, g],
      ...(initial === undefined ? [] : [initial]),
    ]);
    return [dq, dr, dk, dv, dg, ...(options.takesScores ? [null, null] : []), dInitial];
  },
});

function transposedShape(shape: readonly number[]): number[] {
  return [...shape.slice(0, -2), shape.at(-1)!, shape.at(-2)!];
}

function transposedView<V extends View | CpuView | WasmView>(view: V): V {
  return { ...view, shape: transposedShape(view.shape), strides: transposedShape(view.strides) };
}

/** For each row of x [.., n] the sum of it and the rows processed before it. */
function runningSum(x: Tensor, { reverse, blockSize }: LightningOptions): Tensor {
  const { shape, device } = x;
  const one = full([1], 1, { device }).expand([...shape, 1]);
  const undecayed = full([1], 0, { device }).expand(shape);
  const [sums] = lightning(one, one, x.unsqueeze(-1), undecayed, {
    alpha: 1,
    beta: 1,
    reverse,
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

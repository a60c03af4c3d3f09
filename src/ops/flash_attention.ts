/**
 * Softmax attention in tiles, as in FlashAttention-2 (Dao, arXiv 2307.08691): no [n, m] matrix is stored.
 *
 *     S = scale · q kᵀ, −∞ where a query does not see a key        P = softmax(S)        o = P v
 *
 * For each block of queries the keys are walked block by block with the largest score m so far and the sum
 * l of exp(S − m); sums shrink by exp(old m − new m) when m grows. From g, the gradient of o,
 *
 *     P = exp(S − L), L = m + log l        D_i = Σ_c g_ic o_ic        dS = P ∘ (g vᵀ − D)
 *     dq = scale · dS k        dk = scale · dSᵀ q        dv = Pᵀ g
 *
 * Shapes: q, dq [b, h, n, d]; k, dk [b, g, m, d]; v, dv [b, g, m, e]; o [b, h, n, e]; L, D [b, h, n] in
 * float32. Results have their axes in the order in memory that q, or what they are the gradient of, has.
 * Within this file every operand has its heads as [groups, members of a group]; k and v have one
 * member, read by all through a stride of 0, and the members of dk and dv are summed by the one workgroup
 * that owns them. Saved: q, k, v, o and L. Nothing is added atomically: results are the same bit for bit
 * from run to run. Heads that outgrow a binding are cut: see flash_pieces.ts.
 *
 * The gradients' own gradient is not tiled: with ȯ the derivative of o along (q̇, k̇, v̇), the gradients that
 * arrived at dq, dk and dv, it is the gradient of Σ g ∘ ȯ, computed by [n, m] matrices.
 *
 * @module
 */
import {
  addressOf,
  type Dispatch,
  floatBits,
  type GpuContext,
  type Program,
  type View,
  type WasmJob,
  type WasmView,
} from "../backend/contract.ts";
import type { DType } from "../dtype.ts";
import { grad } from "../grad.ts";
import { defineOp, type Op, type ResultSpec } from "../operation.ts";
import { tidy } from "../scope.ts";
import { orderOfAxes, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import forwardText from "../../shaders/flash_attention.wgsl" with { type: "text" };
import gradientText from "../../shaders/flash_gradient.wgsl" with { type: "text" };
import rowsText from "../../shaders/flash_rows.wgsl" with { type: "text" };
import { checkQuadratic, inGroups } from "./attention_arguments.ts";
import { attendOnCpu, gradientsOnCpu } from "./flash_attention_cpu.ts";
import { attendInPieces, gradientsInPieces } from "./flash_pieces.ts";
import { softmaxWeights } from "./naive_attention.ts";
import { grid } from "./pointwise_program.ts";
import {
  elements,
  isWide,
  placesOf,
  results,
  stepsOf,
  tileColumns,
  tileName,
  tilesOf,
  tiling,
  turnsOf,
  withBlocks,
  withScores,
  withTiles,
} from "./tiles.ts";

const shader = withScores(forwardText);
const gradientShader = withTiles(gradientText);
const rowsShader = withBlocks(rowsText);

/** Options of {@linkcode flashAttention}. */
export interface FlashAttentionOptions {
  /**
   * Whether query i sees keys j ≤ i + (m − n) only: queries are the last n of the m positions, as when
   * the keys before them come from a cache. Default true.
   */
  causal?: boolean;
  /** A factor on the scores. Default 1/√d. */
  scale?: number;
}

/**
 * Softmax attention, softmax(scale · q kᵀ) v, in memory linear in n and m. Any n, m ≥ 0, d ≥ 1 and e ≥ 1;
 * strides are read as they are. Scores are computed, and all sums are made, in float32.
 *
 * Gradients are linear in memory too, and the same from run to run. Gradients of gradients are computed
 * with a few [n, m] matrices for every head.
 *
 * @param q Queries [batch, heads, n, d], f32 or f16.
 * @param k Keys [batch, key heads, m, d], of the same dtype. With fewer key heads than heads, head i
 * reads key head ⌊i · key heads / heads⌋; nothing is copied.
 * @param v Values [batch, key heads, m, e], of the same dtype.
 * @returns The outputs [batch, heads, n, e], of the same dtype; zeros if there are no keys.
 *
 * @example
 * ```ts
 * import { flashAttention, randn } from "@levin/levin";
 *
 * const q = randn([1, 8, 100, 32], { requiresGrad: true });
 * const [k, v] = [randn([1, 2, 100, 32]), randn([1, 2, 100, 32])];
 * const o = flashAttention(q, k, v);
 * o.sum().backward();
 * console.log(q.grad!.shape); // [1, 8, 100, 32]
 * ```
 * @throws {ShapeError} if shapes do not fit, causal queries are more than keys, or the scale is not finite.
 * @throws {DTypeError} if dtypes are mixed or not floating.
 */
export function flashAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { causal = true, scale }: FlashAttentionOptions = {},
): Tensor {
  const { heads, n, d } = checkQuadratic("flashAttention", q, k, v, { causal, scale });
  const [b, groups, , e] = v.shape;
  return tidy(() => {
    const grouped = [q, k, v].map((t) => inGroups(t, groups));
    const [o] = attend(...grouped, { causal, scale: scale ?? d ** -0.5 });
    return o.reshape([b, heads, n, e]);
  });
}

/** The options of a call, complete. */
export interface FlashOptions {
  /** Whether query i sees keys up to i + (m − n) only. */
  readonly causal: boolean;
  /** The factor on scores. */
  readonly scale: number;
}

/** An input whose gradient is computed. */
export type Wanted = "q" | "k" | "v";

/** q, k and v → o, of the given dtype, and L. */
const attendSpecs = ([q, , v]: readonly Tensor[], dtype: DType): ResultSpec[] => [
  { shape: q.shape.with(4, v.shape[4]), dtype, order: orderOfAxes(q) },
  { shape: q.shape.slice(0, 4), dtype: "f32" },
];

const attendProgram: Program<FlashOptions> & { strided: true } = {
  name: "flashAttention",
  strided: true,
  cpu: attendOnCpu,
  wasm: ([q, k, v], [out, logsum], options) =>
    attendJob("flashAttention", { q, k, v, out, logsum }, options),
  gpu: ([q, k, v], [out, logsum], { causal, scale }, context) => {
    const [, groups, members, n, d] = q.shape;
    const [m, e] = v.shape.slice(3);
    const workgroups = sizeOf(q.shape.slice(0, 3)) * tilesOf(n, e);
    return {
      shader,
      tile: tileName(tileColumns(e)),
      constants: { ...elements({ q, k, v }), ...results(out), ...tiling(context, d, e) },
      bindings: [k, v, q, out, logsum],
      params: [
        ...[k, v, q, out].flatMap((view) => stepsOf(view).slice(0, 4)),
        ...logsum.strides,
        ...[k, v, q, out].map((view) => view.strides[4]),
        ...[k, v, q, out, logsum].map((view) => view.offset),
        ...[groups, members, n, m, shiftOf(n, m, causal), d, e, workgroups, floatBits(scale)],
      ],
      workgroups: grid(workgroups, context),
    };
  },
  // By batch, by group and by member of a group.
  cuts: () => [0, 1, 2].map((axis) => Array<number>(5).fill(axis)),
  loopTurns: ([q, k]) => turnsOf(k.shape[3], q.shape[4]),
};

/** q, k and v → o and L. */
const attend: Op<FlashOptions, ResultSpec[]> = defineOp<FlashOptions, ResultSpec[]>({
  ...attendProgram,
  output: (inputs) => attendSpecs(inputs, inputs[0].dtype),
  inPieces: (...call) => attendInPieces(attendPair, ...call),
  saves: { inputs: [0, 1, 2], outputs: [0, 1] },
  backward: ({ grads: [g], inputs: [q, k, v], outputs: [o, logsum], needs, options }) => {
    const of = (["q", "k", "v"] as const).filter((_, i) => needs[i]);
    const found = gradients(q, k, v, o, logsum, g, { ...options, of });
    return (["q", "k", "v"] as const).map((name) => found[of.indexOf(name)]);
  },
});

/** A piece of queries and a piece of keys, without a gradient: o, unrounded, and L. */
const attendPair = defineOp<FlashOptions, ResultSpec[]>({
  ...attendProgram,
  output: (inputs) => attendSpecs(inputs, "f32"),
});

/** Rows that a task of WebAssembly owns, and rows of a block that it walks over. */
const OWN = 72;
const OTHER = 128;

/** WebAssembly: one task a block of queries or, for dk and dv, of keys. */
function attendJob(
  kernel: string,
  { q, k, v, out, logsum, g, dq, dk, dv }:
    & Record<"q" | "k" | "v" | "out" | "logsum", WasmView>
    & Partial<Record<"g" | "dq" | "dk" | "dv", WasmView>>,
  { causal, scale }: FlashOptions,
): WasmJob {
  const [b, groups, members, n, d] = q.shape;
  const [m, e] = v.shape.slice(3);
  const place = (view: WasmView | undefined) => {
    if (view === undefined) return [0, 0, 0, 0, 0, 0];
    const steps = [...stepsOf(view).slice(0, 4), view.strides[4] ?? 0];
    return [addressOf(view), ...steps.map((step) => 4 * step)];
  };
  const [deep, wide] = [d + 8, e + 8];
  const words = 4 * OWN * OTHER + 3 * (OWN + OTHER) * (deep + wide) + 6 * (OWN + OTHER);
  return {
    kernel,
    params: [
      ...[groups, members, n, m, d, e, causal ? 1 : 0, floatBits(scale)],
      ...[q, k, v, out, logsum, g, dq, dk, dv].flatMap(place),
    ],
    tasks: b * groups *
      (kernel === "flashKeys" ? Math.ceil(m / OWN) : members * Math.ceil(n / OWN)),
    scratchBytes: 192 + 4 * words,
  };
}

/** The options of a call for gradients. */
export interface GradientOptions extends FlashOptions {
  /** Which gradients, in the order q, k, v. */
  readonly of: readonly Wanted[];
}

const gradientSpecs = ([q, k, v]: readonly Tensor[], of: readonly Wanted[], dtype: DType) => {
  const specs = { q, k, v };
  return of.map((name): ResultSpec => {
    const own = specs[name];
    return { shape: own.shape, dtype, order: orderOfAxes(own) };
  });
};

const gradientProgram: Program<GradientOptions> & { strided: true } = {
  name: "flashAttentionGradient",
  strided: true,
  cpu: gradientsOnCpu,
  wasm: ([q, k, v, out, logsum, g], outputs, { of, ...options }) => {
    const [dq, dk, dv] = (["q", "k", "v"] as const).map((name) => outputs[of.indexOf(name)]);
    const views = { q, k, v, out, logsum, g, dq, dk, dv };
    return [
      ...dq ? [attendJob("flashQueries", views, options)] : [],
      ...dk ?? dv ? [attendJob("flashKeys", views, options)] : [],
    ];
  },
  gpu: planGradients,
  cuts: (_, outputs) => [0, 1].map((axis) => Array<number>(6 + outputs.length).fill(axis)),
  scratchBytes: ([q]) => 8 * sizeOf(q.shape.slice(0, 4)),
  loopTurns: ([q, k, v]) =>
    turnsOf(Math.max(k.shape[3], q.shape[2] * q.shape[3]), q.shape[4] + v.shape[4]),
};

/** q, k, v, o, L and g → the wanted ones of dq, dk and dv. */
const gradients: Op<GradientOptions, ResultSpec[]> = defineOp<GradientOptions, ResultSpec[]>({
  ...gradientProgram,
  output: (inputs, { of }) => gradientSpecs(inputs, of, inputs[0].dtype),
  inPieces: (...call) => gradientsInPieces(pairGradients, ...call),
  saves: { inputs: [0, 1, 2, 5] },
  backward: ({ grads, inputs: [q, k, v, , , g], options }) => {
    const along = (name: Wanted) => grads[options.of.indexOf(name)]?.to("f32");
    const directions = [along("q"), along("k"), along("v")];
    const wide = [q, k, v, g].map((t) => t.to("f32"));
    const changeOfLoss = ([q, k, v, g]: Tensor[]) =>
      derivative(q, k, v, directions, options).mul(g).sum();
    const [dq, dk, dv, dg] = grad(changeOfLoss)(wide).map((t) => t.to(q.dtype));
    // o and L are functions of q, k and v: what they contribute is in dq, dk and dv.
    return [dq, dk, dv, null, null, dg];
  },
});

/** A piece of one member's queries and a piece of keys: their part of the gradients, unrounded. */
const pairGradients = defineOp<GradientOptions, ResultSpec[]>({
  ...gradientProgram,
  output: (inputs, { of }) => gradientSpecs(inputs, of, "f32"),
});

/** By how much the last key that a query sees is ahead of it: query i sees keys j ≤ i + shift. */
function shiftOf(n: number, m: number, causal: boolean): number {
  return causal ? m - n : m;
}

/** ȯ = (P ∘ (Ṡ − Σ_j P Ṡ)) v + P v̇, Ṡ = scale · (q̇ kᵀ + q k̇ᵀ). */
function derivative(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  [alongQ, alongK, alongV]: (Tensor | undefined)[],
  { causal, scale }: FlashOptions,
): Tensor {
  const p = softmaxWeights(q.matmul(k.transpose()).mul(scale), causal);
  const terms: Tensor[] = [];
  for (const change of [alongQ?.matmul(k.transpose()), alongK && q.matmul(alongK.transpose())]) {
    if (change === undefined) continue;
    const scaled = change.mul(scale);
    const mean = p.mul(scaled).sum(-1, { keepDims: true });
    terms.push(p.mul(scaled.sub(mean)).matmul(v));
  }
  if (alongV !== undefined) terms.push(p.matmul(alongV));
  return terms.reduce((sum, term) => sum.add(term));
}

/** The GPU: L and D of every query side by side, then one dispatch for each gradient. */
function planGradients(
  [q, k, v, o, logsum, g]: View[],
  outputs: View[],
  { of, causal, scale }: GradientOptions,
  context: GpuContext,
): Dispatch[] {
  const [b, groups, members, n, d] = q.shape;
  const [m, e] = v.shape.slice(3);
  const count = sizeOf(q.shape.slice(0, 4));
  const rows = context.scratch(2 * count);
  const statistics: Dispatch = {
    shader: rowsShader,
    constants: { Stored_out: o.dtype, Stored_g: g.dtype },
    bindings: [o, g, logsum, rows],
    params: [
      ...[o, g].flatMap((view) => stepsOf(view).slice(0, 4)),
      ...logsum.strides,
      ...[o, g].map((view) => view.strides[4]),
      ...[o, g, logsum].map((view) => view.offset),
      ...[groups, members, n, e, count],
    ],
    workgroups: grid(Math.ceil(count / 16), context),
  };
  const gradients = of.map((name, i): Dispatch => {
    const out = outputs[i];
    const ofQueries = name === "q";
    const [own_x, own_y, other_x, other_y] = ofQueries ? [q, g, k, v] : [k, v, q, g];
    const [length, columns] = out.shape.slice(3);
    const workgroups = b * groups * (ofQueries ? members : 1) * tilesOf(length, columns);
    const operands = { own_x, own_y, other_x, other_y };
    const views = [...Object.values(operands), out];
    return {
      shader: gradientShader,
      tile: tileName(tileColumns(columns)),
      constants: {
        ...elements(operands),
        ...results(out),
        OF_QUERIES: ofQueries,
        OF_VALUES: name === "v",
        ...tiling(context, d, e, isWide(d) ? 128 : 64),
        WIDE: isWide(columns),
      },
      bindings: [own_x, own_y, other_x, other_y, rows, out],
      params: [
        ...placesOf(...views),
        ...[groups, members, ...(ofQueries ? [n, m] : [m, n]), shiftOf(n, m, causal)],
        ...[d, e, workgroups, floatBits(scale)],
      ],
      workgroups: grid(workgroups, context),
    };
  });
  return [statistics, ...gradients].filter(({ workgroups }) => workgroups[0] > 0);
}

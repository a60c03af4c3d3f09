/**
 * Lightning Attention-2, as it is called: the arguments of every form, their checks, and how they become
 * calls of the operator in lightning_core.ts.
 *
 * @module
 */
import { isRecording } from "../autograd.ts";
import { bytesOf } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { tidy } from "../scope.ts";
import { format, sameShape } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { checkInputs, checkScale, checkState, inGroups } from "./attention_arguments.ts";
import { tensor, zeros } from "./create.ts";
import { lightning, type LightningOptions } from "./lightning_core.ts";
import { keepsScores } from "./lightning_wasm.ts";
import { where } from "./pointwise.ts";
import { decaySlopes, minusSlopes } from "./slopes.ts";
import { concat, split } from "./views.ts";

/** The decay of linear attention: by head, or by head and token. */
export interface DecayOptions {
  /**
   * The decay of each head, e^(−slope) a token: one number for all heads, an array or a float32 tensor
   * [heads]. All ≥ 0; 0 is plain linear attention. A tensor's gradient is computed, so slopes can be
   * learnt. Default: `decaySlopes(heads)`.
   */
  slopes?: number | readonly number[] | Tensor;
  /**
   * Instead of slopes, the logarithm of the decay of every token: float32 [batch, heads, n], as in Mamba-2
   * and simple gated linear attention: S_t = exp(g_t) S_{t−1} + k_tᵀ v_t. Expected ≤ 0; what is greater
   * counts as 0. Differentiable.
   */
  logDecay?: Tensor;
}

/** Options of {@linkcode lightningAttention}. */
export interface LightningAttentionOptions extends DecayOptions {
  /** A factor on the outputs; 1, the default, in the paper. */
  scale?: number;
  /**
   * The state before the first token, float32 [batch, heads, d, e]; with `offsets`, one a sequence.
   * Default: zeros.
   */
  initialState?: Tensor;
  /**
   * Tokens of a block, an integer from 1; the result depends on it only by rounding. Default: 64, on
   * matrix units 128, in WebAssembly 18, in plain TypeScript 32.
   */
  blockSize?: number;
  /** Run from the last token to the first: o_t sees tokens s ≥ t. Default false. */
  reverse?: boolean;
  /**
   * See both ways: M_ij = e^(−slope · |i−j|). There is then no initial state, and the state returned is
   * that of the forward direction. Default false.
   */
  bidirectional?: boolean;
  /**
   * Where each of several sequences, packed one after another along n in a batch of 1, begins; and, last,
   * n: `[0, 15, 100]` are sequences of 15 and 85 tokens. Sequences may be empty.
   */
  offsets?: readonly number[];
}

/** What {@linkcode lightningAttentionWithState} returns. */
export interface OutputAndState {
  /** The outputs [batch, heads, n, e]. */
  output: Tensor;
  /** The state after the last token, float32 [batch, heads, d, e]; with `offsets`, one a sequence. */
  state: Tensor;
}

/**
 * Lightning Attention-2: o_t = scale · q_t S_t with S_t = e^(−slope) S_{t−1} + k_tᵀ v_t. Equal to
 * scale · [(q kᵀ) ⊙ M] v with M_ij = e^(−slope · (i−j)) for i ≥ j and 0 elsewhere, in time and memory
 * linear in n. Any n ≥ 0, d ≥ 1 and e ≥ 1; strides are read as they are, so q of layout
 * [batch, n, heads, d] is passed as `q.permute([0, 2, 1, 3])` and not copied.
 *
 * The result is the same, bit for bit, from run to run on one device.
 *
 * @param q Queries [batch, heads, n, d], f32 or f16.
 * @param k Keys [batch, key heads, n, d], of the same dtype. With fewer key heads than heads, head i
 * reads key head ⌊i · key heads / heads⌋.
 * @param v Values [batch, key heads, n, e], of the same dtype.
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
 * @throws {ShapeError} if shapes do not fit, a slope is negative or not finite, the block size is not a
 * positive integer, or offsets do not rise from 0 to n.
 * @throws {DTypeError} if dtypes are mixed or not floating.
 */
export function lightningAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: LightningAttentionOptions = {},
): Tensor {
  return tidy(() => attendAs(q, k, v, options, false)[0]);
}

/** Rows of a block where nothing else is asked for: what is fastest on each backend. */
const BLOCK_SIZES = { cpu: 32, wasm: 18, webgpu: 64 };
/** The same on matrix units. */
const UNITS_BLOCK_SIZE = 128;

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
  options: LightningAttentionOptions = {},
): OutputAndState {
  const [output, state] = tidy(() => attendAs(q, k, v, options, true));
  return { output, state };
}

/** The outputs and the last state, which for packed sequences costs a call each and may be left out. */
function attendAs(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: LightningAttentionOptions,
  withStates: boolean,
): Tensor[] {
  const { initialState, offsets, bidirectional = false, reverse = false } = options;
  const { scale = 1, blockSize = BLOCK_SIZES[q.device.backend] } = options;
  checkInputs("lightningAttention", q, k, v);
  if (!Number.isInteger(blockSize) || blockSize < 1) {
    throw new ShapeError(
      `lightningAttention: expected blockSize to be an integer from 1, found ${blockSize}`,
    );
  }
  checkScale("lightningAttention", scale);
  if (bidirectional && (reverse || initialState !== undefined)) {
    throw new ShapeError("lightningAttention: bidirectional goes without reverse and initialState");
  }
  if (offsets !== undefined) checkOffsets(offsets, q);
  const sequences = offsets === undefined ? q.shape[0] : offsets.length - 1;
  if (initialState !== undefined) {
    checkState("lightningAttention", "initialState", initialState, sequences, q, v);
  }
  const g = logDecayOf("lightningAttention", options, q);
  const sizes = { blockSize, unitsBlockSize: options.blockSize ?? UNITS_BLOCK_SIZE };
  const core = { alpha: scale, beta: 1, reverse, decayAfter: false, ...sizes, wide: false };
  const attend = (q: Tensor, k: Tensor, v: Tensor, g: Tensor, back: Tensor, initial?: Tensor) =>
    bidirectional
      ? bothWays(q, k, v, g, back, core)
      : oneWay(q, k, v, reverse ? back : g, initial, core);
  if (offsets === undefined) return attend(q, k, v, g, g, initialState);
  if (!withStates && initialState === undefined) {
    const ends = offsets.slice(1);
    const forth = reverse ? g : walled(g, ends);
    const back = reverse || bidirectional ? walled(g, ends.map((end) => end - 1)) : g;
    return attend(q, k, v, forth, back);
  }
  if (sequences === 0) {
    const none = zeros([0, q.shape[1], q.shape[3], v.shape[3]], { device: q.device });
    return attend(q, k, v, g, g).with(1, none);
  }
  const lengths = offsets.slice(1).map((end, i) => end - offsets[i]);
  const [qs, ks, vs, gs] = [q, k, v, g].map((t) => split(t, lengths, 2));
  const initials = initialState && split(initialState, sequences, 0);
  const parts = lengths.map((_, i) => attend(qs[i], ks[i], vs[i], gs[i], gs[i], initials?.[i]));
  return [concat(parts.map(([o]) => o), 2), concat(parts.map(([, s]) => s), 0)];
}

/** g [b, h, n] with a decay to nothing at the given tokens: what was before them is forgotten. */
function walled(g: Tensor, at: readonly number[]): Tensor {
  const walls = Array<boolean>(g.shape[2]).fill(false);
  for (const token of at) if (token >= 0 && token < walls.length) walls[token] = true;
  return where(tensor(walls, { device: g.device }), -Infinity, g);
}

/**
 * Tokens of a segment where the decay's gradient is wanted: a running sum of differences whose rounding
 * grows with its length, so it starts anew, from the states in between, for every segment.
 */
const SEGMENT = 512;

/** One call of the operator, or one for each segment, the state carried from one to the next. */
function oneWay(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  g: Tensor,
  initial: Tensor | undefined,
  options: LightningOptions,
): Tensor[] {
  const n = q.shape[2];
  const segment = Math.min(
    g.node !== undefined && isRecording() ? SEGMENT : Infinity,
    longestInABinding(q, k, v, options.blockSize),
  );
  if (n <= segment) return attendOnce(q, k, v, g, initial, options);
  const lengths = Array.from({ length: Math.ceil(n / segment) }, () => segment);
  lengths[lengths.length - 1] = n - segment * (lengths.length - 1);
  const [qs, ks, vs, gs] = [q, k, v, g].map((t) => split(t, lengths, 2));
  const outputs: Tensor[] = Array(lengths.length);
  let state = initial;
  for (let i = 0; i < lengths.length; i++) {
    const at = options.reverse ? lengths.length - 1 - i : i;
    [outputs[at], state] = attendOnce(qs[at], ks[at], vs[at], gs[at], state, options);
  }
  return [concat(outputs, 2), state!];
}

/** The most tokens of one head of which every operand fits one binding. */
function longestInABinding(q: Tensor, k: Tensor, v: Tensor, blockSize: number): number {
  const { bindingBytes } = q.device.engine;
  if (bindingBytes === Infinity) return Infinity;
  const [d, e] = [q.shape[3], v.shape[3]];
  const steps = [q, k, v].map((t) => Math.abs(t.strides[2]) * bytesOf(t.dtype));
  // Outputs and gradients have their axes in the order of q, k or v.
  const isTokenFirst = [q, k, v].some((t) => t.strides[2] > t.strides[1]);
  const bytesOfAToken = Math.max(...steps, 4 * Math.max(d, e) * (isTokenFirst ? q.shape[1] : 1));
  const tokens = Math.max(1, Math.floor(bindingBytes / bytesOfAToken) - 1);
  return tokens - tokens % Math.min(blockSize, tokens);
}

/** One call of the operator. */
function attendOnce(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  g: Tensor,
  initial: Tensor | undefined,
  options: LightningOptions,
): Tensor[] {
  const [b, h, n, d] = q.shape;
  const [groups, e] = [k.shape[1], v.shape[3]];
  const queries = inGroups(q, groups);
  const shared = (t: Tensor) => inGroups(t, groups).expand([b, groups, queries.shape[2], -1, -1]);
  const others = [g, ...(initial === undefined ? [] : [initial])].map((t) => inGroups(t, groups));
  const [keys, values] = [shared(k), shared(v)];
  const givesScores = isRecording() && [q, k, v].every(({ node }) => node !== undefined) &&
    keepsScores(keys, values, options);
  const [output, state] = lightning(queries, keys, values, ...others, { ...options, givesScores });
  return [output.reshape([b, h, n, e]), state.reshape([b, h, d, e])];
}

/** The sum of the two directions, in which every token has seen itself twice. */
function bothWays(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  g: Tensor,
  gBack: Tensor,
  options: LightningOptions,
): Tensor[] {
  const [forth, state] = oneWay(q, k, v, g, undefined, options);
  const [back] = oneWay(q, k, v, gBack, undefined, { ...options, reverse: true });
  const [ofQ, ofK, ofV] = [q, k, v].map((t) => inGroups(t, k.shape[1]));
  const own = ofQ.mul(ofK).sum(-1, { keepDims: true }).mul(ofV);
  return [forth.add(back).sub(own.mul(options.alpha).reshape(forth.shape)), state];
}

/** The logarithm of the decay of every token, float32 [batch, heads, n]. */
export function logDecayOf(operation: string, options: DecayOptions, q: Tensor): Tensor {
  const { slopes, logDecay } = options;
  const [b, h, n] = q.shape;
  if (logDecay === undefined) {
    const g = minusSlopes(operation, slopes ?? decaySlopes(h), h, q.device);
    return g.reshape([1, h, 1]).expand([b, h, n]);
  }
  if (slopes !== undefined) {
    throw new ShapeError(`${operation}: expected slopes or logDecay, found both`);
  }
  if (logDecay.dtype !== "f32") {
    throw new DTypeError(`${operation}: expected logDecay of dtype f32, found ${logDecay.dtype}`);
  }
  if (!sameShape(logDecay.shape, [b, h, n])) {
    throw new ShapeError(
      `${operation}: expected logDecay of shape [batch, heads, n] = ${format([b, h, n])}, found ` +
        format(logDecay.shape),
    );
  }
  return logDecay;
}

function checkOffsets(offsets: readonly number[], { shape: [batch, , n] }: Tensor): void {
  if (batch !== 1) {
    throw new ShapeError(
      `lightningAttention: expected a batch of 1 with offsets, found ${batch}: pack along n`,
    );
  }
  const rises = offsets.every((at, i) =>
    Number.isInteger(at) && at >= (i === 0 ? 0 : offsets[i - 1])
  );
  if (!rises || offsets[0] !== 0 || offsets[offsets.length - 1] !== n) {
    const shown = offsets.length > 8 ? `${offsets.slice(0, 8)}, …` : `${offsets}`;
    throw new ShapeError(
      `lightningAttention: expected offsets to be integers that rise from 0 to n = ${n}, found ` +
        `[${shown}]`,
    );
  }
}

/**
 * Decoding with Lightning Attention-2: one token or a few, in constant memory.
 *
 *     S ← exp(g_t) S + k_tᵀ v_t        o_t = α q_t S
 *
 * Shapes: q, k [b, h, n, d]; v, o [b, h, n, e]; g [b, h, n]; S [b, h, d, e] in float32, written in place.
 *
 * @module
 */
import { isRecording, noGrad } from "../autograd.ts";
import {
  addressOf,
  type CpuView,
  floatBits,
  type Program,
  type WasmView,
} from "../backend/contract.ts";
import { LevinError } from "../errors.ts";
import { runInPlace } from "../operation.ts";
import { tidy } from "../scope.ts";
import { Tensor } from "../tensor.ts";
import shader from "../../shaders/lightning_step.wgsl" with { type: "text" };
import { checkInputs, checkScale, checkState } from "./attention_arguments.ts";
import { type DecayOptions, logDecayOf } from "./lightning_attention.ts";
import { grid } from "./pointwise_program.ts";

/** Options of {@linkcode lightningAttentionStep}. */
export interface LightningAttentionStepOptions extends DecayOptions {
  /** A factor on the outputs. Default 1. */
  scale?: number;
}

/**
 * The outputs of the next token or tokens; `state` is brought up to date in place, without another
 * allocation. A pass of `lightningAttentionWithState` followed by steps equals one pass.
 *
 * @param q Queries [batch, heads, n, d], n tokens in the order of time.
 * @param k Keys [batch, key heads, n, d].
 * @param v Values [batch, key heads, n, e].
 * @param state float32 [batch, heads, d, e], as `lightningAttentionWithState` returns it.
 * @returns The outputs [batch, heads, n, e].
 *
 * @example
 * ```ts
 * import { lightningAttentionStep, randn, zeros } from "@levin/levin";
 *
 * const state = zeros([1, 2, 4, 4]);
 * for (let seed = 0; seed < 3; seed++) {
 *   const token = randn([1, 2, 1, 4], { seed });
 *   const o = lightningAttentionStep(token, token, token, state, { slopes: 0.1 });
 *   console.log(o.shape); // [1, 2, 1, 4]
 * }
 * ```
 * @throws {ShapeError} if shapes do not fit or a slope is negative or not finite.
 * @throws {DTypeError} if dtypes are mixed or not floating, or the state is not float32.
 * @throws {LevinError} if a gradient would have to flow through the state that is overwritten.
 */
export function lightningAttentionStep(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  state: Tensor,
  { scale = 1, ...decay }: LightningAttentionStepOptions = {},
): Tensor {
  const name = "lightningAttentionStep";
  checkInputs(name, q, k, v);
  checkScale(name, scale);
  checkState(name, "state", state, q.shape[0], q, v);
  const tracked = [q, k, v, state, decay.logDecay, decay.slopes]
    .some((t) => t instanceof Tensor && t.node !== undefined);
  if (isRecording() && tracked) {
    throw new LevinError(
      `${name} writes its state in place, which has no gradient: call it in noGrad(), or use ` +
        `lightningAttentionWithState to differentiate`,
    );
  }
  return tidy(() =>
    noGrad(() => {
      const [b, h, n] = q.shape;
      const e = v.shape[3];
      const g = logDecayOf(name, decay, q);
      const output = Tensor.allocate(q.device, { shape: [b, h, n, e], dtype: q.dtype });
      runInPlace(program, [q, k, v, g], [output, state], { scale });
      return output;
    })
  );
}

interface StepOptions {
  readonly scale: number;
}

const THREADS = 64;

const program: Program<StepOptions> = {
  name: "lightningAttentionStep",
  cpu: ([q, k, v, g], [out, state], { scale }) => {
    const [b, h, n, d] = q.shape;
    const [groups, e] = [k.shape[1], v.shape[3]];
    const sums = new Float64Array(e);
    for (let batch = 0; batch < b; batch++) {
      for (let head = 0; head < h; head++) {
        const own = Math.floor(head * groups / h);
        for (let t = 0; t < n; t++) {
          const decay = Math.exp(g.data[place(g, batch, head, t)]);
          const [queryAt, keyAt] = [place(q, batch, head, t), place(k, batch, own, t)];
          const valueAt = place(v, batch, own, t);
          sums.fill(0);
          for (let i = 0; i < d; i++) {
            const query = q.data[queryAt + i * q.strides[3]];
            const key = k.data[keyAt + i * k.strides[3]];
            const row = place(state, batch, head, i);
            for (let j = 0; j < e; j++) {
              const at = row + j * state.strides[3];
              state.data[at] = decay * state.data[at] + key * v.data[valueAt + j * v.strides[3]];
              sums[j] += query * state.data[at];
            }
          }
          const outAt = place(out, batch, head, t);
          for (let j = 0; j < e; j++) out.data[outAt + j * out.strides[3]] = scale * sums[j];
        }
      }
    }
  },
  wasm: ([q, k, v, g], [out, state], { scale }) => {
    const [b, h, n, d] = q.shape;
    const [groups, e] = [k.shape[1], v.shape[3]];
    if (state.strides[3] !== 1) return undefined;
    const place = (view: WasmView) => [addressOf(view), ...view.strides.map((step) => 4 * step)];
    return {
      kernel: "lightningStep",
      params: [
        ...[h, groups, n, d, e, floatBits(scale)],
        ...[q, k, v, out, state, g].flatMap(place),
      ],
      tasks: b * h,
      scratchBytes: 4 * e,
    };
  },
  gpu: ([q, k, v, g], [out, state], { scale }, context) => {
    const [b, h, n, d] = q.shape;
    const [groups, e] = [k.shape[1], v.shape[3]];
    const workgroups = b * h * Math.ceil(e / THREADS);
    return {
      shader,
      constants: { Stored: q.dtype },
      params: [
        ...[q, k, v, out, state].flatMap((view) => view.strides),
        ...g.strides,
        ...[q, k, v, g, out, state].map((view) => view.offset),
        ...[h, groups, n, d, e, workgroups, floatBits(scale)],
      ],
      workgroups: grid(workgroups, context),
    };
  },
  cuts: ([q, k]) =>
    q.shape[1] === k.shape[1] ? [[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]] : [[0, 0, 0, 0, 0, 0]],
};

/** Where row `row` of a batch and a head begins. */
function place({ offset, strides }: CpuView, batch: number, head: number, row: number): number {
  return offset + batch * strides[0] + head * strides[1] + row * strides[2];
}

/**
 * The blocks of TransNormerLLM (Qin et al., arXiv 2307.14995): gated linear attention with LRPE-d, and
 * the simple gated linear unit.
 *
 * @module
 */
import type { Device } from "../device.ts";
import { ShapeError } from "../errors.ts";
import { arange } from "../ops/create.ts";
import { gatedNorm } from "../ops/gated_norm.ts";
import { lightningAttention, lightningAttentionWithState } from "../ops/lightning_attention.ts";
import { lightningAttention1 } from "../ops/lightning_attention1.ts";
import { lightningAttentionStep } from "../ops/lightning_step.ts";
import { qkvu } from "../ops/qkvu.ts";
import { concat } from "../ops/views.ts";
import { tidy } from "../scope.ts";
import { tensor } from "../ops/create.ts";
import type { Tensor } from "../tensor.ts";
import { type LayerOptions, Linear, optionsOfParts } from "./linear.ts";
import type { LinearMemory } from "./memory.ts";
import { Module, owned } from "./module.ts";

/**
 * LRPE-d, the learnable positions of TransNormerLLM's first layer: x at position t becomes
 * concat(x cos θt, x sin θt), so that q_i · k_j = Σ q k cos θ(i−j) knows how far apart they are.
 */
export class LRPE extends Module {
  /** θ [heads, 1, size], initially 10000^(−2j/(heads · size)) for j counted over all heads. */
  readonly theta: Tensor;

  /** For `heads` heads of `size` elements. */
  constructor(heads: number, size: number, device?: Device) {
    super();
    const all = heads * size;
    const angles = Float32Array.from({ length: all }, (_, j) => 10000 ** (-2 * j / all));
    this.theta = owned(tensor(angles, { shape: [heads, 1, size], requiresGrad: true, device }));
  }

  /** x [b, heads, n, size] from position `start` on, one for all or one a row → [b, heads, n, 2 · size]. */
  forward(x: Tensor, start: number | readonly number[] = 0): Tensor {
    return tidy(() => this.place(x, this.waves(x.shape[2], start)));
  }

  /** cos θt and sin θt of `n` positions from `start` on: [n, heads, 2, size], or [b, n, heads, 2, size]. */
  waves(n: number, start: number | readonly number[]): Tensor {
    return tidy(() => {
      const { theta, theta: { device } } = this;
      const steps = arange(n, { device }).reshape([n, 1, 1, 1]);
      const from = typeof start === "number"
        ? start
        : tensor([...start], { shape: [start.length, 1, 1, 1, 1], device });
      const angle = theta.permute([1, 0, 2]).unsqueeze(2).mul(steps.add(from));
      return concat([angle.cos(), angle.sin()], -2);
    });
  }

  /** x at the positions of `waves`, its heads side by side in memory, as those of x in a projection. */
  place(x: Tensor, waves: Tensor): Tensor {
    return tidy(() => {
      const [b, heads, n, size] = x.shape;
      const placed = x.permute([0, 2, 1, 3]).unsqueeze(3).mul(waves.to(x.dtype));
      return placed.reshape([b, n, heads, 2 * size]).permute([0, 2, 1, 3]);
    });
  }
}

/**
 * Which attention: 2, Lightning Attention-2, in time linear in n, or 1, Lightning Attention-1, the same
 * function in time quadratic in n. A memory is Lightning Attention-2's: where there is one, 2 is used.
 */
export type LightningVersion = 1 | 2;

/** Options of {@linkcode GatedLinearAttention}. */
export interface GatedLinearAttentionOptions extends LayerOptions {
  /** Heads; they divide the size. */
  heads: number;
  /** The slope of each head's decay. */
  slopes: readonly number[];
  /** Give q and k positions by {@linkcode LRPE}. Default false. */
  positions?: boolean;
  /** Lightning Attention-1 or -2. Default 2. */
  attention?: LightningVersion;
  /** Tokens of a block of Lightning Attention-2. Default: what suits the device. */
  blockSize?: number;
  /** The standard deviation of normal weights. Default 0.02. */
  std?: number;
}

/**
 * GLA: q, k, v, u = x W; o = LightningAttention(silu q, silu k, v); out = (u ⊙ SRMSNorm(o)) W_o.
 * Field names are those of released checkpoints.
 */
export class GatedLinearAttention extends Module {
  /** W, for q, k, v and u at once. */
  readonly qkvu_proj: Linear;
  /** W_o. */
  readonly out_proj: Linear;
  /** Positions, in the first layer. */
  readonly lrpe: LRPE | undefined;
  readonly #heads: number;
  readonly #slopes: readonly number[];
  readonly #attention: LightningVersion;
  readonly #blockSize: number | undefined;

  /** For vectors of `size` elements. */
  constructor(size: number, options: GatedLinearAttentionOptions) {
    super();
    const { heads, slopes, positions, attention = 2, blockSize } = options;
    if (size % heads !== 0) {
      throw new ShapeError(`GatedLinearAttention: ${heads} heads do not divide a size of ${size}`);
    }
    if (attention !== 1 && attention !== 2) {
      throw new ShapeError(`GatedLinearAttention: expected attention 1 or 2, found ${attention}`);
    }
    const { next } = optionsOfParts(options);
    this.qkvu_proj = new Linear(size, 4 * size, next());
    this.out_proj = new Linear(size, size, next());
    this.lrpe = positions ? new LRPE(heads, size / heads, options.device) : undefined;
    this.#heads = heads;
    this.#slopes = slopes;
    this.#attention = attention;
    this.#blockSize = blockSize;
  }

  /** The size of a state's rows: positions double it. */
  get keySize(): number {
    const size = this.out_proj.weight.shape[0] / this.#heads;
    return this.lrpe === undefined ? size : 2 * size;
  }

  /**
   * x [b, n, size], which stands at `start`, one position for all or one a row → the same shape. With a
   * memory, x comes after what it holds, and is held then too. A `residual` of that shape is added to.
   */
  forward(
    x: Tensor,
    start: number | readonly number[] = 0,
    memory?: LinearMemory,
    residual?: Tensor,
  ): Tensor {
    return tidy(() => {
      const [b, n, size] = x.shape;
      const [q, k, v, u] = qkvu(this.qkvu_proj.forward(x));
      const byHead = (t: Tensor) =>
        t.reshape([b, n, this.#heads, size / this.#heads]).permute([0, 2, 1, 3]);
      const waves = this.lrpe?.waves(n, start);
      const place = (t: Tensor) => waves === undefined ? t : this.lrpe!.place(t, waves);
      const attended = this.#attend(
        place(byHead(q)),
        place(byHead(k)),
        byHead(v),
        memory,
      );
      const o = attended.permute([0, 2, 1, 3]).reshape([b, n, size]);
      return this.out_proj.forward(gatedNorm(o, u), residual);
    });
  }

  #attend(q: Tensor, k: Tensor, v: Tensor, memory: LinearMemory | undefined): Tensor {
    const slopes = this.#slopes;
    if (memory === undefined && this.#attention === 1) {
      return lightningAttention1(q, k, v, { slopes });
    }
    const options = { slopes, blockSize: this.#blockSize };
    if (memory === undefined) return lightningAttention(q, k, v, options);
    if (memory.state !== undefined && q.shape[2] === 1) {
      // One token is a product of a row and the state, several times faster than a block. A copy of the
      // state is stepped, since what is written may be rolled back.
      const state = concat([memory.state]);
      const output = lightningAttentionStep(q, k, v, state, { slopes });
      memory.write(state);
      return output;
    }
    const { output, state } = lightningAttentionWithState(q, k, v, {
      ...options,
      initialState: memory.state,
    });
    memory.write(state);
    return output;
  }
}

/** SGLU: ((x W₁) ⊙ (x W₂)) W₃, without an activation. */
export class SGLU extends Module {
  /** W₁. */
  readonly l1: Linear;
  /** W₂. */
  readonly l2: Linear;
  /** W₃. */
  readonly l3: Linear;

  /** For vectors of `size` elements, through `inner`. */
  constructor(
    size: number,
    inner: number,
    options: LayerOptions & { std?: number } = {},
  ) {
    super();
    const { next } = optionsOfParts(options);
    this.l1 = new Linear(size, inner, next());
    this.l2 = new Linear(size, inner, next());
    this.l3 = new Linear(inner, size, next());
  }

  /** x [.., size] → the same shape, added to a `residual` of it if there is one. */
  forward(x: Tensor, residual?: Tensor): Tensor {
    return tidy(() => this.l3.forward(this.l1.forward(x).mul(this.l2.forward(x)), residual));
  }
}

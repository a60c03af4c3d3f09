/**
 * TransNormerLLM (Qin et al., arXiv 2307.14995): a language model whose attention is linear.
 *
 *     x = √D · Embed(ids);  per layer  x += GLA(SRMSNorm(x)),  x += SGLU(SRMSNorm(x));
 *     logits = SRMSNorm(x) W_headᵀ
 *
 * @module
 */
import type { Device } from "../device.ts";
import { LevinError, ShapeError } from "../errors.ts";
import { Embedding, Linear } from "../nn/linear.ts";
import { Module } from "../nn/module.ts";
import { SRMSNorm } from "../nn/norm.ts";
import { GatedLinearAttention, SGLU } from "../nn/transnormer.ts";
import { decaySlopes } from "../ops/slopes.ts";
import { Seeds } from "../random.ts";
import { tidy } from "../scope.ts";
import { format } from "../shape.ts";
import type { Tensor } from "../tensor.ts";

/** The sizes of a {@linkcode TransNormerLLM}. */
export interface TransNormerConfig {
  /** Tokens in the vocabulary. */
  vocabulary: number;
  /** D, the size of a token's vector. */
  size: number;
  /** Layers. */
  layers: number;
  /** Heads; they divide `size`. */
  heads: number;
  /** The inner size of the gated linear unit. */
  inner: number;
}

/** How a model is made, beyond its sizes. */
export interface TransNormerOptions {
  /** The seed of the random weights. Default 0. */
  seed?: number;
  /** Tokens of a block of the attention. Default: what suits the device. */
  blockSize?: number;
  /** Where the parameters live. */
  device?: Device;
}

type SeededOptions = TransNormerOptions & { seed: number };

/** What a model remembers of the tokens it has seen: a few matrices, however many they were. */
export interface TransNormerState extends Disposable {
  /** How many tokens it has seen. */
  readonly position: number;
  /** The state of each layer's attention, float32 [b, heads, d, e]. */
  readonly layers: readonly Tensor[];
}

/** One layer: attention and gated linear unit, each behind a norm and added to its input. */
export class TransNormerLayer extends Module {
  /** The attention. */
  readonly token_mixer: GatedLinearAttention;
  /** The gated linear unit. */
  readonly channel_mixer: SGLU;
  readonly #norm = new SRMSNorm();

  /** Layer number `layer` of a model. */
  constructor(config: TransNormerConfig, layer: number, options: SeededOptions) {
    super();
    const { size, heads, layers, inner } = config;
    const { seed, device } = options;
    const seeds = new Seeds(seed);
    this.token_mixer = new GatedLinearAttention(size, {
      ...options,
      heads,
      slopes: decaySlopes(heads, { layer, layers }),
      positions: layer === 0,
      seed: seeds.next(),
    });
    this.channel_mixer = new SGLU(size, inner, { seed: seeds.next(), device });
  }

  /** x [b, n, size] and the state before it → the layer's output and the state after it. */
  forward(x: Tensor, state: Tensor | undefined, position: number): [Tensor, Tensor] {
    return tidy(() => {
      const mixed = this.token_mixer.forward(this.#norm.forward(x), state, position);
      const h = x.add(mixed.output);
      return [h.add(this.channel_mixer.forward(this.#norm.forward(h))), mixed.state];
    });
  }
}

/** The embedding and the layers. */
export class TransNormerBody extends Module {
  /** A vector for each token. */
  readonly embed_tokens: Embedding;
  /** The layers, in order. */
  readonly layers: TransNormerLayer[];

  /** All layers of a model. */
  constructor(config: TransNormerConfig, options: SeededOptions) {
    super();
    const seeds = new Seeds(options.seed);
    this.embed_tokens = new Embedding(config.vocabulary, config.size, {
      std: 0.02,
      seed: seeds.next(),
      device: options.device,
    });
    this.layers = Array.from(
      { length: config.layers },
      (_, layer) => new TransNormerLayer(config, layer, { ...options, seed: seeds.next() }),
    );
  }
}

/**
 * A TransNormerLLM. Parameters have the names of released checkpoints.
 *
 * @example
 * ```ts
 * import { tensor } from "@levin/levin";
 * import { TransNormerLLM } from "@levin/levin/models";
 *
 * const model = new TransNormerLLM({ vocabulary: 256, size: 32, layers: 2, heads: 4, inner: 64 });
 * const ids = tensor([[72, 105]], { dtype: "i32" });
 * console.log(model.forward(ids).shape); // [1, 2, 256]
 * ```
 */
export class TransNormerLLM extends Module {
  /** The sizes. */
  readonly config: TransNormerConfig;
  /** Embedding and layers. */
  readonly model: TransNormerBody;
  /** From the last layer to logits. */
  readonly lm_head: Linear;
  readonly #norm = new SRMSNorm();

  /** A model with random weights. */
  constructor(config: TransNormerConfig, options: TransNormerOptions = {}) {
    super();
    for (const [name, value] of Object.entries(config)) {
      if (!Number.isInteger(value) || value < 1) {
        throw new ShapeError(`TransNormerLLM: expected ${name} to be a positive integer: ${value}`);
      }
    }
    if (config.size % config.heads !== 0) {
      throw new ShapeError(
        `TransNormerLLM: ${config.heads} heads do not divide a size of ${config.size}`,
      );
    }
    const { seed = 0, blockSize, device } = options;
    const seeds = new Seeds(seed);
    const full = { seed: seeds.next(), blockSize, device };
    this.config = config;
    this.model = new TransNormerBody(config, full);
    this.lm_head = new Linear(config.size, config.vocabulary, {
      std: 0.02,
      seed: seeds.next(),
      device,
    });
  }

  /** ids [b, n] → logits [b, n, vocabulary]. */
  forward(ids: Tensor): Tensor {
    return tidy(() => this.forwardWithState(ids).logits);
  }

  /**
   * ids [b, n], which come after what `state` remembers → logits [b, n, vocabulary] and the new state.
   * The old state is left as it is; dispose it when it is no longer needed.
   *
   * @throws {ShapeError} unless ids have two axes.
   * @throws {LevinError} if the state is another model's.
   */
  forwardWithState(
    ids: Tensor,
    state?: TransNormerState,
  ): { logits: Tensor; state: TransNormerState } {
    if (ids.rank !== 2) {
      throw new ShapeError(`TransNormerLLM: expected ids [batch, n], found ${format(ids.shape)}`);
    }
    const { layers } = this.model;
    if (state !== undefined && state.layers.length !== layers.length) {
      throw new LevinError(
        `TransNormerLLM: the state has ${state.layers.length} layers, the model ${layers.length}`,
      );
    }
    const position = state?.position ?? 0;
    const [logits, states] = tidy(() => {
      let x = this.model.embed_tokens.forward(ids).mul(Math.sqrt(this.config.size));
      const states = layers.map((layer, i) => {
        const [next, after] = layer.forward(x, state?.layers[i], position);
        x.dispose();
        x = next;
        return after;
      });
      return [this.lm_head.forward(this.#norm.forward(x)), states] as const;
    });
    return { logits, state: stateOf(position + ids.shape[1], states) };
  }
}

function stateOf(position: number, layers: readonly Tensor[]): TransNormerState {
  return {
    position,
    layers,
    [Symbol.dispose]: () => layers.forEach((t) => t.dispose()),
  };
}

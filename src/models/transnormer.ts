/**
 * TransNormerLLM (Qin et al., arXiv 2307.14995): a language model whose attention is linear.
 *
 *     x = √D · Embed(ids);  per layer  x += GLA(SRMSNorm(x)),  x += SGLU(SRMSNorm(x));
 *     logits = SRMSNorm(x) W_headᵀ
 *
 * @module
 */
import type { Device } from "../device.ts";
import { ShapeError } from "../errors.ts";
import { Embedding, Linear } from "../nn/linear.ts";
import { LinearMemory } from "../nn/memory.ts";
import { Module } from "../nn/module.ts";
import { SRMSNorm } from "../nn/norm.ts";
import { GatedLinearAttention, type LightningVersion, SGLU } from "../nn/transnormer.ts";
import { decaySlopes } from "../ops/slopes.ts";
import { Seeds } from "../random.ts";
import { tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { type Context, LanguageModel, throughLayers } from "./language_model.ts";

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
  /** Lightning Attention-1 or -2: the same function, in time quadratic or linear. Default 2. */
  attention?: LightningVersion;
  /** Tokens of a block of Lightning Attention-2. Default: what suits the device. */
  blockSize?: number;
  /** Where the parameters live. */
  device?: Device;
}

type SeededOptions = TransNormerOptions & { seed: number };

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

  /** x [b, n, size], at position `start`, after what `memory` holds → the same shape. */
  forward(x: Tensor, start?: number | readonly number[], memory?: LinearMemory): Tensor {
    return tidy(() => {
      const h = x.add(this.token_mixer.forward(this.#norm.forward(x), start, memory));
      return h.add(this.channel_mixer.forward(this.#norm.forward(h)));
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
export class TransNormerLLM extends LanguageModel {
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
    const { seed = 0, device } = options;
    const seeds = new Seeds(seed);
    const full = { ...options, seed: seeds.next() };
    this.config = config;
    this.model = new TransNormerBody(config, full);
    this.lm_head = new Linear(config.size, config.vocabulary, {
      std: 0.02,
      seed: seeds.next(),
      device,
    });
  }

  /** Tokens in the vocabulary. */
  get vocabulary(): number {
    return this.config.vocabulary;
  }

  /** No length is too long. */
  get contextLength(): number {
    return Infinity;
  }

  /** ids [b, n], which come after what `context` remembers → what the head sees [b, n, size]. */
  hidden(ids: Tensor, context?: Context): Tensor {
    return tidy(() => {
      const x = this.model.embed_tokens.forward(ids).mul(Math.sqrt(this.config.size));
      const y = throughLayers(
        this.model.layers,
        x,
        (layer, x, i) =>
          layer.forward(x, context?.positions, context?.layers[i] as LinearMemory | undefined),
      );
      return this.#norm.forward(y);
    });
  }

  /** What the head sees [.., size] → logits [.., vocabulary]. */
  logits(hidden: Tensor): Tensor {
    return this.lm_head.forward(hidden);
  }

  /** Layers. */
  get depth(): number {
    return this.config.layers;
  }

  /** A state, whatever the capacity. */
  protected memory(): LinearMemory {
    return new LinearMemory();
  }
}

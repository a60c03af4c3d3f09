/**
 * TransNormerLLM (Qin et al., arXiv 2307.14995): a language model whose attention is linear.
 *
 *     x = √D · Embed(ids);  per layer  x += GLA(SRMSNorm(x)),  x += SGLU(SRMSNorm(x));
 *     logits = SRMSNorm(x) W_headᵀ
 *
 * @module
 */
import { ShapeError } from "../errors.ts";
import { Embedding, type LayerOptions, Linear, optionsOfParts } from "../nn/linear.ts";
import { LinearMemory } from "../nn/memory.ts";
import { Module } from "../nn/module.ts";
import { SRMSNorm } from "../nn/norm.ts";
import { GatedLinearAttention, type LightningVersion, SGLU } from "../nn/transnormer.ts";
import { decaySlopes } from "../ops/slopes.ts";
import { tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { checkSizes, type Context, LanguageModel, throughLayers } from "./language_model.ts";
import { PublishedConfig } from "./published.ts";

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

/**
 * The configurations of the papers (arXiv 2307.14995 and 2401.04658), by the names that they have there; the
 * embedding and the head count as parameters here, so that "0.4B" has 0.46 · 10⁹. The sizes of 3B were not
 * found published: here they have the proportions of the others.
 */
export const transNormerConfigs: Readonly<
  Record<"0.4B" | "1B" | "3B" | "7B" | "15B", TransNormerConfig>
> = {
  "0.4B": { vocabulary: 64000, size: 1024, layers: 24, heads: 8, inner: 2816 },
  "1B": { vocabulary: 64000, size: 2048, layers: 16, heads: 16, inner: 5632 },
  "3B": { vocabulary: 64000, size: 2560, layers: 32, heads: 20, inner: 6912 },
  "7B": { vocabulary: 64000, size: 4096, layers: 30, heads: 32, inner: 11008 },
  "15B": { vocabulary: 100280, size: 5120, layers: 42, heads: 40, inner: 15360 },
};

/**
 * What a released config.json of model type `transnormer` says.
 *
 * @throws {FormatError} naming a field that is missing or asks for what Levin's model is not.
 */
export function transNormerConfig(json: unknown): TransNormerConfig {
  const fields = new PublishedConfig("transnormer", json);
  fields.expect("norm_type", "simplermsnorm");
  fields.expect("linear_act_fun", "silu");
  fields.expect("bias", false);
  fields.expect("no_scale_embedding", false);
  const config = {
    vocabulary: fields.count("vocab_size"),
    size: fields.count("decoder_embed_dim"),
    layers: fields.count("decoder_layers"),
    heads: fields.count("decoder_attention_heads"),
    inner: fields.count("glu_dim"),
  };
  // LRPE in the first layer only.
  fields.expect("linear_use_lrpe_list", [1, ...Array<number>(config.layers - 1).fill(0)]);
  if (fields.has("hidden_dim")) fields.expect("hidden_dim", config.size);
  return config;
}

/** How a model is made, beyond its sizes. The seed is 0 if none is given. */
export interface TransNormerOptions extends LayerOptions {
  /** Lightning Attention-1 or -2: the same function, in time quadratic or linear. Default 2. */
  attention?: LightningVersion;
  /** Tokens of a block of Lightning Attention-2. Default: what suits the device. */
  blockSize?: number;
}

/** One layer: attention and gated linear unit, each behind a norm and added to its input. */
export class TransNormerLayer extends Module {
  /** The attention. */
  readonly token_mixer: GatedLinearAttention;
  /** The gated linear unit. */
  readonly channel_mixer: SGLU;
  readonly #norm = new SRMSNorm();

  /** Layer number `layer` of a model. */
  constructor(config: TransNormerConfig, layer: number, options: TransNormerOptions) {
    super();
    const { size, heads, layers, inner } = config;
    const { attention, blockSize } = options;
    const { next } = optionsOfParts(options);
    this.token_mixer = new GatedLinearAttention(size, {
      ...next(),
      heads,
      slopes: decaySlopes(heads, { layer, layers }),
      positions: layer === 0,
      attention,
      blockSize,
    });
    this.channel_mixer = new SGLU(size, inner, next());
  }

  /** x [b, n, size], at position `start`, after what `memory` holds → the same shape. */
  forward(x: Tensor, start?: number | readonly number[], memory?: LinearMemory): Tensor {
    return tidy(() => {
      const h = this.token_mixer.forward(this.#norm.forward(x), start, memory, x);
      return this.channel_mixer.forward(this.#norm.forward(h), h);
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
  constructor(config: TransNormerConfig, options: TransNormerOptions) {
    super();
    const { next } = optionsOfParts(options);
    this.embed_tokens = new Embedding(config.vocabulary, config.size, next());
    this.layers = Array.from(
      { length: config.layers },
      (_, layer) => new TransNormerLayer(config, layer, { ...options, ...next() }),
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
    checkSizes("TransNormerLLM", { ...config });
    if (config.size % config.heads !== 0) {
      throw new ShapeError(
        `TransNormerLLM: ${config.heads} heads do not divide a size of ${config.size}`,
      );
    }
    const { next } = optionsOfParts({ seed: 0, ...options });
    this.config = config;
    this.model = new TransNormerBody(config, { ...options, ...next() });
    this.lm_head = new Linear(config.size, config.vocabulary, next());
  }

  /** ids [b, n], which come after what `context` remembers → what the head sees [b, n, size]. */
  hidden(ids: Tensor, context?: Context): Tensor {
    return tidy(() => {
      const embedded = this.model.embed_tokens.forward(ids).mul(Math.sqrt(this.config.size));
      const y = throughLayers(
        this.model.layers,
        embedded.to(this.compute ?? embedded.dtype),
        (layer, x, i) =>
          layer.forward(x, context?.positions, context?.layers[i] as LinearMemory | undefined),
        this.recompute,
      );
      return this.#norm.forward(y);
    });
  }

  /** What the head sees [.., size] → logits [.., vocabulary]. */
  logits(hidden: Tensor): Tensor {
    return this.lm_head.forward(hidden);
  }

  /** A state, whatever the capacity. */
  protected memory(): LinearMemory {
    return new LinearMemory();
  }
}

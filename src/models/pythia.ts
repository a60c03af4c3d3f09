/**
 * Pythia (Biderman et al., arXiv 2304.01373), which is GPT-NeoX (Black et al., arXiv 2204.06745): softmax
 * attention with rotary positions on a part of each head, beside the feed-forward and not before it.
 *
 *     x = Embed(ids);  per layer  x += Attention(LayerNorm₁(x)) + FeedForward(LayerNorm₂(x));
 *     logits = LayerNorm(x) W_headᵀ
 *
 * @module
 */
import { ShapeError } from "../errors.ts";
import { Embedding, type LayerOptions, Linear, optionsOfParts } from "../nn/linear.ts";
import type { SoftmaxMemory } from "../nn/memory.ts";
import { Module } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { Rotary } from "../nn/rotary.ts";
import { flashAttention } from "../ops/flash_attention.ts";
import { rotary } from "../ops/rotary.ts";
import { split } from "../ops/views.ts";
import { tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { checkSizes } from "./language_model.ts";
import { PublishedConfig } from "./published.ts";
import { RotaryModel, type RotaryParts } from "./rotary_model.ts";

/** The sizes of a {@linkcode Pythia}. */
export interface PythiaConfig {
  /** Tokens in the vocabulary. */
  vocabulary: number;
  /** The size of a token's vector. */
  size: number;
  /** Layers. */
  layers: number;
  /** Heads; they divide `size`. */
  heads: number;
  /** The inner size of the feed-forward. */
  inner: number;
  /** The part of each head that is turned by its position. Default 0.25. */
  rotaryFraction?: number;
  /** The base of the rotary frequencies. Default 10000. */
  rotaryBase?: number;
  /** ε of the norms. Default 1e-5. */
  epsilon?: number;
  /** Attention and feed-forward read the same x; if not, the one is added before the other. Default true. */
  parallel?: boolean;
  /** Tokens of the longest sequence that it was trained on. Default: not known. */
  contextLength?: number;
}

/**
 * What a released config.json of model type `gpt_neox` says.
 *
 * @throws {FormatError} naming a field that is missing or asks for what Levin's model is not.
 */
export function pythiaConfig(json: unknown): PythiaConfig {
  const fields = new PublishedConfig("gpt_neox", json);
  fields.expect("hidden_act", "gelu");
  fields.expect("tie_word_embeddings", false);
  fields.expect("attention_bias", true);
  fields.expect("rope_scaling", null);
  return {
    vocabulary: fields.count("vocab_size"),
    size: fields.count("hidden_size"),
    layers: fields.count("num_hidden_layers"),
    heads: fields.count("num_attention_heads"),
    inner: fields.count("intermediate_size"),
    rotaryFraction: fields.number("rotary_pct", 0.25),
    rotaryBase: fields.number("rotary_emb_base", 10000),
    epsilon: fields.number("layer_norm_eps", 1e-5),
    parallel: fields.flag("use_parallel_residual", true),
    contextLength: fields.count("max_position_embeddings", 2048),
  };
}

/** Softmax attention, turned by positions in part of each head. Field names are those of checkpoints. */
export class PythiaAttention extends Module {
  /** For queries, keys and values: for each head its q, its k and its v. */
  readonly query_key_value: Linear;
  /** From the heads' outputs. */
  readonly dense: Linear;
  readonly #heads: number;

  /** For a layer of a model. */
  constructor({ size, heads }: PythiaConfig, options: LayerOptions) {
    super();
    const { next } = optionsOfParts(options);
    this.query_key_value = new Linear(size, 3 * size, { ...next(), bias: true });
    this.dense = new Linear(size, size, { ...next(), bias: true });
    this.#heads = heads;
  }

  /**
   * x [b, n, size], turned by `rotations`, after what `memory` holds → the same shape, added to a `residual` of it if
   * there is one.
   */
  forward(x: Tensor, rotations: Tensor, memory?: SoftmaxMemory, residual?: Tensor): Tensor {
    return tidy(() => {
      const [b, n, size] = x.shape;
      const all = this.query_key_value.forward(x).reshape([
        b,
        n,
        this.#heads,
        3 * size / this.#heads,
      ]);
      const [q, k, v] = split(all.permute([0, 2, 1, 3]), 3, -1);
      const [turnedQ, turnedK] = [rotary(q, rotations), rotary(k, rotations)];
      const o = memory === undefined
        ? flashAttention(turnedQ, turnedK, v)
        : memory.attend(turnedQ, turnedK, v);
      return this.dense.forward(o.permute([0, 2, 1, 3]).reshape([b, n, size]), residual);
    });
  }
}

/** gelu(x W₁ + b₁) W₂ + b₂. */
export class PythiaFeedForward extends Module {
  /** W₁ and b₁. */
  readonly dense_h_to_4h: Linear;
  /** W₂ and b₂. */
  readonly dense_4h_to_h: Linear;

  /** For a layer of a model. */
  constructor({ size, inner }: PythiaConfig, options: LayerOptions) {
    super();
    const { next } = optionsOfParts(options);
    this.dense_h_to_4h = new Linear(size, inner, { ...next(), bias: true });
    this.dense_4h_to_h = new Linear(inner, size, { ...next(), bias: true });
  }

  /** x [.., size] → the same shape, added to a `residual` of it if there is one. */
  forward(x: Tensor, residual?: Tensor): Tensor {
    return tidy(() => this.dense_4h_to_h.forward(this.dense_h_to_4h.forward(x).gelu(), residual));
  }
}

/** One layer: attention and feed-forward side by side. */
export class PythiaLayer extends Module {
  /** Before the attention. */
  readonly input_layernorm: LayerNorm;
  /** Before the feed-forward. */
  readonly post_attention_layernorm: LayerNorm;
  /** The attention. */
  readonly attention: PythiaAttention;
  /** The feed-forward. */
  readonly mlp: PythiaFeedForward;
  readonly #parallel: boolean;

  /** For a model of these sizes. */
  constructor(config: PythiaConfig, options: LayerOptions) {
    super();
    const { next } = optionsOfParts(options);
    const norm = { ...options, epsilon: config.epsilon };
    this.input_layernorm = new LayerNorm(config.size, norm);
    this.post_attention_layernorm = new LayerNorm(config.size, norm);
    this.attention = new PythiaAttention(config, next());
    this.mlp = new PythiaFeedForward(config, next());
    this.#parallel = config.parallel ?? true;
  }

  /** x [b, n, size], turned by `rotations`, after what `memory` holds → the same shape. */
  forward(x: Tensor, rotations: Tensor, memory?: SoftmaxMemory): Tensor {
    return tidy(() => {
      const h = this.attention.forward(this.input_layernorm.forward(x), rotations, memory, x);
      return this.mlp.forward(this.post_attention_layernorm.forward(this.#parallel ? x : h), h);
    });
  }
}

/** The embedding, the layers and the last norm. */
export class PythiaBody extends Module {
  /** A vector for each token. */
  readonly embed_in: Embedding;
  /** The layers, in order. */
  readonly layers: PythiaLayer[];
  /** After the last layer. */
  readonly final_layer_norm: LayerNorm;

  /** All layers of a model. */
  constructor(config: PythiaConfig, options: LayerOptions) {
    super();
    const { next } = optionsOfParts(options);
    this.embed_in = new Embedding(config.vocabulary, config.size, next());
    this.layers = Array.from({ length: config.layers }, () => new PythiaLayer(config, next()));
    this.final_layer_norm = new LayerNorm(config.size, { ...options, epsilon: config.epsilon });
  }
}

/**
 * A Pythia. Parameters have the names of released checkpoints.
 *
 * @example
 * ```ts
 * import { tensor } from "@levin/levin";
 * import { Pythia } from "@levin/levin/models";
 *
 * using model = new Pythia({ vocabulary: 256, size: 32, layers: 2, heads: 4, inner: 128 });
 * console.log(model.forward(tensor([[72, 105]], { dtype: "i32" })).shape); // [1, 2, 256]
 * ```
 */
export class Pythia extends RotaryModel {
  /** The sizes. */
  readonly config: PythiaConfig;
  /** Embedding, layers and norm. */
  readonly gpt_neox: PythiaBody;
  /** From the norm to logits. */
  readonly embed_out: Linear;
  /** The rotations of positions. */
  readonly rotary: Rotary;

  /**
   * A model with random weights; the seed is 0 if none is given.
   *
   * @throws {ShapeError} if sizes make no sense.
   */
  constructor(config: PythiaConfig, options: LayerOptions = {}) {
    super();
    const { vocabulary, size, layers, heads, inner, rotaryFraction = 0.25, rotaryBase } = config;
    checkSizes("Pythia", { vocabulary, size, layers, heads, inner, headSize: size / heads });
    const turned = Math.floor(size / heads * rotaryFraction);
    if (turned < 2 || turned % 2 !== 0 || rotaryFraction > 1) {
      throw new ShapeError(
        `Pythia: expected rotary positions on an even number of elements, found ${rotaryFraction} of ` +
          `a head of ${size / heads}`,
      );
    }
    const { next } = optionsOfParts({ seed: 0, ...options });
    this.config = config;
    this.gpt_neox = new PythiaBody(config, next());
    this.embed_out = new Linear(size, vocabulary, next());
    this.rotary = new Rotary(turned, { base: rotaryBase, device: options.device });
  }

  /** Under the names that checkpoints have. */
  protected get parts(): RotaryParts {
    const { embed_in: embedding, layers, final_layer_norm: norm } = this.gpt_neox;
    return { embedding, layers, norm };
  }

  /** What the head sees [.., size] → logits [.., vocabulary]. */
  logits(hidden: Tensor): Tensor {
    return this.embed_out.forward(hidden);
  }

  /** Old checkpoints hold causal masks and the rotary frequencies too. */
  override isDerived(name: string): boolean {
    return /\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$/.test(name);
  }
}

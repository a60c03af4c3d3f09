/**
 * LLaMA (Touvron et al., arXiv 2302.13971): a language model whose attention is softmax attention.
 *
 *     x = Embed(ids);  per layer  x += Attention(RMSNorm(x)),  x += SwiGLU(RMSNorm(x));
 *     logits = RMSNorm(x) W_headᵀ
 *
 * @module
 */
import { ShapeError } from "../errors.ts";
import { Embedding, type LayerOptions, Linear, optionsOfParts } from "../nn/linear.ts";
import type { SoftmaxMemory } from "../nn/memory.ts";
import { Module } from "../nn/module.ts";
import { RMSNorm } from "../nn/norm.ts";
import { Rotary, type RotaryScaling } from "../nn/rotary.ts";
import { flashAttention } from "../ops/flash_attention.ts";
import { rotary } from "../ops/rotary.ts";
import { tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { checkSizes } from "./language_model.ts";
import { PublishedConfig } from "./published.ts";
import { RotaryModel, type RotaryParts } from "./rotary_model.ts";

/** The sizes of a {@linkcode Llama}. */
export interface LlamaConfig {
  /** Tokens in the vocabulary. */
  vocabulary: number;
  /** The size of a token's vector. */
  size: number;
  /** Layers. */
  layers: number;
  /** Heads. */
  heads: number;
  /** Heads of keys and values; they divide `heads`. Default: as many. */
  keyHeads?: number;
  /** The size of a head. Default: size / heads. */
  headSize?: number;
  /** The inner size of the gated linear unit. */
  inner: number;
  /** ε of the norms. Default 1e-6. */
  epsilon?: number;
  /** The base of the rotary frequencies. Default 10000. */
  rotaryBase?: number;
  /** How the rotary frequencies are changed. Default: not at all. */
  rotaryScaling?: RotaryScaling;
  /** Tokens of the longest sequence that it was trained on. Default: not known. */
  contextLength?: number;
  /** Biases in the projections of the attention. Default false. */
  attentionBias?: boolean;
  /** Biases in the gated linear unit. Default false. */
  innerBias?: boolean;
  /** The head is the embedding. Default false. */
  tied?: boolean;
}

/**
 * What a released config.json of model type `llama` says.
 *
 * @throws {FormatError} naming a field that is missing or asks for what Levin's model is not.
 */
export function llamaConfig(json: unknown): LlamaConfig {
  const fields = new PublishedConfig("llama", json);
  fields.expect("hidden_act", "silu");
  const contextLength = fields.count("max_position_embeddings", 2048);
  return {
    vocabulary: fields.count("vocab_size"),
    size: fields.count("hidden_size"),
    layers: fields.count("num_hidden_layers"),
    heads: fields.count("num_attention_heads"),
    keyHeads: fields.count("num_key_value_heads", fields.count("num_attention_heads")),
    headSize: fields.has("head_dim") ? fields.count("head_dim") : undefined,
    inner: fields.count("intermediate_size"),
    epsilon: fields.number("rms_norm_eps", 1e-6),
    rotaryBase: fields.number("rope_theta", 10000),
    rotaryScaling: scalingOf(fields.inside("rope_scaling"), contextLength),
    contextLength,
    attentionBias: fields.flag("attention_bias"),
    innerBias: fields.flag("mlp_bias"),
    tied: fields.flag("tie_word_embeddings"),
  };
}

function scalingOf(fields: PublishedConfig | undefined, length: number): RotaryScaling | undefined {
  const type = fields?.text("rope_type") ?? fields?.text("type") ?? "default";
  if (fields === undefined || type === "default") return undefined;
  const factor = fields.number("factor");
  if (type === "linear") return { type, factor };
  fields.expect(fields.has("rope_type") ? "rope_type" : "type", "llama3");
  return {
    type: "llama3",
    factor,
    lowTurns: fields.number("low_freq_factor"),
    highTurns: fields.number("high_freq_factor"),
    originalLength: fields.count("original_max_position_embeddings", length),
  };
}

/** Softmax attention with rotary positions and grouped heads. Field names are those of checkpoints. */
export class LlamaAttention extends Module {
  /** For queries. */
  readonly q_proj: Linear;
  /** For keys. */
  readonly k_proj: Linear;
  /** For values. */
  readonly v_proj: Linear;
  /** From the heads' outputs. */
  readonly o_proj: Linear;
  readonly #headSize: number;

  /** For a layer of a model. */
  constructor(config: LlamaConfig, options: LayerOptions) {
    super();
    const { size, heads, keyHeads = heads, headSize = size / heads, attentionBias: bias } = config;
    const { next } = optionsOfParts(options);
    this.#headSize = headSize;
    this.q_proj = new Linear(size, heads * headSize, { ...next(), bias });
    this.k_proj = new Linear(size, keyHeads * headSize, { ...next(), bias });
    this.v_proj = new Linear(size, keyHeads * headSize, { ...next(), bias });
    this.o_proj = new Linear(heads * headSize, size, { ...next(), bias });
  }

  /**
   * x [b, n, size], turned by `rotations`, after what `memory` holds → the same shape, added to a `residual` of it if
   * there is one.
   */
  forward(x: Tensor, rotations: Tensor, memory?: SoftmaxMemory, residual?: Tensor): Tensor {
    return tidy(() => {
      const [b, n] = x.shape;
      const byHead = (t: Tensor) => t.reshape([b, n, -1, this.#headSize]).permute([0, 2, 1, 3]);
      const q = rotary(byHead(this.q_proj.forward(x)), rotations);
      const k = rotary(byHead(this.k_proj.forward(x)), rotations);
      const v = byHead(this.v_proj.forward(x));
      const o = memory === undefined ? flashAttention(q, k, v) : memory.attend(q, k, v);
      return this.o_proj.forward(o.permute([0, 2, 1, 3]).reshape([b, n, -1]), residual);
    });
  }
}

/** SwiGLU: (silu(x W_gate) ⊙ (x W_up)) W_down (Shazeer, arXiv 2002.05202). */
export class SwiGLU extends Module {
  /** W_gate. */
  readonly gate_proj: Linear;
  /** W_up. */
  readonly up_proj: Linear;
  /** W_down. */
  readonly down_proj: Linear;

  /** For a layer of a model. */
  constructor({ size, inner, innerBias: bias }: LlamaConfig, options: LayerOptions) {
    super();
    const { next } = optionsOfParts(options);
    this.gate_proj = new Linear(size, inner, { ...next(), bias });
    this.up_proj = new Linear(size, inner, { ...next(), bias });
    this.down_proj = new Linear(inner, size, { ...next(), bias });
  }

  /** x [.., size] → the same shape, added to a `residual` of it if there is one. */
  forward(x: Tensor, residual?: Tensor): Tensor {
    return tidy(() => {
      const gated = this.gate_proj.forward(x).silu().mul(this.up_proj.forward(x));
      return this.down_proj.forward(gated, residual);
    });
  }
}

/** One layer: attention and gated linear unit, each behind a norm and added to its input. */
export class LlamaLayer extends Module {
  /** The attention. */
  readonly self_attn: LlamaAttention;
  /** The gated linear unit. */
  readonly mlp: SwiGLU;
  /** Before the attention. */
  readonly input_layernorm: RMSNorm;
  /** Before the gated linear unit. */
  readonly post_attention_layernorm: RMSNorm;

  /** For a model of these sizes. */
  constructor(config: LlamaConfig, options: LayerOptions) {
    super();
    const { next } = optionsOfParts(options);
    const norm = { ...options, epsilon: config.epsilon ?? 1e-6 };
    this.self_attn = new LlamaAttention(config, next());
    this.mlp = new SwiGLU(config, next());
    this.input_layernorm = new RMSNorm(config.size, norm);
    this.post_attention_layernorm = new RMSNorm(config.size, norm);
  }

  /** x [b, n, size], turned by `rotations`, after what `memory` holds → the same shape. */
  forward(x: Tensor, rotations: Tensor, memory?: SoftmaxMemory): Tensor {
    return tidy(() => {
      const h = this.self_attn.forward(this.input_layernorm.forward(x), rotations, memory, x);
      return this.mlp.forward(this.post_attention_layernorm.forward(h), h);
    });
  }
}

/** The embedding, the layers and the last norm. */
export class LlamaBody extends Module {
  /** A vector for each token. */
  readonly embed_tokens: Embedding;
  /** The layers, in order. */
  readonly layers: LlamaLayer[];
  /** After the last layer. */
  readonly norm: RMSNorm;

  /** All layers of a model. */
  constructor(config: LlamaConfig, options: LayerOptions) {
    super();
    const { next } = optionsOfParts(options);
    this.embed_tokens = new Embedding(config.vocabulary, config.size, next());
    this.layers = Array.from({ length: config.layers }, () => new LlamaLayer(config, next()));
    this.norm = new RMSNorm(config.size, { ...options, epsilon: config.epsilon ?? 1e-6 });
  }
}

/**
 * A LLaMA. Parameters have the names of released checkpoints.
 *
 * @example
 * ```ts
 * import { tensor } from "@levin/levin";
 * import { Llama } from "@levin/levin/models";
 *
 * const config = { vocabulary: 256, size: 32, layers: 2, heads: 4, keyHeads: 2, inner: 64 };
 * using model = new Llama(config);
 * console.log(model.forward(tensor([[72, 105]], { dtype: "i32" })).shape); // [1, 2, 256]
 * ```
 */
export class Llama extends RotaryModel {
  /** The sizes. */
  readonly config: LlamaConfig;
  /** Embedding, layers and norm. */
  readonly model: LlamaBody;
  /** From the norm to logits, unless that is the embedding. */
  readonly lm_head: Linear | undefined;
  /** The rotations of positions. */
  readonly rotary: Rotary;

  /**
   * A model with random weights; the seed is 0 if none is given.
   *
   * @throws {ShapeError} if sizes make no sense.
   */
  constructor(config: LlamaConfig, options: LayerOptions = {}) {
    super();
    const { vocabulary, size, layers, heads, inner, keyHeads = heads } = config;
    const { headSize = size / heads, rotaryBase: base, rotaryScaling: scaling } = config;
    checkSizes("Llama", { vocabulary, size, layers, heads, keyHeads, headSize, inner });
    if (heads % keyHeads !== 0 || headSize % 2 !== 0) {
      throw new ShapeError(
        `Llama: expected key heads that divide heads, and heads of even size, found ${keyHeads} of ` +
          `${heads} and ${headSize}`,
      );
    }
    const { next } = optionsOfParts({ seed: 0, ...options });
    this.config = config;
    this.model = new LlamaBody(config, next());
    this.lm_head = config.tied ? undefined : new Linear(size, vocabulary, next());
    this.rotary = new Rotary(headSize, { base, scaling, device: options.device });
  }

  /** Under the names that checkpoints have. */
  protected get parts(): RotaryParts {
    const { embed_tokens: embedding, layers, norm } = this.model;
    return { embedding, layers, norm };
  }

  /** What the head sees [.., size] → logits [.., vocabulary]. */
  logits(hidden: Tensor): Tensor {
    if (this.lm_head !== undefined) return this.lm_head.forward(hidden);
    return tidy(() => hidden.matmul(this.model.embed_tokens.weight.to(hidden.dtype).transpose()));
  }

  /** Old checkpoints hold the rotary frequencies too, and some tied ones the head. */
  override isDerived(name: string): boolean {
    return name.endsWith("rotary_emb.inv_freq") ||
      (this.lm_head === undefined && name === "lm_head.weight");
  }
}

/** Small checkpoints, written byte by byte in the formats and under the names of released ones. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { llamaLogits, pythiaLogits, transNormerLogits, type Weights } from "./model_oracles.ts";

/** A kind of model: its config.json, the shapes of its checkpoint, and its forward pass in float64. */
export interface Kind {
  name: string;
  config: Record<string, unknown>;
  shapes: Record<string, number[]>;
  logits: (weights: Weights, ids: number[]) => number[][];
}

const perLayer = (layers: number, shapes: (l: number) => Record<string, number[]>) =>
  Object.assign({}, ...Array.from({ length: layers }, (_, l) => shapes(l)));

export function llama(changes: Record<string, unknown> = {}): Kind {
  const config = {
    model_type: "llama",
    architectures: ["LlamaForCausalLM"],
    vocab_size: 19,
    hidden_size: 16,
    intermediate_size: 24,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    rope_theta: 500,
    hidden_act: "silu",
    tie_word_embeddings: false,
    attention_bias: false,
    rope_scaling: null,
    torch_dtype: "bfloat16",
    ...changes,
  };
  const { hidden_size: size, intermediate_size: inner, num_hidden_layers: layers } = config;
  const head = (config as { head_dim?: number }).head_dim ?? size / config.num_attention_heads;
  const [q, kv] = [head * config.num_attention_heads, head * config.num_key_value_heads];
  const shapes = {
    "model.embed_tokens.weight": [config.vocab_size, size],
    "model.norm.weight": [size],
    ...(config.tie_word_embeddings ? {} : { "lm_head.weight": [config.vocab_size, size] }),
    ...perLayer(layers, (l) => ({
      [`model.layers.${l}.self_attn.q_proj.weight`]: [q, size],
      [`model.layers.${l}.self_attn.k_proj.weight`]: [kv, size],
      [`model.layers.${l}.self_attn.v_proj.weight`]: [kv, size],
      [`model.layers.${l}.self_attn.o_proj.weight`]: [size, q],
      ...(config.attention_bias
        ? {
          [`model.layers.${l}.self_attn.q_proj.bias`]: [q],
          [`model.layers.${l}.self_attn.k_proj.bias`]: [kv],
          [`model.layers.${l}.self_attn.v_proj.bias`]: [kv],
          [`model.layers.${l}.self_attn.o_proj.bias`]: [size],
        }
        : {}),
      [`model.layers.${l}.mlp.gate_proj.weight`]: [inner, size],
      [`model.layers.${l}.mlp.up_proj.weight`]: [inner, size],
      [`model.layers.${l}.mlp.down_proj.weight`]: [size, inner],
      [`model.layers.${l}.input_layernorm.weight`]: [size],
      [`model.layers.${l}.post_attention_layernorm.weight`]: [size],
    })),
  };
  return { name: "LLaMA", config, shapes, logits: (w, ids) => llamaLogits(config, w, ids) };
}

export function pythia(changes: Record<string, unknown> = {}): Kind {
  const config = {
    model_type: "gpt_neox",
    architectures: ["GPTNeoXForCausalLM"],
    vocab_size: 19,
    hidden_size: 32,
    intermediate_size: 40,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    max_position_embeddings: 64,
    layer_norm_eps: 1e-5,
    rotary_pct: 0.25,
    rotary_emb_base: 10000,
    hidden_act: "gelu",
    tie_word_embeddings: false,
    use_parallel_residual: true,
    torch_dtype: "float16",
    ...changes,
  };
  const { hidden_size: size, intermediate_size: inner, num_hidden_layers: layers } = config;
  const withBias = (name: string, shape: number[]) => ({
    [`${name}.weight`]: shape,
    [`${name}.bias`]: [shape[0]],
  });
  const shapes = {
    "gpt_neox.embed_in.weight": [config.vocab_size, size],
    "embed_out.weight": [config.vocab_size, size],
    ...withBias("gpt_neox.final_layer_norm", [size]),
    ...perLayer(layers, (l) => ({
      ...withBias(`gpt_neox.layers.${l}.input_layernorm`, [size]),
      ...withBias(`gpt_neox.layers.${l}.post_attention_layernorm`, [size]),
      ...withBias(`gpt_neox.layers.${l}.attention.query_key_value`, [3 * size, size]),
      ...withBias(`gpt_neox.layers.${l}.attention.dense`, [size, size]),
      ...withBias(`gpt_neox.layers.${l}.mlp.dense_h_to_4h`, [inner, size]),
      ...withBias(`gpt_neox.layers.${l}.mlp.dense_4h_to_h`, [size, inner]),
    })),
  };
  return { name: "Pythia", config, shapes, logits: (w, ids) => pythiaLogits(config, w, ids) };
}

export function transNormer(changes: Record<string, unknown> = {}): Kind {
  const config = {
    model_type: "transnormer",
    architectures: ["TransnormerForCausalLM"],
    vocab_size: 19,
    decoder_embed_dim: 16,
    decoder_layers: 3,
    decoder_attention_heads: 4,
    glu_dim: 24,
    hidden_dim: 16,
    norm_type: "simplermsnorm",
    linear_act_fun: "silu",
    linear_use_lrpe_list: [1, 0, 0],
    no_scale_embedding: false,
    bias: false,
    torch_dtype: "float16",
    ...changes,
  };
  const { decoder_embed_dim: size, glu_dim: inner, decoder_layers: layers } = config;
  const heads = config.decoder_attention_heads;
  const shapes = {
    "model.embed_tokens.weight": [config.vocab_size, size],
    "lm_head.weight": [config.vocab_size, size],
    "model.layers.0.token_mixer.lrpe.theta": [heads, 1, size / heads],
    ...perLayer(layers, (l) => ({
      [`model.layers.${l}.token_mixer.qkvu_proj.weight`]: [4 * size, size],
      [`model.layers.${l}.token_mixer.out_proj.weight`]: [size, size],
      [`model.layers.${l}.channel_mixer.l1.weight`]: [inner, size],
      [`model.layers.${l}.channel_mixer.l2.weight`]: [inner, size],
      [`model.layers.${l}.channel_mixer.l3.weight`]: [size, inner],
    })),
  };
  const logits = (w: Weights, ids: number[]) => transNormerLogits(config, w, ids);
  return { name: "TransNormerLLM", config, shapes, logits };
}

export const KINDS: readonly Kind[] = [transNormer(), llama(), pythia()];

export type Stored = "F32" | "F16" | "BF16";

/** Numbers that look random, of about the size of 1/2; norms' weights near 1. */
function drawn(name: string, count: number, seed: number): number[] {
  let state = seed + 1;
  for (const c of name) state = (state * 31 + c.charCodeAt(0)) % 2147483647;
  const centre = name.includes("norm") && name.endsWith("weight") ? 1 : 0;
  return Array.from({ length: count }, () => {
    state = state * 48271 % 2147483647;
    return centre + (state / 2147483647 - 0.5);
  });
}

/** `values` as the bytes of a stored dtype, and the numbers that these bytes are. */
function stored(values: number[], dtype: Stored): { bytes: Uint8Array; exact: ArrayLike<number> } {
  const single = new Float32Array(values);
  if (dtype === "F32") return { bytes: new Uint8Array(single.buffer), exact: single };
  if (dtype === "F16") {
    const half = new Float16Array(values);
    return { bytes: new Uint8Array(half.buffer), exact: half };
  }
  const words = new Uint32Array(single.buffer);
  const halves = new Uint16Array(values.length);
  words.forEach((word, i) => halves[i] = word >>> 16);
  return {
    bytes: new Uint8Array(halves.buffer),
    exact: new Float32Array(words.map((word) => word & 0xffff0000).buffer),
  };
}

export interface WriteOptions {
  dtype?: Stored;
  /** Files, with an index if there is more than one. */
  shards?: number;
  seed?: number;
  /** Tensors that the model does not name, by shape. */
  extra?: Record<string, number[]>;
  /** Shapes other than the model's, and tensors to leave out (null). */
  changed?: Record<string, number[] | null>;
}

/** Writes config.json and the weights to `folder`, and returns the numbers that the files hold. */
export async function writeCheckpoint(
  folder: string,
  { config, shapes }: Kind,
  { dtype = "F32", shards = 1, seed = 1, extra = {}, changed = {} }: WriteOptions = {},
): Promise<Weights> {
  await writeFile(`${folder}/config.json`, JSON.stringify(config));
  const weights: Weights = {};
  const files: [header: Record<string, unknown>, data: Uint8Array[], end: number][] = [];
  const map: Record<string, string> = {};
  const fileName = (i: number) =>
    shards === 1
      ? "model.safetensors"
      : `model-${`${i + 1}`.padStart(5, "0")}-of-${`${shards}`.padStart(5, "0")}.safetensors`;
  Object.entries({ ...shapes, ...extra, ...changed }).forEach(([name, shape], i) => {
    if (shape === null) return;
    const count = shape.reduce((a, b) => a * b, 1);
    const { bytes, exact } = stored(drawn(name, count, seed), dtype);
    weights[name] = { shape, values: exact };
    const file = files[i % shards] ??= [{ __metadata__: { format: "pt" } }, [], 0];
    file[0][name] = { dtype, shape, data_offsets: [file[2], file[2] + bytes.length] };
    file[1].push(bytes);
    file[2] += bytes.length;
    map[name] = fileName(i % shards);
  });
  for (const [i, [header, data]] of files.entries()) {
    const json = new TextEncoder().encode(JSON.stringify(header));
    const first = new Uint8Array(8);
    new DataView(first.buffer).setBigUint64(0, BigInt(json.length), true);
    await writeFile(
      `${folder}/${fileName(i)}`,
      new Blob([first, json, ...data as BlobPart[]]).stream(),
    );
  }
  if (shards > 1) {
    const index = { metadata: { total_size: 0 }, weight_map: map };
    await writeFile(`${folder}/model.safetensors.index.json`, JSON.stringify(index));
  }
  return weights;
}

/** Runs `fn` with a folder that is gone afterwards. */
export async function inFolder(fn: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "levin-"));
  try {
    await fn(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

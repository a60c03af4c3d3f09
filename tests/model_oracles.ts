/**
 * The forward passes of three language models in float64, one number at a time, straight from the papers and
 * from the layout of released checkpoints. They share no code with what they judge.
 */

/** A checkpoint's tensors: numbers in row-major order. */
export type Weights = Record<string, { shape: number[]; values: ArrayLike<number> }>;

// deno-lint-ignore no-explicit-any
type Json = any;
type Rows = number[][];

const silu = (x: number) => x / (1 + Math.exp(-x));

/** x Wᵀ + b for W [out, in]. */
function linear(x: Rows, w: Weights, name: string): Rows {
  const { shape: [outputs, inputs], values } = w[`${name}.weight`];
  const bias = w[`${name}.bias`]?.values;
  return x.map((row) =>
    Array.from({ length: outputs }, (_, o) => {
      let sum = bias === undefined ? 0 : bias[o];
      for (let i = 0; i < inputs; i++) sum += row[i] * values[o * inputs + i];
      return sum;
    })
  );
}

const add = (a: Rows, b: Rows): Rows => a.map((row, t) => row.map((x, i) => x + b[t][i]));
const times = (a: Rows, b: Rows): Rows => a.map((row, t) => row.map((x, i) => x * b[t][i]));

function lookUp(ids: number[], w: Weights, name: string): Rows {
  const { shape: [, size], values } = w[name];
  return ids.map((id) => Array.from({ length: size }, (_, i) => values[id * size + i]));
}

function rms(x: Rows, epsilon: number, weight?: ArrayLike<number>): Rows {
  return x.map((row) => {
    const root = Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / row.length + epsilon);
    return row.map((v, i) => v / root * (weight === undefined ? 1 : weight[i]));
  });
}

function layerNorm(x: Rows, epsilon: number, w: Weights, name: string): Rows {
  const [weight, bias] = [w[`${name}.weight`].values, w[`${name}.bias`].values];
  return x.map((row) => {
    const mean = row.reduce((sum, v) => sum + v, 0) / row.length;
    const variance = row.reduce((sum, v) => sum + (v - mean) ** 2, 0) / row.length;
    return row.map((v, i) => (v - mean) / Math.sqrt(variance + epsilon) * weight[i] + bias[i]);
  });
}

/** The first `turned` elements by the angle of position t, element i beside i + turned/2. */
function rotate(
  x: number[],
  t: number,
  turned: number,
  frequency: (j: number) => number,
): number[] {
  const y = [...x];
  for (let j = 0; j < turned / 2; j++) {
    const angle = t * frequency(j);
    const [a, b] = [x[j], x[j + turned / 2]];
    y[j] = a * Math.cos(angle) - b * Math.sin(angle);
    y[j + turned / 2] = b * Math.cos(angle) + a * Math.sin(angle);
  }
  return y;
}

/** Causal softmax attention of one head. */
function softmaxAttention(q: Rows, k: Rows, v: Rows): Rows {
  return q.map((query, t) => {
    const scores = k.slice(0, t + 1).map((key) =>
      query.reduce((sum, x, i) => sum + x * key[i], 0) / Math.sqrt(query.length)
    );
    const powers = scores.map((s) => Math.exp(s - Math.max(...scores)));
    const total = powers.reduce((a, b) => a + b);
    return v[0].map((_, c) => powers.reduce((sum, p, s) => sum + p / total * v[s][c], 0));
  });
}

const columns = (x: Rows, from: number, count: number): Rows =>
  x.map((row) => row.slice(from, from + count));
const beside = (parts: Rows[]): Rows => parts[0].map((_, t) => parts.flatMap((rows) => rows[t]));

/** LLaMA from a config.json of model type `llama`. */
export function llamaLogits(config: Json, w: Weights, ids: number[]): Rows {
  const heads = config.num_attention_heads;
  const groups = config.num_key_value_heads ?? heads;
  const d = config.head_dim ?? config.hidden_size / heads;
  const scaling = config.rope_scaling;
  const frequency = (j: number) => {
    const f = 1 / (config.rope_theta ?? 10000) ** (2 * j / d);
    if (!scaling) return f;
    if (scaling.type === "linear") return f / scaling.factor;
    const wavelength = 2 * Math.PI / f;
    const { factor, low_freq_factor: low, high_freq_factor: high } = scaling;
    const length = scaling.original_max_position_embeddings;
    if (wavelength < length / high) return f;
    if (wavelength > length / low) return f / factor;
    const smooth = (length / wavelength - low) / (high - low);
    return (1 - smooth) * f / factor + smooth * f;
  };
  let x = lookUp(ids, w, "model.embed_tokens.weight");
  for (let l = 0; l < config.num_hidden_layers; l++) {
    const at = `model.layers.${l}`;
    const h = rms(x, config.rms_norm_eps, w[`${at}.input_layernorm.weight`].values);
    const [q, k, v] = ["q", "k", "v"].map((name) => linear(h, w, `${at}.self_attn.${name}_proj`));
    const turn = (rows: Rows) => rows.map((row, t) => rotate(row, t, d, frequency));
    const o = Array.from({ length: heads }, (_, head) => {
      const group = Math.floor(head / (heads / groups));
      return softmaxAttention(
        turn(columns(q, head * d, d)),
        turn(columns(k, group * d, d)),
        columns(v, group * d, d),
      );
    });
    x = add(x, linear(beside(o), w, `${at}.self_attn.o_proj`));
    const g = rms(x, config.rms_norm_eps, w[`${at}.post_attention_layernorm.weight`].values);
    const gate = linear(g, w, `${at}.mlp.gate_proj`).map((row) => row.map(silu));
    x = add(x, linear(times(gate, linear(g, w, `${at}.mlp.up_proj`)), w, `${at}.mlp.down_proj`));
  }
  x = rms(x, config.rms_norm_eps, w["model.norm.weight"].values);
  return linear(x, w, config.tie_word_embeddings ? "model.embed_tokens" : "lm_head");
}

/** erf by ∫ e^(−t²), Simpson's rule. */
function erf(x: number): number {
  const steps = 400;
  const h = x / steps;
  let sum = 1 + Math.exp(-x * x);
  for (let i = 1; i < steps; i++) sum += (i % 2 === 1 ? 4 : 2) * Math.exp(-((i * h) ** 2));
  return 2 / Math.sqrt(Math.PI) * sum * h / 3;
}

/** Pythia from a config.json of model type `gpt_neox`. */
export function pythiaLogits(config: Json, w: Weights, ids: number[]): Rows {
  const heads = config.num_attention_heads;
  const d = config.hidden_size / heads;
  const turned = d * config.rotary_pct;
  const frequency = (j: number) => config.rotary_emb_base ** (-2 * j / turned);
  const epsilon = config.layer_norm_eps;
  let x = lookUp(ids, w, "gpt_neox.embed_in.weight");
  for (let l = 0; l < config.num_hidden_layers; l++) {
    const at = `gpt_neox.layers.${l}`;
    const all = linear(
      layerNorm(x, epsilon, w, `${at}.input_layernorm`),
      w,
      `${at}.attention.query_key_value`,
    );
    const turn = (rows: Rows) => rows.map((row, t) => rotate(row, t, turned, frequency));
    const o = Array.from({ length: heads }, (_, head) => {
      const [q, k, v] = [0, 1, 2].map((part) => columns(all, (3 * head + part) * d, d));
      return softmaxAttention(turn(q), turn(k), v);
    });
    const attended = linear(beside(o), w, `${at}.attention.dense`);
    const seen = config.use_parallel_residual ? x : add(x, attended);
    const h = layerNorm(seen, epsilon, w, `${at}.post_attention_layernorm`);
    const inner = linear(h, w, `${at}.mlp.dense_h_to_4h`)
      .map((row) => row.map((v) => v / 2 * (1 + erf(v / Math.SQRT2))));
    x = add(add(x, attended), linear(inner, w, `${at}.mlp.dense_4h_to_h`));
  }
  return linear(layerNorm(x, epsilon, w, "gpt_neox.final_layer_norm"), w, "embed_out");
}

/** ALiBi's slopes for a number of heads that is a power of two. */
const alibi = (heads: number) =>
  Array.from({ length: heads }, (_, h) => 2 ** (-8 * (h + 1) / heads));

/** TransNormerLLM from a config.json of model type `transnormer`, heads a power of two. */
export function transNormerLogits(config: Json, w: Weights, ids: number[]): Rows {
  const { decoder_embed_dim: size, decoder_layers: layers, decoder_attention_heads: heads } =
    config;
  const d = size / heads;
  let x = lookUp(ids, w, "model.embed_tokens.weight")
    .map((row) => row.map((v) => v * Math.sqrt(size)));
  for (let l = 0; l < layers; l++) {
    const at = `model.layers.${l}`;
    const all = linear(rms(x, 1e-6), w, `${at}.token_mixer.qkvu_proj`);
    const theta = w[`${at}.token_mixer.lrpe.theta`]?.values;
    const o = alibi(heads).map((slope, head) => {
      const decay = Math.exp(-slope * (1 - l / (layers - 1) + 1e-5));
      const part = (which: number) => columns(all, which * size + head * d, d);
      const [q, k] = [part(0), part(1)].map((rows) => rows.map((row) => row.map(silu)));
      const v = part(2);
      return q.map((query, t) => {
        const out = Array<number>(d).fill(0);
        for (let s = 0; s <= t; s++) {
          // With LRPE, Σ q k cos θ(t − s).
          const score = query.reduce(
            (sum, a, i) =>
              sum +
              a * k[s][i] * (theta === undefined ? 1 : Math.cos(theta[head * d + i] * (t - s))),
            0,
          );
          v[s].forEach((value, c) => out[c] += score * decay ** (t - s) * value);
        }
        return out;
      });
    });
    const u = columns(all, 3 * size, size);
    x = add(x, linear(times(u, rms(beside(o), 1e-6)), w, `${at}.token_mixer.out_proj`));
    const h = rms(x, 1e-6);
    const mixer = `${at}.channel_mixer`;
    const inner = times(linear(h, w, `${mixer}.l1`), linear(h, w, `${mixer}.l2`));
    x = add(x, linear(inner, w, `${mixer}.l3`));
  }
  return linear(rms(x, 1e-6), w, "lm_head");
}

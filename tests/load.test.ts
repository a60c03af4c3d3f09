/** Released checkpoints: logits against float64 forward passes, and what is refused by name. */
import { readFile, truncate, writeFile } from "node:fs/promises";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FormatError, LevinError, loss, nn, tensor } from "../mod.ts";
import {
  loadModel,
  loadWeights,
  transNormerConfig,
  transNormerConfigs,
} from "../src/models/mod.ts";
import type { Weights } from "./model_oracles.ts";
import {
  inFolder,
  type Kind,
  KINDS,
  llama,
  pythia,
  transNormer,
  writeCheckpoint,
  type WriteOptions,
} from "./checkpoints.ts";
import { assertNear, testOnBackends, testOnCpu } from "./harness.ts";

const IDS = [3, 17, 0, 5, 5, 18, 2, 9, 11, 1];

async function assertLogits(kind: Kind, options: WriteOptions, tolerance = 1e-5): Promise<void> {
  await inFolder(async (folder) => {
    const weights = await writeCheckpoint(folder, kind, options);
    using model = await loadModel(folder);
    const expected = kind.logits(weights, IDS).flat();
    assert(expected.some((value) => Math.abs(value) > 0.1), "the logits are next to nothing");
    const logits = model.forward(tensor([IDS], { dtype: "i32" }));
    assertEquals(logits.shape, [1, IDS.length, 19]);
    await assertNear(logits, expected, tolerance, kind.name);
  });
}

for (const kind of KINDS) {
  testOnBackends(`${kind.name} loaded from one file has the logits of float64`, async () => {
    await assertLogits(kind, {});
  });
  testOnBackends(`${kind.name} loaded from bf16 and f16, in several files`, async () => {
    await assertLogits(kind, { dtype: "BF16", shards: 3 });
    await assertLogits(kind, { dtype: "F16", shards: 2, seed: 2 });
  });
}

/** The mean cross-entropy of each token after the ones before it, in float64. */
function lossOf(kind: Kind, weights: Weights): number {
  const rows = kind.logits(weights, IDS.slice(0, -1));
  const losses = rows.map((row, t) =>
    Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0)) - row[IDS[t + 1]]
  );
  return losses.reduce((a, b) => a + b) / losses.length;
}

for (const kind of KINDS) {
  testOnBackends(`${kind.name}'s gradients are the slopes of the float64 loss`, async () => {
    await inFolder(async (folder) => {
      const weights = await writeCheckpoint(folder, kind, { seed: 5 });
      using model = await loadModel(folder);
      const [x, y] = [IDS.slice(0, -1), IDS.slice(1)].map((row) => tensor([row], { dtype: "i32" }));
      loss.crossEntropy(model.forward(x), y).backward();
      for (const [name, parameter] of Object.entries(model.parameters())) {
        const gradient = Array.from(await parameter.grad!.data());
        // Along the gradient and along a direction of its own.
        const length = Math.hypot(...gradient);
        assert(length > 1e-6, `${name} has a gradient of ${length}`);
        const directions = [
          gradient.map((g) => g / length),
          gradient.map((_, i) => Math.sin(i * i + 1) / Math.sqrt(gradient.length)),
        ];
        const { shape, values } = weights[name];
        for (const direction of directions) {
          const at = (step: number) =>
            lossOf(kind, {
              ...weights,
              [name]: { shape, values: direction.map((u, i) => values[i] + step * u) },
            });
          const h = 1e-4;
          const slope = (4 * (at(h) - at(-h)) / (2 * h) - (at(2 * h) - at(-2 * h)) / (4 * h)) / 3;
          const found = gradient.reduce((sum, g, i) => sum + g * direction[i], 0);
          const error = Math.abs(found - slope);
          assert(error <= 2e-5 * length, `${name}: gradient ${found}, float64 slope ${slope}`);
        }
      }
    });
  });
}

testOnCpu("tensors of several pieces arrive whole, in every stored dtype", async () => {
  const shape = [5, 500_003];
  for (const dtype of ["F32", "BF16", "F16"] as const) {
    await inFolder(async (folder) => {
      const weights = await writeCheckpoint(folder, {
        ...llama(),
        shapes: { "first.weight": [3, 2], "weight": shape, "last.weight": [2] },
      }, { dtype });
      using layer = new nn.Linear(shape[1], shape[0], { blank: true });
      await loadWeights(layer, `${folder}/model.safetensors`, {
        passOver: (name) => name !== "weight",
      });
      const values = await layer.weight.data();
      const expected = weights["weight"].values;
      assert(expected[expected.length - 1] !== 0);
      assert(values.every((value, i) => value === expected[i]), dtype);
    });
  }
});

testOnCpu("the smallest published configuration is what its released config.json says", () => {
  // The defaults of OpenNLPLab's configuration_transnormer.py, which are those of the 385M model.
  const released = {
    model_type: "transnormer",
    vocab_size: 64000,
    decoder_embed_dim: 1024,
    decoder_layers: 24,
    decoder_attention_heads: 8,
    no_scale_embedding: false,
    norm_type: "simplermsnorm",
    hidden_dim: 1024,
    linear_act_fun: "silu",
    glu_dim: 2816,
    bias: false,
  };
  assertEquals(transNormerConfig(released), transNormerConfigs["0.4B"]);
  for (const [name, { size, heads }] of Object.entries(transNormerConfigs)) {
    assertEquals(size / heads, 128, `the heads of ${name}`);
  }
});

testOnCpu("the variants that configurations ask for have the logits of float64", async () => {
  const llama3 = {
    type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 64,
  };
  const variants = [
    llama({ tie_word_embeddings: true }),
    llama({ head_dim: 6, num_key_value_heads: 1 }),
    llama({ attention_bias: true, num_key_value_heads: 4 }),
    llama({ rope_scaling: { type: "linear", factor: 4 } }),
    llama({ rope_scaling: llama3, head_dim: 16 }),
    pythia({ use_parallel_residual: false }),
    pythia({ rotary_pct: 1 }),
    pythia({ rotary_pct: 0.5, rotary_emb_base: 100 }),
    transNormer({ decoder_attention_heads: 2, decoder_layers: 2, linear_use_lrpe_list: [1, 0] }),
  ];
  for (const [i, kind] of variants.entries()) await assertLogits(kind, { seed: i });
});

testOnBackends("weights kept as f16 give nearly the same logits", async (device) => {
  for (const kind of KINDS) {
    await inFolder(async (folder) => {
      const weights = await writeCheckpoint(folder, kind, { dtype: "F16" });
      using model = await loadModel(folder, { dtype: "f16", device });
      const logits = model.forward(tensor([IDS], { dtype: "i32" }));
      assertEquals(logits.dtype, "f16");
      const expected = kind.logits(weights, IDS).flat();
      await assertNear(logits, expected, 1e-2, kind.name);
      using context = model.start({ capacity: 4 });
      const parts = [IDS.slice(0, 4), IDS.slice(4, 9), IDS.slice(9)].map((part) =>
        model.extend(context, tensor([part], { dtype: "i32" }))
      );
      await assertNear(parts[0].concat(parts.slice(1), 1), expected, 1e-2, `${kind.name} in parts`);
    });
  }
});

testOnCpu("what old checkpoints hold beside the weights is passed over", async () => {
  await assertLogits(llama(), {
    extra: { "model.layers.0.self_attn.rotary_emb.inv_freq": [2] },
  });
  await assertLogits(llama({ tie_word_embeddings: true }), {
    extra: { "lm_head.weight": [19, 16] },
  });
  await assertLogits(pythia(), {
    extra: {
      "gpt_neox.layers.0.attention.bias": [1, 1, 4, 4],
      "gpt_neox.layers.1.attention.masked_bias": [],
      "gpt_neox.layers.1.attention.rotary_emb.inv_freq": [2],
    },
  });
});

testOnCpu("missing, extra and misshapen tensors are listed by name", async () => {
  for (const kind of KINDS) {
    const [first, second, third] = Object.keys(kind.shapes);
    await inFolder(async (folder) => {
      await writeCheckpoint(folder, kind, {
        shards: 2,
        extra: { "model.layers.7.strange": [2], "constructor": [1] },
        changed: { [second]: null, [third]: [5, 3] },
      });
      const error = await assertRejects(() => loadModel(folder), LevinError);
      for (
        const part of [
          `${second} is missing`,
          "model.layers.7.strange is unknown",
          "constructor is unknown",
          `${third} has shape [5, 3], expected [${kind.shapes[third].join(", ")}]`,
        ]
      ) assert(error.message.includes(part), `${part} is not in: ${error.message}`);
      assert(!error.message.includes(`${first} `), error.message);
    });
  }
});

testOnCpu("configurations of other models are refused by field", async () => {
  const wrong: [Kind, string][] = [
    [llama({ hidden_act: "gelu" }), "hidden_act"],
    [llama({ hidden_size: undefined }), "hidden_size"],
    [llama({ num_attention_heads: 2.5 }), "num_attention_heads"],
    [llama({ rope_scaling: { rope_type: "yarn", factor: 2 } }), "rope_type"],
    [llama({ model_type: "mamba" }), "model_type"],
    [llama({ model_type: "toString" }), "model_type"],
    [pythia({ hidden_act: "relu" }), "hidden_act"],
    [pythia({ layer_norm_eps: "small" }), "layer_norm_eps"],
    [transNormer({ norm_type: "layernorm" }), "norm_type"],
    [transNormer({ linear_use_lrpe_list: [1, 1, 0] }), "linear_use_lrpe_list"],
  ];
  for (const [{ config }, field] of wrong) {
    await inFolder(async (folder) => {
      await writeFile(`${folder}/config.json`, JSON.stringify(config));
      await assertRejects(() => loadModel(folder), FormatError, field);
    });
  }
});

testOnCpu("indices and files that disagree are refused", async () => {
  const refused = async (change: (folder: string) => Promise<void>, what: string) => {
    await inFolder(async (folder) => {
      await writeCheckpoint(folder, llama(), { shards: 2 });
      await change(folder);
      await assertRejects(() => loadModel(folder), FormatError, what);
    });
  };
  const edit = async (folder: string, map: (map: Record<string, string>) => unknown) => {
    const path = `${folder}/model.safetensors.index.json`;
    const { weight_map } = JSON.parse(await readFile(path, "utf8"));
    await writeFile(path, JSON.stringify({ weight_map: map(weight_map) }));
  };
  const shard = "model-00002-of-00002.safetensors";
  await refused((f) => edit(f, (map) => ({ ...map, ghost: shard })), "no file has: ghost");
  await refused(
    (f) => edit(f, ({ "model.norm.weight": _, ...rest }) => rest),
    "does not place model.norm.weight",
  );
  await refused((f) => edit(f, (map) => ({ ...map, ghost: "../secret" })), "../secret");
  await refused((f) => edit(f, () => 3), "weight_map");
  await refused((f) => truncate(`${f}/${shard}`, 500), shard);
  await refused((f) => writeFile(`${f}/model.safetensors.index.json`, "{"), "not a JSON");
});

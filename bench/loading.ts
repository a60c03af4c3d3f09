// Host memory of loading a checkpoint: deno run -A bench/loading.ts [--size N] [--layers N] [--backend B]
// Writes a LLaMA in bf16, in three files, loads it in a process of its own, and prints what that process held
// at its peak beyond what it held before and the parameters, which lie on the host too (CPU, llvmpipe).
import { parseArgs } from "@std/cli/parse-args";
import { init } from "../mod.ts";
import { loadModel } from "../src/models/mod.ts";

const flags = parseArgs(Deno.args, {
  string: ["size", "layers", "backend", "folder"],
  default: { size: "1024", layers: "4", backend: "cpu" },
});
const mebibytes = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;

if (flags.folder !== undefined) await load(flags.folder);
else {
  const folder = await Deno.makeTempDir();
  try {
    const largest = await write(folder, Number(flags.size), Number(flags.layers));
    console.log(
      `largest tensor: ${mebibytes(2 * largest)} in bf16, ${mebibytes(4 * largest)} in f32`,
    );
    const args = [import.meta.filename!, "--folder", folder, "--backend", flags.backend];
    await new Deno.Command(Deno.execPath(), { args: ["run", "-A", ...args] }).spawn().status;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function load(folder: string): Promise<void> {
  const device = await init({ backend: flags.backend as "cpu" });
  const before = peakBytes();
  const began = performance.now();
  using _model = await loadModel(folder, { device });
  await device.synchronize();
  const seconds = (performance.now() - began) / 1000;
  const { liveBytes } = device.memory();
  console.log(
    `${device.name}: ${mebibytes(liveBytes)} of f32 parameters in ${seconds.toFixed(1)} s; peak ` +
      `beyond them and the ${mebibytes(before)} before: ` +
      mebibytes(peakBytes() - before - liveBytes),
  );
}

/** The most memory that this process has held, as Linux counts it. */
function peakBytes(): number {
  const status = Deno.readTextFileSync("/proc/self/status");
  return 1024 * Number(/VmHWM:\s+(\d+)/.exec(status)![1]);
}

/** Writes the checkpoint in blocks of a MiB; returns the elements of its largest tensor. */
async function write(folder: string, size: number, layers: number): Promise<number> {
  const [vocabulary, inner] = [32000, 4 * size];
  const config = {
    model_type: "llama",
    vocab_size: vocabulary,
    hidden_size: size,
    intermediate_size: inner,
    num_hidden_layers: layers,
    num_attention_heads: size / 64,
  };
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
  const square = ["q", "k", "v", "o"].map((name) =>
    [`self_attn.${name}_proj`, [size, size]] as const
  );
  const shapes: [string, readonly number[]][] = [
    ["model.embed_tokens.weight", [vocabulary, size]],
    ["model.norm.weight", [size]],
    ["lm_head.weight", [vocabulary, size]],
    ...Array.from({ length: layers }, (_, l) =>
      [
        ...square,
        ["mlp.gate_proj", [inner, size]] as const,
        ["mlp.up_proj", [inner, size]] as const,
        ["mlp.down_proj", [size, inner]] as const,
        ["input_layernorm", [size]] as const,
        ["post_attention_layernorm", [size]] as const,
      ].map((
        [name, shape],
      ): [string, readonly number[]] => [`model.layers.${l}.${name}.weight`, shape]))
      .flat(),
  ];
  const counts = shapes.map(([, shape]) => shape.reduce((a, b) => a * b));
  const weightMap: Record<string, string> = {};
  const block = new Uint8Array(new Uint16Array(2 ** 19).fill(0x3c00).buffer);
  for (let shard = 0; shard < 3; shard++) {
    const path = `model-0000${shard + 1}-of-00003.safetensors`;
    const header: Record<string, unknown> = {};
    let end = 0;
    shapes.forEach(([name, shape], i) => {
      if (i % 3 !== shard) return;
      weightMap[name] = path;
      header[name] = { dtype: "BF16", shape, data_offsets: [end, end += 2 * counts[i]] };
    });
    const json = new TextEncoder().encode(JSON.stringify(header));
    const first = new Uint8Array(8);
    new DataView(first.buffer).setBigUint64(0, BigInt(json.length), true);
    const content = function* () {
      yield first;
      yield json;
      for (let at = 0; at < end; at += block.length) {
        yield block.subarray(0, Math.min(block.length, end - at));
      }
    };
    await Deno.writeFile(`${folder}/${path}`, ReadableStream.from(content()));
  }
  await Deno.writeTextFile(
    `${folder}/model.safetensors.index.json`,
    JSON.stringify({ weight_map: weightMap }),
  );
  return Math.max(...counts);
}

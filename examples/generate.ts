// `deno task generate`: writes with a model that `deno task demo` trained, or with a released one: a folder
// with config.json (TransNormerLLM, LLaMA, Pythia), safetensors and tokenizer.json.
import process from "node:process";
import { Checkpoint } from "./demo/checkpoint.ts";
import { chooseDevice } from "./demo/device.ts";
import { parseFlags, runCommand, UsageError } from "./demo/flags.ts";
import { writeText } from "./demo/report.ts";
import { stateBytes } from "./demo/writing.ts";
import { loadTokenizer } from "./models/tokenizer.ts";
import { loadModel } from "../src/models/mod.ts";

const FLAGS = {
  checkpoint: { kind: "text", help: "the checkpoint", fallback: "runs/checkpoint.safetensors" },
  model: { kind: "text", help: "a folder with a released model, instead of a checkpoint" },
  dtype: { kind: "text", help: "f32 or f16, of a released model's weights", fallback: "f32" },
  prompt: { kind: "text", help: "what the writing starts from", fallback: "export function " },
  tokens: { kind: "count", help: "bytes or tokens to write", fallback: 400 },
  temperature: { kind: "number", help: "of the choice; 0 takes the likeliest", fallback: 0.7 },
  "top-k": { kind: "count", help: "choose among so many likeliest ones" },
  "top-p": { kind: "number", help: "choose among likeliest ones of this probability", fallback: 1 },
  stop: { kind: "text", help: "a text that ends the writing" },
  seed: { kind: "count", help: "of the choices", fallback: 0 },
  backend: { kind: "text", help: "auto, webgpu, dawn, wasm or cpu", fallback: "auto" },
} as const;

await runCommand(async () => {
  const { values: flags } = parseFlags(FLAGS, process.argv.slice(2), "deno task generate [flags]");
  if (flags.temperature < 0) throw new UsageError("--temperature expects 0 or more");
  const device = await chooseDevice(flags.backend);
  const options = {
    maxTokens: flags.tokens,
    temperature: flags.temperature,
    topK: flags["top-k"],
    topP: flags["top-p"],
    seed: flags.seed,
  };
  const stops = flags.stop === undefined ? [] : [flags.stop];
  if (flags.model !== undefined) {
    const { dtype } = flags;
    if (dtype !== "f32" && dtype !== "f16") throw new UsageError("--dtype expects f32 or f16");
    const tokenizer = await loadTokenizer(flags.model);
    using model = await loadModel(flags.model, { device, dtype });
    const rate = await writeText(model, flags.prompt, options, { tokenizer, stops });
    console.error(`\n${rate.toFixed(1)} tokens/s`);
    return;
  }
  using checkpoint = await Checkpoint.read(flags.checkpoint, device);
  using model = checkpoint.model(device);
  const rate = await writeText(model, flags.prompt, options, { stops });
  console.error(`\n${rate.toFixed(1)} tokens/s, state of ${stateBytes(model)} bytes`);
});

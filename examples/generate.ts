// `deno task generate`: writes with a model that `deno task demo` trained, in constant memory.
import { Checkpoint } from "./demo/checkpoint.ts";
import { chooseDevice } from "./demo/device.ts";
import { parseFlags, runCommand, UsageError } from "./demo/flags.ts";
import { writeText } from "./demo/report.ts";
import { stateBytes } from "./demo/writing.ts";

const FLAGS = {
  checkpoint: { kind: "text", help: "the checkpoint", fallback: "runs/checkpoint.safetensors" },
  prompt: { kind: "text", help: "what the writing starts from", fallback: "export function " },
  tokens: { kind: "count", help: "bytes to write", fallback: 400 },
  temperature: { kind: "number", help: "of the choice; 0 takes the likeliest", fallback: 0.7 },
  "top-k": { kind: "count", help: "choose among so many likeliest bytes" },
  "top-p": { kind: "number", help: "choose among bytes of this probability", fallback: 1 },
  seed: { kind: "count", help: "of the choices", fallback: 0 },
  backend: { kind: "text", help: "auto, webgpu or cpu", fallback: "auto" },
} as const;

await runCommand(async () => {
  const { values: flags } = parseFlags(FLAGS, Deno.args, "deno task generate [flags]");
  if (flags.temperature < 0) throw new UsageError("--temperature expects 0 or more");
  const device = await chooseDevice(flags.backend);
  using checkpoint = await Checkpoint.read(flags.checkpoint, device);
  using model = checkpoint.model(device);
  const rate = await writeText(model, flags.prompt, {
    maxTokens: flags.tokens,
    temperature: flags.temperature,
    topK: flags["top-k"],
    topP: flags["top-p"],
    seed: flags.seed,
  });
  console.error(`\n${rate.toFixed(1)} tokens/s, state of ${stateBytes(model)} bytes`);
});

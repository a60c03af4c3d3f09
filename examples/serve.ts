// `deno task serve`: a model behind OpenAI's completions API, so that its clients can write with it and
// lm-evaluation-harness can score it. Ctrl-C answers what has been asked, then ends.
//
//   lm_eval --tasks piqa --model local-completions --model_args \
//     model=NAME,base_url=http://127.0.0.1:8000/v1/completions,tokenizer=FOLDER,batch_size=8
import { basename, resolve } from "node:path";
import { chooseDevice } from "./demo/device.ts";
import { parseFlags, runCommand, UsageError } from "./demo/flags.ts";
import { openModel } from "./models/open.ts";
import { createHandler } from "./serve/server.ts";

const FLAGS = {
  model: { kind: "text", help: "a folder with a released model, or a checkpoint of the demo" },
  name: { kind: "text", help: "what clients call the model; else the name of its folder or file" },
  host: { kind: "text", help: "the address to listen on", fallback: "127.0.0.1" },
  port: { kind: "count", help: "the port; 0 takes a free one", fallback: 8000 },
  tokens: {
    kind: "count",
    least: 1,
    help: "tokens of a prompt and its continuation",
    fallback: 8192,
  },
  choices: { kind: "count", least: 1, help: "prompts of a request, times n", fallback: 128 },
  bytes: { kind: "count", least: 1, help: "bytes of a request", fallback: 2 ** 22 },
  "at-work": { kind: "count", least: 1, help: "requests that are worked on at once", fallback: 2 },
  waiting: { kind: "count", help: "requests that may wait; others are refused", fallback: 64 },
  dtype: { kind: "text", help: "f32 or f16, of a released model's weights", fallback: "f32" },
  backend: { kind: "text", help: "auto, webgpu, dawn, wasm or cpu", fallback: "auto" },
} as const;

await runCommand(async () => {
  const { values: flags } = parseFlags(FLAGS, Deno.args, "deno task serve --model PATH [flags]");
  if (flags.model === undefined) {
    throw new UsageError("expected --model; --help lists all flags");
  }
  const device = await chooseDevice(flags.backend);
  const { model, tokenizer } = await openModel(flags.model, { device, dtype: flags.dtype });
  using _ = model;
  const { name = basename(resolve(flags.model)).replace(/\.safetensors$/, "") } = flags;
  const handler = createHandler({
    model,
    tokenizer,
    name,
    limits: {
      bytes: flags.bytes,
      tokens: Math.min(flags.tokens, model.contextLength),
      choices: flags.choices,
    },
    atWork: flags["at-work"],
    waiting: flags.waiting,
    onError: (error) => console.error(error),
  });
  const server = Deno.serve({
    hostname: flags.host,
    port: flags.port,
    onListen: ({ hostname, port }) => {
      console.log(`${name} at http://${hostname}:${port}/v1`);
    },
  }, handler);
  let signals = 0;
  const end = () => {
    if (signals++ > 0) Deno.exit(130);
    console.error("ending: what has been asked is answered; once more ends at once");
    server.shutdown();
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, end);
  await server.finished;
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.removeSignalListener(signal, end);
});

/** Programs of `examples/` as people run them: in a process of their own. */

const ROOT = new URL("..", import.meta.url).pathname;

/** Starts `examples/SCRIPT.ts`. */
export function spawn(script: string, args: string) {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", `examples/${script}.ts`, ...args.split(" ")],
    cwd: ROOT,
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).spawn();
}

/** Runs `examples/SCRIPT.ts` to its end; sends Ctrl-C once it has printed `signalAfter`. */
export async function run(script: string, args: string, signalAfter?: string) {
  const child = spawn(script, args);
  let out = "";
  const reading = (async () => {
    for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
      out += text;
      if (signalAfter !== undefined && out.includes(signalAfter)) child.kill("SIGINT");
    }
  })();
  const err = await new Response(child.stderr).text();
  await reading;
  const { code } = await child.status;
  return { code, out, err };
}

/** Runs `fn` in a folder of its own, with a text.txt to learn from. */
export async function inFolder(fn: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    const words = ["one fish ", "two fish ", "red fish ", "blue fish "];
    const text = Array.from({ length: 600 }, (_, i) => words[(i * i) % 4]).join("");
    await Deno.writeTextFile(`${folder}/text.txt`, text);
    await fn(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

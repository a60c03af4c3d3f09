/** Programs of `examples/` as people run them: in a process of their own, of the runtime that tests. */
import { spawn as start } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import process from "node:process";
import { Readable } from "node:stream";

const ROOT = decodeURIComponent(new URL("..", import.meta.url).pathname);

/** What the runtime is told to run `examples/SCRIPT.ts`; Node has it bundled beside the bundled tests. */
function commandOf(script: string): string[] {
  if ("Deno" in globalThis) return ["run", "-A", "--no-check", `examples/${script}.ts`];
  return ["Bun" in globalThis ? `examples/${script}.ts` : `node/${script}.js`];
}

/** Starts `examples/SCRIPT.ts`. */
export function spawn(script: string, args: string) {
  const child = start(process.execPath, [...commandOf(script), ...args.split(" ")], {
    cwd: ROOT,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, NO_COLOR: "1" },
  });
  const status = once(child, "exit").then(([code, signal]) => ({ code, signal }));
  const [stdout, stderr] = [child.stdout, child.stderr].map((pipe) => Readable.toWeb(pipe!));
  // After `child.kill` Deno 2.9.6 tells of the signal alone, even if the program answers it and exits with a code.
  const kill = (signal: NodeJS.Signals) => process.kill(child.pid!, signal);
  return { stdout, stderr, status, kill };
}

/** Runs `examples/SCRIPT.ts` to its end; sends Ctrl-C, once, when it has printed `signalAfter`. */
export async function run(script: string, args: string, signalAfter?: string) {
  const child = spawn(script, args);
  let [out, signalled] = ["", false];
  const reading = (async () => {
    for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
      out += text;
      if (signalled || signalAfter === undefined || !out.includes(signalAfter)) continue;
      signalled = child.kill("SIGINT");
    }
  })();
  const err = await new Response(child.stderr).text();
  await reading;
  const { code } = await child.status;
  return { code, out, err };
}

/** Runs `fn` in a folder of its own, with a text.txt to learn from. */
export async function inFolder(fn: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(`${tmpdir()}/levin-`);
  try {
    const words = ["one fish ", "two fish ", "red fish ", "blue fish "];
    const text = Array.from({ length: 600 }, (_, i) => words[(i * i) % 4]).join("");
    await writeFile(`${folder}/text.txt`, text);
    await fn(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

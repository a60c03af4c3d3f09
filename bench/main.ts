/**
 * `deno task bench`: attention over n with its memory, matmul, training steps by the length of the
 * sequence, and the host's time for each recorded operation.
 */
import { parseFlags, runCommand, UsageError } from "../examples/demo/flags.ts";
import { chooseDevice } from "../examples/demo/device.ts";
import { reportMatmul } from "./matmul.ts";
import { reportSweep, SWEEP_FLAGS } from "./sweep.ts";
import { reportTraining } from "./training.ts";

const PARTS = ["attention", "matmul", "training", "host"];

const FLAGS = {
  ...SWEEP_FLAGS,
  only: { kind: "text", help: "which parts", fallback: PARTS.join() },
} as const;

/** The host's part runs in a process of its own, so that nothing it times was compiled before. */
async function reportHost(backend: string): Promise<unknown> {
  const script = new URL("./host.ts", import.meta.url).href;
  const { success, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", script, "--json", "--backend", backend],
    stderr: "inherit",
  }).output();
  if (!success) throw new Error("bench/host.ts failed; what it said is above");
  const { rows } = JSON.parse(new TextDecoder().decode(stdout)) as {
    rows: { what: string; micros: number }[];
  };
  console.log("| host, CPU time of each operation | µs |\n| --- | ---: |");
  for (const { what, micros } of rows) console.log(`| ${what} | ${micros.toFixed(1)} |`);
  return rows;
}

await runCommand(async () => {
  const { values: flags } = parseFlags(FLAGS, Deno.args, "deno task bench [flags]");
  const only = flags.only.split(",");
  const unknown = only.find((part) => !PARTS.includes(part));
  if (unknown !== undefined) {
    throw new UsageError(`--only expects some of ${PARTS}, found "${unknown}"`);
  }
  const device = await chooseDevice(flags.backend);
  console.log(`${device.describe()}\n`);
  const found: Record<string, unknown> = { device: device.name, deno: Deno.version.deno };
  for (const part of only) {
    if (part === "attention") found[part] = await reportSweep(device, flags);
    if (part === "matmul") found[part] = await reportMatmul(device);
    if (part === "host") found[part] = await reportHost(flags.backend);
    if (part === "training") found[part] = await reportTraining(device);
    console.log();
  }
  if (flags.json !== undefined) {
    await Deno.writeTextFile(flags.json, JSON.stringify(found, undefined, 2));
  }
});

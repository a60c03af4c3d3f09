// `deno task paper attention|loss|efficiency`: the experiments of the paper on Lightning Attention-2
// (Qin et al., arXiv 2401.04658), at the size of the machine at hand. Each has its own flags: --help.
import { runCommand, UsageError } from "./demo/flags.ts";
import { attention } from "./paper/attention.ts";
import { efficiency } from "./paper/efficiency.ts";
import { languageModelling } from "./paper/loss.ts";

const EXPERIMENTS: Readonly<Record<string, (args: string[]) => Promise<void>>> = {
  attention,
  loss: languageModelling,
  efficiency,
};

await runCommand(async () => {
  const [name, ...args] = Deno.args;
  const experiment = Object.hasOwn(EXPERIMENTS, name ?? "") ? EXPERIMENTS[name] : undefined;
  if (experiment === undefined) {
    throw new UsageError(
      `deno task paper expects ${Object.keys(EXPERIMENTS).join(", ")}, found "${name ?? ""}"; ` +
        `each takes --help`,
    );
  }
  await experiment(args);
});

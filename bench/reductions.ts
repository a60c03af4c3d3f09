// Reductions along rows, with subgroups and without: `deno run -A bench/reductions.ts [--mib N]`. One process, both
// devices in turn. Bytes are those that a kernel has to move: each operand once.
import {
  type Device,
  grad,
  init,
  loss,
  nn,
  noGrad,
  scope,
  type Tensor,
  tidy,
  uniform,
} from "../mod.ts";
import { parseFlags, runCommand } from "../examples/demo/flags.ts";
import { findAdapter, openDevice } from "../src/backend/webgpu/adapter.ts";
import { gatedNorm } from "../src/ops/gated_norm.ts";
import { median, timesOf } from "./timing.ts";

type Run = (x: Tensor, u: Tensor, targets: Tensor) => Tensor | Tensor[];

/**
 * Kernels of x and u [rows, length] and targets [rows], and how often they move as many bytes as x has; where a call runs
 * others too, the one that counts.
 */
const KERNELS: Record<string, [moves: number, run: Run, kernel?: string]> = {
  softmax: [2, (x) => x.softmax()],
  SRMSNorm: [2, (x) => new nn.SRMSNorm().forward(x)],
  "gated norm": [3, (x, u) => gatedNorm(x, u)],
  "cross-entropy": [1, (x, _, targets) => loss.crossEntropy(x, targets, { reduction: "none" })],
  sum: [1, (x) => x.sum(-1)],
  "SRMSNorm, gradient": [3, gradientOf((x) => new nn.SRMSNorm().forward(x)), "srmsNormGradient"],
  "gated norm, gradient": [5, gradientOf(gatedNorm), "gatedNormGradient"],
  "cross-entropy, gradient": [
    2,
    (x, _, targets) => grad(([x]: Tensor[]) => loss.crossEntropy(x, targets))([x]),
    "crossEntropyGradient",
  ],
};
/** Rows, by what they are stored in. */
const CASES = [
  ...[128, 1024, 4096, 32768].map((length) => ({ dtype: "f32", length }) as const),
  { dtype: "f16", length: 1024 } as const,
];
type Case = typeof CASES[number];
/** Times that each device has its turn; the median counts. */
const TURNS = 3;

function gradientOf(f: (x: Tensor, u: Tensor) => Tensor): Run {
  return (x, u) => grad(([x, u]: Tensor[]) => f(x, u).sum())([x, u]);
}

/** GB/s of one kernel on each device. */
async function ratesOf(
  name: string,
  { dtype, length }: Case,
  bytes: number,
  devices: readonly Device[],
) {
  const [moves, run, kernel] = KERNELS[name];
  using _ = scope();
  const calls = devices.map((device) => {
    const shape = [bytes / (dtype === "f16" ? 2 : 4) / length, length];
    const [x, u] = [1, 2].map((seed) => uniform(shape, { seed, low: -1, device }).to(dtype));
    const targets = uniform([shape[0]], { seed: 3, high: length, device }).to("i32");
    // `void`, or what a call makes would outlive it.
    return () => tidy(() => void (kernel ? run(x, u, targets) : noGrad(() => run(x, u, targets))));
  });
  const times = devices.map((): number[] => []);
  for (let turn = 0; turn < TURNS; turn++) {
    for (const [i, device] of devices.entries()) {
      // Some 10 ms on a fast GPU, so that its clocks have risen.
      const { ms, kernels } = await timesOf(device, calls[i], device.software ? 4 : 200);
      times[i].push(kernel === undefined ? ms : kernels.get(kernel)!);
    }
  }
  return times.map((ms) => moves * bytes / median(ms) / 1e6);
}

const FLAGS = {
  mib: { kind: "count", help: "size of x in MiB (default 64, in software 4)" },
} as const;

await runCommand(async () => {
  const { values: flags } = parseFlags(FLAGS, Deno.args, "deno run -A bench/reductions.ts [flags]");
  const by = await init({ backend: "webgpu" });
  const { adapter } = await findAdapter();
  const device = await openDevice(adapter!, { subgroups: false });
  const without = await init({ device });
  console.log(`${by.describe()}\n`);
  if (/^subgroups: none/m.test(by.describe())) throw new Error("This device has no subgroups");
  const bytes = (flags.mib ?? (by.software ? 4 : 64)) * 2 ** 20;
  console.log("| GB/s | dtype | length | by subgroups | without | ratio |");
  console.log("| --- | --- | ---: | ---: | ---: | ---: |");
  for (const name in KERNELS) {
    for (const rows of CASES) {
      const [a, b] = await ratesOf(name, rows, bytes, [by, without]);
      const cells = [
        name,
        rows.dtype,
        rows.length,
        a.toPrecision(4),
        b.toPrecision(4),
        (a / b).toFixed(2),
      ];
      console.log(`| ${cells.join(" | ")} |`);
    }
  }
});

/**
 * `deno run -A bench/sweep.ts [--json] [--svg FILE]`: the attentions against the length of the sequence,
 * forward and backward, and the memory they take beyond what they are given and give back.
 */
import {
  type Device,
  flashAttention,
  lightningAttention,
  lightningAttention1,
  LimitError,
  naiveAttention,
  noGrad,
  scope,
  type Tensor,
  tidy,
  uniform,
} from "../mod.ts";
import { parseFlags, runCommand, UsageError, type Values } from "../examples/demo/flags.ts";
import { chooseDevice } from "../examples/demo/device.ts";
import { plotSvg } from "./plot.ts";
import { deviceMs, peakBytes } from "./measure.ts";

type Attention = (q: Tensor, k: Tensor, v: Tensor) => Tensor;

interface Kernel {
  readonly attend: Attention;
  /** Time grows as n to this power. */
  readonly order: 1 | 2;
  /** Whether a matrix of scores [n, n] is stored. */
  readonly stores?: boolean;
}

const SLOPE = 0.01;
const KERNELS: Record<string, Kernel> = {
  LA2: { attend: (q, k, v) => lightningAttention(q, k, v, { slopes: SLOPE }), order: 1 },
  LA1: { attend: (q, k, v) => lightningAttention1(q, k, v, { slopes: SLOPE }), order: 2 },
  flashAttention: { attend: (q, k, v) => flashAttention(q, k, v), order: 2 },
  naive: {
    attend: (q, k, v) => naiveAttention(q, k, v, { slopes: SLOPE }),
    order: 2,
    stores: true,
  },
};

/** What one kernel took at one length, or why it did not run there. */
export interface SweepRow {
  readonly kernel: string;
  readonly n: number;
  readonly forwardMs?: number;
  readonly backwardMs?: number;
  /** Peak bytes of the forward call beyond q, k, v and o. */
  readonly forwardBytes?: number;
  /** Peak bytes of both calls beyond q, k, v, o and the gradients of all four. */
  readonly bothBytes?: number;
  /** Seconds that timing took, all kernels compiled before. */
  readonly seconds?: number;
  readonly refused?: string;
}

/** The sizes of a sweep. */
export interface SweepShape {
  readonly batch: number;
  readonly heads: number;
  /** d and e, both. */
  readonly size: number;
  readonly dtype: "f32" | "f16";
}

/** Times and memory of one kernel at one length. */
export async function measure(
  device: Device,
  kernel: string,
  n: number,
  { batch, heads, size, dtype }: SweepShape,
): Promise<SweepRow> {
  const { attend } = KERNELS[kernel];
  // A scope held open across `await` is safe here: nothing else runs meanwhile.
  using _ = scope();
  const draw = (seed: number) =>
    uniform([batch, heads, n, size], { seed, dtype, low: -1, requiresGrad: seed < 4, device });
  const [q, k, v, gradient] = [1, 2, 3, 4].map(draw);
  const drop = () => {
    for (const t of [q, k, v]) t.grad = null;
  };
  const forward = () => tidy(() => noGrad(() => void attend(q, k, v)));
  const bytes = q.size * (dtype === "f32" ? 4 : 2);
  const forwardBytes = await peakBytes(device, forward) - bytes;
  const bothBytes = await peakBytes(
    device,
    () => tidy(() => attend(q, k, v).backward({ gradient })),
  ) - 4 * bytes;
  drop();
  const began = performance.now();
  const forwardMs = await deviceMs(device, forward);
  using o = attend(q, k, v);
  const backwardMs = await deviceMs(device, () => {
    o.backward({ gradient });
    drop();
  });
  const seconds = (performance.now() - began) / 1000;
  return { kernel, n, forwardMs, backwardMs, forwardBytes, bothBytes, seconds };
}

/** Every kernel at every length; where one would be too long or too large, says so instead. */
export async function* sweep(
  device: Device,
  kernels: readonly string[],
  lengths: readonly number[],
  shape: SweepShape,
  patienceMs: number,
): AsyncGenerator<SweepRow> {
  const room = device.software ? 2 ** 29 : 2 ** 34;
  for (const kernel of kernels) {
    const { order, stores } = KERNELS[kernel];
    let last: SweepRow | undefined;
    for (const n of lengths) {
      const expected = last === undefined
        ? 0
        : (last.forwardMs! + last.backwardMs!) * (n / last.n) ** order;
      if (expected > patienceMs) {
        yield { kernel, n, refused: `would take ${(expected / 1000).toFixed(0)} s` };
        continue;
      }
      const scores = 4 * shape.batch * shape.heads * n * n;
      if (stores && scores > room) {
        yield { kernel, n, refused: `its scores would take ${scores / 2 ** 30} GiB` };
        continue;
      }
      try {
        last = await measure(device, kernel, n, shape);
        yield last;
      } catch (error) {
        if (!(error instanceof LimitError)) throw error;
        yield { kernel, n, refused: error.message };
      }
    }
  }
}

/** The rows as three diagrams. */
export function sweepSvg(title: string, rows: readonly SweepRow[]): string {
  const panel = (title: string, y: string, value: (row: SweepRow) => number | undefined) => ({
    ...{ title, x: "n, tokens", y },
    series: [...new Set(rows.map(({ kernel }) => kernel))].map((name) => ({
      name,
      points: rows.filter(({ kernel }) => kernel === name).flatMap((row) => {
        const found = value(row);
        return found === undefined || found <= 0 ? [] : [[row.n, found] as const];
      }),
    })),
  });
  return plotSvg(title, [
    panel("forward", "ms", (row) => row.forwardMs),
    panel("backward", "ms", (row) => row.backwardMs),
    panel(
      "memory of both, beyond inputs, outputs and gradients",
      "MiB",
      ({ bothBytes }) => bothBytes && bothBytes / 2 ** 20,
    ),
  ]);
}

/** The flags of a sweep. */
export const SWEEP_FLAGS = {
  backend: {
    kind: "text",
    help: "auto, webgpu, dawn, wasm or cpu; LEVIN_BACKEND overrides it",
    fallback: "auto",
  },
  kernels: { kind: "text", help: "which attentions", fallback: Object.keys(KERNELS).join() },
  lengths: { kind: "text", help: "tokens, with commas between" },
  batch: { kind: "count", help: "sequences", fallback: 1 },
  heads: { kind: "count", help: "heads (default 4, on a GPU 16)" },
  size: { kind: "count", help: "d and e (default 64, on a GPU 128)" },
  dtype: { kind: "text", help: "f32 or f16", fallback: "f32" },
  patience: { kind: "count", help: "seconds that two calls may take", fallback: 10 },
  svg: { kind: "text", help: "a file for the diagrams" },
  json: { kind: "text", help: "a file for the numbers" },
} as const;

/**
 * Sweeps as the flags say, prints a table and writes the diagrams.
 *
 * @throws {UsageError} if a kernel, a length or the dtype is none.
 */
export async function reportSweep(
  device: Device,
  flags: Values<typeof SWEEP_FLAGS>,
): Promise<SweepRow[]> {
  const small = device.software;
  const kernels = flags.kernels.split(",");
  const lengths = (flags.lengths ?? (small ? "256,512,1024,2048,4096" : LONG)).split(",").map(
    Number,
  );
  const unknown = kernels.find((name) => !(name in KERNELS));
  if (unknown !== undefined) {
    throw new UsageError(`--kernels expects some of ${Object.keys(KERNELS)}, found "${unknown}"`);
  }
  if (!lengths.every((n) => Number.isSafeInteger(n) && n > 0)) {
    throw new UsageError(`--lengths expects whole numbers from 1, found "${flags.lengths}"`);
  }
  const { dtype } = flags;
  if (dtype !== "f32" && dtype !== "f16") {
    throw new UsageError(`--dtype expects f32 or f16, found "${dtype}"`);
  }
  const shape: SweepShape = {
    ...{ batch: flags.batch, dtype },
    heads: flags.heads ?? (small ? 4 : 16),
    size: flags.size ?? (small ? 64 : 128),
  };
  const title = `Attention on ${device.name}: batch ${shape.batch}, heads ${shape.heads}, ` +
    `d = e = ${shape.size}, ${dtype}`;
  console.log(`${title}\n`);
  console.log(
    "| kernel | n | forward, ms | backward, ms | tokens/s, both | forward, MiB | both, MiB |",
  );
  console.log("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
  const rows: SweepRow[] = [];
  for await (const row of sweep(device, kernels, lengths, shape, flags.patience * 1000)) {
    rows.push(row);
    console.log(`| ${cells(row, shape.batch).join(" | ")} |`);
  }
  if (flags.svg !== undefined) await Deno.writeTextFile(flags.svg, sweepSvg(title, rows));
  return rows;
}

const LONG = "1024,2048,4096,8192,16384,32768,65536,131072";

function cells({ kernel, n, ...row }: SweepRow, batch: number): (string | number)[] {
  const { forwardMs, backwardMs, forwardBytes, bothBytes, refused } = row;
  if (refused !== undefined) return [kernel, n, refused, "", "", "", ""];
  const mib = (bytes: number) => (bytes / 2 ** 20).toPrecision(3);
  const rate = Math.round(1000 * batch * n / (forwardMs! + backwardMs!));
  return [
    ...[kernel, n, forwardMs!.toFixed(3), backwardMs!.toFixed(3), rate],
    ...[mib(forwardBytes!), mib(bothBytes!)],
  ];
}

if (import.meta.main) {
  await runCommand(async () => {
    const { values: flags } = parseFlags(SWEEP_FLAGS, Deno.args, "deno run -A bench/sweep.ts");
    const device = await chooseDevice(flags.backend);
    const rows = await reportSweep(device, flags);
    if (flags.json !== undefined) {
      await Deno.writeTextFile(flags.json, JSON.stringify({ device: device.name, rows }));
    }
  });
}

/**
 * `deno run -A bench/flat.ts [--backend NAME]`: whether Lightning Attention-2 is as fast in long sequences as in short
 * ones. The number of tokens is constant, batch and length trade; last, sequences of few heads.
 */
import {
  type Device,
  lightningAttention,
  LimitError,
  noGrad,
  scope,
  tidy,
  uniform,
} from "../mod.ts";
import { parseFlags, runCommand } from "../examples/demo/flags.ts";
import { chooseDevice } from "../examples/demo/device.ts";
import { deviceMs, peakBytes } from "./measure.ts";

interface Shape {
  readonly batch: number;
  readonly heads: number;
  readonly n: number;
  /** d and e, both. */
  readonly size: number;
  readonly dtype: "f32" | "f16";
}

/** Milliseconds of the forward call, and what it takes beyond q, k, v and o, as a share of them. */
async function measure(device: Device, { batch, heads, n, size, dtype }: Shape) {
  // A scope held open across `await` is safe here: nothing else runs meanwhile.
  using _ = scope();
  const draw = (seed: number) => uniform([batch, heads, n, size], { seed, dtype, low: -1, device });
  const [q, k, v] = [1, 2, 3].map(draw);
  const call = () => tidy(() => noGrad(() => void lightningAttention(q, k, v, { slopes: 0.01 })));
  const outputBytes = q.size * (dtype === "f32" ? 4 : 2);
  const beyond = await peakBytes(device, call) - outputBytes;
  return { ms: await deviceMs(device, call), share: beyond / (4 * outputBytes) };
}

/** Lengths at a constant number of tokens; on a GPU then one long sequence of 8 heads. */
function* shapes({ backend, software }: Device): Generator<Omit<Shape, "dtype">> {
  const tokens = backend !== "wasm" && software ? 16384 : 131072;
  const [heads, size] = software ? [4, 64] : [32, 128];
  for (const n of [1024, 4096, 16384, 65536, 131072].filter((n) => n <= tokens)) {
    yield { batch: tokens / n, heads, n, size };
  }
  if (software) return;
  yield { batch: 1, heads: 8, n: tokens, size };
  yield { batch: 1, heads: 8, n: 2 ** 20, size };
}

runCommand(async () => {
  const { values: flags } = parseFlags(
    { backend: { kind: "text", help: "auto, webgpu, dawn, wasm or cpu", fallback: "auto" } },
    Deno.args,
    "deno run -A bench/flat.ts",
  );
  const device = await chooseDevice(flags.backend);
  console.log(device.describe());
  console.log("\n| batch | heads | n | dtype | ms | head-tokens/s | memory |");
  console.log("| ---: | ---: | ---: | --- | ---: | ---: | ---: |");
  for (const shape of shapes(device)) {
    for (const dtype of ["f32", "f16"] as const) {
      const { batch, heads, n } = shape;
      const cells = await measure(device, { ...shape, dtype }).then(({ ms, share }) => [
        ms.toFixed(2),
        `${(batch * heads * n / ms / 1e3).toPrecision(3)} million`,
        `${(100 * share).toFixed(1)} %`,
      ], (error) => {
        if (!(error instanceof LimitError)) throw error;
        return [error.message, "", ""];
      });
      console.log(`| ${[batch, heads, n, dtype, ...cells].join(" | ")} |`);
      device.trim();
    }
  }
  device.destroy();
});

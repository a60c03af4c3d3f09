/** Training steps of a TransNormerLLM by the length of the sequence, with the same tokens in each step. */
import { type Device, loss, optim, scope, tensor, tidy } from "../mod.ts";
import { TransNormerLLM } from "../src/models/mod.ts";
import { wallMs } from "./measure.ts";
import { median } from "./timing.ts";

/** What a step took. */
export interface TrainingRow {
  readonly batch: number;
  readonly n: number;
  /** Ms of the clock: host and device. */
  readonly ms: number;
  readonly tokensPerSecond: number;
}

/** Times forward, backward, clipping and AdamW, and prints a table; with its maximum over its minimum. */
export async function reportTraining(device: Device): Promise<TrainingRow[]> {
  const config = device.software
    ? { vocabulary: 256, size: 128, layers: 4, heads: 4, inner: 352 } // the demo's
    : { vocabulary: 4096, size: 512, layers: 8, heads: 8, inner: 1408 };
  const [shortest, tokens] = device.software ? [128, 1024] : [1024, 16384];
  using model = new TransNormerLLM(config, { seed: 1, device });
  const parameters = model.parameters();
  using adamw = new optim.AdamW(parameters);
  const rows: TrainingRow[] = [];
  console.log(
    `TransNormerLLM, ${
      model.parameterCount().toLocaleString("en")
    } parameters, ${tokens} tokens a step\n`,
  );
  console.log("| batch | n | ms a step | tokens/s |\n| ---: | ---: | ---: | ---: |");
  for (let n = shortest; n <= tokens; n *= 2) {
    using _ = scope();
    const batch = tokens / n;
    const ids = Int32Array.from({ length: tokens }, (_, i) => i * 7919 % config.vocabulary);
    const x = tensor(ids, { shape: [batch, n], dtype: "i32", device });
    const ms = await wallMs(device, () =>
      tidy(() => {
        loss.crossEntropy(model.forward(x), x).backward();
        adamw.step(optim.clipFactor(parameters, 1));
        adamw.zeroGrad();
      }), 3);
    const tokensPerSecond = 1000 * tokens / ms;
    rows.push({ batch, n, ms, tokensPerSecond });
    console.log(`| ${batch} | ${n} | ${ms.toFixed(1)} | ${Math.round(tokensPerSecond)} |`);
  }
  const rates = rows.map((row) => row.tokensPerSecond);
  const flat = Math.max(...rates) / Math.min(...rates);
  console.log(`\nmedian ${Math.round(median(rates))} tokens/s, max/min ${flat.toFixed(3)}`);
  return rows;
}

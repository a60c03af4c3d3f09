// One row of the table of runtimes: a small model learns, and Lightning Attention is timed. Runs in Deno,
// Bun, Node (bundled) and pages alike: `deno run -A bench/runtimes.ts [cpu | webgpu | dawn]`.
import {
  type Device,
  init,
  lightningAttention,
  loss,
  optim,
  randn,
  scope,
  tensor,
} from "../mod.ts";
import { dawn } from "../src/dawn.ts";
import { TransNormerLLM } from "../src/models/mod.ts";

const TEXT = "one fish two fish red fish blue fish ";
const [HEADS, LENGTH, SIZE] = [4, 1024, 64];

/** What was seen on a device. */
export interface Figures {
  /** Losses of the model's first and last training step, nats a byte. */
  readonly losses: [first: number, last: number];
  /** Bytes learnt from a second, by the training steps after the first. */
  readonly trainingTokensPerSecond: number;
  /** Tokens a second of attention, forward and backward, by the best of five calls. */
  readonly attentionTokensPerSecond: number;
}

/** Takes the figures of `device`. */
export async function figures(device: Device): Promise<Figures> {
  const { losses, rate } = await learn(device);
  return {
    losses: [losses[0], losses.at(-1)!],
    trainingTokensPerSecond: Math.round(rate),
    attentionTokensPerSecond: Math.round(await attend(device)),
  };
}

async function learn(device: Device): Promise<{ losses: number[]; rate: number }> {
  const config = { vocabulary: 128, size: 64, layers: 2, heads: 2, inner: 128 };
  using model = new TransNormerLLM(config, { device, seed: 1 });
  const parameters = model.parameters();
  using adamw = new optim.AdamW(parameters, { learningRate: 3e-3 });
  const bytes = Array.from({ length: 4 * 129 }, (_, i) => TEXT.charCodeAt(i * 7 % TEXT.length));
  using windows = tensor(bytes, { shape: [4, 129], dtype: "i32", device });
  const losses: number[] = [];
  let start = 0;
  for (let step = 0; step < 20; step++) {
    using _ = scope();
    const logits = model.forward(windows.slice(null, [0, 128]));
    const value = loss.crossEntropy(logits, windows.slice(null, [1, 129]));
    value.backward({ releaseGraph: true });
    adamw.step();
    adamw.zeroGrad();
    losses.push(await value.item());
    // The first step compiles.
    if (step === 0) start = performance.now();
  }
  return { losses, rate: 4 * 128 * (losses.length - 1) / (performance.now() - start) * 1e3 };
}

async function attend(device: Device): Promise<number> {
  const shape = [1, HEADS, LENGTH, SIZE];
  const leaves = [1, 2, 3].map((seed) => randn(shape, { seed, device, requiresGrad: true }));
  let best = Infinity;
  for (let call = 0; call < 6; call++) {
    using _ = scope();
    const start = performance.now();
    lightningAttention(leaves[0], leaves[1], leaves[2], { slopes: 0.01 }).sum().backward();
    await leaves[0].grad!.slice(0, 0, 0).data();
    if (call > 0) best = Math.min(best, performance.now() - start);
    for (const leaf of leaves) leaf.grad = null;
  }
  for (const leaf of leaves) leaf.dispose();
  return LENGTH / best * 1e3;
}

if (import.meta.main) {
  const { argv } = (globalThis as unknown as { process: { argv: string[] } }).process;
  const wish = argv[2] ?? "webgpu";
  const gpu = wish === "dawn" ? await dawn() : undefined;
  const device = await init({ backend: wish === "cpu" ? "cpu" : "webgpu", gpu });
  const found = await figures(device);
  console.log(`${device.describe()}\n${JSON.stringify(found)}`);
}

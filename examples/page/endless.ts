/**
 * Writing without end: the context grows by a token at a time, what the device holds does not.
 */
import type { TransNormerLLM } from "../../src/models/mod.ts";
import { written } from "../demo/writing.ts";
import { PROMPT, TEMPERATURE } from "./learning.ts";
import type { Tell } from "./protocol.ts";
import { turn } from "./turn.ts";

/** Between two messages to the page, ms. */
const INTERVAL = 80;

/** Writes until `signal` says to stop. */
export async function writeOn(
  model: TransNormerLLM,
  signal: AbortSignal,
  tell: Tell,
): Promise<void> {
  const { device } = model.lm_head.weight;
  const before = device.memory().liveBytes;
  const began = performance.now();
  let [text, tokens, bytes, told] = ["", 0, 0, -Infinity];
  for await (const piece of written(model, PROMPT, { temperature: TEMPERATURE, seed: 1 })) {
    text += piece;
    tokens++;
    const { liveBytes, pooledBytes } = device.memory();
    bytes = Math.max(bytes, liveBytes - before);
    const now = performance.now();
    if (now - told < INTERVAL) continue;
    const rate = tokens / ((now - began) / 1000);
    tell({ kind: "written", text, tokens, bytes, heldBytes: liveBytes + pooledBytes, rate });
    [text, bytes, told] = ["", 0, now];
    await turn();
    if (signal.aborted) return;
  }
}

/**
 * Time against n: Lightning Attention-2 and softmax attention, forward, on the same q, k and v.
 */
import {
  decaySlopes,
  type Device,
  flashAttention,
  lightningAttention,
  randn,
  scope,
  type Tensor,
} from "../../mod.ts";
import type { Form, Tell } from "./protocol.ts";
import { turn } from "./turn.ts";

const HEADS = 2;
const SIZE = 64;
const SLOPES = decaySlopes(HEADS);

const FORMS: Readonly<Record<Form, (q: Tensor, k: Tensor, v: Tensor) => Tensor>> = {
  lightning: (q, k, v) => lightningAttention(q, k, v, { slopes: SLOPES }),
  softmax: (q, k, v) => flashAttention(q, k, v),
};

const SHORTEST = 128;
const LONGEST = 65536;
/** A form whose call takes longer, in ms, is not asked for twice as many tokens. */
const PATIENCE = 250;
/** How long one measurement takes at least, in ms. */
const SPAN = 200;
const ROUNDS = 3;

/**
 * Times both forms at n = 128, 256, …, until they take too long or `signal` says to stop; and again, as
 * other work on the device can only make a time longer: the least counts.
 */
export async function compare(device: Device, signal: AbortSignal, tell: Tell): Promise<void> {
  for (let round = 0; round < ROUNDS; round++) {
    const left = new Set<Form>(["lightning", "softmax"]);
    for (let n = SHORTEST; n <= LONGEST && left.size > 0; n *= 2) {
      const inputs = [1, 2, 3].map((seed) => randn([1, HEADS, n, SIZE], { seed, device }));
      try {
        for (const form of left) {
          const ms = await timed(device, () => FORMS[form](inputs[0], inputs[1], inputs[2]));
          tell({ kind: "timed", form, n, ms });
          if (ms > PATIENCE) left.delete(form);
          await turn();
          if (signal.aborted) return;
        }
      } finally {
        for (const t of inputs) t.dispose();
        device.trim();
      }
    }
  }
}

/** The ms of one call of `fn`: the least mean of the batches that fit into the span, after a first call. */
async function timed(device: Device, fn: () => Tensor): Promise<number> {
  const batch = async (calls: number) => {
    const began = performance.now();
    for (let i = 0; i < calls; i++) {
      using _ = scope();
      fn();
    }
    await device.synchronize();
    return (performance.now() - began) / calls;
  };
  await batch(1);
  const began = performance.now();
  let [best, calls] = [Infinity, 1];
  do {
    best = Math.min(best, await batch(calls));
    calls = Math.max(1, Math.min(200, Math.round(SPAN / 10 / best)));
  } while (performance.now() - began < SPAN);
  return best;
}

/**
 * The text a model learns from: bytes, split into a part to train on and a part held out.
 */
import { LevinError } from "../../mod.ts";

/** Text as bytes, and where it came from. */
export interface Text {
  /** Bytes to learn from. */
  readonly training: Uint8Array;
  /** Bytes held out: every tenth block of the text. */
  readonly heldOut: Uint8Array;
  /** What the text is, in words. */
  readonly description: string;
  /** The SHA-256 of all bytes, in hexadecimal. */
  readonly hash: string;
}

/** Bits of information in a nat. */
export const BITS = 1 / Math.LN2;

const HELD_OUT_BLOCK = 4096;

/**
 * Splits `bytes`, which are called `source`.
 *
 * @throws {LevinError} if there is too little text for a window of `shortest` bytes in either part.
 */
export async function textOf(
  bytes: Uint8Array<ArrayBuffer>,
  source: string,
  shortest: number,
): Promise<Text> {
  const { training, heldOut } = splitBlocks(bytes);
  if (training.length <= shortest || heldOut.length <= shortest) {
    throw new LevinError(
      `Cannot learn from ${source}: ${bytes.length} bytes are too few for windows of ${shortest} ` +
        `bytes in both the training text and the tenth that is held out; give more text or a ` +
        `shorter context`,
    );
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return { training, heldOut, description: source, hash: hexadecimal(digest) };
}

/** Bytes in hexadecimal; Node 24 has no `toHex` yet. */
function hexadecimal(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The entropy of a byte drawn from `heldOut` by the frequencies of `training`, in nats. */
export function unigramEntropy({ training, heldOut }: Text): number {
  // One count for every byte beforehand, so that a byte never seen has a finite cost.
  const counts = new Float64Array(256).fill(1);
  for (const byte of training) counts[byte]++;
  const total = training.length + 256;
  let nats = 0;
  for (const byte of heldOut) nats -= Math.log(counts[byte] / total);
  return nats / heldOut.length;
}

/** Every tenth block is held out, so that both parts speak of the same things. */
function splitBlocks(bytes: Uint8Array): { training: Uint8Array; heldOut: Uint8Array } {
  const parts: { training: Uint8Array[]; heldOut: Uint8Array[] } = { training: [], heldOut: [] };
  const block = Math.max(1, Math.min(HELD_OUT_BLOCK, Math.floor(bytes.length / 10)));
  for (let start = 0, i = 0; start < bytes.length; start += block, i++) {
    parts[i % 10 === 9 ? "heldOut" : "training"].push(bytes.subarray(start, start + block));
  }
  return { training: joined(parts.training), heldOut: joined(parts.heldOut) };
}

/** The bytes of all parts, one after the other. */
export function joined(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/**
 * Lightning Attention-2 in WebAssembly: how a call becomes a job for the kernel in
 * backend/wasm/assembly/lightning.ts, and the scores that a call leaves for its gradient.
 *
 * @module
 */
import { addressOf, floatBits, type WasmJob, type WasmView } from "../backend/contract.ts";
import { bytesOf } from "../dtype.ts";
import { sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import type { LightningOptions } from "./lightning_core.ts";
import { placeInMemory, stepsOf } from "./tiles.ts";

/** The most rows of a block: its decays and scores are matrices of rows by rows. */
const MOST_ROWS = 256;
/** So many tasks are wanted of sequences of so many tokens, of so many columns each. */
const FEW = 4;
const LONG = 256;
const LEAST_COLUMNS = 32;

/**
 * How many tasks one head is. Where heads are fewer than `FEW`, each is several, a part of the columns of v each, which
 * compute the scores again and nothing else: by the shape alone, and no element is computed otherwise than in one task.
 */
export function partsOf(
  [b, groups, members, n]: readonly number[],
  [, , , , e]: readonly number[],
): number {
  const wanted = Math.ceil(FEW / (b * groups * members));
  return n < LONG ? 1 : Math.max(1, Math.min(wanted, Math.floor(e / LEAST_COLUMNS)));
}

/** Rows of a block. */
function rowsOf(n: number, blockSize: number): number {
  return Math.min(blockSize, MOST_ROWS, Math.max(n, 1));
}

/** The scores within all blocks, as the kernel leaves them: whole tiles of six rows, and room after the last one. */
export function scoresShape(
  [b, groups, members, n]: readonly number[],
  { blockSize }: LightningOptions,
): number[] {
  const rows = rowsOf(n, blockSize);
  const tall = 6 * Math.ceil(rows / 6);
  return [b, groups, members, Math.ceil(n / rows), tall, 4 * Math.ceil((tall + 1) / 4)];
}

/**
 * Whether the scores of a call, k and v with the heads that share them, are worth keeping for its gradient: if they are
 * in whole tiles and take at most an eighth of the memory of q, k, v and o.
 */
export function keepsScores(k: Tensor, v: Tensor, options: LightningOptions): boolean {
  if (k.device.backend !== "wasm" || rowsOf(k.shape[3], options.blockSize) % 6 !== 0) return false;
  const operands = 2 * (sizeOf(k.shape) + sizeOf(v.shape)) * bytesOf(k.dtype);
  return 8 * 4 * sizeOf(scoresShape(k.shape, options)) <= operands;
}

/**
 * One task a head or a part of it, its blocks one after the other. `pair` is the second call of a pair, computed beside;
 * `turned` says that this is the second call. Scores are left in `gives`, or found in `takes`.
 */
export function planJob(
  [q, k, v, g, initial]: WasmView[],
  [out, last]: WasmView[],
  { alpha, beta, decayAfter, blockSize }: LightningOptions,
  { pair, turned = false, gives, takes }: {
    pair?: { q: WasmView; out: WasmView; takes?: WasmView };
    turned?: boolean;
    gives?: WasmView;
    takes?: WasmView;
  } = {},
): WasmJob {
  const [b, groups, members, n, d] = k.shape;
  const e = v.shape[4];
  const block = rowsOf(n, blockSize);
  // Whole tiles of six rows and eight columns, and what is loaded beyond them.
  const [rows, deep, wide] = [block, d, e].map((size) => size + 16);
  const larger = Math.max(deep, wide);
  const words = (2 * rows + larger) * (rows + 8) + rows * (5 + 3 * deep + 2 * wide + larger) +
    2 * deep * wide;
  const gSteps = [...stepsOf(g).slice(0, 3), g.strides[3]].map((step) => 4 * step);
  // Whole panels of eight columns.
  const width = Math.ceil(e / partsOf(k.shape, v.shape) / 8) * 8;
  return {
    kernel: "lightningAttention",
    params: [
      ...[groups, members, n, d, e, block],
      ...[floatBits(alpha), floatBits(beta), decayAfter ? 1 : 0, initial === undefined ? 0 : 1],
      ...[width, pair === undefined ? 0 : 1, turned ? 1 : 0],
      ...[gives, takes, pair?.takes].map((view) => view === undefined ? 0 : addressOf(view)),
      ...[q, k, v, out, last, initial ?? last, pair?.q ?? q, pair?.out ?? out]
        .flatMap(placeInMemory),
      ...[addressOf(g), ...gSteps],
    ],
    tasks: b * groups * members * Math.ceil(e / width),
    scratchBytes: 192 + 4 * words,
  };
}

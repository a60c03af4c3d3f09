/**
 * The CPU twins of flash_attention.ts: the same sums over blocks of queries and keys, as matrix products.
 *
 * @module
 */
import type { CpuView } from "../backend/contract.ts";
import type { FlashOptions, Wanted } from "./flash_attention.ts";
import { type Matrix, multiply } from "./matmul_cpu.ts";
import { denseMatrix, entriesOf, matrixAt, transposed } from "./tiles.ts";

/** Queries and keys of a block. */
const ROWS = 64;
const KEYS = 128;

/** A block: queries from `start`, keys from `from`; and the score block's place in its matrix. */
interface Block {
  readonly start: number;
  readonly rows: number;
  readonly from: number;
  readonly keys: number;
}

/** The blocks with the queries from `start` in which any query sees any key. */
function* blocksOf(start: number, n: number, m: number, causal: boolean): Generator<Block> {
  const rows = Math.min(ROWS, n - start);
  const end = causal ? start + rows + m - n : m;
  for (let from = 0; from < end; from += KEYS) {
    yield { start, rows, from, keys: Math.min(KEYS, end - from) };
  }
}

/** How many keys of the block the query at row `r` of it sees. */
function seenOf({ start, from, keys }: Block, r: number, shift: number, causal: boolean): number {
  return causal ? Math.max(0, Math.min(keys, start + r + shift + 1 - from)) : keys;
}

/** o and L by online softmax. */
export function attendOnCpu(
  [q, k, v]: CpuView[],
  [out, logsum]: CpuView[],
  { causal, scale }: FlashOptions,
): void {
  const [n, d] = q.shape.slice(3);
  const [m, e] = v.shape.slice(3);
  const scores = denseMatrix(ROWS, KEYS);
  const sums = denseMatrix(ROWS, e);
  const largest = new Float64Array(ROWS);
  const total = new Float64Array(ROWS);
  for (const entry of entriesOf(q.shape.slice(0, 3))) {
    for (let start = 0; start < n; start += ROWS) {
      const rows = Math.min(ROWS, n - start);
      largest.fill(-Infinity);
      total.fill(0);
      sums.data.fill(0);
      for (const block of blocksOf(start, n, m, causal)) {
        const { from, keys } = block;
        const keysT = transposed(matrixAt(k, entry, from));
        multiply([rows, keys, d], matrixAt(q, entry, start), keysT, scores);
        for (let r = 0; r < rows; r++) {
          const seen = seenOf(block, r, m - n, causal);
          const row = scores.data.subarray(r * KEYS, r * KEYS + keys);
          let grown = largest[r];
          for (let j = 0; j < seen; j++) grown = Math.max(grown, row[j] *= scale);
          // Nothing summed so far, or nothing new to sum.
          const shrink = seen === 0 ? 1 : Math.exp(largest[r] - grown);
          let sum = shrink * total[r];
          for (let j = 0; j < seen; j++) sum += row[j] = Math.exp(row[j] - grown);
          row.fill(0, seen);
          for (let c = 0; c < e; c++) sums.data[r * e + c] *= shrink;
          largest[r] = grown;
          total[r] = sum;
        }
        multiply([rows, e, keys], scores, matrixAt(v, entry, from), sums, true);
      }
      const to = matrixAt(out, entry, start);
      const [b, g, h, step] = logsum.strides;
      const head = logsum.offset + entry[0] * b + entry[1] * g + entry[2] * h;
      for (let r = 0; r < rows; r++) {
        const share = total[r] > 0 ? 1 / total[r] : 0;
        for (let c = 0; c < e; c++) {
          to.data[to.offset + r * to.row + c * to.column] = share * sums.data[r * e + c];
        }
        logsum.data[head + (start + r) * step] = largest[r] + Math.log(total[r]);
      }
    }
  }
}

/** The wanted ones of dq, dk and dv. */
export function gradientsOnCpu(
  [q, k, v, out, logsum, g]: CpuView[],
  outputs: CpuView[],
  { causal, scale, of }: FlashOptions & { readonly of: readonly Wanted[] },
): void {
  const [n, d] = q.shape.slice(3);
  const [m, e] = v.shape.slice(3);
  const scores = denseMatrix(ROWS, KEYS);
  const products = denseMatrix(ROWS, KEYS);
  const [dq, dk, dv] = (["q", "k", "v"] as const).map((name) => outputs[of.indexOf(name)]);
  for (const output of outputs) output.data.fill(0);
  for (const entry of entriesOf(q.shape.slice(0, 3))) {
    for (let start = 0; start < n; start += ROWS) {
      const [qs, gs] = [q, g].map((view) => matrixAt(view, entry, start));
      const os = matrixAt(out, entry, start);
      const [b, group, h, step] = logsum.strides;
      const head = logsum.offset + entry[0] * b + entry[1] * group + entry[2] * h;
      for (const block of blocksOf(start, n, m, causal)) {
        const { rows, from, keys } = block;
        const [ks, vs] = [k, v].map((view) => matrixAt(view, entry, from));
        multiply([rows, keys, d], qs, transposed(ks), scores);
        multiply([rows, keys, e], gs, transposed(vs), products);
        for (let r = 0; r < rows; r++) {
          const seen = seenOf(block, r, m - n, causal);
          const l = logsum.data[head + (start + r) * step];
          const mean = rowProduct(gs, os, r, e);
          const row = r * KEYS;
          for (let j = row; j < row + keys; j++) {
            const p = j < row + seen ? Math.exp(scale * scores.data[j] - l) : 0;
            products.data[j] = scale * p * (products.data[j] - mean);
            scores.data[j] = p;
          }
        }
        if (dv) multiply([keys, e, rows], transposed(scores), gs, matrixAt(dv, entry, from), true);
        if (dq) multiply([rows, d, keys], products, ks, matrixAt(dq, entry, start), true);
        if (dk) {
          multiply([keys, d, rows], transposed(products), qs, matrixAt(dk, entry, from), true);
        }
      }
    }
  }
}

/** The dot product of row `r` of x and of y. */
function rowProduct(x: Matrix, y: Matrix, r: number, length: number): number {
  const [x0, y0] = [x.offset + r * x.row, y.offset + r * y.row];
  let sum = 0;
  for (let c = 0; c < length; c++) sum += x.data[x0 + c * x.column] * y.data[y0 + c * y.column];
  return sum;
}

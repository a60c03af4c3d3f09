/**
 * The plain TypeScript of lightning_core.ts's operator.
 *
 * @module
 */
import type { CpuView } from "../backend/contract.ts";
import type { LightningOptions } from "./lightning_core.ts";
import { type Matrix, multiply } from "./matmul_cpu.ts";
import { denseMatrix, entriesOf, matrixAt, transposed } from "./tiles.ts";

/** The CPU twin: four matrix products a block. */
export function attendOnCpu(
  [q, k, v, g, initial]: CpuView[],
  [out, last]: CpuView[],
  { alpha, beta, decayAfter, ...options }: LightningOptions,
): void {
  const [n, d] = k.shape.slice(3);
  const e = v.shape[4];
  const blockSize = Math.min(options.blockSize, Math.max(n, 1));
  const scores = denseMatrix(blockSize, blockSize);
  const decayed = denseMatrix(blockSize, d);
  const fromState = denseMatrix(blockSize, e);
  const state = denseMatrix(d, e);
  const decays = new BlockDecays(blockSize, decayAfter);
  for (const head of entriesOf(k.shape.slice(0, 3))) {
    decays.rows = 0;
    if (initial === undefined) state.data.fill(0);
    else copyMatrix(matrixAt(initial, head), state, d, e);

    for (let start = 0; start < n; start += blockSize) {
      const m = Math.min(blockSize, n - start);
      const [qb, kb, vb, ob] = [q, k, v, out].map((view) => matrixAt(view, head, start));
      decays.read(g, head, start, m);
      const { between, fromStart, toEnd } = decays;
      // Scores, decayed and masked; then o = scores · v.
      multiply([m, m, d], qb, transposed(kb), scores);
      for (let r = 0; r < m; r++) {
        const row = r * blockSize;
        for (let t = 0; t < m; t++) {
          scores.data[row + t] *= t <= r ? alpha * beta * between[row + t] : 0;
        }
      }
      multiply([m, e, m], scores, vb, ob);
      // What the state before the block contributes.
      multiply([m, e, d], qb, state, fromState);
      for (let r = 0; r < m; r++) {
        const weight = alpha * fromStart[r];
        for (let c = 0; c < e; c++) {
          ob.data[ob.offset + r * ob.row + c * ob.column] += weight * fromState.data[r * e + c];
        }
      }
      // The state after it.
      for (let r = 0; r < m; r++) {
        const weight = beta * toEnd[r];
        for (let c = 0; c < d; c++) {
          decayed.data[r * d + c] = weight * kb.data[kb.offset + r * kb.row + c * kb.column];
        }
      }
      for (let i = 0; i < state.data.length; i++) state.data[i] *= decays.whole;
      multiply([d, e, m], transposed(decayed), vb, state, true);
    }
    copyMatrix(state, matrixAt(last, head), d, e);
  }
}

/** A token's strongest decay: its exponential is 0 in float32. */
const STRONGEST = -127;

/** The decays within a block, from sums in float64. */
class BlockDecays {
  /** exp(P_r − P_t) at r · blockSize + t, for t ≤ r. */
  readonly between: Float64Array;
  /** exp(P_r). */
  readonly fromStart: Float64Array;
  /** exp(P_m − P_r). */
  readonly toEnd: Float64Array;
  /** exp(P_m). */
  whole = 1;
  /** Rows of the block read last; 0 if what was read must not be reused. */
  rows = 0;
  readonly #position: Float64Array;

  constructor(readonly blockSize: number, readonly decayAfter: boolean) {
    this.between = new Float64Array(blockSize * blockSize);
    this.fromStart = new Float64Array(blockSize);
    this.toEnd = new Float64Array(blockSize);
    this.#position = new Float64Array(blockSize);
  }

  read(g: CpuView, head: readonly number[], start: number, m: number): void {
    const step = g.strides[3];
    // A stride of 0 is one slope for all tokens.
    if (step === 0 && this.rows === m) return;
    this.rows = m;
    const base = head.reduce((sum, at, axis) => sum + at * g.strides[axis], g.offset) +
      start * step;
    let sum = 0;
    for (let r = 0; r < m; r++) {
      // As in lightning_positions.wgsl; a g of −∞ must not make ∞ − ∞.
      const next = sum + Math.min(0, Math.max(g.data[base + r * step], STRONGEST));
      this.#position[r] = this.decayAfter ? sum : next;
      sum = next;
    }
    this.whole = Math.exp(sum);
    for (let r = 0; r < m; r++) {
      const position = this.#position[r];
      this.fromStart[r] = Math.exp(position);
      this.toEnd[r] = Math.exp(sum - position);
      const row = r * this.blockSize;
      for (let t = 0; t <= r; t++) this.between[row + t] = Math.exp(position - this.#position[t]);
    }
  }
}

function copyMatrix(from: Matrix, to: Matrix, rows: number, columns: number): void {
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      to.data[to.offset + i * to.row + j * to.column] =
        from.data[from.offset + i * from.row + j * from.column];
    }
  }
}

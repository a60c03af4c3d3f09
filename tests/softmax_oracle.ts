/**
 * Softmax attention in its naive quadratic form, in float64, and its gradients written out pair by pair. It
 * shares no code and no method with what it judges.
 *
 *     p_ij = e^(s_ij) / Σ_j e^(s_ij),   s_ij = scale · q_i · k_j,   o_i = Σ_j p_ij v_j
 *     ds_ij = p_ij Σ_l (δ_jl − p_il) (g_i · v_l)
 */
import { zeroMatrix } from "./oracle.ts";

/** One head of one sequence: rows of numbers. */
export interface SoftmaxHead {
  q: number[][];
  k: number[][];
  v: number[][];
  scale: number;
  causal: boolean;
}

const dot = (a: number[], b: number[]) => a.reduce((sum, x, i) => sum + x * b[i], 0);

/** The weights of the keys that query `i` sees: the first so many. */
function weightsOf({ q, k, scale, causal }: SoftmaxHead, i: number): number[] {
  const seen = causal ? i + 1 + k.length - q.length : k.length;
  const scores = k.slice(0, seen).map((key) => scale * dot(q[i], key));
  const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = scores.map((s) => Math.exp(s - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / sum);
}

export function attendSoftmax(head: SoftmaxHead, e: number): number[][] {
  return head.q.map((_, i) => {
    const o = Array<number>(e).fill(0);
    weightsOf(head, i).forEach((p, j) => head.v[j].forEach((x, c) => o[c] += p * x));
    return o;
  });
}

const sizesOf = (row: number[]) => row.map(Math.abs);

/** What outputs are sums of, all with one sign: rounding is relative to these. */
export function softmaxTerms(head: SoftmaxHead, e: number): number[][] {
  return attendSoftmax({ ...head, v: head.v.map(sizesOf) }, e);
}

interface Sums {
  q: number[][];
  k: number[][];
  v: number[][];
}

export interface SoftmaxGradients extends Sums {
  /** What they are sums and differences of, likewise. */
  terms: Sums;
}

/** The gradients of Σ o · g. */
export function attendSoftmaxGradients(head: SoftmaxHead, g: number[][]): SoftmaxGradients {
  const { q, k, v, scale } = head;
  const like = (rows: number[][]) => zeroMatrix(rows.length, rows[0]?.length ?? 0);
  const result = {
    q: like(q),
    k: like(k),
    v: like(v),
    terms: { q: like(q), k: like(k), v: like(v) },
  };
  q.forEach((query, i) => {
    const p = weightsOf(head, i);
    const products = p.map((_, j) => dot(g[i], v[j]));
    const mean = dot(p, products);
    p.forEach((weight, j) => {
      const ds = weight * (products[j] - mean);
      const term = Math.abs(scale) * weight * (dot(sizesOf(g[i]), sizesOf(v[j])) + Math.abs(mean));
      k[j].forEach((x, c) => result.terms.q[i][c] += term * Math.abs(x));
      query.forEach((x, c) => result.terms.k[j][c] += term * Math.abs(x));
      k[j].forEach((x, c) => result.q[i][c] += scale * ds * x);
      query.forEach((x, c) => result.k[j][c] += scale * ds * x);
      g[i].forEach((x, c) => {
        result.v[j][c] += weight * x;
        result.terms.v[j][c] += weight * Math.abs(x);
      });
    });
  });
  return result;
}

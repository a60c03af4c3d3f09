/**
 * Linear attention with decay in its naive quadratic form, in float64, and its gradients written out pair
 * by pair. It shares no code and no method with what it judges.
 *
 *     o_t = scale · (Σ_{s ≤ t} w_ts (q_t · k_s) v_s + w_t0 q_t S_0),   w_ts = exp(c_t − c_s), c_t = Σ_{u ≤ t} g_u
 *     S_n = Σ_s w_ns k_sᵀ v_s + w_n0 S_0
 *
 * Beside each result stand its terms: the same sums over absolute values. Where terms cancel, a result is
 * smaller than they are, and rounding is relative to them.
 */

/** One head of one sequence: rows of numbers. */
export interface Head {
  q: number[][];
  k: number[][];
  v: number[][];
  /** The logarithm of each token's decay, ≤ 0. */
  g: number[];
  scale: number;
  initial: number[][];
}

export interface HeadSums {
  o: number[][];
  state: number[][];
}

export interface HeadResult extends HeadSums {
  terms: HeadSums;
}

export interface HeadGradientSums {
  q: number[][];
  k: number[][];
  v: number[][];
  g: number[];
  initial: number[][];
}

export interface HeadGradients extends HeadGradientSums {
  terms: HeadGradientSums;
}

export function zeroMatrix(rows: number, columns: number): number[][] {
  return Array.from({ length: rows }, () => Array<number>(columns).fill(0));
}

const dot = (a: number[], b: number[]) => a.reduce((sum, x, i) => sum + x * b[i], 0);

function cumulative(g: number[]): number[] {
  let sum = 0;
  return g.map((x) => sum += x);
}

const sizes = (rows: number[][]) => rows.map((row) => row.map(Math.abs));

/** The head of which all terms of all sums are positive. */
function absolute({ q, k, v, g, scale, initial }: Head): Head {
  const all = { q: sizes(q), k: sizes(k), v: sizes(v), initial: sizes(initial) };
  return { ...all, g, scale: Math.abs(scale) };
}

export function attend(head: Head): HeadResult {
  return { ...sums(head), terms: sums(absolute(head)) };
}

function sums({ q, k, v, g, scale, initial }: Head): HeadSums {
  const [n, d, e] = [g.length, initial.length, initial[0].length];
  const c = cumulative(g);
  const o = zeroMatrix(n, e);
  const state = zeroMatrix(d, e);
  for (let t = 0; t < n; t++) {
    for (let s = 0; s <= t; s++) {
      const weight = scale * Math.exp(c[t] - c[s]) * dot(q[t], k[s]);
      for (let j = 0; j < e; j++) o[t][j] += weight * v[s][j];
    }
    for (let i = 0; i < d; i++) {
      const fromStart = scale * Math.exp(c[t]) * q[t][i];
      const toEnd = Math.exp(c[n - 1] - c[t]) * k[t][i];
      for (let j = 0; j < e; j++) {
        o[t][j] += fromStart * initial[i][j];
        state[i][j] += toEnd * v[t][j];
      }
    }
  }
  const whole = n === 0 ? 1 : Math.exp(c[n - 1]);
  initial.forEach((row, i) => row.forEach((x, j) => state[i][j] += whole * x));
  return { o, state };
}

/** The gradients of Σ o · go + Σ S_n · gs. */
export function attendGradients(head: Head, go: number[][], gs: number[][]): HeadGradients {
  const terms = gradientSums(absolute(head), sizes(go), sizes(gs), 1);
  return { ...gradientSums(head, go, gs, -1), terms };
}

/** `sign` is that of what is subtracted: −1, or 1 to add it up as well. */
function gradientSums(
  head: Head,
  go: number[][],
  gs: number[][],
  sign: number,
): HeadGradientSums {
  const { q, k, v, g, scale, initial } = head;
  const [n, d, e] = [g.length, initial.length, initial[0].length];
  const c = cumulative(g);
  const result = {
    q: zeroMatrix(n, d),
    k: zeroMatrix(n, d),
    v: zeroMatrix(n, e),
    initial: zeroMatrix(d, e),
  };
  const dc = Array<number>(n).fill(0);
  for (let t = 0; t < n; t++) {
    for (let s = 0; s <= t; s++) {
      const weight = scale * Math.exp(c[t] - c[s]);
      const qk = dot(q[t], k[s]);
      const gv = dot(go[t], v[s]);
      for (let i = 0; i < d; i++) {
        result.q[t][i] += weight * gv * k[s][i];
        result.k[s][i] += weight * gv * q[t][i];
      }
      for (let j = 0; j < e; j++) result.v[s][j] += weight * qk * go[t][j];
      dc[t] += weight * qk * gv;
      dc[s] += sign * weight * qk * gv;
    }
    const fromStart = scale * Math.exp(c[t]);
    const toEnd = Math.exp(c[n - 1] - c[t]);
    for (let i = 0; i < d; i++) {
      for (let j = 0; j < e; j++) {
        result.q[t][i] += fromStart * go[t][j] * initial[i][j];
        result.initial[i][j] += fromStart * go[t][j] * q[t][i];
        dc[t] += fromStart * go[t][j] * q[t][i] * initial[i][j];
        result.k[t][i] += toEnd * gs[i][j] * v[t][j];
        result.v[t][j] += toEnd * gs[i][j] * k[t][i];
        const part = toEnd * gs[i][j] * k[t][i] * v[t][j];
        dc[n - 1] += part;
        dc[t] += sign * part;
      }
    }
  }
  const whole = n === 0 ? 1 : Math.exp(c[n - 1]);
  for (let i = 0; i < d; i++) {
    for (let j = 0; j < e; j++) {
      result.initial[i][j] += whole * gs[i][j];
      if (n > 0) dc[n - 1] += whole * gs[i][j] * initial[i][j];
    }
  }
  // g_u moves every c_t from u on.
  const dg = Array<number>(n).fill(0);
  for (let t = n - 1, sum = 0; t >= 0; t--) dg[t] = sum += dc[t];
  return { ...result, g: dg };
}

/**
 * Linear attention with decay, token by token in float64, S_t = e^(−slope) S_{t−1} + k_tᵀ v_t and o_t = q_t S_t,
 * for benchmarks to judge by. It shares nothing with the code it judges.
 */

/** Values of one head, row by row. */
export type Rows = ArrayLike<number>;

/**
 * o, the last state, and the gradients of Σ o · u + Σ S_n · us with respect to q, k, v, the slope and S₀.
 * `s0` and `us` are states, [size, size].
 */
export function recurrence(q: Rows, k: Rows, v: Rows, s0: Rows, slope: number, u: Rows, us: Rows) {
  const size = Math.sqrt(s0.length);
  const n = q.length / size;
  const decay = Math.exp(-slope);
  const o = new Float64Array(n * size);
  const [dq, dk, dv] = [0, 1, 2].map(() => new Float64Array(n * size));
  const state = Float64Array.from(s0);
  // d slope = Σ_t −exp(−slope) ⟨S_{t−1}, dS_t⟩ needs every S; 2048 of them at a time are kept.
  const segment = 2048;
  const starts: Float64Array[] = [];
  const forward = (from: number, to: number, visit?: (t: number) => void) => {
    for (let t = from; t < to; t++) {
      visit?.(t);
      for (let i = 0; i < size; i++) {
        for (let j = 0; j < size; j++) {
          const at = i * size + j;
          state[at] = decay * state[at] + k[t * size + i] * v[t * size + j];
        }
      }
    }
  };
  for (let from = 0; from < n; from += segment) {
    starts.push(state.slice());
    forward(from, Math.min(n, from + segment));
  }
  const last = state.slice();
  const gradient = Float64Array.from(us);
  let dslope = 0;
  for (let block = starts.length - 1; block >= 0; block--) {
    const [from, to] = [block * segment, Math.min(n, (block + 1) * segment)];
    const before: Float64Array[] = [];
    state.set(starts[block]);
    forward(from, to, () => before.push(state.slice()));
    for (let t = to - 1; t >= from; t--) {
      const row = t * size;
      for (let i = 0; i < size; i++) {
        for (let j = 0; j < size; j++) {
          const at = i * size + j;
          const now = decay * before[t - from][at] + k[row + i] * v[row + j];
          o[row + j] += q[row + i] * now;
          dq[row + i] += u[row + j] * now;
          gradient[at] += q[row + i] * u[row + j];
          dk[row + i] += gradient[at] * v[row + j];
          dv[row + j] += gradient[at] * k[row + i];
          dslope -= decay * before[t - from][at] * gradient[at];
          gradient[at] *= decay;
        }
      }
    }
  }
  return { o, S: last, dq, dk, dv, dslope: [dslope], dS0: gradient };
}

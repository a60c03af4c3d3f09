/**
 * TensorFlow.js on its WebAssembly backend. There `matMul` is fast for two matrices that are not flagged as
 * transposed, and some ten times slower otherwise, also in its gradient; so all products here are of
 * that kind, with their gradients written out. Threads it starts in browsers only, not in Deno.
 */
import * as tf from "@tensorflow/tfjs";
import * as wasm from "@tensorflow/tfjs-backend-wasm";
import type { AttentionProblem, Candidate, Library } from "./library.ts";
import { decayMask, trainingStep } from "./tfjs_model.ts";
import manifest from "./deno.json" with { type: "json" };

/** Tokens of a chunk to try. */
const CHUNKS = [128, 256];

/** TensorFlow.js, asked for `threads` threads. */
export async function tfjsLibrary(threads: number): Promise<Library> {
  wasm.setThreadsCount(threads);
  await tf.setBackend("wasm");
  await tf.ready();
  return {
    name: `tfjs ${manifest.imports["@tensorflow/tfjs"].split("@").at(-1)} wasm`,
    threads: await tf.env().getAsync("WASM_HAS_MULTITHREAD_SUPPORT") ? wasm.getThreadsCount() : 1,
    matmul: (a, b, size) => ({
      matMul: () => {
        const [left, right] = [a, b].map((x) => tf.tensor2d(x, [size, size]));
        return candidate([left, right], () => [tf.matMul(left, right)]);
      },
    }),
    attention: (problem) => ({
      naive: () => naive(problem),
      ...Object.fromEntries(
        CHUNKS.map((chunk) => [`chunks of ${chunk}`, () => chunked(problem, chunk)]),
      ),
    }),
    training: (problem, steps) => ({ "op by op": () => trainingStep(problem, steps) }),
  };
}

function candidate(inputs: tf.Tensor[], compute: () => tf.Tensor[]): Candidate {
  return {
    run: () => Promise.resolve(tf.dispose(tf.tidy(compute))),
    results: async () => {
      const found = tf.tidy(compute);
      const results = await Promise.all(found.map(async (t) => await t.data() as Float32Array));
      tf.dispose(found);
      return results;
    },
    dispose: () => tf.dispose(inputs),
  };
}

/** Pieces of `rows` rows, head after head: slices cost more than arithmetic, so inputs come cut. */
function cut(data: Float32Array, rows: number, size: number): tf.Tensor2D[] {
  return Array.from(
    { length: data.length / (rows * size) },
    (_, i) => tf.tensor2d(data.subarray(i * rows * size, (i + 1) * rows * size), [rows, size]),
  );
}

/** ((q kᵀ) ⊙ M) v for each head; dq = (G vᵀ ⊙ M) k, dk = (G vᵀ ⊙ M)ᵀ q, dv = (q kᵀ ⊙ M)ᵀ G. */
function naive({ n, size, slopes, gradient, ...problem }: AttentionProblem): Candidate {
  const [q, k, v] = [problem.q, problem.k, problem.v].map((x) => cut(x, n, size));
  const g = gradient === undefined ? undefined : cut(gradient, n, size);
  const masks = slopes.map((slope) => decayMask(slope, n));
  const inputs = [...q, ...k, ...v, ...(g ?? []), ...masks];
  const one = (h: number) =>
    tf.tidy(() => {
      const weights = tf.tidy(() => tf.mul(tf.matMul(q[h], tf.transpose(k[h])), masks[h]));
      const o = tf.matMul(weights, v[h]);
      if (g === undefined) return [o];
      const dv = tf.matMul(tf.transpose(weights), g[h]);
      weights.dispose();
      const dweights = tf.tidy(() => tf.mul(tf.matMul(g[h], tf.transpose(v[h])), masks[h]));
      return [o, tf.matMul(dweights, k[h]), tf.matMul(tf.transpose(dweights), q[h]), dv];
    });
  return candidate(inputs, () => {
    const heads = slopes.map((_, h) => one(h));
    return heads[0].map((_, i) => tf.concat(heads.map((results) => results[i])));
  });
}

/**
 * Chunk by chunk with the state carried: o = ((q kᵀ) ⊙ M) v + a ⊙ (q S), S ← λ^B S + (b ⊙ k)ᵀ v. Backwards
 * in time, M is transposed and a and b change places: dq = LA(G, v, k), dk = RLA(v, G, q), dv = RLA(k, q, G).
 */
function chunked(
  { n, size, slopes, gradient, ...problem }: AttentionProblem,
  B: number,
): Candidate {
  const C = n / B;
  const pieces = [problem.q, problem.k, problem.v].map((x) => cut(x, B, size));
  const g = gradient === undefined ? undefined : cut(gradient, B, size);
  const decays = slopes.map((slope) => {
    const column = (power: (r: number) => number) =>
      tf.tensor2d(Float32Array.from({ length: B }, (_, r) => Math.exp(-slope * power(r))), [B, 1]);
    const [fromStart, toEnd] = [column((r) => r + 1), column((r) => B - 1 - r)];
    const mask = decayMask(slope, B);
    return { fromStart, toEnd, mask, transposed: tf.transpose(mask), whole: Math.exp(-slope * B) };
  });
  const constants = decays.flatMap((d) => [d.fromStart, d.toEnd, d.mask, d.transposed]);
  const attend = (h: number, reverse: boolean, [q, k, v]: tf.Tensor2D[][]): tf.Tensor2D[] => {
    const { fromStart, toEnd, mask, transposed, whole } = decays[h];
    const [a, b, m] = reverse ? [toEnd, fromStart, transposed] : [fromStart, toEnd, mask];
    const outputs = Array<tf.Tensor2D>(C);
    let state = tf.zeros([size, size]) as tf.Tensor2D;
    for (let step = 0; step < C; step++) {
      const c = reverse ? C - 1 - step : step;
      const at = h * C + c;
      [outputs[c], state] = tf.tidy(() => {
        const scores = tf.mul(tf.matMul(q[at], tf.transpose(k[at])), m);
        const before = tf.matMul(tf.mul(q[at], a), state);
        const added = tf.matMul(tf.transpose(tf.mul(k[at], b) as tf.Tensor2D), v[at]);
        return [
          tf.add(tf.matMul(scores as tf.Tensor2D, v[at]), before),
          tf.add(tf.mul(state, whole), added),
        ] as [
          tf.Tensor2D,
          tf.Tensor2D,
        ];
      });
    }
    return outputs;
  };
  const everyHead = (reverse: boolean, inputs: tf.Tensor2D[][]) =>
    tf.tidy(() => tf.concat(slopes.flatMap((_, h) => attend(h, reverse, inputs))));
  const [q, k, v] = pieces;
  return candidate([...pieces.flat(), ...(g ?? []), ...constants], () => {
    const o = everyHead(false, [q, k, v]);
    if (g === undefined) return [o];
    return [o, everyHead(false, [g, v, k]), everyHead(true, [v, g, q]), everyHead(true, [k, q, g])];
  });
}

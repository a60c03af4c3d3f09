/**
 * jax-js on its WebAssembly backend, everything inside `jit`. Functions own their arguments there: `x.ref`
 * is one use of x more.
 */
import { blockUntilReady, defaultDevice, init, jit, numpy as np, tree, vjp } from "@jax-js/jax";
import { array, decayMask, read } from "./jax_arrays.ts";
import type { AttentionProblem, Candidate, Library } from "./library.ts";
import { trainingStep } from "./jax_model.ts";
import manifest from "./deno.json" with { type: "json" };

/** Tokens of a chunk to try. */
const CHUNKS = [64, 128];

/** jax-js with a pool of `threads` workers. It asks the navigator how many when it is imported. */
export async function jaxLibrary(): Promise<Library> {
  await init("wasm");
  defaultDevice("wasm");
  return {
    name: `jax-js ${manifest.imports["@jax-js/jax"].split("@").at(-1)} wasm`,
    threads: navigator.hardwareConcurrency,
    matmul: (a, b, size) => ({
      matmul: () => {
        const inputs = [a, b].map((data) => array(data, [size, size]));
        return candidate(inputs, jit((a: np.Array, b: np.Array) => [np.matmul(a, b)]));
      },
    }),
    attention: (problem) => ({
      naive: () => naive(problem),
      ...Object.fromEntries(
        CHUNKS.map((chunk) => [`chunks of ${chunk}`, () => chunked(problem, chunk)]),
      ),
    }),
    training: (problem, steps) => ({ "one jit": () => trainingStep(problem, steps) }),
  };
}

type Compiled = (...inputs: np.Array[]) => np.Array[];

function candidate(inputs: np.Array[], compiled: Compiled): Candidate {
  const call = () => compiled(...inputs.map((x) => x.ref));
  return {
    run: async () => tree.dispose(await blockUntilReady(call())),
    results: () => read(call()),
    dispose: () => tree.dispose(inputs),
  };
}

/** o, or o, dq, dk and dv, of an attention whose inputs are q, k, v, slopes and the gradient of o. */
function differentiated(
  attend: (q: np.Array, k: np.Array, v: np.Array, slopes: np.Array) => np.Array,
  backward: boolean,
): Compiled {
  if (!backward) return jit((q, k, v, slopes) => [attend(q, k, v, slopes)]) as Compiled;
  return jit((q: np.Array, k: np.Array, v: np.Array, slopes: np.Array, gradient: np.Array) => {
    const [o, pullback] = vjp(
      (q: np.Array, k: np.Array, v: np.Array) => attend(q, k, v, slopes),
      [q, k, v],
    );
    return [o, ...pullback(gradient)] as np.Array[];
  });
}

function inputsOf(
  problem: AttentionProblem,
  shape: number[],
  heads?: [number, number],
): np.Array[] {
  const { q, k, v, gradient, n, size, slopes } = problem;
  const [from, to] = heads ?? [0, slopes.length];
  const tensors = gradient === undefined ? [q, k, v] : [q, k, v, gradient];
  const arrays = tensors.map((x) => array(x.subarray(from * n * size, to * n * size), shape));
  arrays.splice(3, 0, array(Float32Array.from(slopes.slice(from, to)), [to - from]));
  return arrays;
}

/** ((q kᵀ) ⊙ M) v, head by head so that only one [n, n] matrix is held at a time. */
function naive(problem: AttentionProblem): Candidate {
  const { n, size, slopes, gradient } = problem;
  const attend = differentiated((q, k, v, slope) => {
    const scores = np.matmul(q, np.matrixTranspose(k)).mul(decayMask(slope.reshape([1, 1]), n));
    return np.matmul(scores, v);
  }, gradient !== undefined);
  const heads = slopes.map((_, h) => candidate(inputsOf(problem, [n, size], [h, h + 1]), attend));
  return {
    run: async () => {
      for (const head of heads) await head.run();
    },
    results: async () => {
      const results: Float32Array[][] = [];
      for (const head of heads) results.push(await head.results());
      return results[0].map((_, i) => Float32Array.from(results.flatMap((r) => [...r[i]])));
    },
    dispose: () => heads.forEach((head) => head.dispose()),
  };
}

/**
 * All chunks of all heads at once; inside a chunk it is quadratic, and the state before chunk c is
 * Σ_{b < c} λ^(B (c − b − 1)) ΔS_b, one product with a matrix of decays between chunks.
 */
function chunked(problem: AttentionProblem, B: number): Candidate {
  const { n, size, slopes, gradient } = problem;
  const [H, C] = [slopes.length, n / B];
  const attend = (q: np.Array, k: np.Array, v: np.Array, slopes: np.Array) => {
    const [qc, kc, vc] = [q, k, v].map((x) => x.reshape([H, C, B, size]));
    const s = slopes.reshape([H, 1, 1, 1]);
    const row = np.arange(B).astype(np.float32).reshape([B, 1]);
    // [H, C, B, B] · [H, C, B, e]
    const scores = np.matmul(qc.ref, np.matrixTranspose(kc.ref)).mul(decayMask(s.ref, B));
    const inside = np.matmul(scores, vc.ref);
    // ΔS [H, C, d, e], then S [H, C, C] · [H, C, d · e]
    const toEnd = np.exp(row.ref.sub(B - 1).mul(s.ref));
    const added = np.matmul(np.matrixTranspose(kc.mul(toEnd)), vc).reshape([H, C, size * size]);
    const between = decayMask(s.ref.reshape([H, 1, 1]).mul(B), C + 1).slice([], [0, C], [1, C + 1]);
    const states = np.matmul(between, added).reshape([H, C, size, size]);
    const fromStart = np.exp(row.add(1).mul(s).neg());
    return inside.add(np.matmul(qc.mul(fromStart), states)).reshape([H, n, size]);
  };
  const compiled = differentiated(attend, gradient !== undefined);
  return candidate(inputsOf(problem, [H, n, size]), compiled);
}

/** What the libraries are compared in, and what must come out. */
import { decaySlopes, randn } from "@levin/levin";
import { TransNormerLLM } from "@levin/levin/models";
import { recurrence } from "../recurrence.ts";
import type { Contest } from "./contest.ts";
import type { AttentionProblem, Library, TrainingProblem } from "./library.ts";

const draw = async (shape: number[], seed: number) => {
  using t = randn(shape, { seed });
  return await t.data() as Float32Array<ArrayBuffer>;
};

/** C = A B of 1024³; the reference is a float64 product. */
export async function matmul(): Promise<Contest & { flops: number }> {
  const size = 1024;
  const [a, b] = await Promise.all([1, 2].map((seed) => draw([size, size], seed)));
  const c = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    for (let k = 0; k < size; k++) {
      const x = a[i * size + k];
      for (let j = 0; j < size; j++) c[i * size + j] += x * b[k * size + j];
    }
  }
  return {
    title: `matmul ${size}³`,
    ways: (library) => library.matmul(a, b, size),
    expected: [c],
    tolerance: 1e-5,
    flops: 2 * size ** 3,
  };
}

/** Linear attention with decay on one sequence of 8 heads of 64; the reference is a float64 recurrence. */
export async function attention(n: number, backward: boolean): Promise<Contest & { n: number }> {
  const [heads, size] = [8, 64];
  const slopes = decaySlopes(heads);
  const shape = [heads, n, size];
  const [q, k, v, gradient] = await Promise.all([1, 2, 3, 4].map((seed) => draw(shape, seed)));
  const problem: AttentionProblem = {
    ...{ heads, n, size, slopes, q, k, v },
    gradient: backward ? gradient : undefined,
  };
  const zeros = new Float64Array(size * size);
  const results = slopes.map((slope, h) => {
    const head = (x: Float32Array) => x.subarray(h * n * size, (h + 1) * n * size);
    return recurrence(head(q), head(k), head(v), zeros, slope, head(gradient), zeros);
  });
  const names = backward ? ["o", "dq", "dk", "dv"] as const : ["o"] as const;
  const joined = (name: typeof names[number]) => {
    const all = new Float64Array(heads * n * size);
    results.forEach((result, h) => all.set(result[name], h * n * size));
    return all;
  };
  return {
    title: `attention (1, ${heads}, ${n}, ${size}) forward${backward ? " + backward" : ""}`,
    ways: (library) => library.attention(problem),
    expected: names.map(joined),
    tolerance: backward ? 1e-4 : 1e-5,
    n,
  };
}

/** The demo's model and batch; what must come out is the float32 losses of Levin. */
export async function training(
  levin: Library,
  steps: number,
): Promise<Contest & { tokens: number }> {
  const config = { vocabulary: 256, size: 128, layers: 4, heads: 4, inner: 352 };
  const [batch, context] = [4, 128];
  using model = new TransNormerLLM(config, { seed: 1 });
  const weights = new Map<string, { shape: readonly number[]; data: Float32Array }>();
  for (const [name, t] of Object.entries(model.parameters())) {
    weights.set(name, { shape: t.shape, data: await t.data() });
  }
  const text = new TextEncoder().encode(await Deno.readTextFile(new URL(import.meta.url)));
  const window = (from: number) => text.subarray(from, from + context);
  const tokens = (shift: number) =>
    Int32Array.from(
      Array.from({ length: batch }, (_, i) => [...window(i * context + shift)]).flat(),
    );
  const problem: TrainingProblem = {
    config,
    slopes: Array.from(
      { length: config.layers },
      (_, layer) => decaySlopes(config.heads, { layer, layers: config.layers }),
    ),
    ...{ batch, context, weights },
    ids: tokens(0),
    targets: tokens(1),
  };
  const [make] = Object.values(levin.training(problem, steps));
  const reference = make();
  const expected = await reference.results();
  reference.dispose();
  return {
    title: `training step, ${batch} × ${context} tokens`,
    ways: (library) => library.training(problem, steps),
    expected,
    tolerance: 1e-4,
    tokens: batch * context,
  };
}

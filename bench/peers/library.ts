/**
 * A tensor library as the comparison sees it: what each must be able to do, and in which layout it is
 * given its numbers.
 */
import type { TransNormerConfig } from "@levin/levin/models";

/** Causal linear attention with decay on one sequence. All arrays are [heads, n, size], row-major. */
export interface AttentionProblem {
  readonly heads: number;
  readonly n: number;
  /** d and e, both. */
  readonly size: number;
  /** The decay of each head is e^(−slope) a token. */
  readonly slopes: readonly number[];
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  /** The gradient of the outputs; with it, the gradients of q, k and v are asked for too. */
  readonly gradient?: Float32Array;
}

/** Training steps of a TransNormerLLM: cross-entropy, clipped gradients, AdamW. */
export interface TrainingProblem {
  readonly config: TransNormerConfig;
  /** The slopes of every layer. */
  readonly slopes: readonly (readonly number[])[];
  readonly batch: number;
  /** Tokens of a window. */
  readonly context: number;
  /** Tokens [batch, context] and those to be predicted from them. */
  readonly ids: Int32Array;
  readonly targets: Int32Array;
  /** Starting weights by name. */
  readonly weights: ReadonlyMap<string, { shape: readonly number[]; data: Float32Array }>;
}

/** What AdamW and the clipping are told, the same for all. */
export const TRAINING = {
  learningRate: 3e-3,
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-8,
  weightDecay: 0.1,
  clip: 1,
  normEpsilon: 1e-6,
} as const;

/** A piece of work with its inputs in place. */
export interface Candidate {
  /** Does it once. When it resolves, the results have been computed and freed. */
  run(): Promise<void>;
  /** Does it once and reads the results; the losses of the first steps, for training. */
  results(): Promise<Float32Array[]>;
  /** Frees the inputs. */
  dispose(): void;
}

/** Ways to write a piece of work, by name, that are worth trying; the fastest counts. */
export type Ways = Readonly<Record<string, () => Candidate>>;

/** A library on its CPU backend. */
export interface Library {
  /** Its name, version and backend. */
  readonly name: string;
  /** Threads that compute. */
  readonly threads: number;
  /** C = A B, all of them [size, size]. */
  matmul(a: Float32Array, b: Float32Array, size: number): Ways;
  /** Results: o; with a gradient also dq, dk and dv. */
  attention(problem: AttentionProblem): Ways;
  /** Results: the losses of the first `steps` steps, in nats a token. */
  training(problem: TrainingProblem, steps: number): Ways;
}

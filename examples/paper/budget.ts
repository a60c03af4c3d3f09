/**
 * A budget of seconds: what would not fit into the rest of it is not begun. And what fails, say for want of
 * memory, is told of and not fatal: the rows before and after it are worth having.
 */
import { LevinError } from "../../mod.ts";

/** How long a measurement will take. */
export interface Work {
  /** What is measured: times of one kind foretell each other. */
  readonly kind: string;
  /** The length of its sequences. */
  readonly n: number;
  /** How many there are. Default 1. */
  readonly sequences?: number;
}

/** A result, or why there is none. */
export type Outcome<T> = { readonly result: T; readonly reason?: undefined } | {
  readonly result?: undefined;
  readonly reason: string;
};

/** Runs measurements of several kinds at growing lengths while there is time. */
export class Budget {
  readonly #end: number;
  readonly #history = new Map<string, { n: number; seconds: number }[]>();

  /** From now on. */
  constructor(seconds: number) {
    this.#end = performance.now() + 1000 * seconds;
  }

  /** Seconds left. */
  get left(): number {
    return (this.#end - performance.now()) / 1000;
  }

  /**
   * Runs `fn` if, judged by its kind at shorter lengths, it will end in time.
   *
   * @param secondsOf The seconds that a result foretells; default: those it took.
   * @returns What `fn` returned, or why there is nothing.
   */
  async run<T>(
    work: Work,
    fn: () => Promise<T>,
    secondsOf?: (result: T) => number,
  ): Promise<Outcome<T>> {
    const expected = this.expected(work);
    if (this.left <= 0) return { reason: "the time was up" };
    if (expected > this.left) {
      return { reason: `would take ${expected.toFixed(0)} s of the ${this.left.toFixed(0)} left` };
    }
    const began = performance.now();
    let result: T;
    try {
      result = await fn();
    } catch (error) {
      if (!(error instanceof LevinError)) throw error;
      return { reason: error.message };
    }
    const seconds = secondsOf?.(result) ?? (performance.now() - began) / 1000;
    const { kind, n, sequences = 1 } = work;
    const history = this.#history.get(kind) ?? [];
    this.#history.set(kind, [...history, { n, seconds: seconds / sequences }]);
    return { result };
  }

  /**
   * The seconds that `work` is expected to take; 0 if nothing is known of its kind. A sequence takes
   * a n + b n² with a, b ≥ 0 from the last two lengths, or after one length b n².
   */
  expected({ kind, n, sequences = 1 }: Work): number {
    const history = this.#history.get(kind) ?? [];
    const [last, before] = [history.at(-1), history.at(-2)];
    if (last === undefined) return 0;
    const rate = last.seconds / last.n;
    let b = rate / last.n;
    if (before !== undefined && before.n < last.n) {
      const rise = (rate - before.seconds / before.n) / (last.n - before.n);
      b = Math.min(b, Math.max(0, rise));
    }
    const a = rate - b * last.n;
    return sequences * (a * n + b * n * n);
  }
}

/**
 * A budget of seconds: what would not fit into the rest of it is not begun.
 */

/** How long a measurement will take. */
export interface Work {
  /** What is measured: times of one kind foretell each other. */
  readonly kind: string;
  /** The length of its sequences. */
  readonly n: number;
  /** How many there are. Default 1. */
  readonly sequences?: number;
}

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
   * @param leastOf The seconds that a result would have taken at least; default: those it took.
   * @returns undefined if it was not run.
   */
  async run<T>(
    work: Work,
    fn: () => Promise<T>,
    leastOf?: (result: T) => number,
  ): Promise<T | undefined> {
    if (this.left <= 0 || this.expected(work) > this.left) return undefined;
    const began = performance.now();
    const result = await fn();
    const seconds = leastOf?.(result) ?? (performance.now() - began) / 1000;
    const { kind, n, sequences = 1 } = work;
    this.#history.set(kind, [
      ...this.#history.get(kind) ?? [],
      { n, seconds: seconds / sequences },
    ]);
    return result;
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

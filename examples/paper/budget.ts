/**
 * A budget of seconds: what would not fit into the rest of it is not begun.
 */

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
   * Runs `fn` if, judged by the times of its kind at shorter lengths, it will end in time. The power of n by
   * which time grows is taken from the last two of them, and is 2 at most.
   *
   * @param leastOf The seconds that a result would have taken at least; default: those it took.
   * @returns undefined if it was not run.
   */
  async run<T>(
    kind: string,
    n: number,
    fn: () => Promise<T>,
    leastOf?: (result: T) => number,
  ): Promise<T | undefined> {
    if (this.expected(kind, n) > this.left) return undefined;
    const began = performance.now();
    const result = await fn();
    const seconds = leastOf?.(result) ?? (performance.now() - began) / 1000;
    this.#history.set(kind, [...this.#history.get(kind) ?? [], { n, seconds }]);
    return result;
  }

  /** The seconds that `kind` is expected to take at `n`; 0 if nothing is known of it. */
  expected(kind: string, n: number): number {
    const history = this.#history.get(kind) ?? [];
    const [last, before] = [history.at(-1), history.at(-2)];
    if (last === undefined) return 0;
    if (n <= last.n) return last.seconds;
    // The first measurement compiles, so that two may even fall.
    const power = before === undefined || before.n >= last.n
      ? 2
      : Math.log(last.seconds / before.seconds) / Math.log(last.n / before.n);
    return last.seconds * (n / last.n) ** Math.min(2, Math.max(1, power));
  }
}

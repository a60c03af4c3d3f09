/**
 * What a layer's attention remembers of the tokens it has seen, for every row of a batch: one state of
 * constant size for linear attention, all keys and values for softmax attention. They are for inference: no
 * gradient flows through them.
 *
 * What is written is provisional until `commit`, so that tokens which fail in a later layer leave no trace.
 *
 * @module
 */
import { LevinError } from "../errors.ts";
import { flashAttention } from "../ops/flash_attention.ts";
import { KeyValueCache } from "../ops/key_value_cache.ts";
import { concat } from "../ops/views.ts";
import { adopt, tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";

/** The memory of one layer. It belongs to no scope. */
export interface Memory extends Disposable {
  /** Copies of these rows, in this order, as a memory of their own; a row may be named often. */
  select(rows: readonly number[]): Memory;
  /** The rows of this memory and then those of others of its kind, copied. */
  join(others: readonly Memory[]): Memory;
  /** Makes what was written since the last call lasting. */
  commit(): void;
  /** Forgets what was written since the last `commit`. */
  rollback(): void;
  /** What has to be saved, by name: handles on the memory itself. */
  tensors(): Record<string, Tensor>;
  /**
   * Takes over copies of what `tensors` named of sequences that have seen so many tokens.
   *
   * @throws {LevinError} if they are not that.
   */
  restore(tensors: Readonly<Record<string, Tensor>>, positions: readonly number[]): void;
}

/** Linear attention's memory: S [batch, heads, d, e], however many tokens it has seen. */
export class LinearMemory implements Memory {
  #before: Tensor | undefined;
  #state: Tensor | undefined;

  /** The state after all tokens so far; undefined before the first. */
  get state(): Tensor | undefined {
    return this.#state;
  }

  /** Puts the state after some more tokens in the place of the old one. */
  write(state: Tensor): void {
    if (this.#state !== this.#before) this.#state?.dispose();
    this.#state = adopt(state.detach());
  }

  commit(): void {
    if (this.#before !== this.#state) this.#before?.dispose();
    this.#before = this.#state;
  }

  rollback(): void {
    if (this.#state !== this.#before) this.#state?.dispose();
    this.#state = this.#before;
  }

  select(rows: readonly number[]): LinearMemory {
    return this.#made((state) => concat(rows.map((row) => state.slice([row, row + 1]))));
  }

  join(others: readonly LinearMemory[]): LinearMemory {
    const rest = others.map(({ state }) => state);
    return this.#made((state) => concat([state, ...rest as Tensor[]]));
  }

  tensors(): Record<string, Tensor> {
    return this.#state === undefined ? {} : { state: this.#state.alias() };
  }

  restore(
    { state, ...rest }: Readonly<Record<string, Tensor>>,
    positions: readonly number[],
  ): void {
    const found = state?.shape[0] ?? 0;
    const wanted = positions.every((position) => position === 0) ? found : positions.length;
    if (found !== wanted || Object.keys(rest).length > 0) {
      throw new LevinError(
        `Cannot restore a memory: expected a state of ${wanted} sequences alone`,
      );
    }
    if (state !== undefined) this.write(tidy(() => concat([state])));
    this.commit();
  }

  /** Frees what it holds. */
  [Symbol.dispose](): void {
    this.rollback();
    this.#before?.dispose();
    this.#before = this.#state = undefined;
  }

  #made(make: (state: Tensor) => Tensor): LinearMemory {
    const made = new LinearMemory();
    if (this.#state !== undefined) made.write(tidy(() => make(this.#state!)));
    made.commit();
    return made;
  }
}

/** Softmax attention's memory: all keys and values, a cache for each row, since rows differ in length. */
export class SoftmaxMemory implements Memory {
  readonly #capacity: number;
  #rows: Row[] = [];

  /** With room for `capacity` tokens a row to begin with; it doubles when it is full. */
  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /**
   * Appends the keys and values of the next tokens, and attends to all there are.
   *
   * @param q Queries [batch, heads, n, d].
   * @param k Keys [batch, key heads, n, d].
   * @param v Values [batch, key heads, n, e].
   * @returns The outputs [batch, heads, n, e].
   */
  attend(q: Tensor, k: Tensor, v: Tensor): Tensor {
    const [batch] = q.shape;
    if (this.#rows.length === 0) {
      this.#rows = Array.from({ length: batch }, () => new Row(this.#capacity));
    }
    return tidy(() => {
      const outputs = this.#rows.map((row, i) => {
        const [qi, ki, vi] = [q, k, v].map((t) => t.slice([i, i + 1]));
        const cache = row.append(ki, vi);
        return flashAttention(qi, cache.k, cache.v);
      });
      return batch === 1 ? outputs[0] : concat(outputs);
    });
  }

  commit(): void {
    for (const row of this.#rows) row.commit();
  }

  rollback(): void {
    for (const row of this.#rows) row.rollback();
  }

  select(rows: readonly number[]): SoftmaxMemory {
    return this.#made(this.#rows.length === 0 ? [] : rows.map((row) => this.#rows[row]));
  }

  join(others: readonly SoftmaxMemory[]): SoftmaxMemory {
    return this.#made([this, ...others].flatMap((memory) => memory.#rows));
  }

  tensors(): Record<string, Tensor> {
    return Object.fromEntries(
      this.#rows.flatMap(({ cache }, i) =>
        cache === undefined ? [] : [[`${i}.k`, cache.k] as const, [`${i}.v`, cache.v] as const]
      ),
    );
  }

  restore(tensors: Readonly<Record<string, Tensor>>, positions: readonly number[]): void {
    if (Object.keys(tensors).length === 0 && positions.every((position) => position === 0)) return;
    const pairs = positions.map((position, i) => {
      const [k, v] = [tensors[`${i}.k`], tensors[`${i}.v`]];
      if (k?.shape[2] !== position || v?.shape[2] !== position) {
        throw new LevinError(
          `Cannot restore a memory: expected keys and values of ${position} tokens for sequence ${i}`,
        );
      }
      return [k, v] as const;
    });
    this.#rows = pairs.map(([k, v]) => {
      const row = new Row(this.#capacity);
      row.append(k, v);
      row.commit();
      return row;
    });
  }

  /** Frees what it holds. */
  [Symbol.dispose](): void {
    for (const row of this.#rows) row.cache?.[Symbol.dispose]();
    this.#rows = [];
  }

  #made(rows: readonly Row[]): SoftmaxMemory {
    const made = new SoftmaxMemory(this.#capacity);
    made.#rows = rows.map((row) => row.copy());
    return made;
  }
}

/** The keys and values of one sequence, in a cache that is replaced by a larger one when it is full. */
class Row {
  cache: KeyValueCache | undefined;
  #committed = 0;

  constructor(readonly capacity: number) {}

  /** Keys and values of the next tokens, [1, key heads, n, size]; returns the cache that holds all. */
  append(k: Tensor, v: Tensor): KeyValueCache {
    const { cache } = this;
    const length = (cache?.length ?? 0) + k.shape[2];
    if (cache === undefined || length > cache.capacity) {
      let capacity = Math.max(1, cache?.capacity ?? this.capacity);
      while (capacity < length) capacity *= 2;
      const [, heads, , keySize] = k.shape;
      const { device, dtype } = k;
      const larger = new KeyValueCache({
        heads,
        capacity,
        keySize,
        valueSize: v.shape[3],
        dtype: dtype as "f32" | "f16",
        device,
      });
      if (cache !== undefined) larger.append(cache.k, cache.v);
      cache?.[Symbol.dispose]();
      this.cache = larger;
    }
    this.cache!.append(k, v);
    return this.cache!;
  }

  commit(): void {
    this.#committed = this.cache?.length ?? 0;
  }

  rollback(): void {
    this.cache?.truncate(this.#committed);
  }

  copy(): Row {
    const copy = new Row(this.capacity);
    const { cache } = this;
    if (cache !== undefined) tidy(() => void copy.append(cache.k, cache.v));
    copy.commit();
    return copy;
  }
}

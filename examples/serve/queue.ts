/**
 * A queue with an end: so many requests at work, so many waiting, and no more.
 */
import { RequestError } from "./errors.ts";

/** Places for requests. */
export class Queue {
  readonly #atWork: number;
  readonly #places: number;
  #taken = 0;
  #working = 0;
  /** In the order of their coming. */
  readonly #waiting = new Set<() => void>();

  constructor({ atWork, waiting }: { atWork: number; waiting: number }) {
    this.#atWork = atWork;
    this.#places = atWork + waiting;
  }

  /** Requests at work or waiting. */
  get taken(): number {
    return this.#taken;
  }

  /** @throws {RequestError} 429 if every place is taken. */
  join(): Place {
    if (this.#taken >= this.#places) {
      throw new RequestError(429, `${this.#places} requests are waiting already; try again later`, {
        code: "rate_limit_exceeded",
      });
    }
    this.#taken++;
    let isWorking = false;
    let hasLeft = false;
    return {
      turn: async (signal) => {
        signal?.throwIfAborted();
        if (this.#working < this.#atWork) this.#working++;
        // Who leaves hands its turn over.
        else await this.#handover(signal);
        isWorking = true;
      },
      [Symbol.dispose]: () => {
        if (hasLeft) return;
        hasLeft = true;
        this.#taken--;
        if (!isWorking) return;
        const [next] = this.#waiting;
        if (next === undefined) this.#working--;
        else next();
      },
    };
  }

  #handover(signal: AbortSignal | undefined): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const begin = () => {
      this.#waiting.delete(begin);
      signal?.removeEventListener("abort", giveUp);
      resolve();
    };
    const giveUp = () => {
      this.#waiting.delete(begin);
      reject(signal!.reason);
    };
    this.#waiting.add(begin);
    signal?.addEventListener("abort", giveUp);
    return promise;
  }
}

/** A place in a queue, until it is disposed. */
export interface Place extends Disposable {
  /** Waits until it is this place's turn; rejects with the signal's reason if that comes first. */
  turn(signal?: AbortSignal): Promise<void>;
}

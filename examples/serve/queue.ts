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
  readonly #waiting: (() => void)[] = [];

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
      turn: async () => {
        if (this.#working < this.#atWork) this.#working++;
        // Who leaves hands its turn over.
        else await new Promise<void>((resolve) => this.#waiting.push(resolve));
        isWorking = true;
      },
      [Symbol.dispose]: () => {
        if (hasLeft) return;
        hasLeft = true;
        this.#taken--;
        if (!isWorking) return;
        const next = this.#waiting.shift();
        if (next === undefined) this.#working--;
        else next();
      },
    };
  }
}

/** A place in a queue, until it is disposed. */
export interface Place extends Disposable {
  /** Waits until it is this place's turn. */
  turn(): Promise<void>;
}

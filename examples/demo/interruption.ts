/**
 * Ctrl-C as a question to ask between two steps.
 */
import process from "node:process";

/** Whether Ctrl-C was pressed; while this listens, it does not end the process. */
export class Interruption implements Disposable {
  arrived = false;
  readonly #listener = () => {
    this.arrived = true;
  };

  constructor() {
    process.on("SIGINT", this.#listener);
  }

  [Symbol.dispose](): void {
    process.off("SIGINT", this.#listener);
  }
}

/**
 * Ctrl-C as a question to ask between two steps.
 */

/** Whether Ctrl-C was pressed; while this listens, it does not end the process. */
export class Interruption implements Disposable {
  arrived = false;
  readonly #listener = () => {
    this.arrived = true;
  };

  constructor() {
    Deno.addSignalListener("SIGINT", this.#listener);
  }

  [Symbol.dispose](): void {
    Deno.removeSignalListener("SIGINT", this.#listener);
  }
}

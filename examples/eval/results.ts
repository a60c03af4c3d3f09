/**
 * The results of an evaluation as JSON lines: what was evaluated, then a line a question. Whatever moment the
 * program is killed at, the lines before are whole, and it goes on after them.
 */
import { FormatError, LevinError } from "../../mod.ts";
import type { Answered } from "./scoring.ts";

/** A line. */
export interface Result extends Answered {
  readonly task: string;
  /** Which of the task's questions, from 0. */
  readonly question: number;
}

/** What must be the same for results to be of one evaluation. */
export type Evaluated = Readonly<Record<string, unknown>>;

const FORMAT = "levin-eval-1";

/** A file of results that is being written. */
export class ResultsFile implements Disposable {
  readonly #file: Deno.FsFile;
  readonly #results: Map<string, Result>;

  private constructor(file: Deno.FsFile, results: Map<string, Result>) {
    this.#file = file;
    this.#results = results;
  }

  /**
   * Opens a file, or makes it. A line that was cut short is taken off.
   *
   * @throws {LevinError} if it holds results of another evaluation; {FormatError} if it is something else.
   */
  static async open(path: string, evaluated: Evaluated): Promise<ResultsFile> {
    const header = { format: FORMAT, ...evaluated };
    const text = await Deno.readTextFile(path).catch((error) => {
      if (error instanceof Deno.errors.NotFound) return "";
      throw error;
    });
    const whole = text.slice(0, text.lastIndexOf("\n") + 1);
    const [first, ...lines] = whole.split("\n").slice(0, -1).map((line, i) => parse(path, line, i));
    if (
      first === undefined && text !== "" && !`{"format":"${FORMAT}"`.startsWith(text.slice(0, 20))
    ) {
      throw new FormatError(`${path} is not a file of results; name another`);
    }
    if (first !== undefined) compare(path, first, header);
    const file = await Deno.open(path, { create: true, write: true });
    // What is left is the first half of a line: bytes, since it may end within a character.
    await file.truncate(new TextEncoder().encode(whole).length);
    await file.seek(0, Deno.SeekMode.End);
    const results = lines as unknown as Result[];
    const made = new ResultsFile(
      file,
      new Map(results.map((result) => [keyOf(result.task, result.question), result])),
    );
    if (first === undefined) made.#write(header);
    return made;
  }

  /** The result of a question, if it is there. */
  get(task: string, question: number): Result | undefined {
    return this.#results.get(keyOf(task, question));
  }

  /** Adds a line. */
  add(result: Result): void {
    this.#write(result);
    this.#results.set(keyOf(result.task, result.question), result);
  }

  #write(line: object): void {
    let bytes = new TextEncoder().encode(JSON.stringify(line) + "\n");
    while (bytes.length > 0) bytes = bytes.subarray(this.#file.writeSync(bytes));
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

function keyOf(task: string, question: number): string {
  return `${task} ${question}`;
}

function parse(path: string, line: string, index: number): Evaluated {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw new FormatError(`${path}:${index + 1} is not JSON; name another file of results`, {
      cause,
    });
  }
}

function compare(path: string, found: Evaluated, expected: Evaluated): void {
  if (found?.format !== FORMAT) {
    throw new FormatError(`${path} is not a file of results; name another`);
  }
  const names = Object.keys({ ...found, ...expected }).filter((name) =>
    JSON.stringify(found[name]) !== JSON.stringify(expected[name])
  );
  if (names.length === 0) return;
  const differences = names.map((name) =>
    `${name} was ${JSON.stringify(found[name])} and is ${JSON.stringify(expected[name])}`
  );
  throw new LevinError(
    `${path} holds results of another evaluation (${differences.join("; ")}); name another file`,
  );
}

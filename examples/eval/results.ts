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
const NEWLINE = 0x0a;

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
   * @throws {LevinError} if it holds results of another evaluation, or another is writing it; {FormatError} if it
   * is something else.
   */
  static async open(path: string, evaluated: Evaluated): Promise<ResultsFile> {
    const header = { format: FORMAT, ...evaluated };
    const file = await Deno.open(path, { create: true, read: true, write: true });
    try {
      if (!await file.tryLock(true)) {
        throw new LevinError(`${path} is being written by another evaluation; name another file`);
      }
      const bytes = await readAll(file);
      const end = bytes.lastIndexOf(NEWLINE) + 1;
      const text = new TextDecoder().decode(bytes.subarray(0, end));
      const [first, ...lines] = text.split("\n").slice(0, -1).map((line, i) =>
        parse(path, line, i)
      );
      const cut = new TextDecoder().decode(bytes.subarray(end, end + 20));
      if (first === undefined && !`{"format":"${FORMAT}"`.startsWith(cut)) {
        throw new FormatError(`${path} is not a file of results; name another`);
      }
      if (first !== undefined) compare(path, first, header);
      // What is left is the first half of a line.
      await file.truncate(end);
      await file.seek(end, Deno.SeekMode.Start);
      const results = lines as unknown as Result[];
      const made = new ResultsFile(
        file,
        new Map(results.map((result) => [keyOf(result.task, result.question), result])),
      );
      if (first === undefined) made.#write(header);
      return made;
    } catch (error) {
      file.close();
      throw error;
    }
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

async function readAll(file: Deno.FsFile): Promise<Uint8Array> {
  const bytes = new Uint8Array((await file.stat()).size);
  for (let at = 0; at < bytes.length;) at += await file.read(bytes.subarray(at)) ?? bytes.length;
  return bytes;
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

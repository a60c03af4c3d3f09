/**
 * Metrics as JSON lines: one object a step, appended as training goes.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { readdir, readFile, rm } from "node:fs/promises";
import { io } from "../../mod.ts";
import type { StepReport } from "./trainer.ts";

/** A file that grows by a line a step. */
export class Metrics implements Disposable {
  readonly #began = performance.now();

  private constructor(readonly file: number) {}

  /**
   * Opens `path`, keeping the lines of steps up to `step`: what a run that was killed had written after its
   * last checkpoint, half a line perhaps, will be written again.
   */
  static async open(path: string, step: number): Promise<Metrics> {
    if (step > 0) {
      const lines = (await readFile(path, "utf8").catch(ignoreAbsence)).split("\n");
      const kept = lines.filter((line) => stepOf(line) <= step);
      await io.writeFileSafely(path, kept.map((line) => `${line}\n`).join(""));
    }
    return new Metrics(openSync(path, step > 0 ? "a" : "w"));
  }

  /** Appends steps. */
  write(reports: readonly StepReport[]): void {
    // Of this process: a resumed run counts anew.
    const seconds = Math.round(performance.now() - this.#began) / 1000;
    // JSON has no infinities; an overflow's norm is null.
    const lines = reports.map((report) => `${JSON.stringify({ ...report, seconds })}\n`);
    const bytes = new TextEncoder().encode(lines.join(""));
    for (let at = 0; at < bytes.length;) at += writeSync(this.file, bytes, at);
  }

  [Symbol.dispose](): void {
    closeSync(this.file);
  }
}

/** The step of a line, or Infinity if the line is not whole. */
function stepOf(line: string): number {
  try {
    return JSON.parse(line).step;
  } catch {
    return Infinity;
  }
}

function ignoreAbsence(error: unknown): string {
  if ((error as { code?: string }).code === "ENOENT") return "";
  throw error;
}

/** Removes what a run that was killed while it wrote `path` left beside it. */
export async function removeUnfinished(path: string): Promise<void> {
  const at = path.lastIndexOf("/");
  const [folder, name] = [path.slice(0, at), path.slice(at + 1)];
  for (const entry of await readdir(folder)) {
    if (entry.startsWith(`${name}.`) && entry.endsWith(".part")) await rm(`${folder}/${entry}`);
  }
}

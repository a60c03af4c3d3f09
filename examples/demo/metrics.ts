/**
 * Metrics as JSON lines: one object a step, appended as training goes.
 */
import { io } from "../../mod.ts";
import type { StepReport } from "./trainer.ts";

/** A file that grows by a line a step. */
export class Metrics implements Disposable {
  readonly #began = performance.now();

  private constructor(readonly file: Deno.FsFile) {}

  /**
   * Opens `path`, keeping the lines of steps up to `step`: what a run that was killed had written after its
   * last checkpoint, half a line perhaps, will be written again.
   */
  static async open(path: string, step: number): Promise<Metrics> {
    if (step > 0) {
      const lines = (await Deno.readTextFile(path).catch(ignoreAbsence)).split("\n");
      const kept = lines.filter((line) => stepOf(line) <= step);
      await io.writeFileSafely(path, kept.map((line) => `${line}\n`).join(""));
    }
    const open = { write: true, create: true, append: step > 0, truncate: step === 0 };
    return new Metrics(await Deno.open(path, open));
  }

  /** Appends steps. */
  write(reports: readonly StepReport[]): void {
    // Of this process: a resumed run counts anew.
    const seconds = Math.round(performance.now() - this.#began) / 1000;
    // JSON has no infinities; an overflow's norm is null.
    const lines = reports.map((report) => `${JSON.stringify({ ...report, seconds })}\n`);
    const bytes = new TextEncoder().encode(lines.join(""));
    for (let at = 0; at < bytes.length;) at += this.file.writeSync(bytes.subarray(at));
  }

  [Symbol.dispose](): void {
    this.file.close();
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
  if (error instanceof Deno.errors.NotFound) return "";
  throw error;
}

/** Removes what a run that was killed while it wrote `path` left beside it. */
export async function removeUnfinished(path: string): Promise<void> {
  const at = path.lastIndexOf("/");
  const [folder, name] = [path.slice(0, at), path.slice(at + 1)];
  for await (const entry of Deno.readDir(folder)) {
    if (entry.name.startsWith(`${name}.`) && entry.name.endsWith(".part")) {
      await Deno.remove(`${folder}/${entry.name}`);
    }
  }
}

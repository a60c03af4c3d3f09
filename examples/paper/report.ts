/**
 * What the experiments write: a Markdown table, a diagram as SVG, and the numbers as JSON. An experiment that
 * takes long writes them after every row, so that one which is killed has left the rows that it had.
 */
import { type Panel, plotSvg } from "../../bench/plot.ts";
import { io } from "../../mod.ts";
import { UsageError } from "../demo/flags.ts";

/** What an experiment has found so far. */
export interface Report {
  /** Markdown: the setting, tables and what follows from them. */
  readonly text: string;
  /** The heading of the diagram. */
  readonly title: string;
  /** What it shows. */
  readonly panels: readonly Panel[];
  /** All of it, for machines. */
  readonly numbers: unknown;
}

/** Writes FOLDER/NAME.md, .svg and .json, each whole or not at all, and returns their names. */
export async function writeReport(
  folder: string,
  name: string,
  { text, title, panels, numbers }: Report,
): Promise<string> {
  await Deno.mkdir(folder, { recursive: true });
  const contents = {
    md: `${text}\n`,
    svg: plotSvg(title, panels),
    json: JSON.stringify(numbers, null, 2),
  };
  for (const [extension, content] of Object.entries(contents)) {
    await io.writeFileSafely(`${folder}/${name}.${extension}`, content);
  }
  return Object.keys(contents).map((extension) => `${folder}/${name}.${extension}`).join(", ");
}

/** A table in Markdown, numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const rule = head.map((_, i) => i === 0 ? "---" : "---:");
  return [head, rule, ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/** 1024 → 1K, and what is no multiple of it as it is. */
export function inK(n: number): string {
  return n % 1024 === 0 ? `${n / 1024}K` : `${n}`;
}

/**
 * Lengths as `--lengths` lists them, say `1K,2K,512`, from short to long.
 *
 * @throws {UsageError} unless they are whole numbers of 1 or more.
 */
export function lengthsOf(text: string): number[] {
  const lengths = text.split(",").map((word) => {
    const [, digits, k] = /^(\d+)(k?)$/i.exec(word.trim()) ?? [];
    const n = Number(digits) * (k ? 1024 : 1);
    if (!(n >= 1)) {
      throw new UsageError(`--lengths expects numbers such as 512,1K,92K, found "${word}"`);
    }
    return n;
  });
  return lengths.sort((a, b) => a - b);
}

/** Those of `known` that a comma-separated flag names. */
export function namesOf<Name extends string>(
  flag: string,
  text: string | undefined,
  known: readonly Name[],
): Name[] {
  if (text === undefined) return [...known];
  return text.split(",").map((word) => {
    const name = known.find((name) => name.toLowerCase() === word.trim().toLowerCase());
    if (name === undefined) {
      throw new UsageError(`--${flag} expects some of ${known}, found "${word}"`);
    }
    return name;
  });
}

/** f32 or f16, as a flag says. */
export function precisionOf(text: string): "f32" | "f16" {
  if (text === "f32" || text === "f16") return text;
  throw new UsageError(`--precision expects f32 or f16, found "${text}"`);
}

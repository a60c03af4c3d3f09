/**
 * Command-line flags from a table, and errors as one line.
 */
import process from "node:process";
import { parseArgs } from "@std/cli/parse-args";
import { LevinError } from "../../mod.ts";

/** A flag: what it takes, by default what, and what it is for. */
export interface Flag {
  readonly kind: "number" | "count" | "text";
  readonly help: string;
  readonly fallback?: number | string;
  /** Of a number, the smallest that makes sense. */
  readonly least?: number;
}

/** The values of a table of flags; those without a default may be absent. */
export type Values<Table extends Record<string, Flag>> = {
  [Name in keyof Table]:
    | (Table[Name]["kind"] extends "text" ? string : number)
    | (Table[Name] extends { fallback: number | string } ? never : undefined);
};

/** A mistake on the command line. */
export class UsageError extends LevinError {
  override name = "UsageError";
}

/**
 * Reads `args` by a table of flags. `given` names the flags that were on the command line.
 *
 * @throws {UsageError} if a flag is unknown, lacks a value or is not of its kind.
 */
export function parseFlags<const Table extends Record<string, Flag>>(
  table: Table,
  args: readonly string[],
  usage: string,
): { values: Values<Table>; given: Set<string> } {
  const parsed = parseArgs([...args], {
    string: Object.keys(table),
    boolean: ["help"],
    alias: { help: "h" },
    unknown: (argument: string) => {
      throw new UsageError(`unknown argument ${argument}; --help lists all flags`);
    },
  }) as Record<string, unknown>;
  if (parsed.help) {
    console.log(helpText(table, usage));
    process.exit(0);
  }
  const given = new Set(Object.keys(table).filter((name) => parsed[name] !== undefined));
  const values = Object.fromEntries(
    Object.entries(table).map((
      [name, flag],
    ) => [name, given.has(name) ? valueOf(name, flag, parsed[name]) : flag.fallback]),
  );
  return { values: values as Values<Table>, given };
}

function valueOf(name: string, { kind, least = -Infinity }: Flag, value: unknown): number | string {
  if (typeof value !== "string" || value === "") {
    throw new UsageError(`--${name} was given without a value, or twice`);
  }
  if (kind === "text") return value;
  const number = Number(value);
  const fits = kind === "count"
    ? Number.isSafeInteger(number) && number >= 0
    : Number.isFinite(number);
  if (fits && number < least) {
    throw new UsageError(`--${name} expects at least ${least}, found ${value}`);
  }
  if (fits) return number;
  throw new UsageError(
    `--${name} expects ${kind === "count" ? "a whole number" : "a number"}, found "${value}"`,
  );
}

function helpText(table: Readonly<Record<string, Flag>>, usage: string): string {
  const rows = Object.entries(table).map(([name, { help, fallback }]) =>
    `  --${name.padEnd(16)} ${help}${fallback === undefined ? "" : ` (default ${fallback})`}`
  );
  return [usage, "", ...rows].join("\n");
}

/** Runs a command. What the user can mend is one line on stderr and exit code 1. */
export async function runCommand(command: () => Promise<void>): Promise<void> {
  try {
    await command();
  } catch (error) {
    // The system's errors have its codes in every runtime, say ENOENT; Deno's permissions have a name.
    const { code, name } = error as { code?: unknown; name?: string };
    const isUsers = error instanceof LevinError || name === "NotCapable" ||
      /^E[A-Z0-9]+$/.test(String(code));
    if (!isUsers) throw error;
    console.error(`error: ${(error as Error).message.replaceAll("\n", " ")}`);
    process.exit(1);
  }
}

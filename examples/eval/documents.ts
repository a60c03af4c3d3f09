/**
 * The documents of tasks: JSON or JSONL files, and their fields.
 */
import { FormatError } from "../../mod.ts";

/** A row of a data set, and where it is from. */
export interface Document {
  readonly fields: Readonly<Record<string, unknown>>;
  /** File and number, for errors. */
  readonly place: string;
}

/** The documents of one file or of one subject. */
export interface Split {
  /** The subject that the file is named after or that its documents name; "" where there are none. */
  readonly subject: string;
  readonly documents: readonly Document[];
}

const ENDING = /\.jsonl?$/;

/** Endings of file names that say which split of a subject is in them. */
const SPLIT_NAME = /[-_.](test|val|valid|validation|dev|train)$/;

/** A file as it was read. */
interface Source {
  readonly file: string;
  /** What the file is named after, without the name of a split. */
  readonly subject: string;
  readonly text: string;
  readonly labels: { readonly file: string; readonly values: readonly string[] } | undefined;
}

/**
 * Reads a file, or every .json and .jsonl file in a folder, each of which is a subject then. A file is one
 * JSON list, or one JSON object a line. Documents with a field `subject` are taken apart by it. Labels that
 * lie in a file of their own beside it, as PIQA's valid-labels.lst beside valid.jsonl, are its field `label`.
 *
 * @throws {FormatError} if a file is neither or holds nothing, if there are not as many labels as documents,
 * or if two files are of one subject, as those of two splits.
 */
export async function readSplits(path: string): Promise<Split[]> {
  const splits = new Map<string, Document[]>();
  for (const { file, subject, text, labels } of await sourcesOf(path)) {
    const documents = parse(file, text);
    const found = labels?.values.length ?? documents.length;
    if (found !== documents.length) {
      throw new FormatError(`${labels!.file}: expected ${documents.length} labels, found ${found}`);
    }
    for (const [i, { fields, place }] of documents.entries()) {
      const { subject: own } = fields;
      const name = typeof own === "string" && own !== "" ? own : subject;
      if (!splits.has(name)) splits.set(name, []);
      splits.get(name)!.push({
        fields: labels === undefined ? fields : { ...fields, label: labels.values[i] },
        place,
      });
    }
  }
  if (splits.size === 0) throw new FormatError(`${path}: expected documents, found none`);
  return [...splits].map(([subject, documents]) => ({ subject, documents }));
}

/** The SHA-256 of what `readSplits` makes documents of. */
export async function hashOf(path: string): Promise<string> {
  const read = (await sourcesOf(path)).map(({ subject, text, labels }) => [
    subject,
    text,
    labels?.values,
  ]);
  const bytes = new TextEncoder().encode(JSON.stringify(read));
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

async function sourcesOf(path: string): Promise<Source[]> {
  const files = await filesOf(path);
  const bySubject = Map.groupBy(files, nameOfSubject);
  for (const [first, second] of bySubject.values()) {
    if (second === undefined) continue;
    throw new FormatError(
      `${path}: expected one file of each subject, found ${nameIn(first)} and ${nameIn(second)}; ` +
        `put splits into folders of their own`,
    );
  }
  return Promise.all(files.map(async (file) => ({
    file,
    subject: nameOfSubject(file),
    text: await Deno.readTextFile(file),
    labels: await readLabels(file),
  })));
}

function nameIn(file: string): string {
  return file.split("/").at(-1)!;
}

function nameOfSubject(file: string): string {
  return nameIn(file).replace(ENDING, "").replace(SPLIT_NAME, "");
}

async function filesOf(path: string): Promise<string[]> {
  if ((await Deno.stat(path)).isFile) return [path];
  const names = (await Array.fromAsync(Deno.readDir(path))).map(({ name }) => name);
  return names.filter((name) => ENDING.test(name)).sort().map((name) => `${path}/${name}`);
}

async function readLabels(documents: string): Promise<Source["labels"]> {
  const file = documents.replace(ENDING, "-labels.lst");
  if (file === documents) return undefined;
  try {
    return { file, values: (await Deno.readTextFile(file)).match(/\S+/g) ?? [] };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

function parse(file: string, text: string): Document[] {
  // A list can only begin with a bracket, and a line of JSONL only with a brace.
  const rows: unknown[] = text.trimStart().startsWith("[")
    ? parseJson(file, text) as unknown[]
    : text.split("\n").flatMap((line, i) =>
      line.trim() === "" ? [] : [parseJson(`${file}:${i + 1}`, line)]
    );
  return rows.map((fields, i) => {
    const place = `${file}, document ${i + 1}`;
    if (typeof fields !== "object" || fields === null || Array.isArray(fields)) {
      throw new FormatError(`${place}: expected an object, found ${JSON.stringify(fields)}`);
    }
    return { fields: fields as Record<string, unknown>, place };
  });
}

function parseJson(place: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new FormatError(`${place} is not JSON`, { cause });
  }
}

/** The value of a field that may lie deeper: `choices.text`. */
function at({ fields }: Document, path: string): unknown {
  return path.split(".").reduce<unknown>(
    (value, name) =>
      typeof value === "object" && value !== null && Object.hasOwn(value, name)
        ? (value as Record<string, unknown>)[name]
        : undefined,
    fields,
  );
}

/** Whether a document has a field. */
export function has(document: Document, path: string): boolean {
  return at(document, path) !== undefined;
}

/** The text in a field. */
export function textOf(document: Document, path: string): string {
  const value = at(document, path);
  if (typeof value === "string") return value;
  throw wrong(document, path, "a text", value);
}

/** The texts in a field that is a list, or of this name in each object of a list. */
export function textsOf(document: Document, path: string, name?: string): string[] {
  const value = at(document, path);
  const list = Array.isArray(value) && name !== undefined ? value.map((e) => e?.[name]) : value;
  if (Array.isArray(list) && list.length > 0 && list.every((e) => typeof e === "string")) {
    return list;
  }
  throw wrong(document, path, "texts", value);
}

/** Which of `count` choices a field says is right: a number from 0, perhaps as a text, or true for 1. */
export function choiceOf(document: Document, path: string, count: number): number {
  const value = at(document, path);
  const number = typeof value === "string" && /^\d+$/.test(value) ? Number(value) : value;
  const choice = typeof number === "boolean" ? Number(number) : number;
  if (Number.isInteger(choice) && choice as number >= 0 && choice as number < count) {
    return choice as number;
  }
  throw wrong(document, path, `the number of the right choice, 0 to ${count - 1}`, value);
}

/** Which of `names` a field holds. */
export function nameOf(document: Document, path: string, names: readonly string[]): number {
  const value = at(document, path);
  const found = typeof value === "string" ? names.indexOf(value.trimStart()) : -1;
  if (found >= 0) return found;
  throw wrong(document, path, `one of ${names.join(", ")}`, value);
}

function wrong({ place }: Document, path: string, expected: string, found: unknown): FormatError {
  return new FormatError(
    `${place}: expected ${expected} in "${path}", found ${JSON.stringify(found) ?? "nothing"}`,
  );
}

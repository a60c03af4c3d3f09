/**
 * Reading what there is to learn from out of files and folders.
 */
import { readdir, readFile, stat } from "node:fs/promises";
import { joined, type Text, textOf } from "./text.ts";

const OWN_SOURCES = ["mod.ts", "src", "shaders", "tests", "examples/demo", "bench"];
const SKIPPED = new Set(["node_modules", "runs", "dist", "target"]);

/**
 * Reads a file, or all text files of a folder in the order of their names; without a path, Levin's own
 * sources and documents.
 *
 * @throws {LevinError} if there is too little text for a window of `shortest` bytes in either part.
 */
export async function readText(path: string | undefined, shortest: number): Promise<Text> {
  const repository = decodeURIComponent(new URL("../..", import.meta.url).pathname);
  const roots = path === undefined ? OWN_SOURCES.map((name) => repository + name) : [path];
  const contents: Uint8Array[] = [];
  for (const root of roots) {
    const isFolder = (await stat(root)).isDirectory();
    const files = isFolder ? await Array.fromAsync(filesUnder(root)) : [root];
    for (const file of files) {
      const bytes = await readFile(file);
      // A zero byte marks a binary file; a single file that was named is taken as it is.
      if (!isFolder || !bytes.includes(0)) contents.push(bytes);
    }
  }
  const source = path ?? "Levin's own sources";
  const { length } = contents;
  const text = await textOf(joined(contents), source, shortest);
  return { ...text, description: `${source}, ${length} file${length === 1 ? "" : "s"}` };
}

async function* filesUnder(folder: string): AsyncGenerator<string> {
  const entries = await readdir(folder, { withFileTypes: true });
  entries.sort((a, b) => a.name < b.name ? -1 : 1);
  for (const entry of entries) {
    const { name } = entry;
    if (name.startsWith(".") || SKIPPED.has(name)) continue;
    if (entry.isDirectory()) yield* filesUnder(`${folder}/${name}`);
    else if (entry.isFile()) yield `${folder}/${name}`;
  }
}

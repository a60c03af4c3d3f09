/**
 * Reading safetensors files tensor by tensor and piece by piece, one file or many with an index, so that the
 * host never holds more than a piece.
 *
 * @module
 */
import type { FileHandle } from "node:fs/promises";
import { FormatError } from "../errors.ts";
import { sizeOf } from "../shape.ts";
import { bytesOfStored, elementsOf, type Entry, headerEnd, readEntries } from "./safetensors.ts";

/** The elements of a piece: 4 MiB of float32. */
const PIECE = 2 ** 20;

/** Some consecutive elements of a tensor. */
export interface Piece {
  /** How many elements of the tensor come before. */
  readonly start: number;
  /** The elements. */
  readonly values: ArrayLike<number>;
}

/** The tensors of a checkpoint on disk. Close it when all has been read, or declare it with `await using`. */
export class SafetensorsReader implements AsyncDisposable {
  readonly #places = new Map<string, { entry: Entry; file: FileHandle; start: number }>();
  readonly #files: FileHandle[] = [];

  private constructor() {}

  /**
   * Opens a safetensors file, a `….safetensors.index.json`, or a folder that holds `model.safetensors` or
   * `model.safetensors.index.json`. Reads the headers only.
   *
   * @throws {FormatError} if a file is malformed or cut short, or an index and its files disagree.
   */
  static async open(path: string): Promise<SafetensorsReader> {
    const reader = new SafetensorsReader();
    try {
      const index = await indexOf(path);
      if (typeof index === "string") await reader.#add(index);
      else {
        for (const file of new Set(index.files.values())) await reader.#add(file, index.files);
        const lost = [...index.files.keys()].filter((name) => !reader.#places.has(name));
        if (lost.length > 0) {
          throw new FormatError(`${index.path} names tensors that no file has: ${lost.join(", ")}`);
        }
      }
      return reader;
    } catch (error) {
      await reader[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The shapes of all tensors by name. */
  get shapes(): Record<string, { readonly shape: readonly number[] }> {
    return Object.fromEntries([...this.#places].map(([name, { entry }]) => [name, entry]));
  }

  /** The elements of a tensor, in pieces one after the other; BF16 and F64 are converted. */
  async *pieces(name: string): AsyncGenerator<Piece, void, void> {
    const place = this.#places.get(name);
    if (place === undefined) throw new FormatError(`The checkpoint has no tensor ${name}`);
    const { entry, file, start: base } = place;
    const size = sizeOf(entry.shape);
    const width = bytesOfStored(entry.dtype);
    for (let start = 0; start < size; start += PIECE) {
      const bytes = new Uint8Array(Math.min(PIECE, size - start) * width);
      await readFully(file, bytes, base + entry.begin + start * width);
      yield { start, values: elementsOf(name, entry.dtype, bytes.buffer).array };
    }
  }

  async #add(path: string, index?: ReadonlyMap<string, string>): Promise<void> {
    const { open } = await import("node:fs/promises");
    const file = await open(path, "r");
    this.#files.push(file);
    try {
      const { size } = await file.stat();
      const first = new Uint8Array(Math.min(8, size));
      await readFully(file, first, 0);
      const head = new Uint8Array(headerEnd(first, size));
      await readFully(file, head, 0);
      const { start, entries } = readEntries(head, size);
      for (const entry of entries) {
        if (index !== undefined && index.get(entry.name) !== path) {
          throw new FormatError(`the index does not place ${entry.name} there`);
        }
        this.#places.set(entry.name, { entry, file, start });
      }
    } catch (cause) {
      if (!(cause instanceof FormatError)) throw cause;
      throw new FormatError(`${path}: ${cause.message}`, { cause });
    }
  }

  /** Closes the files. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#files.splice(0).map((file) => file.close()));
  }
}

/** The one file of a checkpoint, or the file of every tensor. */
async function indexOf(
  path: string,
): Promise<string | { path: string; files: Map<string, string> }> {
  const { access, readFile, stat } = await import("node:fs/promises");
  const { basename, dirname, join } = await import("node:path");
  if ((await stat(path)).isDirectory()) {
    const index = join(path, "model.safetensors.index.json");
    const isSharded = await access(index).then(() => true, () => false);
    return isSharded ? await indexOf(index) : join(path, "model.safetensors");
  }
  if (!path.endsWith(".json")) return path;
  const refuse = (why: string, cause?: unknown): never => {
    throw new FormatError(`${path} is not the index of a checkpoint: ${why}`, { cause });
  };
  let map: unknown;
  try {
    map = JSON.parse(await readFile(path, "utf-8")).weight_map;
  } catch (cause) {
    refuse("it is not a JSON object", cause);
  }
  if (typeof map !== "object" || map === null) refuse("it has no weight_map");
  const files = Object.entries(map as object).map(([name, file]): [string, string] => {
    // A file of the same folder, whatever the index says.
    if (typeof file !== "string" || basename(file) !== file) {
      refuse(`${name} is in ${JSON.stringify(file)}`);
    }
    return [name, join(dirname(path), file)];
  });
  return { path, files: new Map(files) };
}

async function readFully(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesRead } = await file.read(bytes, done, bytes.length - done, position + done);
    if (bytesRead === 0) {
      throw new FormatError("safetensors: the file was cut short while it was read");
    }
    done += bytesRead;
  }
}

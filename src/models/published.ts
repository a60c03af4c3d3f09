/**
 * Reading a published config.json: what is missing or means another model is refused by name.
 *
 * @module
 */
import { FormatError } from "../errors.ts";

/** The fields of a config.json. */
export class PublishedConfig {
  readonly #fields: Readonly<Record<string, unknown>>;

  /** Refuses what is not an object. */
  constructor(readonly modelType: string, json: unknown) {
    if (typeof json !== "object" || json === null || Array.isArray(json)) {
      throw new FormatError(
        `config.json of a ${modelType}: expected an object, found ${show(json)}`,
      );
    }
    this.#fields = json as Record<string, unknown>;
  }

  /** Whether the field is there; null counts as absent, as its writers mean it. */
  has(name: string): boolean {
    return (this.#fields[name] ?? undefined) !== undefined;
  }

  /** A positive integer; without a fallback it has to be there. */
  count(name: string, fallback?: number): number {
    return this.#read(name, fallback, "a positive integer", (v) => Number.isInteger(v) && v > 0);
  }

  /** A positive number; without a fallback it has to be there. */
  number(name: string, fallback?: number): number {
    return this.#read(name, fallback, "a positive number", (v) => Number.isFinite(v) && v > 0);
  }

  /** A truth value, false if it is not there. */
  flag(name: string, fallback = false): boolean {
    return this.#read(name, fallback, "true or false", (v) => typeof v === "boolean");
  }

  /** The fields of an object inside, if it is there. */
  inside(name: string): PublishedConfig | undefined {
    if (!this.has(name)) return undefined;
    return new PublishedConfig(`${this.modelType}, ${name}`, this.#fields[name]);
  }

  /** A string, if it is there. */
  text(name: string): string | undefined {
    return this.has(name)
      ? this.#read(name, "", "a string", (v) => typeof v === "string")
      : undefined;
  }

  /** Refuses a field that says other than this; one that is not there says it. */
  expect(name: string, wanted: unknown): void {
    if (this.has(name) && show(this.#fields[name]) !== show(wanted)) {
      this.#refuse(name, `${show(wanted)}, the only one that Levin's model has`);
    }
  }

  #read<T>(name: string, fallback: T | undefined, kind: string, fits: (value: T) => boolean): T {
    const value = (this.#fields[name] ?? fallback) as T;
    if (!fits(value)) this.#refuse(name, kind);
    return value;
  }

  #refuse(name: string, expected: string): never {
    throw new FormatError(
      `config.json of a ${this.modelType}: expected ${name} to be ${expected}, found ` +
        show(this.#fields[name]),
    );
  }
}

function show(value: unknown): string {
  return JSON.stringify(value) ?? "nothing";
}

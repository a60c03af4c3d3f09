/**
 * What lm-evaluation-harness gets from Python and JavaScript has otherwise: its idea of white space, of
 * characters, of capitals, and `random.Random(seed).sample`.
 */
import { MersenneTwister19937 } from "random-js";
import { LevinError } from "../../mod.ts";

// str.isspace, which knows U+001C to U+001F and U+0085 but not U+FEFF.
const SPACE =
  "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const LEADING = new RegExp(`^${SPACE}+`, "u");
const TRAILING = new RegExp(`(?<!${SPACE})${SPACE}+$`, "u");

/** `text.strip()`. */
export function strip(text: string): string {
  return stripEnd(text).replace(LEADING, "");
}

/** `text.rstrip()`. */
export function stripEnd(text: string): string {
  return text.replace(TRAILING, "");
}

/** `len(text)`: characters, and not halves of them. */
export function lengthOf(text: string): number {
  return [...text].length;
}

/** `text.capitalize()`: a capital, and then small letters only. */
export function capitalize(text: string): string {
  const [first = ""] = text;
  const [capital = "", ...more] = first.toUpperCase();
  // All of it, since a sigma at the end of a word has a small letter of its own.
  const small = text.toLowerCase().slice(first.toLowerCase().length);
  return capital + more.join("").toLowerCase() + small;
}

/** `random.Random(seed)`, as far as drawing samples goes. */
export class PythonRandom {
  readonly #twister: MersenneTwister19937;

  /** @param seed From 0 to 2³² − 1. */
  constructor(seed: number) {
    this.#twister = MersenneTwister19937.seedWithArray([seed]);
  }

  /** A whole number from 0 to `below`, exclusive: as many bits as `below` has, until they are less. */
  #below(below: number): number {
    const spare = Math.clz32(below);
    for (;;) {
      const number = (this.#twister.next() >>> 0) >>> spare;
      if (number < below) return number;
    }
  }

  /**
   * `count` different elements, in the order drawn.
   *
   * @throws {LevinError} if there are not so many.
   */
  sample<T>(population: readonly T[], count: number): T[] {
    const size = population.length;
    if (count > size) {
      throw new LevinError(`expected ${count} examples to draw from, found ${size}`);
    }
    // CPython keeps a list of what is left where that is smaller than a set of what was drawn.
    const setSize = 21 + (count > 5 ? 4 ** Math.ceil(Math.log(count * 3) / Math.log(4)) : 0);
    if (size <= setSize) {
      const left = [...population];
      return Array.from({ length: count }, (_, i) => {
        const at = this.#below(size - i);
        const drawn = left[at];
        left[at] = left[size - i - 1];
        return drawn;
      });
    }
    const drawn = new Set<number>();
    while (drawn.size < count) drawn.add(this.#below(size));
    return [...drawn].map((at) => population[at]);
  }
}

/**
 * Random numbers from a counter: Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers:
 * as easy as 1, 2, 3", 2011). Number i of a seed depends on nothing but i and the seed, so that every
 * backend, in any order, makes the same ones.
 *
 * @module
 */
import { checkNumber } from "./shape.ts";

/** Two 32-bit words: a key that random numbers start from, or a counter. */
export interface Key {
  /** The lower 32 bits. */
  readonly low: number;
  /** The upper 32 bits. */
  readonly high: number;
}

/** The key of a seed: any safe integer; its sign and upper bits count. */
export function keyOf(seed: number): Key {
  checkNumber("random numbers", "a whole number as seed", seed, Number.isInteger(seed));
  return { low: seed >>> 0, high: Math.floor(seed / 2 ** 32) >>> 0 };
}

let unseeded: number | undefined;

/** A seed that differs from call to call and from run to run, for those who name none. */
export function freshSeed(): number {
  unseeded ??= crypto.getRandomValues(new Uint32Array(1))[0] * 2 ** 20;
  return unseeded++;
}

const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24];

/** The two 32-bit words of a key's block number `low` + 2³² `high`, into `out`. */
export function threefry(key: Key, low: number, high: number, out: Uint32Array): void {
  const k0 = key.low | 0;
  const k1 = key.high | 0;
  const k2 = k0 ^ k1 ^ 0x1bd11bda;
  let x = (low + k0) | 0;
  let y = (high + k1) | 0;
  for (let step = 0; step < 5; step++) {
    const first = (step & 1) * 4;
    for (let r = first; r < first + 4; r++) {
      const bits = ROTATIONS[r];
      x = (x + y) | 0;
      y = ((y << bits) | (y >>> (32 - bits))) ^ x;
    }
    // Keys are added in turn: (k1, k2), (k2, k0), (k0, k1), …
    x = (x + (step % 3 === 0 ? k1 : step % 3 === 1 ? k2 : k0)) | 0;
    y = (y + (step % 3 === 0 ? k2 : step % 3 === 1 ? k0 : k1) + step + 1) | 0;
  }
  out[0] = x >>> 0;
  out[1] = y >>> 0;
}

/** Fills `out` with numbers from [0, 1), 24 random bits each, from block `first` on. */
export function fillUniform(key: Key, out: Float32Array, first = 0): void {
  const words = new Uint32Array(2);
  for (let i = 0; i < out.length; i += 2) {
    threefry(key, first + i / 2, 0, words);
    out[i] = (words[0] >>> 8) * 2 ** -24;
    if (i + 1 < out.length) out[i + 1] = (words[1] >>> 8) * 2 ** -24;
  }
}

/**
 * Fills `out` from the standard normal distribution, by the method of Box and Muller in float64, from block
 * `first` on.
 */
export function fillNormal(key: Key, out: Float32Array, first = 0): void {
  const words = new Uint32Array(2);
  for (let i = 0; i < out.length; i += 2) {
    threefry(key, first + i / 2, 0, words);
    const radius = Math.sqrt(-2 * Math.log((words[0] + 0.5) * 2 ** -32));
    const angle = 2 * Math.PI * (words[1] * 2 ** -32);
    out[i] = radius * Math.cos(angle);
    if (i + 1 < out.length) out[i + 1] = radius * Math.sin(angle);
  }
}

/** Streams of seeds that all follow from one: for a model's many parameters, for each step's windows. */
export class Seeds {
  readonly #key: Key;
  readonly #stream: number;
  #drawn = 0;

  /** Starts a stream of `seed`, by its number, of which each is another. */
  constructor(seed: number, stream = 0) {
    this.#key = keyOf(seed);
    this.#stream = stream;
  }

  /** The next seed. */
  next(): number {
    const words = new Uint32Array(2);
    threefry(this.#key, this.#drawn++, this.#stream, words);
    return words[0] + (words[1] & 0xfffff) * 2 ** 32;
  }
}

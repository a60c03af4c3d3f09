/**
 * The angles of rotary position embedding.
 *
 * @module
 */
import { defaultDevice, type Device } from "../device.ts";
import { ShapeError } from "../errors.ts";
import { tensor } from "../ops/create.ts";
import { tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { Module, owned } from "./module.ts";

/** How frequencies are changed so that a model reads longer texts than it was trained on first. */
export type RotaryScaling =
  /** All divided by one factor. */
  | { readonly type: "linear"; readonly factor: number }
  /** As in LLaMA 3.1: slow ones divided by the factor, fast ones kept, those between interpolated. */
  | {
    readonly type: "llama3";
    readonly factor: number;
    /** Frequencies that turn fewer times than this in `originalLength` tokens are divided. */
    readonly lowTurns: number;
    /** Frequencies that turn more often than this are kept. */
    readonly highTurns: number;
    /** Tokens of the sequences that the model was trained on first. */
    readonly originalLength: number;
  };

/** Options of {@linkcode Rotary}. */
export interface RotaryOptions {
  /** The base of the frequencies. Default 10000. */
  base?: number;
  /** How they are changed. Default: not at all. */
  scaling?: RotaryScaling;
  /** Where the rotations live. */
  device?: Device;
}

/**
 * Rotations for `rotary`: position t is turned by the angles t · f_j, f_j = base^(−2j/size), j < size/2.
 * Cosines and sines are computed on the host in float64, once, so that far positions are as exact as near
 * ones.
 */
export class Rotary extends Module {
  /** f_j, in radians a token. */
  readonly frequencies: readonly number[];
  /** Rotations of the positions asked for so far and some more, [positions, size]. */
  table: Tensor | undefined;
  readonly #device: Device;

  /** For the first `size` elements of a head, an even number. */
  constructor(size: number, options: RotaryOptions = {}) {
    super();
    const { base = 10000, scaling, device = defaultDevice() } = options;
    if (!Number.isInteger(size) || size < 2 || size % 2 !== 0 || !(base > 0 && base < Infinity)) {
      throw new ShapeError(
        `Rotary: expected an even size and a finite base above 0, found ${size} and ${base}`,
      );
    }
    this.frequencies = Array.from(
      { length: size / 2 },
      (_, j) => scaled(base ** (-2 * j / size), scaling),
    );
    this.#device = device;
  }

  /**
   * The rotations of `n` positions from `start` on, one start for all rows or one for each: float32
   * [1 or b, n, size].
   */
  at(start: number | readonly number[], n: number): Tensor {
    const starts = typeof start === "number" ? [start] : start;
    const table = this.#tableTo(Math.max(...starts) + n);
    return tidy(() => {
      if (starts.every((s) => s === starts[0])) {
        return table.slice([starts[0], starts[0] + n]).unsqueeze(0);
      }
      const positions = starts.flatMap((s) => Array.from({ length: n }, (_, i) => s + i));
      const shape = [starts.length, n];
      return table.gather(tensor(Int32Array.from(positions), { shape, device: this.#device }));
    });
  }

  #tableTo(end: number): Tensor {
    if (this.table !== undefined && this.table.shape[0] >= end) return this.table;
    const half = this.frequencies.length;
    const positions = Math.max(64, 2 ** Math.ceil(Math.log2(end)));
    const values = new Float32Array(positions * 2 * half);
    for (let t = 0; t < positions; t++) {
      for (let j = 0; j < half; j++) {
        values[2 * half * t + j] = Math.cos(t * this.frequencies[j]);
        values[2 * half * t + half + j] = Math.sin(t * this.frequencies[j]);
      }
    }
    const larger = owned(tensor(values, { shape: [positions, 2 * half], device: this.#device }));
    this.table?.dispose();
    return this.table = larger;
  }
}

function scaled(frequency: number, scaling: RotaryScaling | undefined): number {
  if (scaling === undefined) return frequency;
  const slow = frequency / scaling.factor;
  if (scaling.type === "linear") return slow;
  const { lowTurns, highTurns, originalLength } = scaling;
  const turns = originalLength * frequency / (2 * Math.PI);
  const kept = Math.min(1, Math.max(0, (turns - lowTurns) / (highTurns - lowTurns)));
  return kept * frequency + (1 - kept) * slow;
}

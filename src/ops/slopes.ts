/**
 * The slopes of decay: how fast each head of linear attention forgets.
 *
 * @module
 */
import type { Device } from "../device.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { checkNumber, format, sameShape } from "../shape.ts";
import { Tensor } from "../tensor.ts";
import { tensor } from "./create.ts";

/** Which layer of how many the slopes are for. */
export interface SlopeOptions {
  /** The layer, counted from 0. */
  layer?: number;
  /** How many layers there are. */
  layers?: number;
}

/**
 * One slope s per head, from fast to slow decay e^(−s): ALiBi's geometric series s_h = 2^(−8(h+1)/H) for
 * H a power of two; otherwise that of the largest power of two P below H, then every second entry of
 * that of 2P. With `layer` l of `layers` L they are multiplied by 1 − l/(L−1) + 1e-5, as in the released
 * TransNormerLLM: later layers remember longer.
 *
 * @example
 * ```ts
 * import { decaySlopes } from "@levin/levin";
 *
 * console.log(decaySlopes(4)); // [0.25, 0.0625, 0.015625, 0.00390625]
 * ```
 * @throws {ShapeError} if a count is not a positive integer or the layer is not one of the layers.
 */
export function decaySlopes(heads: number, { layer, layers }: SlopeOptions = {}): number[] {
  const counts = Number.isInteger(heads) && heads >= 1;
  checkNumber("decaySlopes", "a positive number of heads", heads, counts);
  const slopes = geometric(heads);
  if (layer === undefined && layers === undefined) return slopes;
  const known = Number.isInteger(layer) && Number.isInteger(layers);
  if (!known || layer! < 0 || layer! >= layers!) {
    throw new ShapeError(
      `decaySlopes: expected a layer from 0 up to the number of layers, found layer ${layer} of ` +
        `${layers}`,
    );
  }
  const share = layers === 1 ? 0 : layer! / (layers! - 1);
  return slopes.map((slope) => slope * (1 - share + 1e-5));
}

function geometric(heads: number): number[] {
  const power = 2 ** Math.floor(Math.log2(heads));
  const slopes = Array.from({ length: power }, (_, h) => 2 ** (-8 * (h + 1) / power));
  if (power === heads) return slopes;
  const between = geometric(2 * power).filter((_, h) => h % 2 === 0);
  return [...slopes, ...between.slice(0, heads - power)];
}

/**
 * Slopes in any of the forms that attention takes, as a float32 tensor [heads]. A tensor's values stay
 * on the device and are not checked.
 *
 * @throws {ShapeError} if there is not one slope a head, or one is negative or not finite.
 * @throws {DTypeError} if a tensor of slopes is not float32.
 */
export function slopesTensor(
  operation: string,
  slopes: number | readonly number[] | Tensor,
  heads: number,
  device: Device,
): Tensor {
  const checked = checkSlopes(operation, slopes, heads);
  return checked instanceof Tensor ? checked : tensor(checked, { device });
}

/** The logarithms of their decay, −slope, likewise. */
export function minusSlopes(
  operation: string,
  slopes: number | readonly number[] | Tensor,
  heads: number,
  device: Device,
): Tensor {
  const checked = checkSlopes(operation, slopes, heads);
  return checked instanceof Tensor
    ? checked.neg()
    : tensor(checked.map((slope) => -slope), { device });
}

function checkSlopes(
  operation: string,
  slopes: number | readonly number[] | Tensor,
  heads: number,
): number[] | Tensor {
  if (slopes instanceof Tensor) {
    if (slopes.dtype !== "f32") {
      throw new DTypeError(`${operation}: expected slopes of dtype f32, found ${slopes.dtype}`);
    }
    if (!sameShape(slopes.shape, [heads])) {
      throw new ShapeError(
        `${operation}: expected slopes of shape [heads] = [${heads}], found ${
          format(slopes.shape)
        }`,
      );
    }
    return slopes;
  }
  const list = typeof slopes === "number" ? Array<number>(heads).fill(slopes) : slopes;
  if (list.length !== heads) {
    throw new ShapeError(
      `${operation}: expected one slope for each of ${heads} heads, found ${list.length}`,
    );
  }
  const bad = list.find((slope) => !(slope >= 0 && slope < Infinity));
  if (bad !== undefined) {
    throw new ShapeError(
      `${operation}: expected slopes ≥ 0 and finite, found ${bad}: decay is e^(−slope)`,
    );
  }
  return [...list];
}

/** How far a result is from its reference, for tests and for `deno task accuracy`. */
import { assertEquals } from "@std/assert";

/** rms(found − expected) / rms(expected). NaN if anything is, and Infinity against all zeros. */
export function relativeError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  assertEquals(found.length, expected.length);
  let difference = 0;
  let size = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (found[i] - expected[i]) ** 2;
    size += expected[i] ** 2;
  }
  if (size === 0) return difference === 0 ? 0 : Infinity;
  return Math.sqrt(difference / size);
}

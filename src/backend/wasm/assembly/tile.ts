// A tile of 6 × 8 sums, which fills 12 of the 16 vector registers that x86 has; V8 keeps one for itself. At every depth
// it takes the entries of 6 rows, side by side, and those of 8 columns. An access to memory can cost as much as four
// operations (without a trap handler, as in Deno, it is checked, in shared memory against a size that is read anew), so
// a row's entry is not loaded for itself: four are loaded at once and turned by a lane from one sum to the next, and two
// are loaded twice over and swapped. Lane l of sum k then belongs to row (l + k) mod 4, or mod 2, until the tile is done.
//
// The steps stand written out wherever a tile is made: its sums are registers only as local variables of one function.

/** Rows of a tile. */
export const ROWS: i32 = 6;
/** Columns of a tile. */
export const COLUMNS: i32 = 8;

// @ts-ignore: decorator
@inline
export function turned(a: v128): v128 {
  return v128.shuffle<f32>(a, a, 1, 2, 3, 0);
}

// @ts-ignore: decorator
@inline
export function swapped(a: v128): v128 {
  return v128.shuffle<f32>(a, a, 1, 0, 3, 2);
}

/** Lanes 0 and 2 of a, 1 and 3 of b. */
// @ts-ignore: decorator
@inline
export function alternate(a: v128, b: v128): v128 {
  return v128.shuffle<f32>(a, b, 0, 5, 2, 7);
}

/** Lanes 0 and 1 of a, 2 and 3 of b. */
// @ts-ignore: decorator
@inline
export function halves(a: v128, b: v128): v128 {
  return v128.shuffle<f32>(a, b, 0, 1, 6, 7);
}

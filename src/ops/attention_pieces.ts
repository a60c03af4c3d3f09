/**
 * Quadratic attention of heads that outgrow a binding: queries and keys in pieces, of which every pair is a call of
 * the kernels, and what the pairs make joined in float32.
 *
 * Pieces are counted from the end. Causal queries are the last of the keys' positions, so that queries of piece
 * i see piece i of the keys as causal queries do, all of the pieces before it (i + 1, …), and nothing after.
 *
 * @module
 */
import { tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { loadInto } from "./pointwise.ts";
import { turnsOf } from "./tiles.ts";

/** Rows of a tile: pieces are whole tiles where they can be. */
const TILE = 64;

/**
 * How many rows, along axis 3 of tensors [b, groups, members, rows, columns], fit a binding in float32 and are walked
 * over in as many turns as loops may take.
 */
export function rowsOfAPiece(tensors: readonly Tensor[]): number {
  const { bindingBytes, loopTurns } = tensors[0].device.engine;
  const columns = Math.max(...tensors.map((t) => t.shape[4]));
  const step = Math.max(2, columns, ...tensors.map((t) => Math.abs(t.strides[3])));
  const tiles = Math.floor(loopTurns / turnsOf(TILE, 2 * columns));
  const rows = Math.max(1, Math.min(TILE * tiles, Math.floor(bindingBytes / (4 * step))));
  return rows - rows % Math.min(rows, TILE);
}

/** Views of `length` rows each along axis 3: the last rows first; last what is left over, which may be nothing. */
export function piecesOf(t: Tensor, length: number): Tensor[] {
  const count = Math.max(1, Math.ceil(t.shape[3] / length));
  return Array.from({ length: count }, (_, i) => {
    const end = t.shape[3] - i * length;
    return t.slice(null, null, null, [Math.max(0, end - length), end]);
  });
}

/** What the parts make, joined two by two, so that few results are held at once. */
export function joined(
  parts: readonly (() => Tensor[])[],
  join: (a: Tensor[], b: Tensor[]) => Tensor[],
): Tensor[] {
  if (parts.length === 1) return parts[0]();
  const middle = parts.length >> 1;
  return tidy(() => join(joined(parts.slice(0, middle), join), joined(parts.slice(middle), join)));
}

/** Writes into each target the sum of what the parts make for it. */
export function sumInto(targets: readonly Tensor[], parts: readonly (() => Tensor[])[]): void {
  tidy(() => {
    const sums = joined(parts, (a, b) => a.map((t, i) => t.add(b[i])));
    loadInto(sums.map((t, i) => [t, targets[i]]));
  });
}

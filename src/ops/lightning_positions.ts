/**
 * Where every token stands in the decay of its chunk: what all kernels of Lightning Attention tell decays from.
 *
 * @module
 */
import type { Dispatch, GpuContext, View } from "../backend/contract.ts";
import decays from "../../shaders/decays.wgsl" with { type: "text" };
import positionsText from "../../shaders/lightning_positions.wgsl" with { type: "text" };
import { grid } from "./pointwise_program.ts";
import { withBlocks } from "./tiles.ts";

const shader = withBlocks(`${decays}\n${positionsText}`);

/** The most rows of a chunk whose positions fit the kernel's integers. */
export const LONGEST_CHUNK = 512;

/** Where what remains of every token begins in `positions`, in words: after two of every token and every chunk. */
export function remainsOf(heads: number, n: number, chunks: number): number {
  return 2 * heads * (n + chunks);
}

/** Words of `positions` for so many tokens and chunks of so many heads. */
export function positionsWords(heads: number, n: number, chunks: number): number {
  return remainsOf(heads, n, chunks) + heads * n;
}

/**
 * Writes `positions`, two words for every token of g [b, groups, members, n] and for every chunk; with
 * `decayAfter`, where a token stands before its own decay; with `remains`, what is left of every token at the end of its
 * chunk as well.
 */
export function positionsDispatch(
  g: View,
  positions: View,
  { chunk, decayAfter, remains = false }: {
    chunk: number;
    decayAfter: boolean;
    remains?: boolean;
  },
  context: GpuContext,
): Dispatch {
  const [b, groups, members, n] = g.shape;
  const chunks = Math.ceil(n / chunk);
  const heads = b * groups * members;
  const steady = g.strides[3] === 0;
  const CHUNKS = steady ? 8 : 1;
  const workgroups = heads * Math.ceil(chunks / CHUNKS);
  return {
    label: "positions",
    shader,
    constants: { EXCLUSIVE: decayAfter, REMAINS: remains, STEADY: steady, CHUNKS },
    bindings: [g, positions],
    params: [
      ...g.strides,
      g.offset,
      groups,
      members,
      n,
      chunk,
      chunks,
      workgroups,
      remainsOf(heads, n, chunks),
    ],
    workgroups: grid(workgroups, context),
  };
}

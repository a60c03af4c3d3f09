/**
 * Where every token stands in the decay of its chunk: what all kernels of Lightning Attention tell decays from.
 *
 * @module
 */
import type { Dispatch, GpuContext, View } from "../backend/contract.ts";
import decays from "../../shaders/decays.wgsl" with { type: "text" };
import positionsText from "../../shaders/lightning_positions.wgsl" with { type: "text" };
import { grid } from "./pointwise_program.ts";
import { stepsOf, withBlocks } from "./tiles.ts";

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

/** What kernels of Lightning Attention tell the places of rows from. */
export interface Places {
  /** What has to run before. */
  readonly dispatches: Dispatch[];
  /** What they bind as `positions`. */
  readonly positions: View;
  /** Constants of lightning_places.wgsl. */
  readonly constants: { readonly STEADY: boolean; readonly EXCLUSIVE: boolean };
  /** Values of their params `g_strides` and `g_offset`. */
  readonly strides: number[];
  readonly offset: number;
}

/**
 * Where tokens of g [b, groups, members, n] stand in chunks of so many; with `decayAfter`, before their own decay. Two
 * words of `positions()` for every token and for every chunk; with `remains`, what is left of every token at the end of
 * its chunk as well. Where all tokens of a head decay alike, g says it all, unless `written` is asked for.
 */
export function placesIn(
  g: View,
  positions: () => View,
  { chunk, decayAfter, remains = false, written = false }: {
    chunk: number;
    decayAfter: boolean;
    remains?: boolean;
    written?: boolean;
  },
  context: GpuContext,
): Places {
  const strides = stepsOf(g);
  const steady = strides[3] === 0 && !written;
  const constants = { STEADY: steady, EXCLUSIVE: decayAfter };
  const places = { constants, strides, offset: g.offset };
  if (steady) return { ...places, dispatches: [], positions: g };
  const [b, groups, members, n] = g.shape;
  const chunks = Math.ceil(n / chunk);
  const heads = b * groups * members;
  const workgroups = heads * chunks;
  const dispatch = {
    label: "positions",
    shader,
    constants: { EXCLUSIVE: decayAfter, REMAINS: remains },
    bindings: [g, positions()],
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
  return { ...places, dispatches: [dispatch], positions: dispatch.bindings[1] };
}

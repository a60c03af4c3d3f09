/**
 * From what each segment of a sequence adds to the state to the state before each segment: how Lightning Attention
 * walks along the segments of a sequence side by side.
 *
 * @module
 */
import type { Dispatch, GpuContext, View } from "../backend/contract.ts";
import decays from "../../shaders/decays.wgsl" with { type: "text" };
import scanText from "../../shaders/lightning_scan.wgsl" with { type: "text" };
import { contiguousStrides, sizeOf } from "../shape.ts";
import { grid } from "./pointwise_program.ts";
import { placesOf, withBlocks } from "./tiles.ts";

const shader = withBlocks(`${decays}\n${scanText}`);

/** States [b, groups, members, d, e] of every segment, those of a head one after the other, seen as the first ones. */
export function statesOfSegments(states: View, shape: readonly number[], segments: number): View {
  const strides = contiguousStrides(shape).map((stride, i) => i < 3 ? segments * stride : stride);
  return { ...states, shape, strides };
}

/** How a sequence is cut up for the scan. */
export interface Segments {
  /** Chunks whose decays come before the segments' in `totals`. */
  readonly chunks: number;
  /** How many segments. */
  readonly segments: number;
}

/**
 * Writes the states before all segments over what the segments add, in `states`, and the last state into `last`
 * [b, groups, members, d, e]; `totals` are the positions that all segments add up to.
 */
export function scanDispatch(
  [states, totals, initial]: (View | undefined)[],
  last: View,
  { chunks, segments }: Segments,
  context: GpuContext,
): Dispatch {
  const [, groups, members, d, e] = last.shape;
  const fours = e % 4 === 0;
  const elements = sizeOf(last.shape) / (fours ? 4 : 1);
  return {
    label: "scan",
    shader,
    constants: {
      HAS_INITIAL: initial !== undefined,
      ...(fours && {
        Element: "vec4f",
        IN_FOURS: true,
        initial_at: "vec4f(initial[at], initial[at + step], initial[at + 2u * step], " +
          "initial[at + 3u * step])",
        four_of: "values",
      }),
    },
    bindings: [states!, totals!, initial ?? totals!, last],
    params: [
      ...placesOf(initial ?? last, last),
      ...[groups, members, d, e, chunks, segments, elements],
    ],
    workgroups: grid(Math.ceil(elements / 256), context),
  };
}

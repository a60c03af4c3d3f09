/**
 * How WebGPU runs lightning_core.ts's operator: what its kernels are given, and in which order they go.
 *
 * @module
 */
import { type Dispatch, floatBits, type GpuContext, type View } from "../backend/contract.ts";
import { bytesOf } from "../dtype.ts";
import decays from "../../shaders/decays.wgsl" with { type: "text" };
import keys from "../../shaders/keys.wgsl" with { type: "text" };
import queries from "../../shaders/queries.wgsl" with { type: "text" };
import outputsText from "../../shaders/lightning_outputs.wgsl" with { type: "text" };
import jointText from "../../shaders/lightning_outputs_joint.wgsl" with { type: "text" };
import statesText from "../../shaders/lightning_states.wgsl" with { type: "text" };
import { contiguousStrides, sizeOf } from "../shape.ts";
import type { LightningOptions } from "./lightning_core.ts";
import { LONGEST_CHUNK, positionsDispatch } from "./lightning_positions.ts";
import { scanDispatch } from "./lightning_scan.ts";
import { grid } from "./pointwise_program.ts";
import {
  elements,
  isInGroups,
  placesOf,
  results,
  stepsOf,
  tileColumns,
  tileName,
  tiling,
  variants,
  withScoresEitherWay,
  withTilesEitherWay,
} from "./tiles.ts";

const statesShaders = withTilesEitherWay(keys, decays, statesText);
const outputsShaders = withScoresEitherWay(decays, outputsText);
const jointShader = withTilesEitherWay(keys, queries, decays, jointText).byBlock;

/**
 * Memory that a call may take beyond q, k, v and the outputs, states included, as a share of them (15 % less what
 * allocation rounds up), and at least so many bytes: under 15 % of 1 GiB, and enough for most calls of a training
 * step to be one pass (with 48 MiB a step at 385M is 1868 dispatches instead of 1529).
 */
const SCRATCH_SHARE = 0.14;
export const LEAST_SCRATCH = 140 * 2 ** 20;
/** Workgroups that walk over states side by side: two for each processor of a large GPU. */
const WALKERS = 256;
/** The fewest chunks of a segment, so that what each segment costs is shared. */
const LEAST_SEGMENT = 4;

/** Bytes of scratch memory that a chunk of every head takes. */
function scratchOfAChunk(heads: number, chunk: number, area: number): number {
  return heads * (4 * area + 8 * (chunk + 2));
}

/** The least scratch memory that a call can do with. */
export function leastScratch(k: View, v: View, { blockSize }: LightningOptions): number {
  const chunk = Math.min(blockSize, LONGEST_CHUNK, Math.max(k.shape[3], 1));
  return 2 * scratchOfAChunk(sizeOf(k.shape.slice(0, 3)), chunk, k.shape[4] * v.shape[4]);
}

/** Columns of a tile of states. */
function stateColumns(e: number): number {
  return variants.narrowStates ? 64 : tileColumns(e);
}

/** Workgroups that walk over one head's states. */
function walksOf(d: number, e: number): number {
  return Math.ceil(d / 64) * Math.ceil(e / stateColumns(e));
}

/** The shader that makes outputs from q, k and v, its constants for its tiles, and how many columns a tile has. */
function outputsOf(q: View, k: View, v: View, context: GpuContext) {
  const [d, e] = [k.shape[4], v.shape[4]];
  const columns = tileColumns(e, variants.joint ? context.workgroupBytes : undefined);
  const wide = columns === 128;
  const tiles = tiling(context, d, e, 16, wide);
  const constants = { ...elements({ q, k, v }), ...tiles, SQUARE: variants.square };
  if (!variants.joint) {
    const skips = { SKIPS: variants.skips !== "nothing" };
    return {
      shader: outputsShaders[variants.tiles],
      constants: { ...constants, ...skips },
      columns,
    };
  }
  const stored = variants.asStored && tiles.WHOLE_D && tiles.WHOLE_E &&
    [q, k, v].every((view) => view.dtype === "f16" && isInGroups(view, -1, 4));
  return {
    shader: jointShader,
    constants: {
      ...constants,
      RIGHT_BLOCKS: columns / 4,
      SKIPS: variants.skips === "all",
      SKIPS_VALUES: variants.skips === "values",
      ...(stored && {
        Loaded: "vec4<f16>",
        ask_q: "q[(base + column) / 4u]",
        ask_k: "k[(base + column) / 4u]",
        ask_v: "v[(base + column) / 4u]",
      }),
    },
    columns,
  };
}

/** Queries that read the same states, and their outputs. */
interface Second {
  readonly q: View;
  readonly out: View;
}

/** How the GPU goes about a sequence. */
function passesOf(
  inputs: readonly View[],
  out: View,
  blockSize: number,
  bindingBytes: number,
): { chunk: number; segment: number; segments: number } {
  const [q, k, v] = inputs;
  const [n, d] = k.shape.slice(3);
  const e = v.shape[4];
  const heads = sizeOf(k.shape.slice(0, 3));
  const chunk = Math.min(blockSize, LONGEST_CHUNK, Math.max(n, 1));
  const operands = [q, k, v, out].reduce((sum, t) => sum + bytesIn(t), 0);
  const chunks = Math.ceil(Math.max(n, 1) / chunk);
  const walkers = heads * walksOf(d, e);
  // The last state; where heads are few, two that passes hand on, and one more for each segment.
  const few = walkers < WALKERS;
  const states = 4 * heads * d * e * (few ? 3 : 1);
  const share = Math.max(operands * SCRATCH_SHARE, LEAST_SCRATCH) - states;
  const budget = Math.min(few ? share / (1 + 1 / LEAST_SEGMENT) : share, bindingBytes);
  const affordable = Math.floor(budget / scratchOfAChunk(heads, chunk, d * e)) - 1;
  // Passes as even as they can be.
  const atOnce = Math.ceil(chunks / Math.ceil(chunks / Math.max(1, affordable)));
  const wanted = Math.ceil(atOnce / Math.ceil(WALKERS / Math.max(1, walkers)));
  const segment = Math.min(atOnce, Math.max(LEAST_SEGMENT, wanted));
  return { chunk, segment, segments: Math.ceil(atOnce / segment) };
}

/**
 * The GPU, some sequences of the batch after the others in the same scratch memory, where even one chunk of all
 * their heads would take too much. `second` are the queries of a {@linkcode lightningPair} and their outputs.
 */
export function plan(
  inputs: View[],
  outputs: View[],
  options: LightningOptions,
  context: GpuContext,
  second?: Second,
): Dispatch[] {
  const [q, k, v] = inputs;
  const [b] = k.shape;
  const heads = sizeOf(k.shape.slice(0, 3));
  const operands = [q, k, v, outputs[0]].reduce((sum, t) => sum + bytesIn(t), 0);
  const room = Math.max(operands * SCRATCH_SHARE - bytesIn(outputs[1]), LEAST_SCRATCH);
  const parts = Math.min(
    Math.ceil(leastScratch(k, v, options) / room),
    Math.max(1, Math.floor(heads / WALKERS)),
    b,
  );
  if (parts < 2) return planHeads(inputs, outputs, options, context, second);
  const taken = Math.ceil(b / parts);
  const scratch: View[] = [];
  return Array.from({ length: Math.ceil(b / taken) }, (_, part) => {
    const some = (view: View) => slice(view, 0, part * taken, Math.min(taken, b - part * taken));
    let used = 0;
    const sharing: GpuContext = {
      ...context,
      // Every part asks for the same things in the same order, and seldom for more than the first.
      scratch: (count, dtype = "f32") => {
        const [at, before] = [used, scratch[used++]];
        if (before?.dtype === dtype && before.shape[0] >= count) return before;
        return scratch[at] = context.scratch(count, dtype);
      },
    };
    const other = second && { q: some(second.q), out: some(second.out) };
    return planHeads(inputs.map(some), outputs.map(some), options, sharing, other);
  }).flat();
}

/**
 * The GPU, a stretch of every head in each pass, so that the states in between need little memory: the states
 * before all chunks, then all outputs at once. Where there are too few heads to occupy a GPU, segments of the
 * stretch are walked side by side, and a scan finds the states before them.
 */
function planHeads(
  [q, k, v, g, initial]: View[],
  [out, last]: View[],
  { alpha, beta, decayAfter, blockSize }: LightningOptions,
  context: GpuContext,
  second?: Second,
): Dispatch[] {
  const [b, groups, members, n, d] = k.shape;
  const heads = b * groups * members;
  const e = v.shape[4];
  const { chunk, segment, ...most } = passesOf([q, k, v], out, blockSize, context.bindingBytes);
  const length = chunk * segment * most.segments;
  const segmented = most.segments > 1 || n === 0;
  const chunksAtOnce = segment * most.segments;
  const positions = context.scratch(2 * heads * chunksAtOnce * (chunk + 1));
  const totals = context.scratch(2 * heads * (chunksAtOnce + most.segments));
  const states = context.scratch(heads * most.segments * (segment + 1) * d * e);
  const passes = Math.max(1, Math.ceil(n / length));
  const carried = [0, 1].slice(0, segmented ? passes - 1 : 0).map((): View => {
    const shape = [b, groups, members, d, e];
    return { ...context.scratch(sizeOf(shape)), shape, strides: contiguousStrides(shape) };
  });
  const fours = e % 4 === 0;
  const dispatches: Dispatch[] = [];
  for (let pass = 0; pass < passes; pass++) {
    const isLast = pass === passes - 1;
    const start = pass * length;
    const rows = Math.min(length, n - start);
    const chunks = Math.ceil(rows / chunk);
    const segments = Math.ceil(chunks / segment);
    const [qs, ks, vs, gs, outs] = [q, k, v, g, out].map((view) => slice(view, 3, start, rows));
    const before = pass === 0 ? initial : segmented ? carried[(pass - 1) % 2] : undefined;
    const after = isLast ? last : carried[pass % 2];
    const walks = heads * segments * walksOf(d, e);
    const lastByStates = variants.lastByStates && !segmented && isLast;
    dispatches.push(
      positionsDispatch(gs, positions, chunk, decayAfter, context),
      {
        label: "states",
        tile: tileName(stateColumns(e)),
        shader: statesShaders[variants.tiles],
        constants: {
          ...elements({ k: ks, v: vs }),
          ...(fours && {
            IN_FOURS: true,
            ResultElement: "vec4f",
            four_results: "values",
            stored: "out[at / 4u]",
          }),
          ...tiling(context, d, e, 64, stateColumns(e) === 128),
          SQUARE: variants.square,
          KEPT: variants.keptStates,
          WRITES_LAST: lastByStates,
          HAS_INITIAL: !segmented && before !== undefined,
          GOES_ON: !segmented && pass > 0,
        },
        bindings: [ks, vs, positions, states, totals, before ?? positions, last],
        params: [
          ...placesOf(ks, vs),
          ...[groups, members, rows, d, e, chunk, chunks, segment, segments, walks],
          ...[floatBits(beta), (before ?? last).strides[4], (before ?? last).offset],
          ...[last.offset, 0, 0],
          ...stepsOf(before ?? last).slice(0, 4),
          ...stepsOf(last).slice(0, 4),
        ],
        workgroups: grid(walks, context),
      },
    );
    if ((segmented || isLast) && !lastByStates) {
      const cut = { chunks, segment, segments, walked: !segmented };
      dispatches.push(scanDispatch([states, totals, before], after, cut, context));
    }
    const readers = [{ q: qs, k: ks, v: vs, out: outs, turned: false }];
    if (second !== undefined) {
      const [q, out] = [second.q, second.out].map((view) => slice(view, 3, start, rows));
      readers.push({ q, k: vs, v: ks, out, turned: true });
    }
    for (const { q, k, v, out, turned } of readers) {
      const [d, e] = [k.shape[4], v.shape[4]];
      const { shader, constants, columns } = outputsOf(q, k, v, context);
      const reads = heads * chunks * Math.ceil(chunk / 64) * Math.ceil(e / columns);
      dispatches.push({
        label: "outputs",
        tile: tileName(columns),
        shader,
        constants: {
          ...constants,
          ...(fours && { StateElement: "vec4f", four_states: "states[at / 4u]" }),
          ...results(out),
          HAS_INITIAL: before !== undefined || pass > 0,
          SEGMENTED: segmented,
          STATE_TURNED: turned,
          ONE_BLOCK: chunk <= 64 && !context.software,
        },
        bindings: [k, v, q, positions, states, totals, out],
        params: [
          ...placesOf(k, v, q, out),
          ...[groups, members, rows, d, e, chunk, chunks, segment, segments, reads],
          ...[floatBits(alpha), floatBits(beta)],
        ],
        workgroups: grid(reads, context),
      });
    }
  }
  return dispatches.filter(({ workgroups }) => workgroups[0] > 0);
}

/** `count` entries of a view's axis, from `start` on. */
function slice(view: View, axis: number, start: number, count: number): View {
  return {
    ...view,
    shape: view.shape.with(axis, count),
    offset: view.offset + start * view.strides[axis],
  };
}

function bytesIn({ shape, dtype }: View): number {
  return sizeOf(shape) * bytesOf(dtype);
}

/**
 * How WebGPU runs lightning_core.ts's operator: what its kernels are given, and in which order they go.
 *
 * @module
 */
import { type Dispatch, floatBits, type GpuContext, type View } from "../backend/contract.ts";
import { bytesOf } from "../dtype.ts";
import decays from "../../shaders/decays.wgsl" with { type: "text" };
import keys from "../../shaders/keys.wgsl" with { type: "text" };
import placesText from "../../shaders/lightning_places.wgsl" with { type: "text" };
import queries from "../../shaders/queries.wgsl" with { type: "text" };
import outputsText from "../../shaders/lightning_outputs.wgsl" with { type: "text" };
import statesText from "../../shaders/lightning_states.wgsl" with { type: "text" };
import { contiguousStrides, sizeOf } from "../shape.ts";
import type { LightningOptions } from "./lightning_core.ts";
import { LONGEST_CHUNK, placesIn, positionsWords, remainsOf } from "./lightning_positions.ts";
import { scanDispatch, statesOfSegments } from "./lightning_scan.ts";
import { grid } from "./pointwise_program.ts";
import {
  elements,
  isInGroups,
  isWide,
  placesOf,
  results,
  sizes,
  stepsOf,
  tileColumns,
  tileName,
  tilesOf,
  tiling,
  withTiles,
} from "./tiles.ts";

const statesShader = withTiles(keys, decays, placesText, statesText);
const outputsShader = withTiles(keys, queries, decays, placesText, outputsText);

/**
 * Memory that a call may take beyond q, k, v and the outputs, states included, as a share of them (15 % less what
 * allocation rounds up), and at least so many bytes: under 15 % of 1 GiB, and enough for most calls of a training
 * step to be one pass (with 48 MiB a step at 385M is 1868 dispatches instead of 1529).
 */
const SCRATCH_SHARE = 0.14;
export const LEAST_SCRATCH = 140 * 2 ** 20;
/** Tiles of states that are walked over side by side: two for each processor of a large GPU. */
const WALKERS = 256;
/** Bytes of the units of a tile of states in float16: two for each thread. */
const UNITS_BYTES = 8 * 128;
/** The fewest chunks of a segment, so that what each segment costs is shared. */
const LEAST_SEGMENT = 4;

/** Rows of a chunk of n. */
function chunkOf(n: number, blockSize: number): number {
  return Math.min(blockSize, LONGEST_CHUNK, Math.max(n, 1));
}

/** Bytes of scratch memory that a chunk of every head takes, whose states are of so many bytes. */
function scratchOfAChunk(heads: number, chunk: number, states: number): number {
  return heads * (states + 8) + 4 * positionsWords(heads, chunk, 1);
}

/** Bytes of a state: in float32; or in float16, and the units of its tiles. */
function stateBytes(d: number, e: number, halves = false): number {
  return halves ? 2 * d * e + UNITS_BYTES * tilesOf(d, e) : 4 * d * e;
}

/** The least scratch memory that a call can do with. */
export function leastScratch(k: View, v: View, { blockSize }: LightningOptions): number {
  const chunk = chunkOf(k.shape[3], blockSize);
  const state = stateBytes(k.shape[4], v.shape[4]);
  return 2 * scratchOfAChunk(sizeOf(k.shape.slice(0, 3)), chunk, state);
}

/** The scratch memory of a call in one pass. */
function wholeScratch(k: View, v: View, halves: boolean, { blockSize }: LightningOptions): number {
  const n = Math.max(k.shape[3], 1);
  const chunk = chunkOf(n, blockSize);
  const state = stateBytes(k.shape[4], v.shape[4], halves);
  return Math.ceil(n / chunk) * scratchOfAChunk(sizeOf(k.shape.slice(0, 3)), chunk, state);
}

/** Whether states between chunks are float16, of q, k, v and all outputs: where each output is rounded to it anyway. */
function hasHalves([q, k, v, ...outs]: readonly View[]): boolean {
  return v.shape[4] % 4 === 0 && [q, k, v, ...outs].every(({ dtype }) => dtype === "f16");
}

/** Bytes of a block of four rows or columns in a tile. */
const BLOCK_BYTES = 272;

/**
 * Constants by which a workgroup walks over one tile of a state or two, with one pair of buffers or two; where tokens
 * decay alike (`steady`), beside what is left of them.
 */
function walkers(context: GpuContext, d: number, e: number, steady: boolean) {
  const KEPT = steady ? LONGEST_CHUNK + 1 : 1;
  const room = (context.workgroupBytes - 16 * Math.ceil(KEPT / 4)) / BLOCK_BYTES;
  const wide = isWide(e);
  const both = wide && Math.ceil(d / 64) % 2 === 0 && context.workgroupThreads >= 256;
  const SIDES = both && room >= 64 ? 2 : 1;
  const [left, right] = [16 * SIDES, wide ? 32 : 16];
  // For one tile a second pair of buffers costs more workgroups than it is worth; in software it is there to be tested.
  const wanted = SIDES === 2 || context.software;
  const BUFFERS = wanted && room >= 2 * (left + right) ? 2 : 1;
  return { SIDES, BUFFERS, LEFT_BLOCKS: BUFFERS * left, RIGHT_BLOCKS: BUFFERS * right, KEPT };
}

/** Constants by which four neighbours of float16 operands wait in registers as they are stored. */
function heldConstants(
  operands: Readonly<Record<string, View>>,
  { WHOLE_D, WHOLE_E }: Record<string, boolean>,
): Record<string, string> {
  const inFours = (view: View) => view.dtype === "f16" && isInGroups(view, -1, 4);
  if (!WHOLE_D || !WHOLE_E || !Object.values(operands).every(inFours)) return {};
  return { Held: "vec4<f16>", ...asStored(...Object.keys(operands)) };
}

/** How a shader reads four neighbours of such operands. */
function asStored(...names: string[]): Record<string, string> {
  return Object.fromEntries(names.map((x) => [`held_${x}`, `${x}[(base + column) / 4u]`]));
}

/** Constants of the shader that makes outputs from q, k and v, and from states that may be halves. */
function outputsConstants(q: View, k: View, v: View, halves: boolean, context: GpuContext) {
  const [d, e] = [k.shape[4], v.shape[4]];
  const tiles = tiling(context, d, e);
  const inFours = halves && tiles.WHOLE_E && isInGroups(v, -1, 4);
  return {
    ...elements({ q, k, v }),
    ...tiles,
    ...sizes(d, e, tiles),
    WHOLE_COLUMNS: tiles.WHOLE_E,
    ...(halves && { HALVES: true, Held: "vec4<f16>" }),
    ...(inFours && asStored("v")),
  };
}

/** Queries that read the same states, and their outputs. */
interface Second {
  readonly q: View;
  readonly out: View;
}

/** How the GPU goes about a sequence with so many bytes of room. */
function passesOf(
  [q, k, v]: readonly View[],
  outs: readonly View[],
  blockSize: number,
  room: number,
  bindingBytes: number,
) {
  const [n, d] = k.shape.slice(3);
  const e = v.shape[4];
  const heads = sizeOf(k.shape.slice(0, 3));
  const chunk = chunkOf(n, blockSize);
  const chunks = Math.ceil(Math.max(n, 1) / chunk);
  const halves = n > 0 && hasHalves([q, k, v, ...outs]);
  const ofAChunk = scratchOfAChunk(heads, chunk, stateBytes(d, e, halves));
  const states = heads * stateBytes(d, e);
  // Where heads are few, a state for each segment; in several passes, one that they hand on.
  const abreast = Math.max(1, Math.round(WALKERS / Math.max(1, heads * tilesOf(d, e))));
  const free = room - (abreast > 1 ? abreast * states : 0);
  const inOne = chunks * ofAChunk <= Math.min(free, bindingBytes);
  const affordable = Math.floor(Math.min(free - states, bindingBytes) / ofAChunk);
  // Passes as even as they can be.
  const passes = inOne ? 1 : Math.ceil(chunks / Math.max(1, affordable));
  const atOnce = Math.ceil(chunks / passes);
  const segment = Math.min(atOnce, Math.max(LEAST_SEGMENT, Math.ceil(atOnce / abreast)));
  return { chunk, segment, segments: Math.ceil(atOnce / segment), halves };
}

/**
 * How many sequences of the batch go at once. All, if their scratch memory is affordable, at least that of a chunk of
 * each; rather so many that each goes in one pass, as long as they occupy a GPU, and then a round number.
 */
function sequencesAtOnce(
  k: View,
  v: View,
  halves: boolean,
  options: LightningOptions,
  room: number,
  bindingBytes: number,
): number {
  const [b, groups, members, , d] = k.shape;
  const occupying = Math.ceil(WALKERS / Math.max(1, groups * members * tilesOf(d, v.shape[4])));
  const whole = wholeScratch(k, v, halves, options);
  const inOnePass = Math.floor(b * Math.min(room, bindingBytes) / whole);
  if (inOnePass < b && inOnePass >= occupying) {
    // As even as they can be.
    const parts = Math.ceil(b / (inOnePass - inOnePass % occupying));
    return Math.ceil(b / parts / occupying) * occupying;
  }
  const atLeast = Math.floor(b * room / leastScratch(k, v, options));
  return Math.min(b, Math.max(occupying, atLeast));
}

/**
 * The GPU, some sequences of the batch after the others in the same scratch memory, where that of all would take too
 * much. `second` are the queries of a {@linkcode lightningPair} and their outputs.
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
  const operands = [q, k, v, outputs[0]].reduce((sum, t) => sum + bytesIn(t), 0);
  const room = Math.max(operands * SCRATCH_SHARE - bytesIn(outputs[1]), LEAST_SCRATCH);
  const halves = hasHalves([...inputs.slice(0, 3), outputs[0], ...second ? [second.out] : []]);
  const taken = sequencesAtOnce(k, v, halves, options, room, context.bindingBytes);
  if (taken === b) return planHeads(inputs, outputs, options, room, context, second);
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
    return planHeads(inputs.map(some), outputs.map(some), options, room, sharing, other);
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
  room: number,
  context: GpuContext,
  second?: Second,
): Dispatch[] {
  const [b, groups, members, n, d] = k.shape;
  const heads = b * groups * members;
  const e = v.shape[4];
  const outs = second === undefined ? [out] : [out, second.out];
  const { bindingBytes } = context;
  const { chunk, segment, halves, ...most } = passesOf(
    [q, k, v],
    outs,
    blockSize,
    room,
    bindingBytes,
  );
  const length = chunk * segment * most.segments;
  const segmented = most.segments > 1 || n === 0;
  const chunksAtOnce = segment * most.segments;
  const tiles = tilesOf(d, e);
  let scratch: View | undefined;
  const forPositions = () =>
    scratch ??= context.scratch(positionsWords(heads, chunksAtOnce * chunk, chunksAtOnce));
  const states = context.scratch(heads * chunksAtOnce * d * e, halves ? "f16" : "f32");
  // Two words for each, then the units of states that are halves.
  const totalsWords = 2 * heads * (chunksAtOnce + most.segments);
  const unitsWords = halves ? UNITS_BYTES / 4 * heads * chunksAtOnce * tiles : 0;
  const totals = context.scratch(totalsWords + unitsWords);
  const passes = Math.max(1, Math.ceil(n / length));
  const shape = [b, groups, members, d, e];
  const area = d * e;
  const carried: View | undefined = passes > 1
    ? { ...context.scratch(sizeOf(shape)), shape, strides: contiguousStrides(shape) }
    : undefined;
  const ends = segmented ? context.scratch(heads * most.segments * area) : undefined;
  const fours = e % 4 === 0;
  const stateElement = halves ? "vec4<f16>" : "vec4f";
  const dispatches: Dispatch[] = [];
  let before = initial;
  for (let pass = 0; pass < passes; pass++) {
    const start = pass * length;
    const rows = Math.min(length, n - start);
    const chunks = Math.ceil(rows / chunk);
    const segments = Math.ceil(chunks / segment);
    const [qs, ks, vs, gs, here] = [q, k, v, g, out].map((view) => slice(view, 3, start, rows));
    // In turn, so that the last pass leaves the state where it belongs, and none reads where it writes.
    const after = (passes - pass) % 2 === 1 ? last : carried!;
    // What each segment adds; then the states before them.
    const ofSegments = ends && statesOfSegments(ends, shape, segments);
    const end = ofSegments ?? after;
    const stateTiles = tiling(context, d, e, 64);
    const places = placesIn(gs, forPositions, { chunk, decayAfter, remains: true }, context);
    // Kernels that read a float32 state before the segment as well have no registers for more than what is written.
    const written = segmented && !halves && places.constants.STEADY;
    const placesOfOutputs = written
      ? placesIn(gs, forPositions, { chunk, decayAfter, written }, context)
      : places;
    const together = walkers(context, d, e, places.constants.STEADY);
    const walks = heads * segments * tiles / together.SIDES;
    dispatches.push(
      ...placesOfOutputs.dispatches,
      {
        label: "states",
        tile: tileName(tileColumns(e)),
        shader: statesShader,
        constants: {
          ...elements({ k: ks, v: vs }),
          ...(fours && {
            IN_FOURS: true,
            ResultElement: stateElement,
            four_results: "ResultElement(values)",
          }),
          ...(halves && { Result: "f16" }),
          ...heldConstants({ k: ks, v: vs }, stateTiles),
          ...stateTiles,
          ...sizes(d, e, stateTiles),
          ...together,
          ...places.constants,
          WHOLE_COLUMNS: stateTiles.WHOLE_E,
          WHOLE_ROWS: stateTiles.WHOLE_D,
          HALVES: halves,
          SEGMENTED: segmented,
          HAS_INITIAL: !segmented && before !== undefined,
        },
        bindings: [ks, vs, places.positions, states, totals, before ?? places.positions, end],
        params: [
          ...places.strides,
          ...placesOf(ks, vs),
          ...[groups, members, rows, d, e, chunk, chunks, segment, segments, walks],
          ...[floatBits(beta), (before ?? end).strides[4], (before ?? end).offset, end.offset],
          ...[remainsOf(heads, rows, chunks), totalsWords, segmented ? area : 0, ...[0, 0, 0]],
          ...stepsOf(before ?? end).slice(0, 4),
          ...stepsOf(end).slice(0, 4),
          places.offset,
        ],
        workgroups: grid(walks, context),
      },
    );
    if (ofSegments !== undefined) {
      dispatches.push(
        scanDispatch([ofSegments, totals, before], after, { chunks, segments }, context),
      );
    }
    // In software one variant does for chunks of all sizes; that of halves is there to be tested.
    const isOneBlock = chunk <= 64 && (halves || !context.software);
    const readers = [{ q: qs, k: ks, v: vs, out: here, turned: false }];
    if (second !== undefined) {
      const [q, out] = [second.q, second.out].map((view) => slice(view, 3, start, rows));
      readers.push({ q, k: vs, v: ks, out, turned: true });
    }
    for (const { q, k, v, out, turned } of readers) {
      const [d, e] = [k.shape[4], v.shape[4]];
      const reads = heads * chunks * tilesOf(chunk, e);
      dispatches.push({
        label: "outputs",
        tile: tileName(tileColumns(e)),
        shader: outputsShader,
        constants: {
          ...outputsConstants(q, k, v, halves, context),
          ...(halves && { HALVES_WIDE: isWide(vs.shape[4]) }),
          ...(fours && {
            StateElement: stateElement,
            four_states: "states[at / 4u]",
            BeforeElement: "vec4f",
            four_before: "before[at / 4u]",
          }),
          ...results(out),
          ...placesOfOutputs.constants,
          SEGMENTED: segmented,
          STATE_TURNED: turned,
          ONE_BLOCK: isOneBlock,
          SKIPS: isOneBlock && halves,
        },
        bindings: [k, v, q, placesOfOutputs.positions, states, totals, ofSegments ?? totals, out],
        params: [
          ...placesOfOutputs.strides,
          ...placesOf(k, v, q, out),
          ...[groups, members, rows, d, e, chunk, chunks, segment, segments, reads],
          ...[floatBits(alpha), floatBits(beta), totalsWords, Number(before !== undefined)],
          placesOfOutputs.offset,
        ],
        workgroups: grid(reads, context),
      });
    }
    before = after;
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

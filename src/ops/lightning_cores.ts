/**
 * The operator of lightning_core.ts on matrix units (tensor cores), for float16. What is multiplied is
 * rounded to float16, what is added up is float32:
 *
 *     S ← exp(P_m) S + Σ_r f16(exp(P_m − P_r) k_r)ᵀ v_r        carried in float32, without β
 *     o_r = f16(αβ exp(P_r) q_r) f16(S) + Σ_{t ≤ r} f16(αβ exp(P_r − P_t) (q_r · k_t)) v_t
 *
 * Each f16(S) has a power of two for every tile, so that it neither overflows nor fades. All exponents are
 * differences ≤ 0. One walk along every sequence leaves f16(S) before each chunk; then all outputs at once. A pair
 * of calls, LA(q, k, v) and LA(r, v, k), reads what one walk has left, the second turned over.
 *
 * @module
 */
import { type Dispatch, floatBits, type GpuContext, type View } from "../backend/contract.ts";
import asksText from "../../shaders/lightning_asks_cores.wgsl" with { type: "text" };
import coresText from "../../shaders/lightning_cores.wgsl" with { type: "text" };
import decays from "../../shaders/decays.wgsl" with { type: "text" };
import placesText from "../../shaders/lightning_places.wgsl" with { type: "text" };
import outputsText from "../../shaders/lightning_outputs_cores.wgsl" with { type: "text" };
import weightsText from "../../shaders/lightning_weights_cores.wgsl" with { type: "text" };
import statesText from "../../shaders/lightning_states_cores.wgsl" with { type: "text" };
import { sizeOf } from "../shape.ts";
import { eightResults, eights, withCores, withCoresAndResults } from "./cores.ts";
import type { LightningOptions } from "./lightning_core.ts";
import { LONGEST_CHUNK, type Places, placesIn, remainsOf } from "./lightning_positions.ts";
import { scanDispatch, statesOfSegments } from "./lightning_scan.ts";
import { grid } from "./pointwise_program.ts";
import { placesOf, sizes } from "./tiles.ts";

const statesShader = withCores(statesText, coresText, decays, placesText);
const outputsShader = withCoresAndResults(
  outputsText,
  asksText,
  weightsText,
  coresText,
  decays,
  placesText,
);

/**
 * Subgroups that walk side by side where heads are few: sequences are cut into segments, walked twice, once for
 * what each adds, with a scan between. Sixteen for each processor of a large GPU.
 */
const WALKERS = 2048;
/**
 * Workgroups that make outputs, if there are chunks for so many, and chunks that each walks along, at most: what comes next
 * is on its way while the last is made, but a few long walks would end at different times.
 */
const WALKS = 2048;
const LONGEST_WALK = 8;
/** With so many chunks the first one is given a state of zeros: work for one, and for all of them a branch less. */
const MANY_CHUNKS = 8;
/** The fewest chunks of a segment, so that what each segment costs is shared. */
const LEAST_SEGMENT = 4;

/** How a call is cut up on matrix units. */
function layoutOf(
  { shape }: View,
  e: number,
  { blockSize, unitsBlockSize = blockSize }: LightningOptions,
  side: number,
) {
  const [b, groups, members, n, d] = shape;
  const [rows, columns] = [4 * side, 8 * side];
  const chunk = Math.ceil(Math.min(unitsBlockSize, LONGEST_CHUNK, n) / rows) * rows;
  const chunks = Math.ceil(n / chunk);
  const [tilesD, tilesE] = [Math.ceil(d / rows), Math.ceil(e / columns)];
  const heads = b * groups * members;
  const stateElements = heads * chunks * tilesD * rows * tilesE * columns;
  return { rows, columns, chunk, chunks, tilesD, tilesE, heads, stateElements };
}

type Layout = ReturnType<typeof layoutOf>;

/** Bytes of workgroup memory that the larger of the kernels takes for chunks of so many rows, at most. */
function workgroupBytes(side: number, chunk: number): number {
  const [rows, columns] = [4 * side, 8 * side];
  // In units of 16 bytes: two quarters of a state; tiles of q and of a state turned over, and what weights come from.
  const ofStates = 2 * rows * (side + 2) + Math.ceil((chunk + 1) / 4) + 1;
  const tiles = rows * (side / 2 + 1) + columns * (side / 4 + 1);
  const weights = 3 * rows + 4 + 3 * chunk / 4;
  const ofOutputs = tiles + weights + Math.ceil(chunk / rows / 4);
  return 16 * Math.max(ofStates, ofOutputs);
}

/** Whether a call can run on matrix units, if there are any. */
export function suitsMatrixUnits(
  [, k, v]: View[],
  [out]: View[],
  options: LightningOptions,
  context: GpuContext,
): boolean {
  const { matrixUnits, bindingBytes } = context;
  if (matrixUnits === undefined || out.dtype !== "f16" || sizeOf(out.shape) === 0) return false;
  const { side, lanes } = matrixUnits;
  const { rows, columns, chunk, stateElements } = layoutOf(k, v.shape[4], options, side);
  const d = k.shape[4];
  const fits = workgroupBytes(side, chunk) <= context.workgroupBytes &&
    subgroupsFor(d, rows) * lanes <= context.workgroupThreads;
  return fits && d <= columns && 2 * stateElements <= bindingBytes && options.beta !== 0;
}

/** Subgroups that walk with a state: sixteen with all of a head's d, if it exceeds a tile, and so read k and v once. */
function subgroupsFor(d: number, rows: number): number {
  return d > rows ? 16 : 8;
}

/** Whether d and e are whole numbers of tiles, which have so many rows of d and columns of e. */
function wholeness(d: number, e: number, rows: number, columns: number) {
  return { WHOLE_D: d % rows === 0, WHOLE_E: e % columns === 0 };
}

/** The dispatches of a call that suits them. `second` are the queries of a pair, which suit too, and their outputs. */
export function planForMatrixUnits(
  [q, k, v, g, initial]: View[],
  [out, last]: View[],
  options: LightningOptions,
  context: GpuContext,
  second?: { readonly q: View; readonly out: View },
): Dispatch[] {
  const { side, lanes } = context.matrixUnits!;
  const [, groups, members, n] = k.shape;
  const layout = layoutOf(k, v.shape[4], options, side);
  const { columns, chunk, chunks, heads } = layout;
  const states = context.scratch(layout.stateElements, "f16");
  const scales = context.scratch(heads * chunks * layout.tilesE);
  const forPositions = () => context.scratch(remainsOf(heads, n, chunks));
  const { decayAfter } = options;
  const places = placesIn(g, forPositions, { chunk, decayAfter }, context);
  const constants = {
    SIDE: side,
    LANES: lanes,
    CHUNK: chunk,
    WHOLE_N: n % chunk === 0,
    ...places.constants,
  };
  const everyState = initial !== undefined || chunks >= MANY_CHUNKS;
  const readers = [{ q, k, v, out, turned: false }];
  if (second !== undefined) readers.push({ ...second, k: v, v: k, turned: true });
  return [
    ...places.dispatches,
    ...walks(
      { k, v, places, initial, everyState, constants },
      [states, scales, last],
      layout,
      options,
      context,
    ),
    ...readers.map(({ q, k, v, out, turned }) => {
      const [d, e] = [k.shape[4], v.shape[4]];
      const across = Math.ceil(e / columns);
      const walk = Math.max(1, Math.min(LONGEST_WALK, Math.floor(heads * chunks * across / WALKS)));
      const workgroups = heads * Math.ceil(chunks / walk) * across;
      const whole = wholeness(d, e, columns, columns);
      return {
        label: "outputs on matrix units",
        shader: outputsShader,
        constants: {
          ...constants,
          SUBGROUPS: 4,
          ...(places.constants.STEADY ? { PLACES: 0 } : {}),
          STATE_TURNED: turned,
          EVERY_STATE: everyState,
          ...whole,
          ...sizes(d, e, whole),
          ...eights({ q, k, v }),
          ...eightResults(out),
        },
        bindings: [k, v, places.positions, q, states, scales, out],
        params: [
          ...places.strides,
          ...placesOf(q, k, v, out),
          ...[groups, members, n, d, e, chunks, workgroups, walk],
          floatBits(options.alpha * options.beta),
          places.offset,
        ],
        workgroups: grid(workgroups, context),
      };
    }),
  ];
}

/** Writes the states before all chunks, their scales, and the last state: in one walk, or by segments in two. */
function walks(
  { k, v, places, initial, everyState, constants }: {
    k: View;
    v: View;
    places: Places;
    initial?: View;
    /** Whether the state before the first chunk is written too. */
    everyState: boolean;
    /** Of both kernels. */
    constants: Dispatch["constants"];
  },
  [states, scales, last]: View[],
  layout: Layout,
  { beta }: LightningOptions,
  context: GpuContext,
): Dispatch[] {
  const { side } = context.matrixUnits!;
  const { rows, columns, chunk, chunks, heads, tilesE } = layout;
  const [, groups, members, n, d] = k.shape;
  const e = v.shape[4];
  const subgroups = subgroupsFor(d, rows);
  const whole = wholeness(d, e, subgroups / 2 * side, columns);
  const abreast = Math.floor(WALKERS / (subgroups * heads * tilesE));
  const most = Math.min(abreast, Math.floor(chunks / LEAST_SEGMENT));
  // Two segments would be walked twice for half of the steps.
  const segment = most > 2 ? Math.ceil(chunks / most) : chunks;
  const segments = Math.ceil(chunks / segment);
  const workgroups = heads * segments * tilesE;
  const totals = context.scratch(2 * heads * segments);
  const walk = (
    label: string,
    initial: View | undefined,
    last: View,
    { writes, initialStep = 0, lastStep = 0 }: {
      writes: readonly ("states" | "last" | "totals")[];
      /** From the state of one segment to that of the next. */
      initialStep?: number;
      lastStep?: number;
    },
  ): Dispatch => ({
    label,
    shader: statesShader,
    constants: {
      ...constants,
      HAS_INITIAL: initial !== undefined,
      SUBGROUPS: subgroups,
      ...eights({ k, v }),
      ...whole,
      ...sizes(d, e, whole),
      WRITES_STATES: writes.includes("states"),
      WRITES_LAST: writes.includes("last"),
      WRITES_TOTALS: writes.includes("totals"),
    },
    bindings: [k, v, places.positions, initial ?? places.positions, states, scales, last, totals],
    params: [
      ...places.strides,
      ...placesOf(k, v, initial ?? last, last),
      ...[groups, members, n, d, e, chunks, workgroups, floatBits(beta)],
      ...[segment, segments, initialStep, lastStep, places.offset, everyState ? 0 : chunk],
    ],
    workgroups: grid(workgroups, context),
  });
  const label = "states on matrix units";
  if (segments === 1) return [walk(label, initial, last, { writes: ["states", "last"] })];
  const step = d * e;
  const scratch = context.scratch(heads * segments * step);
  const ofSegments = statesOfSegments(scratch, last.shape, segments);
  const cut = { chunks: 0, segments };
  return [
    walk("segments on matrix units", undefined, ofSegments, {
      writes: ["last", "totals"],
      lastStep: step,
    }),
    scanDispatch([ofSegments, totals, initial], last, cut, context),
    walk(label, ofSegments, last, { writes: ["states"], initialStep: step }),
  ];
}

/**
 * The operator of lightning_core.ts on matrix units (tensor cores), for float16. What is multiplied is
 * rounded to float16, what is added up is float32:
 *
 *     S ← exp(P_m) S + Σ_r f16(exp(P_m − P_r) k_r)ᵀ v_r        carried in float32, without β
 *     o_r = f16(αβ exp(P_r) q_r) f16(S) + Σ_{t ≤ r} f16(αβ exp(P_r − P_t) (q_r · k_t)) v_t
 *
 * Each f16(S) has a power of two for every tile, so that it neither overflows nor fades. All exponents are
 * differences ≤ 0. One walk along every sequence leaves f16(S) before each chunk; then all outputs at once.
 *
 * @module
 */
import { type Dispatch, floatBits, type GpuContext, type View } from "../backend/contract.ts";
import coresText from "../../shaders/lightning_cores.wgsl" with { type: "text" };
import outputsText from "../../shaders/lightning_outputs_cores.wgsl" with { type: "text" };
import statesText from "../../shaders/lightning_states_cores.wgsl" with { type: "text" };
import { sizeOf } from "../shape.ts";
import { eightResults, eights, withCores } from "./cores.ts";
import type { LightningOptions } from "./lightning_core.ts";
import { LONGEST_CHUNK, positionsDispatch } from "./lightning_positions.ts";
import { grid } from "./pointwise_program.ts";
import { placesOf } from "./tiles.ts";

const statesShader = withCores(`${statesText}\n${coresText}`);
const outputsShader = withCores(`${outputsText}\n${coresText}`);

/** How a call is cut up on matrix units. */
function layoutOf({ shape }: View, e: number, blockSize: number, side: number) {
  const [b, groups, members, n, d] = shape;
  const [rows, columns] = [4 * side, 8 * side];
  const chunk = Math.ceil(Math.min(blockSize, LONGEST_CHUNK, n) / rows) * rows;
  const chunks = Math.ceil(n / chunk);
  const [tilesD, tilesE] = [Math.ceil(d / rows), Math.ceil(e / columns)];
  const heads = b * groups * members;
  const stateElements = heads * chunks * tilesD * rows * tilesE * columns;
  return { rows, columns, chunk, chunks, tilesD, tilesE, heads, stateElements };
}

/** Whether a call can run on matrix units, if there are any. */
export function suitsMatrixUnits(
  [, k, v]: View[],
  [out]: View[],
  { beta, blockSize }: LightningOptions,
  { matrixUnits, bindingBytes }: GpuContext,
): boolean {
  if (matrixUnits === undefined || out.dtype !== "f16" || sizeOf(out.shape) === 0) return false;
  const { columns, stateElements } = layoutOf(k, v.shape[4], blockSize, matrixUnits.side);
  return k.shape[4] <= columns && 2 * stateElements <= bindingBytes && beta !== 0;
}

/** The dispatches of a call that suits them. */
export function planForMatrixUnits(
  [q, k, v, g, initial]: View[],
  [out, last]: View[],
  { alpha, beta, decayAfter, blockSize }: LightningOptions,
  context: GpuContext,
): Dispatch[] {
  const { side, lanes } = context.matrixUnits!;
  const [, groups, members, n, d] = k.shape;
  const e = v.shape[4];
  const layout = layoutOf(k, e, blockSize, side);
  const { rows, columns, chunk, chunks, tilesD, tilesE, heads } = layout;
  const positions = context.scratch(2 * heads * (n + chunks));
  const states = context.scratch(layout.stateElements, "f16");
  const scales = context.scratch(heads * chunks * tilesD * tilesE);
  const walks = heads * tilesD * tilesE;
  const reads = heads * chunks * (chunk / rows) * tilesE;
  const sizes = [groups, members, n, d, e, chunk, chunks];
  const constants = {
    SIDE: side,
    LANES: lanes,
    HAS_INITIAL: initial !== undefined,
    WHOLE_E: e % columns === 0,
    ...eights({ k, v }),
  };
  return [
    positionsDispatch(g, positions, chunk, decayAfter, context),
    {
      label: "states on matrix units",
      shader: statesShader,
      constants: { ...constants, WHOLE_D: d % rows === 0 },
      bindings: [k, v, positions, initial ?? positions, states, scales, last],
      params: [...placesOf(k, v, initial ?? last, last), ...sizes, walks, floatBits(beta)],
      workgroups: grid(walks, context),
    },
    {
      label: "outputs on matrix units",
      shader: outputsShader,
      constants: {
        ...constants,
        WHOLE_D: d % columns === 0,
        ...eights({ q }),
        ...eightResults(out),
      },
      bindings: [q, k, v, positions, states, scales, out],
      params: [...placesOf(q, k, v, out), ...sizes, reads, floatBits(alpha * beta)],
      workgroups: grid(reads, context),
    },
  ];
}

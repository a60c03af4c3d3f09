/**
 * The matrix product over the last two axes, batched over the others:
 *
 *     out[b, i, j] = Σ_k x[b, i, k] · y[b, k, j]        [.., m, k] · [.., k, n] → [.., m, n]
 *     dx = g · yᵀ        dy = xᵀ · g
 *
 * Saves x and y. Transposes are strides, never copies. The CPU accumulates in float64, WebAssembly and
 * GPUs in float32. Where the GPU has matrix units (tensor cores, through Dawn), float16 runs on them.
 *
 * @module
 */
import {
  addressOf,
  type CpuView,
  type Dispatch,
  type GpuContext,
  type View,
  type WasmJob,
  type WasmView,
} from "../backend/contract.ts";
import { bytesOf, isFloat } from "../dtype.ts";
import { DTypeError, LimitError, ShapeError } from "../errors.ts";
import { defineOp, type Op } from "../operation.ts";
import { tidy } from "../scope.ts";
import { broadcastShapes, collapse, format, sizeOf } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import narrowText from "../../shaders/matmul.wgsl" with { type: "text" };
import coresText from "../../shaders/matmul_cores.wgsl" with { type: "text" };
import paramsText from "../../shaders/matmul_params.wgsl" with { type: "text" };
import wideText from "../../shaders/matmul_wide.wgsl" with { type: "text" };
import { multiply } from "./matmul_cpu.ts";
import { eightResults, eights, withCoresAndResults } from "./cores.ts";
import { elements, results, withTiles } from "./tiles.ts";

const shader = `${paramsText}\n${narrowText}`;
const wideShader = withTiles(paramsText, wideText);
const coresShader = withCoresAndResults(coresText, paramsText);

const batched: Op = defineOp({
  name: "matmul",
  strided: true,
  output: ([x, y]) => ({ shape: [...x.shape.slice(0, -1), y.shape.at(-1)!], dtype: x.dtype }),
  cpu: ([x, y], [out]) => {
    const { batch, sizes, steps } = geometry(x, y, out);
    for (let b = 0, count = sizeOf(batch); b < count; b++) {
      const [xo, yo, oo] = [x, y, out].map((v, i) => v.offset + offsetOf(b, batch, steps[i]));
      multiply(
        sizes,
        { data: x.data, offset: xo, row: x.strides.at(-2)!, column: x.strides.at(-1)! },
        { data: y.data, offset: yo, row: y.strides.at(-2)!, column: y.strides.at(-1)! },
        { data: out.data, offset: oo, row: out.strides.at(-2)!, column: out.strides.at(-1)! },
      );
    }
  },
  wasm: ([x, y], [out]) => planJob(x, y, out),
  gpu: ([x, y], [out], _, context) => plan(x, y, out, context),
  cuts: ([x], [out]) => {
    const rank = out.shape.length;
    const leading = out.shape.slice(0, -2).map((_, axis) => [axis, axis, axis]);
    return [...leading, [x.shape.length - 2, -1, rank - 2], [-1, rank - 1, rank - 1]];
  },
  backward: [
    ({ grads: [g], inputs: [x, y] }) =>
      isTransposed(x) ? product(y, g.transpose()).transpose() : product(g, y.transpose()),
    ({ grads: [g], inputs: [x, y] }) =>
      isTransposed(y) ? product(g.transpose(), x).transpose() : product(x.transpose(), g),
  ],
});

/**
 * Whether columns lie densely, as those of a transposed weight do. Its gradient is laid out like it, so that
 * what the transpose hands back to the weight is dense again and nobody has to copy it.
 */
function isTransposed({ strides }: Tensor): boolean {
  return strides.at(-2) === 1 && strides.at(-1) !== 1;
}

/**
 * One call of the operation; or, where a row of x or a column of y outgrows a binding, or the sum over k what loops
 * may take (9 turns for 8 terms, and some), a sum of two.
 */
function product(x: Tensor, y: Tensor): Tensor {
  const k = x.shape.at(-1)!;
  const { bindingBytes, loopTurns } = x.device.engine;
  const step = Math.max(Math.abs(x.strides.at(-1)!), Math.abs(y.strides.at(-2)!));
  const fits = k * step * bytesOf(x.dtype) <= bindingBytes && 2 * k <= loopTurns;
  if (k < 2 || fits) return batched(x, y);
  const middle = Math.ceil(k / 2);
  const before = x.shape.slice(0, -2).map(() => null);
  const part = (from: number, to: number) =>
    product(x.slice(...before, null, [from, to]), y.slice(...before, [from, to]));
  return part(0, middle).add(part(middle, k));
}

/** The matrix product, with NumPy's rules for one-dimensional operands and for broadcasting. */
export function matmul(x: Tensor, y: Tensor): Tensor {
  check(x, y);
  return tidy(() => {
    if (y.rank === 1) return matmul(x, y.unsqueeze(1)).squeeze(-1);
    if (x.rank === 1) return matmul(x.unsqueeze(0), y).squeeze(-2);
    const [m, k] = x.shape.slice(-2);
    const n = y.shape[y.rank - 1];
    if (y.rank === 2 && x.rank > 2) {
      // One matrix for the whole batch: one tall product, and one product for its gradient.
      return product(x.reshape([-1, k]), y).reshape([...x.shape.slice(0, -1), n]);
    }
    const batch = broadcastShapes([x.shape.slice(0, -2), y.shape.slice(0, -2)], "batch in matmul");
    return product(x.expand([...batch, m, k]), y.expand([...batch, k, n]));
  });
}

function check(x: Tensor, y: Tensor): void {
  const shapes = `${format(x.shape)} by ${format(y.shape)}`;
  if (x.rank === 0 || y.rank === 0) {
    throw new ShapeError(`Cannot multiply ${shapes}: matmul needs axes; use mul for scalars`);
  }
  const [inner, rows] = [x.shape[x.rank - 1], y.shape[Math.max(0, y.rank - 2)]];
  if (inner !== rows) {
    throw new ShapeError(`Cannot multiply ${shapes}: inner sizes ${inner} and ${rows} differ`);
  }
  if (x.dtype !== y.dtype || !isFloat(x.dtype)) {
    throw new DTypeError(
      `Cannot multiply ${x.dtype} by ${y.dtype}: expected both f32 or both f16; convert with to()`,
    );
  }
}

type Matrices = Pick<CpuView, "shape" | "strides">;

/** The batch axes, merged as far as all three operands allow, and the sizes [m, n, k]. */
function geometry(x: Matrices, y: Matrices, out: Matrices) {
  const operands = [x, y, out].map((v) => v.strides.slice(0, -2));
  const { shape: batch, strides: steps } = collapse(out.shape.slice(0, -2), operands);
  const [m, n] = out.shape.slice(-2);
  return { batch, steps, sizes: [m, n, x.shape.at(-1)!] as const };
}

function offsetOf(entry: number, shape: readonly number[], strides: readonly number[]): number {
  let offset = 0;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    offset += entry % shape[axis] * strides[axis];
    entry = Math.floor(entry / shape[axis]);
  }
  return offset;
}

/** Fewer rows than this are not worth packing y for. */
const FEW_ROWS = 5;

/** WebAssembly: one task a tile. Each element is summed in the same order whatever tile it is in. */
function planJob(x: WasmView, y: WasmView, out: WasmView): WasmJob {
  const { batch, steps, sizes: [m, n, k] } = geometry(x, y, out);
  const few = m < FEW_ROWS;
  const isDense = (v: WasmView, axis: -1 | -2) => v.strides.at(axis) === 1;
  const kernel = few && isDense(x, -1) && isDense(y, -2)
    ? "matmulDots"
    : few && isDense(y, -1) && isDense(out, -1)
    ? "matmulRows"
    : "matmul";
  // Tiles that fill the caches; smaller ones where there are too few of them to share out.
  const count = sizeOf(batch) * m * n;
  const [rows, columns] = few
    ? [m, Math.max(64, Math.ceil(2 ** 16 / k))]
    : count >= 2 ** 20
    ? [252, 256]
    : count * k >= 2 ** 20
    ? [96, 96]
    : [m, n];
  const tile = [Math.min(m, rows), Math.min(n, columns)];
  const depth = Math.min(k, 256);
  return {
    kernel,
    params: [
      ...[x, y, out].map(addressOf),
      ...[x, y, out].flatMap((v) => v.strides.slice(-2).map((step) => 4 * step)),
      ...[m, n, k, ...tile],
      batch.length,
      ...batch,
      ...steps.flatMap((list) => list.map((step) => 4 * step)),
    ],
    tasks: sizeOf(batch) * Math.ceil(m / tile[0]) * Math.ceil(n / tile[1]),
    scratchBytes: few ? 0 : 192 + 4 * depth * (tile[0] + tile[1] + 16),
  };
}

/** Wide tiles are faster once there are enough of them to occupy a GPU. */
const ENOUGH_TILES = 64;

function plan(x: View, y: View, out: View, { software, matrixUnits }: GpuContext): Dispatch {
  const { batch, steps, sizes: [m, n, k] } = geometry(x, y, out);
  if (batch.length > 4) {
    throw new LimitError(
      `Cannot multiply ${format(x.shape)} by ${
        format(y.shape)
      } on the GPU: more than 4 batch axes ` +
        `cannot be merged; make the operands contiguous() first`,
    );
  }
  const four = (list: readonly number[], rest: number) => [
    ...Array<number>(4 - list.length).fill(rest),
    ...list,
  ];
  const tiles = (rows: number, columns: number) =>
    [Math.ceil(n / columns), Math.ceil(m / rows), sizeOf(batch)] as const;
  const isWide = m > 32 && n > 64 && sizeOf(tiles(64, 128)) >= ENOUGH_TILES;
  const along = { X_ALONG_K: x.strides.at(-1) === 1, Y_ALONG_K: y.strides.at(-1) !== 1 };
  const wide = () => ({
    ...elements({ x }, along.X_ALONG_K ? -1 : -2),
    ...elements({ y }, along.Y_ALONG_K ? -2 : -1),
    ...results(out),
    WIDE: true,
    UNROLLED: !software,
    WHOLE: !software && m % 64 === 0 && n % 128 === 0 && k % 16 === 0,
  });
  const narrow = () => ({ StoredX: x.dtype, StoredY: y.dtype, StoredOut: out.dtype });
  const params = [
    ...four(batch, 1),
    ...steps.flatMap((list) => four(list, 0)),
    m,
    n,
    k,
    ...[x, y, out].flatMap((v) => [v.offset, ...v.strides.slice(-2)]),
  ];
  if (matrixUnits !== undefined && x.dtype === "f16" && k > 0) {
    const { side, lanes } = matrixUnits;
    const [tile, depth] = [8 * side, 4 * side];
    return {
      label: "on matrix units",
      shader: coresShader,
      constants: {
        SIDE: side,
        LANES: lanes,
        ...along,
        ...eights({ x }, along.X_ALONG_K ? -1 : -2),
        ...eights({ y }, along.Y_ALONG_K ? -2 : -1),
        ...eightResults(out),
        WHOLE: m % tile === 0 && n % tile === 0 && k % depth === 0,
      },
      params,
      workgroups: tiles(tile, tile),
    };
  }
  return {
    shader: isWide ? wideShader : shader,
    constants: { ...(isWide ? wide() : narrow()), ...along },
    params,
    workgroups: isWide ? tiles(64, 128) : tiles(64, 64),
  };
}

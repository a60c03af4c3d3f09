/**
 * The matrix product over the last two axes, batched over the others, alone or added to something:
 *
 *     out[b, i, j] = c[b, i, j] + Σ_k x[b, i, k] · y[b, k, j]        [.., m, k] · [.., k, n] → [.., m, n]
 *     dx = g · yᵀ        dy = xᵀ · g        dc = g
 *
 * With one y [k, n] for all x [.., k] it is one tall product. Saves x and y. Transposes are strides, never copies;
 * dx is added to what has arrived at x before. The CPU accumulates in float64, WebAssembly and GPUs in float32, and c
 * comes last. Where the GPU has matrix units (tensor cores, through Dawn), float16 runs on them.
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
import {
  broadcastShapes,
  collapse,
  contiguousStrides,
  format,
  sameShape,
  type Shape,
  sizeOf,
} from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import narrowText from "../../shaders/matmul.wgsl" with { type: "text" };
import coresText from "../../shaders/matmul_cores.wgsl" with { type: "text" };
import paramsText from "../../shaders/matmul_params.wgsl" with { type: "text" };
import wideText from "../../shaders/matmul_wide.wgsl" with { type: "text" };
import { multiply } from "./matmul_cpu.ts";
import { eightResults, eights, withCoresAndResults } from "./cores.ts";
import { pointwiseProgram } from "./pointwise_program.ts";
import { elements, results, withTiles } from "./tiles.ts";

const shader = `${paramsText}\n${narrowText}`;
const wideShader = withTiles(paramsText, wideText);
const coresShader = withCoresAndResults(coresText, paramsText);

/** On matrix units, the lines of a tile, the terms of a slice, and the bytes of workgroup memory that two slices take. */
export function slicesOf(side: number) {
  const [tile, depth] = [8 * side, 2 * side];
  return { tile, depth, bytes: 2 * tile * (depth / 8 + 1) * 16 };
}

/** On matrix units, fewer tiles than this leave half of a large GPU idle, and are halved. */
const ENOUGH_TALL_TILES = 72;

/** x, y and, if there is one, a dense c → out. */
const product: Op = defineOp({
  name: "matmul",
  strided: true,
  output: ([x, y]) => ({ shape: [...x.shape.slice(0, -1), y.shape.at(-1)!], dtype: x.dtype }),
  cpu: ([x, y, c], [out]) => {
    multiplyAll(tall(x, y)!, y, tall(out, y)!);
    if (c !== undefined) sum.cpu!([out, c], [out], undefined);
  },
  wasm: ([x, y, c], [out], _, context) => [
    planJob(tall(x, y)!, y, tall(out, y)!),
    ...(c === undefined ? [] : [sum.wasm!([out, c], [out], undefined, context)!].flat()),
  ],
  gpu: ([x, y, c], [out], _, context) =>
    plan(tall(x, y)!, y, c && tall(c, y), tall(out, y)!, context),
  cuts: ([, y, c], [out]) => {
    const rank = out.shape.length;
    const last = y.shape.length - 1;
    const cut = (ofX: number, ofY: number, axis: number) =>
      c === undefined ? [ofX, ofY, axis] : [ofX, ofY, axis, axis];
    const leading = Array.from(
      { length: rank - 1 },
      (_, axis) => cut(axis, axis < last - 1 ? axis : -1, axis),
    );
    return [...leading, cut(-1, last, rank - 1)];
  },
  saves: { inputs: [0, 1] },
  adds: [0],
  backward: ({ grads: [given], inputs: [x, y], needs, before: [arrived] }) => {
    // What both gradients would have to copy is copied once.
    const g = tall(given, y) === undefined ? given.contiguous() : given;
    const dx = () => {
      if (x.rank > y.rank || !isTransposed(x)) return multiplied(g, y.transpose(), arrived);
      const dx = multiplied(y, g.transpose()).transpose();
      return arrived === undefined ? dx : dx.add(arrived);
    };
    const dy = () => {
      const [tallX, tallG] = y.rank === x.rank ? [x, g] : [x, g].map(flat);
      return isTransposed(y)
        ? multiplied(tallG.transpose(), tallX).transpose()
        : multiplied(tallX.transpose(), tallG);
    };
    return [needs[0] ? dx() : null, needs[1] ? dy() : null, ...(needs[2] ? [g] : [])];
  },
});

/** x + y, as the CPU and WebAssembly add c to a product. */
const sum = pointwiseProgram("add", { cpu: (x, y) => x + y, wgsl: "x + y" });

/** x [.., k] as [rows, k]. */
function flat(x: Tensor): Tensor {
  return x.reshape([-1, x.shape.at(-1)!]);
}

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
function multiplied(x: Tensor, y: Tensor, c?: Tensor): Tensor {
  if (x.rank > y.rank && tall(x, y) === undefined) {
    const shape = [...x.shape.slice(0, -1), y.shape[1]];
    return multiplied(flat(x), y, c && flat(c)).reshape(shape);
  }
  const k = x.shape.at(-1)!;
  const { bindingBytes, loopTurns } = x.device.engine;
  const step = Math.max(Math.abs(x.strides.at(-1)!), Math.abs(y.strides.at(-2)!));
  const fits = k * step * bytesOf(x.dtype) <= bindingBytes && 2 * k <= loopTurns;
  if (k < 2 || fits) return c === undefined ? product(x, y) : product(x, y, c.contiguous());
  const middle = Math.ceil(k / 2);
  const before = (t: Tensor) => t.shape.slice(0, -2).map(() => null);
  const part = (from: number, to: number, c?: Tensor) => {
    const rows = y.slice(...before(y), [from, to]);
    return multiplied(x.slice(...before(x), null, [from, to]), rows, c);
  };
  return part(middle, k, part(0, middle, c));
}

/** The matrix product, with NumPy's rules for one-dimensional operands and for broadcasting. */
export function matmul(x: Tensor, y: Tensor): Tensor {
  check(x, y);
  return tidy(() => {
    if (y.rank === 1) return matmul(x, y.unsqueeze(1)).squeeze(-1);
    if (x.rank === 1) return matmul(x.unsqueeze(0), y).squeeze(-2);
    // One matrix for the whole batch: one tall product, and one product for its gradient.
    if (y.rank === 2) return multiplied(x, y);
    const [m, k] = x.shape.slice(-2);
    const n = y.shape[y.rank - 1];
    const batch = broadcastShapes([x.shape.slice(0, -2), y.shape.slice(0, -2)], "batch in matmul");
    return multiplied(x.expand([...batch, m, k]), y.expand([...batch, k, n]));
  });
}

/**
 * c + x · y in one pass: x [.., k], y [k, n], c [.., n].
 *
 * @throws {ShapeError} if the shapes do not fit.
 * @throws {DTypeError} if the dtypes differ or are not floating.
 */
export function addMatmul(c: Tensor, x: Tensor, y: Tensor): Tensor {
  check(x, y);
  const shape = [...x.shape.slice(0, -1), y.shape[y.rank - 1]];
  if (x.rank < 2 || y.rank !== 2 || !sameShape(c.shape, shape)) {
    throw new ShapeError(
      `Cannot add ${format(c.shape)} and ${format(x.shape)} by ${format(y.shape)}: expected ` +
        `[.., n], [.., k] and [k, n]`,
    );
  }
  if (c.dtype !== x.dtype) {
    throw new DTypeError(`Cannot add ${c.dtype} and a product of ${x.dtype}: convert with to()`);
  }
  return tidy(() => multiplied(x, y, c));
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

/** x or out [.., m, k] as one matrix [rows, k] if there is one y for all; undefined if its rows lie unevenly. */
function tall<V extends Matrices>(view: V, y: { readonly shape: Shape }): V | undefined {
  if (view.shape.length === y.shape.length) return view;
  const [shape, steps] = [view.shape, view.strides].map((list) => list.slice(0, -1));
  const { strides: [merged] } = collapse(shape, [steps]);
  if (merged.length > 1) return undefined;
  return {
    ...view,
    shape: [sizeOf(shape), view.shape.at(-1)!],
    strides: [merged[0] ?? 0, view.strides.at(-1)!],
  };
}

/** The batch axes, merged as far as all three operands allow, and the sizes [m, n, k]. */
function geometry(x: Matrices, y: Matrices, out: Matrices) {
  const operands = [x, y, out].map((v) => v.strides.slice(0, -2));
  const { shape: batch, strides: steps } = collapse(out.shape.slice(0, -2), operands);
  const [m, n] = out.shape.slice(-2);
  return { batch, steps, sizes: [m, n, x.shape.at(-1)!] as const };
}

function multiplyAll(x: CpuView, y: CpuView, out: CpuView): void {
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

function plan(
  x: View,
  y: View,
  c: View | undefined,
  out: View,
  context: GpuContext,
): Dispatch | Dispatch[] {
  const { software, matrixUnits } = context;
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
    ...(c === undefined ? { Element_plus: x.dtype } : elements({ plus: c })),
    ...results(out),
    WIDE: true,
    UNROLLED: !software,
    WHOLE: !software && m % 64 === 0 && n % 128 === 0 && k % 16 === 0,
  });
  const narrow = () => ({
    StoredX: x.dtype,
    StoredY: y.dtype,
    StoredOut: out.dtype,
    StoredPlus: x.dtype,
  });
  const params = [
    ...four(batch, 1),
    ...steps.flatMap((list) => four(list, 0)),
    m,
    n,
    k,
    ...[x, y, out].flatMap((v) => [v.offset, ...v.strides.slice(-2)]),
    c?.offset ?? 0,
  ];
  const onUnits = matrixUnits !== undefined && x.dtype === "f16" && k > 0 &&
    slicesOf(matrixUnits.side).bytes <= context.workgroupBytes;
  if (onUnits) {
    const { side, lanes } = matrixUnits;
    const { tile, depth } = slicesOf(side);
    const height = sizeOf(tiles(tile, tile)) < ENOUGH_TALL_TILES ? 2 : 4;
    const rows = 2 * height * side;
    if (c !== undefined) {
      const { shape } = out;
      const strides = contiguousStrides(shape);
      const apart = { ...context.scratch(sizeOf(shape), "f16"), shape, strides };
      return [
        plan(x, y, undefined, apart, context),
        sum.gpu!([apart, c], [out], undefined, context),
      ].flat();
    }
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
        HEIGHT: height,
        WHOLE: m % rows === 0 && n % tile === 0 && k % depth === 0,
      },
      bindings: [x, y, out],
      params,
      workgroups: tiles(rows, tile),
    };
  }
  return {
    tile: isWide ? "64 × 128" : "64 × 64",
    shader: isWide ? wideShader : shader,
    constants: { ...(isWide ? wide() : narrow()), ...along, ADD: c !== undefined },
    bindings: [x, y, out, c ?? x],
    params,
    workgroups: isWide ? tiles(64, 128) : tiles(64, 64),
  };
}

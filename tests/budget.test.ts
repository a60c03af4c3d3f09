/** What operations take beside their results: tensors that are drawn, and Lightning Attention's plan. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { lightningAttentionWithState, type Tensor, uniform } from "../mod.ts";
import type { Dispatch, GpuContext, View } from "../mod.ts";
import { H200 } from "../bench/counter.ts";
import { reflect, specialise } from "../src/backend/webgpu/shader.ts";
import { bytesOf, type DType } from "../src/dtype.ts";
import matmulText from "../shaders/matmul_cores.wgsl" with { type: "text" };
import paramsText from "../shaders/matmul_params.wgsl" with { type: "text" };
import { withCoresAndResults } from "../src/ops/cores.ts";
import { planForMatrixUnits, suitsMatrixUnits } from "../src/ops/lightning_cores.ts";
import { LEAST_SCRATCH, plan } from "../src/ops/lightning_gpu.ts";
import { slicesOf } from "../src/ops/matmul.ts";
import { contiguousStrides, sizeOf } from "../src/shape.ts";
import { asLeaf } from "../src/ops/create.ts";
import { assertNear, test, testOnBackends, testOnWebgpu } from "./harness.ts";

testOnBackends("numbers in f16 are drawn without as many in f32 beside them", async (device) => {
  const size = 20_000_001;
  await device.synchronize();
  device.trim();
  const held = () => {
    const { liveBytes, pooledBytes } = device.memory();
    return liveBytes + pooledBytes;
  };
  const before = held();
  const x = uniform([size], { seed: 3, low: -1, dtype: "f16" });
  await device.synchronize();
  const most = held() - before;
  assert(most < 2 * size * 17 / 16 + 32 * 2 ** 20, `${most} bytes for ${size} numbers`);
  // Of the last piece and across pieces: the same numbers as in f32, rounded.
  const wide = uniform([size], { seed: 3, low: -1 });
  const ends = (t: Tensor) => [t.slice([2 ** 20 - 3, 2 ** 20 + 3]), t.slice([size - 5, size])];
  for (const [i, part] of ends(x).entries()) {
    const found = Array.from(await part.data());
    assertEquals(found, Array.from(await ends(wide)[i].to("f16").data()));
    assert(new Set(found).size > 3);
  }
  device.trim();
});

/** A dense view of nothing. */
function viewOf(shape: number[], dtype: DType) {
  return {
    ...{ shape, dtype, strides: contiguousStrides(shape), offset: 0 },
    buffer: { bytes: sizeOf(shape) * bytesOf(dtype) },
  };
}

const OPTIONS = { alpha: 1, beta: 1, reverse: false, decayAfter: false, wide: false };

/** Lightning Attention's plan: its dispatches, and the bytes it takes beside q, k, v and the outputs. */
function planned(
  [b, heads, n, d, e]: readonly number[],
  dtype: DType,
  limits: Partial<GpuContext> = {},
) {
  const last = viewOf([b, heads, 1, d, e], "f32");
  let scratch = last.buffer.bytes;
  const context: GpuContext = {
    ...H200,
    ...limits,
    scratch: (count, dtype = "f32") => {
      scratch += count * bytesOf(dtype);
      return viewOf([count], dtype);
    },
  };
  const [q, k] = [0, 1].map(() => viewOf([b, heads, 1, n, d], dtype));
  const [v, out] = [0, 1].map(() => viewOf([b, heads, 1, n, e], dtype));
  const g: View = { ...viewOf([b, heads, 1, n], "f32"), strides: [0, 1, 1, 0] };
  const dispatches = plan([q, k, v, g], [out, last], { ...OPTIONS, blockSize: 256 }, context);
  const operands = [q, k, v, out].reduce((sum, { buffer }) => sum + buffer.bytes, 0);
  return { dispatches, context, scratch, operands, last: last.buffer.bytes };
}

/** Asserts that kernels stay within the workgroup memory and the threads that there are. */
function assertWithin(dispatches: Dispatch[], { workgroupBytes, workgroupThreads }: GpuContext) {
  for (const { label, shader, constants = {} } of dispatches) {
    const found = reflect(specialise(shader, constants));
    const taken = found.workgroupBytes;
    assert(taken <= workgroupBytes, `${label} takes ${taken} bytes of ${workgroupBytes}`);
    assert(found.workgroupSize[0] <= workgroupThreads, `${label}: ${found.workgroupSize}`);
  }
}

test("Lightning Attention's kernels fit the workgroup memory that there is", () => {
  for (let workgroupBytes = 16384; workgroupBytes <= 49152; workgroupBytes += 256) {
    for (const dtype of ["f32", "f16"] as const) {
      const { dispatches, context } = planned([4, 32, 1000, 128, 128], dtype, { workgroupBytes });
      assertWithin(dispatches, context);
    }
  }
});

/** Whether a call runs on matrix units of such a device, which it then has to fit. */
function runsOnUnits(
  side: number,
  limits: Partial<GpuContext>,
  steady: boolean,
  blockSize: number,
) {
  const context: GpuContext = {
    ...{ ...H200, ...limits },
    scratch: (count, dtype = "f32") => viewOf([count], dtype),
  };
  const [n, d] = [1000, 8 * side];
  const operands = [1, 2, 3].map(() => viewOf([1, 2, 1, n, d], "f16"));
  const g = viewOf([1, 2, 1, n], "f32");
  if (steady) g.strides = [0, 1, 1, 0];
  const outputs = [viewOf([1, 2, 1, n, d], "f16"), viewOf([1, 2, 1, d, d], "f32")];
  const options = { ...OPTIONS, blockSize };
  if (!suitsMatrixUnits(operands, outputs, options, context)) return false;
  assertWithin(planForMatrixUnits([...operands, g], outputs, options, context), context);
  return true;
}

test("kernels on matrix units run where they fit the workgroup memory and the threads", () => {
  for (const [side, lanes] of [[8, 8], [16, 32]]) {
    const runs = (workgroupBytes: number, workgroupThreads: number) => {
      const limits = { workgroupBytes, workgroupThreads, matrixUnits: { side, lanes } };
      const all = [true, false].flatMap((steady) =>
        [64, 128, 512].map((blockSize) => runsOnUnits(side, limits, steady, blockSize))
      );
      return all.every(Boolean);
    };
    for (let bytes = 8192; bytes <= 49152; bytes += 256) runs(bytes, 1024);
    for (const threads of [256, 512]) runs(49152, threads);
    // All of it where there is most, and where there is less, on units that need less.
    assertEquals([runs(49152, 1024), runs(32768, 256)], [true, side === 8]);
    const taken = reflect(specialise(withCoresAndResults(matmulText, paramsText), { SIDE: side }));
    assertEquals(taken.workgroupBytes, slicesOf(side).bytes);
  }
});

test("Lightning Attention takes 15 % of its operands at most, or a small least", () => {
  const within = (sizes: readonly number[], dtype: DType) => {
    const { scratch, operands, last } = planned(sizes, dtype);
    const [b, heads, , d, e] = sizes;
    const chunk = b * heads * (4 * d * e + 8 * 258);
    // The states of two chunks cannot be done without, of as many sequences as keep a GPU busy.
    const sequences = Math.min(b, Math.ceil(b / Math.max(1, Math.floor(b * heads / 256))) + 1);
    const least = last + 1.25 * Math.max(LEAST_SCRATCH, 6 * chunk * sequences / b);
    const bound = Math.max(0.15 * operands, least);
    assert(scratch > 0 && scratch <= bound, `${scratch} bytes of ${operands}, allowed ${bound}`);
    return scratch / operands;
  };
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 128 }),
      fc.integer({ min: 1, max: 64 }),
      fc.integer({ min: 1, max: 200_000 }),
      fc.integer({ min: 1, max: 256 }),
      fc.integer({ min: 1, max: 256 }),
      fc.constantFrom<DType>("f32", "f16"),
      (b, heads, n, d, e, dtype) => void within([b, heads, n, d, e], dtype),
    ),
    {
      numRuns: 1000,
      examples: [
        // A little more than the least.
        [61, 51, 1, 18, 221, "f32"],
        // States of float16 calls that are float32, since e is odd.
        [96, 33, 1, 254, 57, "f16"],
        // Parts of one pass beside parts of two.
        [18, 57, 1537, 101, 249, "f16"],
        [106, 17, 6054, 199, 200, "f16"],
        // A part of fewer heads, which are too few to be walked at once.
        [43, 2, 4097, 173, 163, "f32"],
      ],
    },
  );
  // What took 18.8 % and 21.4 % on the H200.
  assert(within([128, 32, 1024, 128, 128], "f16") <= 0.15);
  for (const n of [131_072, 1_048_576]) {
    assert(within([1, 8, n, 128, 128], "f16") <= 0.15);
  }
});

testOnWebgpu("sequences in turn give what they give alone", async () => {
  // 520 heads whose states take more than the least.
  const draw = (seed: number) => uniform([130, 4, 130, 128], { seed, low: -1, requiresGrad: true });
  const [q, k, v] = [1, 2, 3].map(draw);
  const initialState = uniform([130, 4, 128, 128], { seed: 4, low: -1 });
  const options = { slopes: [0.5, 0.1, 0.01, 0], blockSize: 64 };
  const { output, state } = lightningAttentionWithState(q, k, v, { ...options, initialState });
  output.sum().add(state.sum()).backward();
  for (const at of [0, 64, 65, 129]) {
    const alone = [q, k, v].map((t) => asLeaf(t.detach().slice([at, at + 1]).contiguous()));
    const [q1, k1, v1] = alone;
    const one = lightningAttentionWithState(q1, k1, v1, {
      ...options,
      initialState: initialState.slice([at, at + 1]),
    });
    one.output.sum().add(one.state.sum()).backward();
    const pairs = [
      [output, one.output],
      [state, one.state],
      ...[q, k, v].map((t, i) => [t.grad!, alone[i].grad!]),
    ];
    for (const [all, own] of pairs) {
      await assertNear(all.slice([at, at + 1]), await own.data(), 1e-5);
    }
  }
  for (const t of [q, k, v]) t.grad = null;
});

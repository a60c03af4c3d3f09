/** What the threads of a workgroup reduce together, by subgroups and without: the same numbers from different texts. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import fc from "fast-check";
import {
  type Device,
  grad,
  init,
  loss,
  nn,
  optim,
  randn,
  scope,
  type Tensor,
  tensor,
  tidy,
  zeros,
} from "../mod.ts";
import { subgroupsOf } from "../src/backend/webgpu/adapter.ts";
import { gatedNorm } from "../src/ops/gated_norm.ts";
import {
  assertNear,
  cpu,
  FLOATS,
  hasSubgroups,
  openGpu,
  relativeError,
  runs,
  test,
  testOnCpu,
  testReductions,
} from "./harness.ts";

/** Rows x by their reductions, in float64. */
function reduced(rows: number[][]) {
  const sums = rows.map((row) => row.reduce((sum, x) => sum + x, 0));
  const maxima = rows.map((row) => row.reduce((m, x) => Math.max(m, x), -Infinity));
  const logsums = rows.map((row, i) =>
    Math.log(row.reduce((sum, x) => sum + Math.exp(x - maxima[i]), 0))
  );
  return { sums, maxima, logsums };
}

const LENGTHS = fc.oneof(
  fc.constantFrom(1, 7, 127, 128, 129, 255, 256, 257),
  fc.integer({ min: 1, max: 2000 }),
);

testReductions(
  "rows of any length reduce to float64, though their exponentials overflow",
  async () => {
    const problems = fc.record({
      rows: fc.integer({ min: 1, max: 4 }),
      length: LENGTHS,
      // exp(89) is no float32.
      shift: fc.constantFrom(0, -1000, 1000),
      hidden: fc.boolean(),
      dtype: fc.constantFrom(...FLOATS),
      seed: fc.nat(),
    });
    const property = fc.asyncProperty(
      problems,
      async ({ rows, length, shift, hidden, dtype, seed }) => {
        using _ = scope();
        const drawn = await randn([rows, length], { seed }).mul(3).add(shift).data();
        // As a mask leaves them, all but one entry.
        if (hidden) drawn.forEach((_, i) => i % length !== seed % length && (drawn[i] = -Infinity));
        const x = tensor(drawn, { shape: [rows, length], dtype });
        const data = await x.data();
        const entries = Array.from(
          { length: rows },
          (_, i) => Array.from(data.subarray(i * length, (i + 1) * length)),
        );
        const { sums, maxima, logsums } = reduced(entries);
        const half = dtype === "f16" ? 1e-3 : 0;

        await assertNear(x.max(-1), maxima, 0, "max");
        if (!hidden) {
          await assertNear(x.to("f32").sum(-1), sums, 1e-6, "sum", data);
        }
        const p = entries.flatMap((row, i) => row.map((v) => Math.exp(v - maxima[i] - logsums[i])));
        await assertNear(x.softmax(), p, Math.max(half, 2e-6), "softmax");
        if (!hidden) {
          const l = entries.flatMap((row, i) => row.map((v) => v - maxima[i] - logsums[i]));
          await assertNear(x.logSoftmax(), l, Math.max(half, 2e-6), "logSoftmax", l);
        }
        const at = seed % length;
        const targets = tensor(Array(rows).fill(at), { dtype: "i32" });
        const losses = loss.crossEntropy(x, targets, { reduction: "none" });
        const wanted = entries.map((row, i) => logsums[i] + (maxima[i] - row[at]));
        await assertNear(losses, wanted, 2e-6, "cross-entropy", wanted.map(() => 1));
      },
    );
    await fc.assert(property, runs(30));
  },
);

testReductions("a row of -Infinity alone has that maximum, and no softmax", async () => {
  for (const length of [1, 7, 129, 300]) {
    const x = tensor(Array(2 * length).fill(-Infinity), { shape: [2, length] });
    assertEquals([...await x.max(-1).data()], [-Infinity, -Infinity]);
    const targets = tensor([0, length - 1], { dtype: "i32" });
    const losses = loss.crossEntropy(x, targets, { reduction: "none" });
    for (const t of [x.softmax(), x.logSoftmax(), losses]) {
      assert((await t.data()).every(Number.isNaN), `length ${length}: ${await t.data()}`);
    }
    // In SwiftShader exp(NaN) is infinite.
    const [dx] = grad(([x]: Tensor[]) => loss.crossEntropy(x, targets))([x]);
    assert(!(await dx.data()).some(Number.isFinite), `length ${length}: ${await dx.data()}`);
  }
});

testReductions(
  "whole numbers reduce exactly, whatever share of a workgroup has a row",
  async () => {
    const problems = fc.record({
      length: LENGTHS,
      dtype: fc.constantFrom("i32" as const, "u32" as const),
      seed: fc.nat(),
    });
    const property = fc.asyncProperty(problems, async ({ length, dtype, seed }) => {
      using _ = scope();
      const least = dtype === "i32" ? -(2 ** 31) : 0;
      const numbers = Array.from(await randn([3 * length], { seed }).data(), (x) => {
        const whole = Math.round(1e8 * x);
        return dtype === "i32" ? whole : Math.abs(whole);
      });
      const x = tensor(numbers, { shape: [3, length], dtype });
      const rows = [0, 1, 2].map((row) => numbers.slice(row * length, (row + 1) * length));
      const sums = rows.map((row) => row.reduce((sum, value) => sum + value, 0));
      const wrapped = sums.map((sum) => dtype === "i32" ? sum | 0 : sum >>> 0);
      assertEquals([...await x.sum(-1).data()], wrapped);
      const maxima = rows.map((row) => row.reduce((m, value) => Math.max(m, value), least));
      assertEquals([...await x.max(-1).data()], maxima);
    });
    await fc.assert(property, runs(20));
  },
);

interface Rows {
  readonly length: number;
  /** Elements before the first row, in memory. */
  readonly offset?: number;
  readonly dtype?: "f32" | "f16";
}

/** Everything that reduces along rows, of the same numbers, on one device. */
async function reductionsOn(
  device: Device,
  { length, offset = 0, dtype = "f32" }: Rows = { length: 777 },
): Promise<Record<string, Float32Array>> {
  const count = 3 * length;
  const numbers = await Promise.all(
    [1, 2].map((seed) => tidy(() => randn([offset + count], { seed, device: cpu })).data()),
  );
  using _ = scope();
  const [x, u] = numbers.map((data) =>
    tensor(data, { dtype, device }).slice([offset, offset + count]).reshape([3, length])
  );
  const targets = tensor([5, 0, length - 1], { dtype: "i32", device });
  const norm = (x: Tensor) => new nn.SRMSNorm().forward(x);
  const [ofNorm] = grad(([x]: Tensor[]) => norm(x).mul(u).sum())([x]);
  const [ofX, ofGate] = grad(([x, u]: Tensor[]) => gatedNorm(x, u).mul(x).sum())([x, u]);
  const [ofLogits] = grad(([x]: Tensor[]) => loss.crossEntropy(x, targets))([x]);
  const [p, q] = [x, u].map((t) => {
    const p = zeros(t.shape, { device, requiresGrad: true });
    p.grad = t.to("f32");
    return p;
  });
  const results: Record<string, Tensor> = {
    softmax: x.softmax(),
    logSoftmax: x.logSoftmax(),
    crossEntropy: loss.crossEntropy(x, targets, { reduction: "none" }),
    srmsNorm: norm(x),
    gatedNorm: gatedNorm(x, u),
    sum: x.to("f32").sum(-1),
    max: x.max(-1),
    ...{ ofNorm, ofX, ofGate, ofLogits },
    sumsOfSquares: optim.gradNorm({ x: p, u: q }),
  };
  const data = await Promise.all(Object.values(results).map((t) => t.data()));
  return Object.fromEntries(Object.keys(results).map((name, i) => [name, data[i] as Float32Array]));
}

testReductions(
  "rows that begin and end at multiples of four, and others, agree with the CPU",
  async (device) => {
    for (const length of [508, 516, 1023, 5000]) {
      for (const offset of [0, 1, 4]) {
        for (const dtype of new Set(FLOATS)) {
          const rows = { length, offset, dtype };
          const [found, expected] = [
            await reductionsOn(device, rows),
            await reductionsOn(cpu, rows),
          ];
          for (const name in expected) {
            const error = relativeError(found[name], expected[name]);
            const limit = found[name].length === 3 * length && dtype === "f16" ? 1e-3 : 5e-6;
            assert(error <= limit, `${name} of ${JSON.stringify(rows)}: off by ${error}`);
            assert(expected[name].some((x) => x !== 0), name);
          }
        }
      }
    }
  },
);

testReductions(
  "rows of the least numbers that there are have a softmax, in units past their end too",
  async () => {
    for (const length of [5, 130, 516]) {
      const x = tensor(Array(length).fill(-(2 - 2 ** -23) * 2 ** 127), { shape: [1, length] });
      await assertNear(x.softmax(), Array(length).fill(1 / length), 1e-6, `${length}`);
    }
  },
);

const KERNELS = [
  ...["softmax", "logSoftmax", "crossEntropy", "srmsNorm", "srmsNormGradient", "gatedNorm"],
  ...["gatedNormGradient", "sum", "max", "sumsOfSquares"],
];

test(
  "by subgroups and without, each kernel is another one, and the numbers agree",
  async () => {
    const found: Record<string, Float32Array>[] = [];
    for (const subgroups of [true, false]) {
      const gpu = await openGpu({ subgroups });
      const compiled = new Map<string, string>();
      const create = gpu.createShaderModule.bind(gpu);
      gpu.createShaderModule = (descriptor) => {
        compiled.set(descriptor.label ?? "", descriptor.code);
        return create(descriptor);
      };
      const device = await init({ device: gpu, debug: true });
      const size = /^subgroups: (.*)$/m.exec(device.describe())![1];
      assertEquals(size === "none", !subgroups, size);
      const [once, again] = [await reductionsOn(device), await reductionsOn(device)];
      assertEquals(once, again, "the same bits in every run");
      for (const kernel of KERNELS) {
        const code = compiled.get(kernel)!;
        assertStringIncludes(code, "fn workgroup_sum");
        assertEquals(/\bsubgroup\w+\(/.test(code), subgroups, `${kernel}:\n${code}`);
      }
      found.push(once);
      device.destroy();
      gpu.destroy();
    }
    const [by, without] = found;
    for (const name in by) {
      const error = relativeError(by[name], without[name]);
      assert(error <= 1e-6 && by[name].some((x) => x !== 0), `${name}: they differ by ${error}`);
    }
  },
  !hasSubgroups,
);

/** A device that is granted features and whose compiler refuses what `refuses` matches. */
function compiler(features: string[], refuses?: RegExp) {
  const errors: (Error | null)[] = [];
  return {
    features: new Set(features),
    pushErrorScope: () => {},
    createShaderModule: ({ code }: { code: string }) => {
      errors.push(refuses?.test(code) ? new Error("refused") : null);
    },
    popErrorScope: () => Promise.resolve(errors.pop()),
  } as unknown as GPUDevice;
}

testOnCpu("subgroups are used as the compiler takes them", async () => {
  const info = (subgroupMinSize: number, subgroupMaxSize: number) =>
    ({ subgroupMinSize, subgroupMaxSize }) as unknown as GPUAdapterInfo;
  const granted = ["subgroups"];
  assertEquals(await subgroupsOf(compiler([]), info(32, 32)), undefined);
  assertEquals(await subgroupsOf(compiler(granted, /subgroupAdd/), info(32, 32)), undefined);
  assertEquals(await subgroupsOf(compiler(granted), info(32, 32)), {
    size: "32 threads",
    directive: true,
  });
  assertEquals(await subgroupsOf(compiler(granted, /enable/), info(8, 32)), {
    size: "8 to 32 threads",
    directive: false,
  });
  const standard = compiler(granted, /^(?!enable subgroups;)/);
  assertEquals((await subgroupsOf(standard, undefined))!.directive, true);
});

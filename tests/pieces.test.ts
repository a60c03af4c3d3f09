/** Quadratic attention and softmax of rows and heads that outgrow a binding, which are cut and not refused. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  concat,
  defineOp,
  Device,
  flashAttention,
  grad,
  KeyValueCache,
  lightningAttention1,
  LimitError,
  randn,
  scope,
  setDefaultDevice,
  type Tensor,
  tensor,
  zeros,
} from "../mod.ts";
import { WebgpuBackend } from "../src/backend/webgpu/backend.ts";
import { srmsNorm } from "../src/ops/srms_norm.ts";
import {
  assertNear,
  FLOATS,
  matricesOf,
  openGpu,
  sumsOf,
  testOnWebgpu,
  wasm,
  webgpu,
} from "./harness.ts";
import { attend, attendGradients, type Head, zeroMatrix } from "./oracle.ts";
import {
  attendSoftmax,
  attendSoftmaxGradients,
  type SoftmaxHead,
  softmaxTerms,
} from "./softmax_oracle.ts";

/** Runs `fn` on a device of its own, and hands it a function that changes what bindings and loops hold. */
async function withBindings(
  fn: (bind: (bytes: number, turns?: number) => void, device: Device) => Promise<void>,
): Promise<void> {
  const backend = new WebgpuBackend(await openGpu(), { owned: true, bindingBytes: 2 ** 20 });
  backend.debug = true;
  const device = new Device(backend, "a test made it");
  const before = randn([1]).device;
  setDefaultDevice(device);
  try {
    using _ = scope();
    // One device for all sizes keeps the shaders it compiled.
    await fn(
      (bindingBytes, loopTurns = 65535) => Object.assign(backend, { bindingBytes, loopTurns }),
      device,
    );
  } finally {
    setDefaultDevice(before);
    device.destroy();
  }
}

interface Problem {
  b: number;
  groups: number;
  members: number;
  n: number;
  before: number;
  d: number;
  e: number;
  dtype: "f32" | "f16";
  /** How many times a head is larger than a binding. */
  times: number;
  /** Whether inputs lie as [batch, n, heads, size]. */
  apart: boolean;
  seed: number;
}

const sizes = fc.constantFrom(
  { d: 5, e: 3, dtype: "f32" as const },
  { d: 8, e: 16, dtype: "f32" as const },
  { d: 7, e: 9, dtype: FLOATS.at(-1)! },
);

const problems: fc.Arbitrary<Problem> = fc.record({
  b: fc.integer({ min: 1, max: 2 }),
  groups: fc.integer({ min: 1, max: 2 }),
  members: fc.integer({ min: 1, max: 3 }),
  n: fc.oneof(fc.constant(1), fc.integer({ min: 2, max: 150 })),
  before: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 150 })),
  times: fc.double({ min: 0.5, max: 6, noNaN: true }),
  apart: fc.boolean(),
  sizes,
  seed: fc.nat(),
}).map(({ sizes, ...rest }) => ({ ...rest, ...sizes }));

/** One whose every head is six pieces, whatever else is drawn. */
const CUT: Problem = {
  ...{ b: 1, groups: 2, members: 3, n: 120, before: 30, d: 8, e: 16, dtype: "f32" },
  ...{ times: 6, apart: false, seed: 1 },
};

/** q, k and v; and a binding that holds one of `times` parts of a head of keys or values. */
function inputsOf({ b, groups, members, n, before, d, e, dtype, times, apart, seed }: Problem) {
  const draw = (heads: number, rows: number, size: number, i: number) =>
    apart
      ? randn([b, rows, heads, size], { seed: seed + i, dtype }).permute([0, 2, 1, 3])
      : randn([b, heads, rows, size], { seed: seed + i, dtype });
  const [m, heads] = [n + before, groups * members];
  const inputs = [draw(heads, n, d, 0), draw(groups, m, d, 1), draw(groups, m, e, 2)];
  const row = Math.max(d, e) * (apart ? heads : 1) * 4;
  return { inputs, bytes: 4 * Math.ceil(Math.max(2 * row, row * m / times) / 4) };
}

type Sums = Record<"q" | "k" | "v", number[][]>;

/** Checks the gradients of Σ o · g against those of every head. */
async function checkGradients(
  attend: (q: Tensor, k: Tensor, v: Tensor) => Tensor,
  g: Tensor,
  inputs: Tensor[],
  expected: (Sums & { terms: Sums })[],
  { members, dtype }: Problem,
): Promise<void> {
  const loss = ([q, k, v]: Tensor[]) => attend(q, k, v).mul(g).to("f32").sum();
  const found = grad(loss)(inputs);
  for (const [i, name] of (["q", "k", "v"] as const).entries()) {
    const all = (sums: Sums[]) => sumsOf(sums.map((one) => one[name]), name === "q" ? 1 : members);
    const terms = all(expected.map((one) => one.terms));
    await assertNear(found[i], all(expected), dtype === "f16" ? 5e-3 : 1e-4, `d${name}`, terms);
  }
}

testOnWebgpu("softmax attention in pieces, with its gradients, equals float64", async () => {
  await withBindings(async (bind, device) => {
    let most = 0;
    const options = fc.record({
      causal: fc.boolean(),
      scale: fc.constantFrom(undefined, 0.5, -0.3),
    });
    const check = async (
      problem: Problem,
      { causal, scale }: { causal: boolean; scale?: number },
    ) => {
      using _ = scope();
      const { members, d, e, dtype, seed } = problem;
      const { inputs, bytes } = inputsOf(problem);
      const attend = (q: Tensor, k: Tensor, v: Tensor) =>
        flashAttention(q, k, v, { causal, scale });
      const [qs, ks, vs] = await Promise.all(inputs.map(matricesOf));
      const heads = qs.map((q, i): SoftmaxHead => {
        const group = Math.floor(i / members);
        return { q, k: ks[group], v: vs[group], scale: scale ?? d ** -0.5, causal };
      });
      bind(bytes);
      const before = device.activity().dispatches;
      const o = attend(inputs[0], inputs[1], inputs[2]);
      most = Math.max(most, device.activity().dispatches - before);
      assertEquals(o.dtype, dtype);
      const expected = heads.flatMap((head) => attendSoftmax(head, e).flat());
      const terms = heads.flatMap((head) => softmaxTerms(head, e).flat());
      await assertNear(o, expected, dtype === "f16" ? 5e-3 : 1e-5, "o", terms);
      const g = randn(o.shape, { seed: seed + 3, dtype });
      const gs = await matricesOf(g);
      const gradients = heads.map((head, i) => attendSoftmaxGradients(head, gs[i]));
      await checkGradients(attend, g, inputs, gradients, problem);
    };
    await fc.assert(fc.asyncProperty(problems, options, check), {
      numRuns: 25,
      examples: [[CUT, { causal: true }]],
    });
    assert(most >= 36, `${most} dispatches at most for a problem: nothing was cut`);
  });
});

testOnWebgpu("Lightning Attention-1 in pieces, with its gradients, equals float64", async () => {
  await withBindings(async (bind, device) => {
    let most = 0;
    const slopes = fc.constantFrom(0, 1e-8, 0.05, 0.917, 10);
    await fc.assert(
      fc.asyncProperty(problems, slopes, fc.boolean(), async (drawn, slope, reverse) => {
        using _ = scope();
        const problem = { ...drawn, before: 0, n: drawn.n + drawn.before };
        const { members, n, d, e, dtype, seed } = problem;
        const { inputs, bytes } = inputsOf(problem);
        const form = (q: Tensor, k: Tensor, v: Tensor) =>
          lightningAttention1(q, k, v, { slopes: slope, scale: 0.5, reverse });
        const turned = (rows: number[][]) => reverse ? rows.toReversed() : rows;
        const [qs, ks, vs] = await Promise.all(inputs.map(matricesOf));
        const heads = qs.map((q, i): Head => ({
          q: turned(q),
          k: turned(ks[Math.floor(i / members)]),
          v: turned(vs[Math.floor(i / members)]),
          g: Array<number>(n).fill(-Math.fround(slope)),
          scale: 0.5,
          initial: zeroMatrix(d, e),
        }));
        bind(bytes);
        const before = device.activity().dispatches;
        const o = form(inputs[0], inputs[1], inputs[2]);
        most = Math.max(most, device.activity().dispatches - before);
        const results = heads.map(attend);
        const expected = results.flatMap((one) => turned(one.o).flat());
        const terms = results.flatMap((one) => turned(one.terms.o).flat());
        await assertNear(o, expected, dtype === "f16" ? 5e-3 : 1e-5, "o", terms);
        const g = randn(o.shape, { seed: seed + 3, dtype });
        const gs = await matricesOf(g);
        const gradients = heads.map((head, i) => {
          const both = attendGradients(head, turned(gs[i]), zeroMatrix(d, e));
          const again = ({ q, k, v }: Sums) => ({ q: turned(q), k: turned(k), v: turned(v) });
          return { ...again(both), terms: again(both.terms) };
        });
        await checkGradients(form, g, inputs, gradients, problem);
      }),
      { numRuns: 25, examples: [[CUT, 0.05, false]] },
    );
    assert(most >= 36, `${most} dispatches at most for a problem: nothing was cut`);
  });
});

const FORMS = {
  flash: (q: Tensor, k: Tensor, v: Tensor) => flashAttention(q, k, v),
  lightning1: (q: Tensor, k: Tensor, v: Tensor) => lightningAttention1(q, k, v, { slopes: 0.01 }),
};

/** o and the gradients of Σ o². */
async function valuesOf(form: keyof typeof FORMS, inputs: Tensor[]): Promise<Float32Array[]> {
  const o = (q: Tensor, k: Tensor, v: Tensor) => FORMS[form](q, k, v);
  const found = [
    o(inputs[0], inputs[1], inputs[2]),
    ...grad(([q, k, v]: Tensor[]) => o(q, k, v).square().sum())(inputs),
  ];
  return await Promise.all(found.map((t) => t.data())) as Float32Array[];
}

testOnWebgpu(
  "what is cut has the same bits from run to run, and what fits is one call",
  async () => {
    await withBindings(async (bind, device) => {
      const inputs = [4, 2, 2].map((heads, i) => randn([1, heads, 200, 8], { seed: i }));
      for (const form of ["flash", "lightning1"] as const) {
        const counted = async () => {
          const before = device.activity().dispatches;
          const values = await valuesOf(form, inputs);
          return { values, dispatches: device.activity().dispatches - before };
        };
        const whole = await counted();
        bind(2000);
        const [once, twice] = [await counted(), await counted()];
        bind(2 ** 20);
        assertEquals((await counted()).dispatches, whole.dispatches);
        assert(once.dispatches > 2 * whole.dispatches, `${once.dispatches} dispatches`);
        for (const [i, values] of once.values.entries()) {
          assertEquals(values, twice.values[i]);
          await assertNear(tensor(values), whole.values[i], 1e-5, `${form} ${i}`);
        }
      }
      const [q, k, v] = inputs;
      const before = device.activity().dispatches;
      flashAttention(q, k, v);
      assertEquals(device.activity().dispatches - before, 1);
    });
  },
);

testOnWebgpu("loops that a driver would end early are cut too", async () => {
  await withBindings(async (bind) => {
    const inputs = [4, 2, 2].map((heads, i) => randn([1, heads, 300, 8], { seed: i }));
    const row = randn([2, 5000], { seed: 4 });
    for (const form of ["flash", "lightning1"] as const) {
      const expected = await valuesOf(form, inputs);
      bind(2 ** 20, 200);
      const found = await valuesOf(form, inputs);
      bind(2 ** 20);
      for (const [i, values] of found.entries()) {
        await assertNear(tensor(values), expected[i], 1e-5, `${form} ${i}`);
      }
    }
    const expected = await row.softmax().data();
    bind(2 ** 20, 100);
    await assertNear(row.softmax(), expected, 1e-5, "softmax");
    const walk = defineOp({
      name: "walk",
      output: ([{ shape, dtype }]) => ({ shape, dtype }),
      gpu: () => ({ shader: "", workgroups: [1] }),
      loopTurns: () => 101,
    });
    assertThrows(() => walk(row), LimitError, "walk on [2, 5000], [2, 5000]: its loops take 101");
  });
});

// Mesa's software driver leaves loops after 65535 turns; on hardware these are calls like any other.
testOnWebgpu("long sums are whole on any driver", async () => {
  const near = async (name: string, shapes: number[][], f: (...t: Tensor[]) => Tensor) => {
    using _ = scope();
    const on = (device: Device) => f(...shapes.map((s, i) => randn(s, { seed: i, device })));
    const there = on(wasm);
    await assertNear(on(webgpu!), await there.data(), 1e-4, name);
  };
  await near("matmul", [[4, 100_000], [100_000, 4]], (x, y) => x.matmul(y));
  await near("matmul in tiles", [[65, 70_000], [70_000, 65]], (x, y) => x.matmul(y));
  await near("scatter", [[2, 3], [100_000, 3]], (table, g) => {
    const ids = zeros([100_000], { dtype: "i32", device: table.device });
    return grad((table: Tensor) => table.gather(ids).mul(g).sum())(table);
  });
  await near("softmax", [[1, 3_000_000]], (x) => x.softmax());
  const long = [1, 1, 120_000, 8];
  await near("flash", [[1, 1, 1, 8], long, long], (q, k, v) => flashAttention(q, k, v));
});

testOnWebgpu("columns further apart than a binding are copied, piece by piece", async () => {
  await withBindings(async (bind) => {
    // [b, h, size, n], seen as [b, h, n, size]: no view of a few rows is small.
    const inputs = [2, 2, 2].map((heads, i) => randn([1, heads, 6, 200], { seed: i }).transpose());
    for (const form of ["flash", "lightning1"] as const) {
      const expected = await valuesOf(form, inputs.map((t) => t.contiguous()));
      bind(2000);
      const found = await valuesOf(form, inputs);
      bind(2 ** 20);
      for (const [i, values] of found.entries()) {
        await assertNear(tensor(values), expected[i], 1e-5, `${form} ${i}`);
      }
    }
  });
});

testOnWebgpu("queries that share keys are cut where a group outgrows a binding", async () => {
  await withBindings(async (bind) => {
    const inputs = [6, 1, 1].map((heads, i) => randn([1, heads, 30, 8], { seed: i }));
    const expected = await valuesOf("flash", inputs);
    // One head has 960 bytes, six have 5760.
    bind(1024);
    const found = await valuesOf("flash", inputs);
    bind(2 ** 20);
    for (const [i, values] of found.entries()) {
      await assertNear(tensor(values), expected[i], 1e-5, `result ${i}`);
    }
  });
});

testOnWebgpu("decoding with a cache larger than a binding equals one pass", async () => {
  await withBindings(async (bind) => {
    const [q, k, v] = [4, 2, 2].map((heads, i) => randn([1, heads, 90, 8], { seed: i }));
    const whole = await flashAttention(q, k, v).data();
    bind(1000);
    using cache = new KeyValueCache({ heads: 2, capacity: 100, keySize: 8 });
    const outputs: Tensor[] = [];
    for (const [from, to] of [[0, 40], [40, 41], [41, 42], [42, 89], [89, 90]]) {
      const part = (t: Tensor) => t.slice(null, null, [from, to]);
      cache.append(part(k), part(v));
      outputs.push(flashAttention(part(q), cache.k, cache.v));
    }
    await assertNear(concat(outputs, 2), whole, 1e-6);
  });
});

testOnWebgpu("rows of softmax and logSoftmax that outgrow a binding equal float64", async () => {
  await withBindings(async (bind) => {
    for (const dtype of FLOATS.slice(-2)) {
      for (const shape of [[1000], [1, 3, 1000], [1, 5, 300]]) {
        const x = randn(shape, { seed: 1, dtype }).mul(3);
        const g = randn(shape, { seed: 2, dtype });
        const [xs, gs] = await Promise.all([x.data(), g.data()]);
        const length = shape.at(-1)!;
        const expected = {
          p: [] as number[],
          l: [] as number[],
          dp: [] as number[],
          dl: [] as number[],
        };
        for (let start = 0; start < xs.length; start += length) {
          const row = Array.from(xs.slice(start, start + length));
          const g = Array.from(gs.slice(start, start + length));
          const sum = row.reduce((a, b) => a + Math.exp(b), 0);
          const p = row.map((x) => Math.exp(x) / sum);
          const mean = p.reduce((a, p, i) => a + p * g[i], 0);
          const total = g.reduce((a, b) => a + b, 0);
          expected.p.push(...p);
          expected.l.push(...p.map(Math.log));
          expected.dp.push(...p.map((p, i) => p * (g[i] - mean)));
          expected.dl.push(...p.map((p, i) => g[i] - p * total));
        }
        bind(1600);
        const weighed = (y: Tensor) => y.mul(g).to("f32").sum();
        const found = {
          p: x.softmax(),
          l: x.logSoftmax(),
          dp: grad((x: Tensor) => weighed(x.softmax()))(x),
          dl: grad((x: Tensor) => weighed(x.logSoftmax()))(x),
        };
        bind(2 ** 20);
        for (const name of ["p", "l", "dp", "dl"] as const) {
          await assertNear(found[name], expected[name], dtype === "f16" ? 5e-3 : 1e-5, name);
        }
      }
    }
  });
});

testOnWebgpu("what no cut makes small enough is refused by name", async () => {
  await withBindings(async (bind) => {
    const q = randn([1, 1, 3, 100]);
    bind(300);
    assertThrows(() => flashAttention(q, q, q), LimitError, "Cannot run flashAttention");
    assertThrows(() => lightningAttention1(q, q, q), LimitError, "Cannot run lightningAttention1");
    assertThrows(() => srmsNorm(q), LimitError, "maxStorageBufferBindingSize");
    bind(2 ** 20);
    await q.data();
  });
});

/** WebAssembly kernels against the CPU's TypeScript: both variants, and the same bits for any number of threads. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  defineOp,
  Device,
  flashAttention,
  grad,
  KeyValueCache,
  lightningAttention1,
  lightningAttentionWithState,
  optim,
  randn,
  rotary,
  scope,
  setDefaultDevice,
  type Tensor,
  tensor,
  uniform,
  where,
  zeros,
} from "../mod.ts";
import { generate, type LanguageModel, Llama, Pythia, TransNormerLLM } from "../src/models/mod.ts";
import { WasmBackend } from "../src/backend/wasm/backend.ts";
import { cpu, relativeError, test, testOnWasm } from "./harness.ts";

/** What properties draw dtypes from; here no GPU has to have float16. */
const FLOATS: readonly ("f32" | "f16")[] = "Float16Array" in globalThis
  ? ["f32", "f32", "f16"]
  : ["f32"];

type Elements = Awaited<ReturnType<Tensor["data"]>>;
type Results = readonly (readonly [name: string, elements: Elements])[];

/** What `compute` gives on `device`. */
async function resultsOn(device: Device, compute: () => Record<string, Tensor>): Promise<Results> {
  setDefaultDevice(device);
  try {
    using _ = scope();
    const tensors = Object.entries(compute());
    return await Promise.all(tensors.map(async ([name, t]) => [name, await t.data()] as const));
  } finally {
    setDefaultDevice(cpu);
  }
}

type Compare = (found: Elements, expected: Elements, name: string) => void;

/** Runs `fn` with a way to compare what WebAssembly computes with what TypeScript does. */
async function onAllMachines(
  fn: (
    agree: (compute: () => Record<string, Tensor>, compare: Compare) => Promise<void>,
  ) => unknown,
): Promise<void> {
  const machines = (["relaxed", "simd"] as const).map((variant) =>
    [1, 2, 3].map((threads) => {
      const device = new Device(new WasmBackend({ variant, threads }), "the test made it");
      return { name: `${variant}, ${threads} threads`, device };
    })
  );
  let [compared, telling] = [0, 0];
  try {
    await fn(async (compute, compare) => {
      const expected = await resultsOn(cpu, compute);
      compared++;
      if (expected.some(([, elements]) => elements.some((x) => x !== 0))) telling++;
      for (const [alone, ...others] of machines) {
        const found = await resultsOn(alone.device, compute);
        found.forEach(([name, elements], i) => {
          const [, wanted] = expected[i];
          assertEquals(elements.length, wanted.length);
          compare(elements, wanted, `${name} (${alone.name})`);
        });
        for (const { name, device } of others) {
          (await resultsOn(device, compute)).forEach(([what, elements], i) =>
            assertEquals(bytesOf(elements), bytesOf(found[i][1]), `${what} (${name})`)
          );
        }
      }
    });
    // A matrix of one element may well be zero, but not most of them.
    assert(telling > compared / 2, `of ${compared} comparisons ${telling} are not of zeros`);
  } finally {
    machines.flat().forEach(({ device }) => device.destroy());
  }
}

/** All bits; but which NaN one is WebAssembly leaves open, and Bun answers otherwise once it has optimised. */
function bytesOf(elements: Elements): Uint8Array {
  const copy = elements.slice();
  for (let i = 0; i < copy.length; i++) if (Number.isNaN(copy[i])) copy[i] = NaN;
  return new Uint8Array(copy.buffer);
}

/** Equal, NaN and the signs of zeros too. */
const exactly: Compare = (found, expected, name) => assertEquals(found, expected, name);

const within = (bound: number): Compare => (found, expected, name) => {
  const error = relativeError(found, expected);
  assert(error <= bound, `${name}: ${error}`);
};

/** Each element by itself; what is below the normal numbers may be 0. */
const eachWithin = (relative: number, absolute: number): Compare => (found, expected, name) =>
  found.forEach((x, i) => {
    const wanted = expected[i];
    const near = Object.is(x, wanted) || (x === 0 && wanted === 0) ||
      Math.abs(x - wanted) <= relative * Math.abs(wanted) + absolute;
    assert(near, `${name}[${i}]: ${x}, not ${wanted}`);
  });

/** Other ways to lie in memory, of a matrix. */
const LAYOUTS: Record<string, (t: Tensor) => Tensor> = {
  dense: (t) => t,
  transposed: (t) => t.transpose(),
  part: (t) => t.slice([1, undefined], [1, undefined]),
  backwards: (t) => t.slice(null, [undefined, undefined, -1]),
  everySecond: (t) => t.slice([undefined, undefined, 2], [undefined, undefined, 2]),
  row: (t) => t.slice([0, 1]).expand([3, -1]),
};

/** Matrices large enough for several tasks, or for none to be whole. */
const shapes = fc.oneof(
  fc.tuple(fc.integer({ min: 2, max: 9 }), fc.integer({ min: 2, max: 21 })),
  fc.constantFrom([3, 17_000] as const, [17_001, 2] as const, [130, 259] as const),
);

/** The k-th number of a stream that goes through all sizes, and through what is not a number. */
function anyNumber(seed: number, k: number): number {
  const special = [NaN, Infinity, -Infinity, 0, -0, 1e-42, -1e-42, 1e30, 0.5, 1, -1, 2, 0.25, 0.75];
  const bits = Math.imul(k + 1, 0x9e3779b1) ^ Math.imul(seed + 1, 0x85ebca6b);
  const some = (bits >>> 8) / 2 ** 24;
  if (k % 5 === 0) return special[(bits >>> 5) % special.length];
  return (bits & 1 ? -1 : 1) * some * 2 ** ((bits >>> 1) % 12 - 4);
}

/** Bounds of errors of elements, relative and absolute: some functions cross 0, and NaN where others do not. */
const FUNCTIONS: Record<string, { relative?: number; absolute?: number; range?: number }> = {
  log: {},
  tanh: {},
  erf: {},
  // TypeScript takes the tail as a difference from 1 in float64.
  gelu: { relative: 2e-6, absolute: 1e-14 },
};

test("log, tanh, erf, gelu and its gradient are TypeScript's to a few units in the last place", () =>
  onAllMachines(async (agree) => {
    const problems = fc.record({
      name: fc.constantFrom(...Object.keys(FUNCTIONS)) as fc.Arbitrary<"log">,
      shape: shapes,
      layout: fc.constantFrom(...Object.keys(LAYOUTS)),
      seed: fc.nat(),
    });
    await fc.assert(
      fc.asyncProperty(problems, async ({ name, shape: [rows, columns], layout, seed }) => {
        const values = Float32Array.from({ length: rows * columns }, (_, k) => anyNumber(seed, k));
        const { relative = 5e-7, absolute = 1e-37 } = FUNCTIONS[name];
        await agree(
          () => {
            const x = tensor(values, { shape: [rows, columns] });
            return { [name]: LAYOUTS[layout](x)[name]() };
          },
          eachWithin(relative, absolute),
        );
      }),
      { numRuns: 25 },
    );
    const y = Float32Array.from({ length: 20_011 }, (_, i) => (i - 10_000) / 1000);
    await agree(
      () => ({ geluGradient: grad(([x]: Tensor[]) => x.gelu().sum())([tensor(y)])[0] }),
      eachWithin(1e-6, 3e-7),
    );
    await agree(
      () => ({ erf: tensor(y).erf(), tanh: tensor(y).tanh(), log: tensor(y).exp().log() }),
      eachWithin(5e-7, 3e-7),
    );
  }));

test("powers are those of Math.pow, of any two numbers", () =>
  onAllMachines(async (agree) => {
    const special = [NaN, Infinity, -Infinity, 0, -0, 1, -1, 0.5, -0.5, 2, -3, 3, 1e-42, 1e30, 2.5];
    const pairs = special.flatMap((x) => special.map((y) => [x, y]));
    await agree(() => {
      const [x, y] = [0, 1].map((i) => tensor(Float32Array.from(pairs, (pair) => pair[i])));
      return {
        pow: x.pow(y),
        cubed: x.pow(-3),
        root: x.abs().pow(0.3),
        base: x.mul(0).add(3).pow(y),
      };
    }, eachWithin(1.2e-7, 1e-44));
  }));

const INTEGERS = [0, 1, 2, 3, 7, 1000, 65537, 2 ** 31 - 129, 2 ** 31 - 1];
const UNSIGNED = [...INTEGERS, 2 ** 31, 2 ** 32 - 257, 2 ** 32 - 1];
const SIGNED = [...INTEGERS, ...INTEGERS.map((x) => -x), -(2 ** 31)];

test("integers are computed and converted exactly as in TypeScript", () =>
  onAllMachines(async (agree) => {
    const binary = [
      ...["add", "sub", "mul", "div", "maximum", "minimum", "equal", "notEqual"],
      ...["less", "lessEqual", "greater", "greaterEqual"],
    ] as "add"[];
    const signed = ["neg", "abs", "sign"] as "neg"[];
    const problems = fc.record({
      dtype: fc.constantFrom("i32", "u32") as fc.Arbitrary<"i32" | "u32">,
      shape: shapes,
      layout: fc.constantFrom(...Object.keys(LAYOUTS)),
      seed: fc.nat(),
    });
    await fc.assert(
      fc.asyncProperty(problems, async ({ dtype, shape: [rows, columns], layout, seed }) => {
        const values = dtype === "i32" ? SIGNED : UNSIGNED;
        const make = (salt: number) =>
          LAYOUTS[layout](tensor(
            Array.from(
              { length: rows * columns },
              (_, k) => values[(Math.imul(k + seed, 0x9e3779b1) >>> salt) % values.length],
            ),
            { shape: [rows, columns], dtype },
          ));
        await agree(() => {
          const [x, y] = [make(5), make(9)];
          const mask = x.greater(y);
          return {
            ...Object.fromEntries(binary.map((name) => [name, x[name](y)])),
            ...Object.fromEntries(binary.map((name) => [`${name} 3`, x[name](3)])),
            ...(dtype === "i32" ? Object.fromEntries(signed.map((name) => [name, x[name]()])) : {}),
            ...(dtype === "i32" ? { minima: x.min(1) } : {}),
            other: x.to(dtype === "i32" ? "u32" : "i32"),
            float: x.to("f32"),
            bool: x.to("bool"),
            fromBool: mask.to(dtype),
            equalMasks: mask.equal(x.equal(y)),
            chosen: where(mask, x, y),
            copied: x.contiguous(),
            sum: x.sum(),
            rows: x.sum(1),
            columns: x.sum(0),
            max: x.max(),
            maxima: x.max(0),
            argmax: x.argmax(1),
          };
        }, exactly);
      }),
      { numRuns: 15 },
    );
    await agree(() => {
      const wide = [NaN, Infinity, -Infinity, 0, -0, 0.9, -0.9, 2.5, -2.5, 3e9, -3e9, 5e9, -5e9];
      const x = tensor([...wide, 2 ** 31, -(2 ** 31), 2 ** 32, 1e-42]);
      return { i32: x.to("i32"), u32: x.to("u32"), bool: x.to("bool") };
    }, exactly);
  }));

test("gathering and scattering give TypeScript's bits, of any layout and with missing entries", () =>
  onAllMachines(async (agree) => {
    const problems = fc.record({
      outer: fc.constantFrom(1, 1, 2, 3),
      length: fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constant(5000)),
      inner: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(64, 129)),
      indices: fc.array(fc.integer({ min: -1, max: 12 }), { minLength: 1, maxLength: 300 }),
      dtype: fc.constantFrom(...FLOATS),
      strided: fc.boolean(),
      seed: fc.nat(),
    });
    await fc.assert(
      fc.asyncProperty(
        problems,
        async ({ outer, length, inner, indices, dtype, strided, seed }) => {
          await agree(() => {
            // Axes of x [outer, length, inner] in another order, every second index.
            const all = randn(strided ? [inner, outer, length] : [outer, length, inner], {
              seed,
              dtype,
            });
            const x = strided ? all.permute([1, 2, 0]) : all;
            const wanted = tensor(Int32Array.from(indices.flatMap((i) => strided ? [i, 99] : [i])));
            const at = strided ? wanted.slice([undefined, undefined, 2]) : wanted;
            const y = x.gather(at, 1);
            const weights = randn(strided ? [inner, outer, indices.length] : y.shape, {
              seed: seed + 1,
              dtype,
            });
            const g = strided ? weights.permute([1, 2, 0]) : weights;
            const [dx] = grad(([x]: Tensor[]) => x.gather(at, 1).mul(g).sum())([x]);
            // Zero where nothing arrived; without NaN from missing entries of the forward.
            return { y, dx, numbers: x.mul(100).to("i32").gather(at.to("u32"), 1) };
          }, exactly);
        },
      ),
      { numRuns: 20 },
    );
  }));

test("rotary positions are TypeScript's, either way, of any layout", () =>
  onAllMachines(async (agree) => {
    const problems = fc.record({
      b: fc.integer({ min: 1, max: 3 }),
      h: fc.integer({ min: 1, max: 3 }),
      n: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.constant(700)),
      half: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.constant(16)),
      rest: fc.integer({ min: 0, max: 5 }),
      each: fc.boolean(),
      strided: fc.boolean(),
      dtype: fc.constantFrom(...FLOATS),
      seed: fc.nat(),
    });
    await fc.assert(
      fc.asyncProperty(problems, async ({ b, h, n, half, rest, each, strided, dtype, seed }) => {
        const [d, count] = [2 * half + rest, each ? b : 1];
        await agree(() => {
          const made = (shape: number[], s: number) =>
            strided
              ? randn([shape[1], shape[3], shape[0], shape[2]], { seed: s, dtype })
                .permute([2, 0, 3, 1])
              : randn(shape, { seed: s, dtype });
          const angles = randn([count, n, half], { seed: seed + 1 });
          const both = [angles.cos(), angles.sin()];
          const rotations = tensor(new Float32Array(count * n * 2 * half), {
            shape: [count, n, 2 * half],
          }).add(both[0].unsqueeze(2).expand([count, n, 2, half]).reshape([count, n, -1]));
          const g = made([b, h, n, d], seed + 2);
          const [dx] = grad(([x]: Tensor[]) => rotary(x, rotations).mul(g).to("f32").sum())([
            made([b, h, n, d], seed),
          ]);
          return { y: rotary(made([b, h, n, d], seed), rotations), dx };
        }, within(dtype === "f16" ? 1e-3 : 1e-6));
      }),
      { numRuns: 15 },
    );
  }));

test("Lightning Attention-1 is TypeScript's, forward and backward", () =>
  onAllMachines(async (agree) => {
    const problems = fc.record({
      b: fc.integer({ min: 1, max: 2 }),
      groups: fc.integer({ min: 1, max: 2 }),
      members: fc.integer({ min: 1, max: 2 }),
      n: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(71, 72, 73, 144, 200)),
      d: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constant(64)),
      e: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constant(64)),
      slope: fc.constantFrom(0, 1e-8, 0.05, 0.917, 10, 200),
      reverse: fc.boolean(),
      seed: fc.nat(),
    });
    await fc.assert(
      fc.asyncProperty(problems, async ({ b, groups, members, n, d, e, slope, reverse, seed }) => {
        await agree(() => {
          const heads = groups * members;
          const slopes = Array.from({ length: heads }, (_, i) => slope / (i + 1));
          const attend = ([q, k, v]: Tensor[]) =>
            lightningAttention1(q, k, v, { slopes, scale: 0.5, reverse });
          const [q, k, v, g] = ([[heads, d], [groups, d], [groups, e], [heads, e]] as const).map(
            ([h, width], i) => randn([b, n, h, width], { seed: seed + i }).permute([0, 2, 1, 3]),
          );
          const [dq, dk, dv] = grad((inputs: Tensor[]) => attend(inputs).mul(g).sum())([q, k, v]);
          return { o: attend([q, k, v]), dq, dk, dv };
        }, within(2e-6));
      }),
      { numRuns: 15 },
    );
  }));

test(
  "float16 is rounded and widened as Float16Array does, every number of it",
  () =>
    onAllMachines(async (agree) => {
      const all = new Float16Array(Uint16Array.from({ length: 2 ** 16 }, (_, i) => i).buffer);
      // Between two neighbours: the middle, and what is just off it.
      const between = Float32Array.from(
        Array.from(all).flatMap((x) => {
          const step = 2 ** Math.max(-24, Math.floor(Math.log2(Math.abs(x))) - 10);
          return [x, x + step / 2, x + step * 0.499999, x + step * 0.500001, x * 1e-8];
        }),
      );
      await agree(() => {
        const half = tensor(all);
        const odd = half.slice([1, 60_000, 7]);
        return { wide: half.to("f32"), odd: odd.to("f32"), same: half.mul(1), part: odd.mul(1) };
      }, exactly);
      await agree(() => {
        const wide = tensor(between);
        return { half: wide.to("f16").to("f32"), rounded: wide.to("f16") };
      }, exactly);
      // A token among the others of a cache: what lies between its elements stays.
      await agree(() => {
        using cache = new KeyValueCache({ heads: 3, capacity: 9, keySize: 5, dtype: "f16" });
        const pieces: Record<string, Tensor> = {};
        for (const [i, tokens] of [1, 2, 1].entries()) {
          const some = randn([1, 3, tokens, 5], { seed: i, dtype: "f16" });
          cache.append(some, some.mul(2));
          Object.assign(pieces, { [`k ${i}`]: cache.k.contiguous(), [`v ${i}`]: cache.v.add(1) });
        }
        return pieces;
      }, exactly);
      const rounded = await resultsOn(cpu, () => ({ half: tensor(between).to("f16") }));
      assertEquals(rounded[0][1], new Float16Array(between));
    }),
  !FLOATS.includes("f16"),
);

test("uniform numbers are the same bits, however many", () =>
  onAllMachines(async (agree) => {
    for (const [size, seed] of [[1, 0], [7, 5], [8193, -3], [40_001, 2 ** 40 + 1]]) {
      await agree(() => ({
        plain: uniform([size], { seed }),
        scaled: uniform([size], { seed, low: -2, high: 3 }),
      }), exactly);
    }
  }));

test("AdamW's corrections and the scale of losses are TypeScript's", () =>
  onAllMachines(async (agree) => {
    await agree(() => {
      const w = tensor([3, 4], { requiresGrad: true });
      using adamw = new optim.AdamW({ w });
      using scaler = new optim.LossScaler({ initial: 1024, interval: 2 });
      const kept: Record<string, Tensor> = {};
      [1, 1, 1, Infinity, 1e30, 1].forEach((size, i) => {
        scaler.scale(w.mul(size).sum()).backward();
        const { factor, norm } = scaler.unscale({ w }, { maxNorm: 0.5 });
        adamw.step({ factor });
        adamw.zeroGrad();
        Object.assign(kept, { [`factor ${i}`]: factor, [`norm ${i}`]: norm });
        kept[`scale ${i}`] = scaler.state().state.mul(1);
        kept[`corrections ${i}`] = adamw.state().corrections.mul(1);
        kept[`w ${i}`] = w.mul(1).detach();
      });
      w.dispose();
      return kept;
    }, eachWithin(1e-6, 0));
  }));

/** The operations that `fn` ran in TypeScript. */
async function plainIn(device: Device, fn: () => unknown): Promise<string[]> {
  const { operations } = await device.profile(async () => void await fn());
  assert(operations.length > 0);
  return operations.map(({ name }) => name).filter((name) => name.includes("TypeScript"));
}

const MODELS: Record<string, () => LanguageModel> = {
  "TransNormerLLM": () => new TransNormerLLM({ ...SIZES, layers: 2 }),
  "TransNormerLLM with Lightning Attention-1": () =>
    new TransNormerLLM({ ...SIZES, layers: 1 }, { attention: 1 }),
  "LLaMA": () => new Llama({ ...SIZES, layers: 1, keyHeads: 2 }),
  "Pythia": () => new Pythia({ ...SIZES, layers: 1, rotaryFraction: 0.5 }),
};
const SIZES = { vocabulary: 50, size: 32, heads: 4, inner: 48 };

for (const [name, make] of Object.entries(MODELS)) {
  testOnWasm(`training a ${name} and writing with it need no TypeScript`, async (device) => {
    for (const precision of FLOATS) {
      using model = make();
      model.compute = precision;
      using adamw = new optim.AdamW(model.parameters());
      using scaler = new optim.LossScaler({ initial: 128 });
      const ids = tensor(Int32Array.from({ length: 40 }, (_, i) => i), { shape: [2, 20] });
      const plain = await plainIn(device, async () => {
        scaler.scale(model.loss(ids, ids)).backward();
        adamw.step(scaler.unscale(model.parameters(), { maxNorm: 1 }));
        optim.clipGradNorm(model.parameters(), 1);
        adamw.step();
        adamw.zeroGrad();
        for await (const _ of generate(model, [1, 2, 3], { maxTokens: 3 }));
      });
      assertEquals(plain, []);
    }
  });
}

testOnWasm(
  "every operation has a kernel, and a caller's own runs its CPU function",
  async (device) => {
    const floats = await plainIn(device, () => {
      const inputs = [1, 2].map((seed) => randn([4, 6], { seed, requiresGrad: true }));
      const [x, y] = [inputs[0].abs().add(0.1), inputs[1]];
      const terms = [
        ...[x.neg(), x.sign(), x.square(), x.reciprocal(), x.exp(), x.log(), x.sqrt(), x.rsqrt()],
        ...[x.sin(), x.cos(), x.tanh(), x.erf(), x.sigmoid(), x.silu(), x.relu(), x.gelu()],
        ...[x.add(y), x.sub(y), x.mul(y), x.div(y), x.pow(y), x.maximum(y), x.minimum(y)],
        ...[x.greater(y), x.lessEqual(y), x.notEqual(y)].map((mask) => where(mask, x, y)),
        ...[
          x.softmax(),
          x.logSoftmax(0),
          x.matmul(y.transpose()),
          x.gather(tensor([1], { dtype: "i32" })),
        ],
        ...[x.max(0), x.min(1), x.mean(), x.flip(), x.concat(y), x.to("i32").to("u32").to("f32")],
      ];
      terms.map((t) => t.sum()).reduce((a, b) => a.add(b)).backward();
      inputs.forEach((t) => t.grad = null);
      x.argmax(1).equal(x.argmax(0).sum()).to("i32").sub(3).abs().max();
      uniform([5], { low: 1, high: 2, seed: 1 });
      zeros([2], { dtype: "bool" }).to("f32");
    });
    assertEquals(floats, []);
    const attention = await plainIn(device, () => {
      const slopes = tensor([0.1, 0.2], { requiresGrad: true });
      const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 2, 9, 4], { seed, requiresGrad: true }));
      const { output, state } = lightningAttentionWithState(q, k, v, { slopes });
      const grads = grad(([q, k, v]: Tensor[]) => flashAttention(q, k, v).sum())([q, k, v]);
      const all = [output, state, ...grads, lightningAttention1(q, k, v)];
      all.map((t) => t.sum()).reduce((a, b) => a.add(b)).backward();
      [slopes, q, k, v].forEach((t) => t.grad = null);
    });
    assertEquals(attention, []);
    const cube = defineOp({
      name: "cube",
      output: ([x]) => ({ shape: x.shape, dtype: x.dtype }),
      cpu: ([x], [y]) => y.data.forEach((_, i) => y.data[i] = x.data[i] ** 3),
    });
    assertEquals(await plainIn(device, () => cube(tensor([2]))), ["cube (TypeScript)"]);
  },
);

/** Programs of a few random operations: every backend gives what plain TypeScript gives, or refuses in the same words. */
import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import {
  concat,
  type Device,
  LevinError,
  type Range,
  setDefaultDevice,
  type Tensor,
  tensor,
  where,
} from "../mod.ts";
import { cpu, FLOATS, runs, testOnWasm, testOnWebgpu } from "./harness.ts";

/** A tensor, and whether its elements are the same bits everywhere: sums of small halves, and what is chosen among. */
interface Value {
  readonly t: Tensor;
  readonly exact: boolean;
}

/** What a step draws; it takes what it needs of that. */
interface Step {
  readonly kind: string;
  readonly operands: readonly [number, number, number];
  readonly axis: number;
  readonly other: number;
  readonly number: number;
  readonly flag: boolean;
  readonly dtype: "f32" | "f16" | "i32" | "u32" | "bool";
  readonly ranges: readonly Range[];
}

type Kind = (value: Value, step: Step, others: readonly Value[]) => Tensor;

const rounding: Record<string, Kind> = {};
for (
  const name of ["exp", "log", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tanh", "erf"] as const
) rounding[name] = ({ t }) => t[name]();
for (const name of ["sigmoid", "silu", "gelu", "softmax", "logSoftmax"] as const) {
  rounding[name] = ({ t }) => t[name]();
}
for (const name of ["div", "pow"] as const) {
  rounding[name] = ({ t }, { number, flag }, [y]) => t[name](flag ? number : y.t);
}
rounding.mean = ({ t }, { axis, flag }) => t.mean(flag ? axis : undefined);
rounding.matmul = ({ t }, _, [y]) => t.matmul(y.t);

/** Exact where the operands are, and small. */
const exact: Record<string, Kind> = {};
for (const name of ["neg", "abs", "relu", "square"] as const) exact[name] = ({ t }) => t[name]();
for (const name of ["add", "sub", "mul"] as const) {
  exact[name] = ({ t }, { number, flag }, [y]) => t[name](flag ? number : y.t);
}
exact.sum = ({ t }, { axis, flag }) => t.sum(flag ? axis : undefined, { keepDims: axis % 2 === 0 });
exact.transpose = ({ t }, { axis, other }) => t.transpose(axis, other);
exact.slice = ({ t }, { ranges }) => t.slice(...ranges.slice(0, t.rank));
exact.flip = ({ t }, { axis, flag }) => t.flip(flag ? axis : undefined);
exact.expand = ({ t }, { number }) => t.expand(t.shape.map((n) => n === 1 ? Math.abs(number) : n));
exact.unsqueeze = ({ t }, { axis }) => t.unsqueeze(axis);
exact.reshape = ({ t }, { flag }) => t.reshape(flag ? [-1] : t.shape.toReversed());
exact.contiguous = ({ t }) => t.contiguous();
exact.concat = ({ t }, { axis }, [y]) => concat([t, y.t], axis);
exact.gather = ({ t }, { axis, other }) => {
  return t.gather(tensor([0, Math.abs(other), 1], { dtype: "i32", device: t.device }), axis);
};

/** They choose, so that a last bit may decide: only of what is exact. */
const choosing: Record<string, Kind> = {};
for (const name of ["max", "min"] as const) {
  choosing[name] = ({ t }, { axis, flag }) => t[name](flag ? axis : undefined);
}
for (const name of ["maximum", "minimum", "less", "greaterEqual", "equal", "notEqual"] as const) {
  choosing[name] = ({ t }, { number, flag }, [y]) => t[name](flag ? number : y.t);
}
choosing.argmax = ({ t }, { axis, flag }) => t.argmax(flag ? axis : undefined);
choosing.sign = ({ t }) => t.sign();
choosing.to = ({ t }, { dtype }) => t.to(dtype);
choosing.where = ({ t }, { number, flag }, [y, z]) =>
  where(t.notEqual(0), y.t, flag ? number : z.t);

const KINDS = { ...rounding, ...exact, ...choosing };
const MOST = 1e4;

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.record({
    kind: fc.constantFrom(...Object.keys(KINDS)),
    operands: fc.tuple(fc.nat(9), fc.nat(9), fc.nat(9)),
    axis: fc.integer({ min: -4, max: 3 }),
    other: fc.integer({ min: -4, max: 3 }),
    number: fc.constantFrom(0, 1, -1, 2, 0.5, 3),
    flag: fc.boolean(),
    dtype: fc.constantFrom(...FLOATS, "i32", "u32", "bool"),
    ranges: fc.array(
      fc.oneof(
        {
          weight: 4,
          arbitrary: fc.tuple(
            ...Array(2).fill(fc.integer({ min: -6, max: 7 })),
            fc.constantFrom(1, 1, 2, -1),
          ),
        },
        fc.integer({ min: -6, max: 6 }),
        fc.constant(null),
      ) as fc.Arbitrary<Range>,
      { minLength: 4, maxLength: 4 },
    ),
  }),
  { minLength: 1, maxLength: 6 },
);

const shapes = fc.array(fc.constantFrom<number[]>(0, 1, 1, 2, 3, 4, 5, 8, 12), { maxLength: 4 });
const inputs = fc.record({
  shape: shapes,
  other: fc.option(shapes, { freq: 3, nil: undefined }),
  dtype: fc.constantFrom(...FLOATS, "f32", "i32", "u32"),
  mixed: fc.constantFrom("f32", "i32", "u32", "bool", undefined, undefined, undefined, undefined),
  seed: fc.nat(999),
});

type Inputs = typeof inputs extends fc.Arbitrary<infer T> ? T : never;

/** Three tensors of small halves, or of small whole numbers, on a device. */
function draw({ shape, other, dtype, mixed, seed }: Inputs, device: Device): Value[] {
  return [shape, other ?? shape, shape].map((shape, at) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const values = Float32Array.from(
      { length: size },
      (_, i) => ((i + at) * 7919 + seed) % 13 / 2 - 3,
    );
    const own: Step["dtype"] = at === 1 && mixed !== undefined ? mixed : dtype;
    const isFloat = own === "f32" || own === "f16";
    const t = isFloat
      ? tensor(values, { shape, device, dtype: own, requiresGrad: true })
      : tensor(values, { shape, device }).to(own);
    return { t, exact: true };
  });
}

/** The result of a step, or what it was refused with. */
function attempt(values: readonly Value[], step: Step): Tensor | LevinError {
  const [x, ...others] = step.operands.map((i) => values[i % values.length]);
  try {
    return KINDS[step.kind](x, step, others);
  } catch (error) {
    if (error instanceof LevinError) return error;
    throw error;
  }
}

/** Runs a program on both devices, step by step; how many steps there was something to compare after. */
async function compare(program: readonly Step[], drawn: Inputs, device: Device): Promise<number> {
  const lists = [cpu, device].map((device) => draw(drawn, device));
  let compared = 0;
  for (const step of program) {
    const used = step.operands.map((i) => lists[0][i % lists[0].length]);
    if (step.kind in choosing && used.some((value) => !value.exact)) continue;
    const [expected, found] = [cpu, device].map((device, i) => {
      setDefaultDevice(device);
      return attempt(lists[i], step);
    });
    const what = `${step.kind} of ${used.map(({ t }) => `${t.dtype} [${t.shape}]`).join(", ")}`;
    if (expected instanceof LevinError || found instanceof LevinError) {
      assertEquals(String(found), String(expected), what);
      continue;
    }
    assertEquals([found.shape, found.dtype], [expected.shape, expected.dtype], what);
    const [a, b] = [await expected.data(), await found.data()];
    const tolerance = expected.dtype === "f16" ? 2e-3 : expected.dtype === "f32" ? 1e-5 : 0;
    let size = 0;
    for (let i = 0; i < a.length; i++) {
      const near = Math.abs(a[i] - b[i]) <= tolerance * Math.max(1, Math.abs(a[i]));
      assert(
        near || Object.is(a[i], b[i]) || a[i] === b[i],
        `${what}: at ${i} ${b[i]}, not ${a[i]}`,
      );
      size = Math.max(size, Number.isFinite(a[i]) ? Math.abs(a[i]) : Infinity);
    }
    compared++;
    // What is not finite stays so, and of large numbers the last bits show.
    if (size > MOST) break;
    const isExact = !(step.kind in rounding) && used.every((value) => value.exact);
    [expected, found].forEach((t, i) => lists[i].push({ t, exact: isExact }));
  }
  return compared + await compareGradients(lists);
}

/** Compares the gradients of the last results' sums; how many inputs have one. */
async function compareGradients(lists: readonly Value[][]): Promise<number> {
  const inputs = lists.map((list) => list.slice(0, 3).map(({ t }) => t));
  const last = lists.map((list) => list.at(-1)!.t);
  if (last[0].node === undefined) return 0;
  for (const t of last) {
    setDefaultDevice(t.device);
    t.to("f32").sum().backward();
  }
  let compared = 0;
  for (const [i, { grad, dtype, shape }] of inputs[0].entries()) {
    const other = inputs[1][i];
    assertEquals(other.grad === null, grad === null);
    if (grad === null) continue;
    const [a, b] = [await grad.data(), await other.grad!.data()];
    const size = a.reduce((most: number, x: number) => Math.max(most, Math.abs(x)), 1);
    const tolerance = (dtype === "f16" ? 1e-2 : 1e-4) * size;
    for (let j = 0; j < a.length && size <= MOST; j++) {
      const near = Math.abs(a[j] - b[j]) <= tolerance;
      assert(
        near || Object.is(a[j], b[j]),
        `gradient of ${dtype} [${shape}] at ${j}: ${b[j]}, not ${a[j]}`,
      );
    }
    inputs[0][i].grad = other.grad = null;
    compared++;
  }
  return compared;
}

for (const testOn of [testOnWasm, testOnWebgpu]) {
  testOn(
    "random programs give what TypeScript gives, or are refused in its words",
    async (device) => {
      const before = tensor([0]).device;
      let compared = 0;
      const property = fc.asyncProperty(steps, inputs, async (program, drawn) => {
        compared += await compare(program, drawn, device);
      });
      try {
        await fc.assert(property, runs(300));
      } finally {
        setDefaultDevice(before);
      }
      assert(compared > 200, `only ${compared} results were compared`);
    },
  );
}

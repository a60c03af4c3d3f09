// `deno task accuracy [--longest N] [--backend NAME]`: the numeric contract of Lightning Attention-2. Relative
// RMS errors against a float64 recurrence, of outputs, states and every gradient, by dtype, length and slope.
import {
  type Device,
  lightningAttentionWithState,
  randn,
  setDefaultDevice,
  tensor,
  tidy,
} from "../mod.ts";
import { parseFlags, runCommand } from "../examples/demo/flags.ts";
import { relativeError } from "../tests/relative_error.ts";
import { chooseDevice } from "../examples/demo/device.ts";
import { allDevices } from "./devices.ts";
import { recurrence, type Rows } from "./recurrence.ts";

const SIZE = 16;
/** So many that a slope's gradient, one number a head that may come out near 0, is judged by its size in several. */
const HEADS = 4;
const COLUMNS = ["o", "S", "dq", "dk", "dv", "dslope", "dS0"] as const;
const SLOPES = [0.917, 0.05, 0.004, 3.9e-8];

/** One row of the table. */
export interface Accuracy {
  readonly device: string;
  readonly dtype: "f32" | "f16";
  readonly n: number;
  readonly slope: number;
  /** Relative RMS errors, in the order of the columns. */
  readonly errors: Record<typeof COLUMNS[number], number>;
}

/** The errors at one length and slope, given or learnt: of what both have the worse, as kernels differ. */
export async function accuracy(
  device: Device,
  dtype: "f32" | "f16",
  n: number,
  slope: number,
): Promise<Accuracy> {
  setDefaultDevice(device);
  const [q, k, v, u] = [1, 2, 3, 4].map((seed) =>
    randn([1, HEADS, n, SIZE], { seed, dtype, requiresGrad: seed < 4 })
  );
  const initialState = randn([1, HEADS, SIZE, SIZE], { seed: 5, requiresGrad: true });
  const us = randn([1, HEADS, SIZE, SIZE], { seed: 6 });
  const inputs = await Promise.all([q, k, v, initialState, u, us].map((t) => t.data()));
  const ofHeads = Array.from({ length: HEADS }, (_, head) => {
    const [qs, ks, vs, s0, uv, usv] = inputs.map((values) => {
      const size = values.length / HEADS;
      return values.subarray(head * size, (head + 1) * size) as Rows;
    });
    return recurrence(qs, ks, vs, s0, Math.fround(slope), uv, usv);
  });
  const expected = Object.fromEntries(
    COLUMNS.map((name) => [name, ofHeads.flatMap((head) => Array.from(head[name]))]),
  );
  const errors = Object.fromEntries(COLUMNS.map((name) => [name, 0])) as Accuracy["errors"];
  for (const requiresGrad of [false, true]) {
    const slopes = tensor(Array<number>(HEADS).fill(slope), { requiresGrad });
    const { output, state } = tidy(() => {
      const found = lightningAttentionWithState(q, k, v, { slopes, initialState });
      found.output.to("f32").mul(u.to("f32")).sum().add(found.state.mul(us).sum()).backward();
      return found;
    });
    const [dq, dk, dv, dS0] = [q, k, v, initialState].map((t) => t.grad!);
    const found = { o: output, S: state, dq, dk, dv, dslope: slopes.grad, dS0 };
    for (const name of COLUMNS) {
      const values = await found[name]?.data();
      if (values === undefined) continue;
      errors[name] = Math.max(errors[name], relativeError(values as Rows, expected[name]));
    }
    for (const t of [slopes, output, state]) t.dispose();
    for (const t of [q, k, v, initialState]) {
      t.grad!.dispose();
      t.grad = null;
    }
  }
  for (const t of [q, k, v, u, initialState, us]) t.dispose();
  return { device: device.name, dtype, n, slope, errors };
}

if (import.meta.main) {
  await runCommand(async () => {
    const { values: flags } = parseFlags(
      {
        longest: { kind: "count", help: "the longest sequence", fallback: 131072 },
        backend: {
          kind: "text",
          help: "cpu, wasm, webgpu or dawn (default all there are but dawn)",
        },
      },
      Deno.args,
      "deno task accuracy",
    );
    const { backend, longest } = flags;
    const devices = backend === undefined ? await allDevices() : [await chooseDevice(backend)];
    console.log(`| device | dtype | n | slope | ${COLUMNS.join(" | ")} |`);
    console.log(`|---|---|---|---|${COLUMNS.map(() => "---").join("|")}|`);
    for (const device of devices) {
      for (const dtype of ["f32", "f16"] as const) {
        for (const n of [128, 4096, 131072].filter((n) => n <= longest)) {
          for (const slope of SLOPES) {
            const { errors } = await accuracy(device, dtype, n, slope);
            const cells = COLUMNS.map((name) => errors[name].toExponential(1));
            console.log(`| ${device.name} | ${dtype} | ${n} | ${slope} | ${cells.join(" | ")} |`);
          }
        }
      }
    }
  });
}

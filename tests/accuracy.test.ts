import { assert, assertRejects } from "@std/assert";
import { accuracy } from "../bench/accuracy.ts";
import { tensor } from "../mod.ts";
import { assertNear, test, testOnBackends, testOnWebgpu } from "./harness.ts";

// The contract that README.md states, at the lengths that a test has time for.
const MOST = {
  f32: { o: 1e-5, S: 1e-5, dq: 1e-4, dk: 1e-4, dv: 1e-4, dslope: 1e-4, dS0: 1e-4 },
  f16: { o: 4e-4, S: 4e-4, dq: 4e-4, dk: 4e-4, dv: 4e-4, dslope: 1e-3, dS0: 4e-4 },
};

for (const dtype of ["f32", "f16"] as const) {
  testOnBackends(
    `the numeric contract holds in ${dtype}, of every output and gradient`,
    async (device) => {
      for (const [n, slope] of [[128, 0.917], [1000, 0.05], [2048, 0.004], [2048, 3.9e-8]]) {
        const { errors } = await accuracy(device, dtype, n, slope);
        for (const [name, most] of Object.entries(MOST[dtype])) {
          const error = errors[name as keyof typeof errors];
          assert(error > 0 && error <= most, `${name} at n = ${n}, slope ${slope}: ${error}`);
        }
      }
    },
  );
}

testOnWebgpu(
  "what hardly decays is carried through many chunks without a drift",
  async (device) => {
    // The decay of a chunk, rounded to float32, would be off by the same bits in each: 4e-6 here.
    const { errors } = await accuracy(device, "f32", 16384, 3.9e-8);
    assert(errors.o > 0 && errors.o <= 1e-6 && errors.S <= 1e-6, JSON.stringify(errors));
  },
);

test("what cancels, even to 0, is judged by the terms it is a sum of", async () => {
  // The gradient of softmax attention's only key: 0, of terms of 1, and on an H200 not quite.
  const nearly = tensor([1e-7]);
  await assertNear(nearly, [0], 1e-4, "with terms", [1]);
  await assertRejects(() => assertNear(nearly, [0], 1e-4));
  await assertRejects(() => assertNear(tensor([1e-5]), [0], 1e-4, "too far", [1]));
  await assertNear(tensor([1 + 1e-7]), [1], 1e-6);
  await assertRejects(() => assertNear(tensor([1 + 1e-5]), [1], 1e-6));
  await assertRejects(() => assertNear(tensor([NaN]), [0], 1, "not a number", [1]));
});

/** The tiles that WGSL kernels work in, states in float16, positions of a steady decay. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  type Device,
  full,
  lightningAttention,
  randn,
  type Tensor,
  tensor,
  uniform,
} from "../mod.ts";
import { assertNear, cpu, FLOATS, openAsHardware, relativeError, testOnWebgpu } from "./harness.ts";

testOnWebgpu("a device tells the tiles of its kernels", async (device) => {
  for (const e of [8, 70]) {
    const [q, k, v] = [8, 8, e].map((size, seed) => randn([1, 1, 3, size], { seed }));
    await lightningAttention(q, k, v).data();
  }
  for (const kernel of ["states", "outputs"]) {
    const line = new RegExp(`lightningAttention: ${kernel} × \\d+ \\(([^)]*)\\)`);
    const [, tiles] = line.exec(device.describe())!;
    assertEquals(tiles.split(", ").toSorted(), ["64 × 128", "64 × 64"]);
  }
});

testOnWebgpu("wide matrix products do not depend on how their operands lie", async (device) => {
  const [m, k, n] = [500, 37, 1030];
  const flip = (t: Tensor) => t.transpose().contiguous().transpose();
  const [x, y] = [randn([m, k], { seed: 1 }), randn([k, n], { seed: 2 })];
  const exact = await x.matmul(y).data();
  assertMatch(device.describe(), /matmul × \d+ \([^)]*64 × 128/);
  const onCpu = randn([m, k], { seed: 1, device: cpu }).matmul(
    randn([k, n], { seed: 2, device: cpu }),
  );
  await assertNear(x.matmul(y), await onCpu.data(), 1e-6);
  onCpu.dispose();
  assertEquals(await flip(x).matmul(flip(y)).data(), exact);
});

/** Attention [.., n] over heads of d and e, and its gradients of q, k and v. */
async function attended(
  device: Device,
  dtype: "f32" | "f16",
  shape: readonly number[],
  [d, e]: readonly number[],
): Promise<Float32Array[]> {
  const [q, k, v, u] = [d, d, e, e].map((size, i) =>
    uniform([...shape, size], { seed: i, low: -1, dtype, device, requiresGrad: i < 3 })
  );
  const o = lightningAttention(q, k, v, { slopes: 0.02, blockSize: 64 });
  o.backward({ gradient: u });
  const found = await Promise.all([o, q.grad!, k.grad!, v.grad!].map((t) => t.data()));
  [o, ...[q, k, v].flatMap((t) => [t, t.grad!]), u].forEach((t) => t.dispose());
  return found.map((data) => Float32Array.from(data as ArrayLike<number>));
}

testOnWebgpu("states in float16, of many heads and of few in segments", async (device) => {
  if (!FLOATS.includes("f16")) return;
  // Tiles of states 2 × 1, ragged; the last chunk too.
  for (const shape of [[2, 64, 150], [1, 2, 700]]) {
    const expected = await attended(cpu, "f16", shape, [70, 72]);
    for (const [i, found] of (await attended(device, "f16", shape, [70, 72])).entries()) {
      const error = relativeError(found, expected[i]);
      assert(error < 6e-4, `[${shape}], result ${i}: relative error ${error}`);
    }
  }
});

testOnWebgpu(
  "what lies behind an initial state in memory has no say in the states' units",
  async () => {
    if (!FLOATS.includes("f16")) return;
    const [d, e] = [3, 4];
    const [q, k, v] = [d, d, e].map((size, seed) => randn([1, 1, 5, size], { seed, dtype: "f16" }));
    const initialState = randn([1, 1, d, e], { seed: 3 });
    const loud = initialState.concat([full([1, 1, d, e], 1e30)], 0).slice([0, 1]);
    const [expected, found] = await Promise.all(
      [initialState, loud].map((initialState) =>
        lightningAttention(q, k, v, { slopes: 0.1, initialState }).data()
      ),
    );
    assertEquals(found, expected);
    assert(expected.every((x) => Number.isFinite(x) && x !== 0));
  },
);

testOnWebgpu("what kernels become on hardware is right in software too", async () => {
  const device = await openAsHardware();
  assertEquals(device.software, false);
  // Whole tiles of a state, in one walk and in segments.
  const cases = [["f16", 150, 6e-4], ["f32", 600, 1e-6]] as const;
  for (const [dtype, n, most] of cases) {
    if (!FLOATS.includes(dtype)) continue;
    const expected = await attended(cpu, dtype, [1, 2, n], [128, 128]);
    for (const [i, found] of (await attended(device, dtype, [1, 2, n], [128, 128])).entries()) {
      const error = relativeError(found, expected[i]);
      assert(error < most, `${dtype}, n ${n}, result ${i}: relative error ${error}`);
    }
  }
  device.destroy();
});

testOnWebgpu("positions of a steady decay are the same bits as sums or as multiples", async () => {
  const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 3, 700, 8], { seed }));
  const slopes = [0.917, 1e-3, 3.9e-8];
  const logDecay = tensor(slopes, { shape: [1, 3, 1] }).neg().expand([1, 3, 700]).contiguous();
  for (const reverse of [false, true]) {
    for (const blockSize of [64, 100, 512]) {
      const run = (decay: { slopes: number[] } | { logDecay: Tensor }) =>
        lightningAttention(q, k, v, { ...decay, blockSize, reverse }).data();
      assertEquals(await run({ slopes }), await run({ logDecay }));
    }
  }
});

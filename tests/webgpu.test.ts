/** What is particular to WebGPU: limits, errors, lost devices, and tensors larger than a binding. */
import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import {
  arange,
  concat,
  defineOp,
  Device,
  DeviceError,
  grad,
  init,
  LevinError,
  lightningAttention,
  lightningAttentionWithState,
  LimitError,
  nn,
  randn,
  scope,
  setDefaultDevice,
  type Tensor,
  tensor,
  uniform,
  zeros,
} from "../mod.ts";
import { WebgpuBackend } from "../src/backend/webgpu/backend.ts";
import { BufferUsage } from "../src/backend/webgpu/flags.ts";
import { reflect, specialise } from "../src/backend/webgpu/shader.ts";
import { srmsNorm } from "../src/ops/srms_norm.ts";
import { assertNear, cpu, gpu, testOnCpu, testOnWebgpu } from "./harness.ts";

/** An operation that runs `shader` on one tensor. */
function shaderOp(name: string, shader: string, workgroups = 1) {
  return defineOp({
    name,
    output: ([{ shape, dtype }]) => ({ shape, dtype }),
    gpu: () => ({ shader, workgroups: [workgroups] }),
  });
}

const BINDINGS = `
  @group(0) @binding(0) var<storage, read> x: array<f32>;
  @group(0) @binding(1) var<storage, read_write> y: array<f32>;`;

testOnWebgpu("every limit is checked before anything is encoded, and named", async (device) => {
  const x = zeros([4]);
  const refused = (shader: string, workgroups?: number) => () =>
    shaderOp("greedy", shader, workgroups)(x);
  const body = `@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32)`;
  assertThrows(
    refused(`${BINDINGS} var<workgroup> t: array<vec4f, 100000>; ${body} { t[i] = vec4f(); }`),
    LimitError,
    "maxComputeWorkgroupStorageSize",
  );
  assertThrows(
    refused(`${BINDINGS} @compute @workgroup_size(64, 64, 4) fn main() {}`),
    LimitError,
    "maxComputeInvocationsPerWorkgroup",
  );
  assertThrows(
    refused(`${BINDINGS} ${body} { y[i] = x[i]; }`, 70_000),
    LimitError,
    "maxComputeWorkgroupsPerDimension",
  );
  assertThrows(refused(`${body} {}`), LimitError, "0 bindings");
  assertThrows(() => zeros([2 ** 20, 2 ** 20]), LimitError, "maxBufferSize");
  await device.synchronize();
});

testOnWebgpu("an error of the GPU reaches the next reads, with the operation's name", async () => {
  const x = tensor([1, 2]);
  const broken = shaderOp(
    "broken",
    `${BINDINGS} @compute @workgroup_size(1) fn main() { y[0] = 1u; }`,
  );
  const [y, z] = [broken(x), x.add(1)];
  const reads = [y.data(), z.data()];
  for (const read of reads) await assertRejects(() => read, DeviceError, "broken");
  // It is told once; what comes after is well.
  assertEquals(await x.add(1).array(), [2, 3]);
});

testOnCpu("an operation without an implementation for the device says so", () => {
  const x = tensor([1, 2]);
  assertThrows(() => shaderOp("gpuOnly", "")(x), DeviceError, "gpuOnly on the CPU");
});

testOnWebgpu("an operation without a kernel says so, and devices do not mix", () => {
  const cpuOnly = defineOp({
    name: "cpuOnly",
    output: ([{ shape, dtype }]) => ({ shape, dtype }),
    cpu: ([x], [y]) => y.data.set(x.data),
  });
  const x = tensor([1, 2]);
  assertThrows(() => cpuOnly(x), DeviceError, "cpuOnly on WebGPU");
  const y = tensor([1, 2], { device: cpu });
  assertThrows(() => x.add(y), DeviceError, "two devices");
  y.dispose();
});

/** A device as WebGPU guarantees it: with the least limits and no feature. */
async function openDevice(): Promise<GPUDevice> {
  return (await gpu!.requestAdapter())!.requestDevice();
}

/** Runs `fn` with `device` as the default, and sets the one before back. */
async function on(device: Device, fn: (device: Device) => Promise<void>): Promise<void> {
  const previous = zeros([]).device;
  setDefaultDevice(device);
  try {
    using _ = scope();
    await fn(device);
  } finally {
    device.destroy();
    setDefaultDevice(previous);
  }
}

testOnWebgpu("a lost device rejects pending reads and later work", async () => {
  const gpu = await openDevice();
  await on(await init({ device: gpu }), async (device) => {
    const x = randn([4]);
    const pending = x.add(1).data();
    gpu.destroy();
    await assertRejects(() => pending, DeviceError, "lost");
    await gpu.lost;
    assertThrows(() => x.add(1), DeviceError, "call init() again");
    await assertRejects(() => x.data(), DeviceError, "lost");
    await assertRejects(() => device.synchronize(), DeviceError, "lost");
  });
});

testOnWebgpu("a caller's device is used as it is and never destroyed", async () => {
  const gpu = await openDevice();
  let lost = false;
  gpu.lost.then(() => lost = true);
  await on(await init({ device: gpu }), async (device) => {
    assertEquals(device.backend, "webgpu");
    assertStringIncludes(device.describe(), "the caller brought it");
    assertEquals(await tensor([1, 2]).add(1).array(), [2, 3]);
  });
  const buffer = gpu.createBuffer({ size: 16, usage: BufferUsage.COPY_DST });
  buffer.destroy();
  assertEquals(lost, false);
  gpu.destroy();
});

/** The same tensors as leaves on the CPU. */
function twinsOf(tensors: Tensor[]): Promise<Tensor[]> {
  return Promise.all(
    tensors.map(async (t) =>
      tensor(await t.data(), { shape: t.shape, device: cpu, requiresGrad: true })
    ),
  );
}

testOnWebgpu("tensors larger than a binding are cut, not refused", async () => {
  // Bindings of 64 KiB: nearly everything below is larger than one.
  const backend = new WebgpuBackend(await openDevice(), { owned: true, bindingBytes: 2 ** 16 });
  await on(new Device(backend, "a test made it"), async () => {
    const size = 5 * 64 * 128;
    const x = uniform([5, 64, 128], { seed: 1 });
    const values = Array.from(await x.data());
    const y = uniform([5, 64, 128], { seed: 2, device: cpu });
    assertEquals(values.length, size);
    await assertNear(x.mul(2).add(x), values.map((v) => 3 * v), 1e-6, "pointwise");
    await assertNear(x.transpose(0, 2).add(0).transpose(0, 2), values, 0, "strided");
    await assertNear(x.sum(), [values.reduce((a, b) => a + b)], 1e-5, "sum");
    await assertNear(x.softmax().sum(-1), Array(320).fill(1), 1e-5, "softmax");
    const flat = x.reshape([320, 128]);
    const squares = (x: Tensor) => srmsNorm(x).square();
    const one = x.reshape([1, 320, 128]);
    await assertNear(squares(one).mean(-1), Array(320).fill(1), 1e-4, "norms of one long sequence");
    const cubes = grad((x: Tensor) => squares(x).mul(x).sum());
    await assertNear(cubes(one), await cubes(flat).data(), 1e-6, "their gradient");
    const product = flat.matmul(flat.transpose());
    const columns = await product.slice(null, 7).data();
    const expected = Array.from({ length: 320 }, (_, i) => {
      let sum = 0;
      for (let k = 0; k < 128; k++) sum += values[i * 128 + k] * values[7 * 128 + k];
      return sum;
    });
    await assertNear(tensor(columns), expected, 1e-6, "matmul");
    const gram = await flat.transpose().matmul(flat).slice(3).data();
    const sums = Array.from({ length: 128 }, (_, j) => {
      let sum = 0;
      for (let i = 0; i < 320; i++) sum += values[i * 128 + 3] * values[i * 128 + j];
      return sum;
    });
    await assertNear(tensor(gram), sums, 1e-6, "matmul over rows further apart than a binding");
    const halves = x.reshape([2, size / 2]);
    const other = values.slice(size / 2);
    const ofHalves = (f: (a: number, b: number) => number) => other.map((b, i) => f(values[i], b));
    await assertNear(halves.sum(0), ofHalves((a, b) => a + b), 1e-6, "sum of two long rows");
    await assertNear(halves.max(0), ofHalves(Math.max), 0, "max of two long rows");
    const ids = tensor([319, 0, 5], { dtype: "i32" });
    await assertNear(flat.gather(ids).slice(0), values.slice(319 * 128), 0, "gather");
    const counts = grad((table: Tensor) => table.gather(ids).sum())(flat);
    const rows = Array.from({ length: 320 }, (_, i) => [319, 0, 5].includes(i) ? 128 : 0);
    await assertNear(counts.sum(-1), rows, 0, "scatter");
    await assertNear(concat([flat, flat], 1).slice(null, [128]), values, 0, "concat");
    await assertNear(flat.slice([100, 200]), values.slice(12800, 25600), 0, "slice");

    const heads = [1, 2, 3].map((seed) => randn([3, 4, 200, 16], { seed, requiresGrad: true }));
    const twins = await twinsOf(heads);
    const run = ([q, k, v]: Tensor[]) => {
      const o = lightningAttention(q, k, v, { slopes: [0, 0.1, 0.5, 0.9] });
      o.square().sum().backward();
      return o;
    };
    const [here, there] = [run(heads), run(twins)];
    await assertNear(here, await there.data(), 1e-6, "attention");
    for (let i = 0; i < 3; i++) {
      await assertNear(heads[i].grad!, await twins[i].grad!.data(), 1e-5, `gradient ${i}`);
    }
    for (const t of [...heads, ...twins]) t.grad = null;
    for (const t of [...twins, there, y]) t.dispose();
    await assertNear(arange(2 ** 16).sum(), [2 ** 15 * (2 ** 16 - 1)], 1e-6, "one long sum");
    await assertNear(arange(2 ** 16).max(), [2 ** 16 - 1], 0, "one long max");
  });
});

testOnWebgpu("one head larger than a binding is split along the sequence", async () => {
  const backend = new WebgpuBackend(await openDevice(), { owned: true, bindingBytes: 2 ** 16 });
  await on(new Device(backend, "a test made it"), async () => {
    // 64 bytes a token: 1020 of these 2500 tokens fit.
    const draw = (seed: number) => randn([1, 1, 2500, 16], { seed, requiresGrad: true });
    const here = [1, 2, 3].map(draw);
    const there = await twinsOf(here);
    const run = ([q, k, v]: Tensor[]) => {
      const { output, state } = lightningAttentionWithState(q, k, v, { slopes: 0.001 });
      output.mul(0.1).square().sum().add(state.square().sum()).backward();
      return [output, state];
    };
    const [found, expected] = [run(here), run(there)];
    await assertNear(found[0], await expected[0].data(), 1e-5, "output");
    await assertNear(found[1], await expected[1].data(), 1e-5, "state");
    for (let i = 0; i < 3; i++) {
      await assertNear(here[i].grad!, await there[i].grad!.data(), 1e-5, `gradient ${i}`);
    }
    // Of rows whose columns are further apart than a binding, the gradient's too.
    const weights = randn([1, 1, 16, 2500], { seed: 4 });
    const far = grad((all: Tensor[]) => {
      const [q, k, v] = all.map((t) => t.transpose());
      return lightningAttention(q, k, v, { slopes: 0.001 }).transpose().mul(weights).sum();
    })(here.map((t) => t.detach().transpose().contiguous()));
    const near = grad(([q, k, v]: Tensor[]) =>
      lightningAttention(q, k, v, { slopes: 0.001 }).mul(weights.transpose().contiguous()).sum()
    )(here.map((t) => t.detach()));
    for (let i = 0; i < 3; i++) {
      await assertNear(far[i].transpose(), await near[i].data(), 1e-5, `far gradient ${i}`);
    }
    for (const t of [...here, ...there]) t.grad = null;
    for (const t of [...there, ...expected]) t.dispose();
  });
});

testOnWebgpu(
  "a layer over one sequence larger than a binding is cut along the sequence",
  async () => {
    const backend = new WebgpuBackend(await openDevice(), { owned: true, bindingBytes: 2 ** 16 });
    await on(new Device(backend, "a test made it"), async (device) => {
      const options = { heads: 2, slopes: [0.1, 0.5], seed: 1 };
      const run = async (device: Device) => {
        using mixer = new nn.GatedLinearAttention(16, { ...options, positions: true, device });
        using gates = new nn.SGLU(16, 24, { seed: 2, device });
        using norm = new nn.SRMSNorm();
        const x = randn([1, 1500, 16], { seed: 3, device, requiresGrad: true });
        const h = mixer.forward(norm.forward(x), 0, undefined, x);
        const y = gates.forward(norm.forward(h), h);
        y.square().sum().backward();
        const weight = mixer.qkvu_proj.weight;
        const results = await Promise.all([y, x.grad!, weight.grad!].map((t) => t.data()));
        for (const t of [x, y, h]) t.dispose();
        return results;
      };
      const [found, expected] = [await run(device), await run(cpu)];
      for (let i = 0; i < 3; i++) {
        await assertNear(tensor(found[i]), expected[i], 1e-5, `result ${i}`);
      }
    });
  },
);

testOnWebgpu("more dispatches than a batch holds give the same numbers", async () => {
  let x = tensor([0, 1]);
  for (let i = 0; i < 1000; i++) x = x.add(1);
  assertEquals(await x.array(), [1000, 1001]);
});

testOnWebgpu("uploads do not overtake recorded work on a reused buffer", async () => {
  for (let i = 0; i < 50; i++) {
    using _ = scope();
    const x = tensor([i, i]);
    const sum = x.add(x);
    x.dispose();
    const y = tensor([-1, -1]);
    assertEquals(await sum.array(), [2 * i, 2 * i]);
    assertEquals(await y.array(), [-1, -1]);
  }
});

testOnCpu("the specialiser gives declarations new values, and nothing else", () => {
  const shader = `alias T = f32;\nconst SIZE: u32 = 4;\nfn rule(x: T) -> T { return x; }\n` +
    `var<workgroup> t: array<vec4<T>, SIZE * (2u + 1u)>;\n@compute @workgroup_size(SIZE, 2) fn main() {}`;
  const text = specialise(shader, { T: "f16", SIZE: 16, rule: "x * x" });
  assertEquals(
    text.split("\n").slice(0, 4),
    [
      "enable f16;",
      "alias T = f16;",
      "const SIZE: u32 = 16;",
      "fn rule(x: T) -> T { return x * x; }",
    ],
  );
  const { bindings, enables, workgroupSize, workgroupBytes } = reflect(text);
  assertEquals({ bindings, enables, workgroupSize, workgroupBytes }, {
    bindings: [],
    enables: ["f16"],
    workgroupSize: [16, 2, 1],
    workgroupBytes: 16 * 3 * 8,
  });
  assertThrows(() => specialise(shader, { MISSING: 1 }), LevinError, "MISSING");
});

testOnCpu("asking for WebGPU where there is none names the remedy", async () => {
  const gpu = { requestAdapter: () => Promise.resolve(null) };
  await assertRejects(
    () => init({ backend: "webgpu", gpu }),
    DeviceError,
    "apt-get install mesa-vulkan-drivers",
  );
  const device = await init({ gpu });
  assertEquals(device.backend, "wasm");
  await assertRejects(() => init({ backend: "cuda" as "cpu" }), DeviceError, `backend "cuda"`);
});

testOnCpu("auto takes a software adapter for what it is", async () => {
  const info = { description: "llvmpipe (LLVM 15.0.6, 256 bits)", isFallbackAdapter: true };
  const gpu = { requestAdapter: () => Promise.resolve({ info } as unknown as GPUAdapter) };
  const device = await init({ gpu });
  assertEquals(device.backend, "wasm");
});

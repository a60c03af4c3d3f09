/** What the validator refuses: every limit that WebGPU guarantees, one step beyond it. */
import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import {
  defineOp,
  DeviceError,
  type Dispatch,
  floatBits,
  init,
  LevinError,
  LimitError,
  type View,
  zeros,
} from "../mod.ts";
import { reflect } from "../src/backend/webgpu/shader.ts";
import { type Bound, Validator } from "../src/backend/webgpu/validator.ts";
import { gpu, testOnCpu, testOnWebgpu } from "./harness.ts";

/** A device of the least limits: https://www.w3.org/TR/webgpu/#limits. */
const GUARANTEED = {
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupSizeY: 256,
  maxComputeWorkgroupSizeZ: 64,
  maxComputeWorkgroupsPerDimension: 65535,
  maxStorageBuffersPerShaderStage: 8,
  maxUniformBuffersPerShaderStage: 12,
  maxStorageBufferBindingSize: 2 ** 27,
  maxUniformBufferBindingSize: 65536,
  minStorageBufferOffsetAlignment: 256,
  minUniformBufferOffsetAlignment: 256,
};

function validator(limits: Partial<typeof GUARANTEED> = {}, features: string[] = []): Validator {
  return new Validator({
    limits: { ...GUARANTEED, ...limits } as GPUSupportedLimits,
    features: new Set(features) as unknown as GPUSupportedFeatures,
  });
}

const main = (size: string) => `@compute @workgroup_size(${size}) fn main() {}`;

testOnCpu("a shader is held to the limits that were granted, up to the last one", () => {
  const memory = (count: number) => `var<workgroup> t: array<vec4<f32>, ${count}>; ${main("64")}`;
  const storage = (count: number) =>
    Array.from(
      { length: count },
      (_, i) => `@group(0) @binding(${i}) var<storage, read> x${i}: array<f32>;`,
    ).join("\n") + main("1");
  const cases: [fits: string, breaks: string, limit: string][] = [
    [memory(1024), memory(1025), "maxComputeWorkgroupStorageSize"],
    [main("16, 16"), main("16, 17"), "maxComputeInvocationsPerWorkgroup"],
    [main("1, 1, 64"), main("1, 1, 65"), "maxComputeWorkgroupSizeZ"],
    [storage(8), storage(9), "maxStorageBuffersPerShaderStage"],
  ];
  for (const [fits, breaks, limit] of cases) {
    validator().checkShader("fits", reflect(fits));
    assertThrows(() => validator().checkShader("breaks", reflect(breaks)), LimitError, limit);
  }
  const granted = validator({ maxComputeWorkgroupStorageSize: 32768 });
  granted.checkShader("fits once more was granted", reflect(memory(1025)));
  for (const [axis, size] of [["X", "257"], ["Y", "1, 257"]]) {
    const wide = validator({ maxComputeInvocationsPerWorkgroup: 1024 });
    const check = () => wide.checkShader("wide", reflect(main(size)));
    assertThrows(check, LimitError, `maxComputeWorkgroupSize${axis}`);
  }
});

testOnCpu("a shader is held to the features that were granted", () => {
  const half = reflect(`enable f16;\n${main("1")}`);
  assertThrows(() => validator().checkShader("half", half), DeviceError, '"shader-f16"');
  validator({}, ["shader-f16"]).checkShader("half", half);
  const sums = reflect(`enable subgroups;\n${main("1")}`);
  assertThrows(() => validator().checkShader("sums", sums), DeviceError, '"subgroups"');
  validator({}, ["subgroups"]).checkShader("sums", sums);
  const matrices = reflect(`enable f16, chromium_experimental_subgroup_matrix;\n${main("1")}`);
  assertThrows(
    () => validator({}, ["shader-f16"]).checkShader("matrices", matrices),
    DeviceError,
    '"chromium-experimental-subgroup-matrix"',
  );
});

const SHADER = reflect(`
  struct Params { a: vec3u, b: u32, c: array<vec4f, 2>, d: f32 }
  @group(0) @binding(0) var<storage, read> x: array<f32>;
  @group(0) @binding(1) var<storage, read_write> y: array<f32>;
  @group(0) @binding(2) var<uniform> params: Params;
  ${main("64")}`);
const PARAMS = Array.from({ length: 13 }, (_, i) => i);

function bound(
  bytes: number,
  part: Partial<Bound["resource"]> = {},
  view: Partial<View> = {},
): Bound {
  const buffer = { size: bytes } as GPUBuffer;
  return {
    resource: { buffer, offset: 0, size: bytes, ...part },
    view: { buffer: { bytes }, dtype: "f32", shape: [4], strides: [1], offset: 0, ...view },
  };
}

function check(
  change: { dispatch?: Partial<Dispatch>; bound?: Bound[]; limits?: Partial<typeof GUARANTEED> },
) {
  const dispatch = { shader: "", workgroups: [1] as const, params: PARAMS, ...change.dispatch };
  const pair = change.bound ?? [bound(256), bound(256)];
  validator(change.limits).checkDispatch("op", dispatch, pair.length, SHADER);
  validator(change.limits).checkInDebug("op", dispatch, pair, SHADER);
}

testOnCpu("a dispatch is held to limits of its grid, its params and its bindings", () => {
  check({});
  check({ dispatch: { workgroups: [65535, 65535, 0] } });
  check({ dispatch: { params: PARAMS.with(0, -(2 ** 31)).with(1, 2 ** 32 - 1) } });
  check({ bound: [bound(1024, { offset: 256, size: 512 }), bound(16)] });
  // Nothing is touched through a view of nothing.
  check({ bound: [bound(256, {}, { shape: [0], offset: 1e9 }), bound(256)] });
  const shared = { size: 1024 } as GPUBuffer;
  const [low, high] = [0, 512].map((offset) => bound(1024, { buffer: shared, offset, size: 512 }));
  const refused: [Parameters<typeof check>[0], string][] = [
    [{ dispatch: { workgroups: [65536] } }, "maxComputeWorkgroupsPerDimension"],
    [{ dispatch: { workgroups: [1, 1, 65536] } }, "maxComputeWorkgroupsPerDimension"],
    [{ dispatch: { workgroups: [1.5] } }, "whole numbers"],
    [{ dispatch: { workgroups: [NaN] } }, "whole numbers"],
    [{ dispatch: { workgroups: [-1] } }, "whole numbers"],
    [{ dispatch: { params: Array(65).fill(0) } }, "65 params"],
    [{ dispatch: { params: PARAMS.slice(1) } }, "a block of 64 bytes"],
    [{ dispatch: { params: [...PARAMS, ...PARAMS] } }, "26 params"],
    [{ dispatch: { params: PARAMS.with(3, 2 ** 32) } }, "param 3"],
    [{ dispatch: { params: PARAMS.with(3, -(2 ** 31) - 1) } }, "param 3"],
    [{ dispatch: { params: PARAMS.with(3, 0.5) } }, "floatBits"],
    [{ dispatch: { params: [] } }, "3 bindings"],
    [{ limits: { maxUniformBufferBindingSize: 128 } }, "maxUniformBufferBindingSize"],
    [{ limits: { minUniformBufferOffsetAlignment: 512 } }, "minUniformBufferOffsetAlignment"],
    [
      { bound: [bound(1024, { offset: 128, size: 512 }), bound(16)] },
      "minStorageBufferOffsetAlignment",
    ],
    [{ bound: [bound(2 ** 27 + 4), bound(16)] }, "maxStorageBufferBindingSize"],
    [{ bound: [bound(256, { size: 512 }), bound(16)] }, "a buffer of 256"],
    [{ bound: [bound(256, { size: 18 }), bound(16)] }, "expected words"],
    [{ bound: [bound(256, { size: 0 }), bound(16)] }, "expected words"],
    [{ bound: [bound(16, {}, { shape: [5] }), bound(16)] }, "elements 0 to 4"],
    [{ bound: [bound(16, {}, { strides: [-1] }), bound(16)] }, "elements -3 to 0"],
    [{ bound: [bound(16), bound(16, {}, { offset: 1 })] }, "elements 1 to 4"],
    [{ bound: [low, high] }, "binding 1 writes a buffer that binding 0 reads"],
  ];
  for (const [change, message] of refused) assertThrows(() => check(change), LevinError, message);
});

testOnCpu("two outputs may share a buffer, but not the same part of it", () => {
  const shader = reflect(`
    @group(0) @binding(0) var<storage, read_write> x: array<f32>;
    @group(0) @binding(1) var<storage, read_write> y: array<f32>;
    ${main("64")}`);
  const buffer = { size: 1024 } as GPUBuffer;
  const at = (offset: number) => bound(1024, { buffer, offset, size: 512 });
  const dispatch: Dispatch = { shader: "", workgroups: [1] };
  validator().checkInDebug("apart", dispatch, [at(0), at(512)], shader);
  assertThrows(
    () => validator().checkInDebug("alike", dispatch, [at(0), at(256)], shader),
    LevinError,
    "writes a buffer that binding 1 writes too",
  );
});

testOnCpu("blocks of params are laid out as WGSL says", () => {
  const layout = (members: string) =>
    reflect(
      `struct Inner { a: vec3<f32>, b: f32, }\nstruct Params { ${members} }\n` +
        `@group(0) @binding(0) var<uniform> params: Params; ${main("1")}`,
    ).paramsLayout();
  // The examples of https://www.w3.org/TR/WGSL/#structure-member-layout and its neighbours.
  assertEquals(layout("a: u32"), { size: 4, align: 4 });
  assertEquals(layout("a: u32, b: vec2f, c: f32,"), { size: 24, align: 8 });
  assertEquals(layout("a: vec3u, b: vec3u, c: u32"), { size: 32, align: 16 });
  assertEquals(layout("a: f32, b: Inner, c: i32"), { size: 48, align: 16 });
  assertEquals(layout("a: array<vec3<f32>, 3>, b: mat3x2<f32>"), { size: 80, align: 16 });
  assertEquals(layout("a: array<array<vec2<f16>, 4>, 2>, b: f16"), { size: 36, align: 4 });
});

/** An operation whose kernel is given what `plan` says. */
function planned(plan: (x: View, y: View) => Partial<Dispatch>) {
  const shader = `
    struct Params { scale: f32 }
    @group(0) @binding(0) var<storage, read> x: array<f32>;
    @group(0) @binding(1) var<storage, read_write> y: array<f32>;
    @group(0) @binding(2) var<uniform> params: Params;
    @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) {
      if (i < 4u) { y[i] = x[i] + params.scale; }
    }`;
  return defineOp({
    name: "planned",
    output: ([{ shape, dtype }]) => ({ shape, dtype }),
    gpu: ([x], [y]) => ({ shader, workgroups: [1], params: [floatBits(2)], ...plan(x, y) }),
  });
}

testOnWebgpu("in debug mode a device refuses before it encodes, and works on", async (device) => {
  const x = zeros([4]);
  assertEquals(await planned(() => ({}))(x).array(), [2, 2, 2, 2]);
  const refused: [ReturnType<typeof planned>, string][] = [
    [planned((x) => ({ bindings: [x, x] })), "binding 1 writes a buffer that binding 0 reads"],
    [planned((x, y) => ({ bindings: [{ ...x, offset: 100 }, y] })), "outside the 256 bytes"],
    [planned((x, y) => ({ bindings: [{ ...x, byteOffset: 4 }, y] })), "starts at byte 4"],
    [planned(() => ({ params: [1, 2] })), "a block of 4 bytes"],
    [planned(() => ({ params: [0.5] })), "floatBits"],
    [planned(() => ({ workgroups: [0.5] })), "whole numbers"],
  ];
  const before = device.memory();
  for (const [op, message] of refused) assertThrows(() => op(x), LevinError, message);
  assertEquals(device.memory().liveBytes, before.liveBytes);
  await device.synchronize();
  assertStringIncludes(device.describe(), "debug mode");
});

testOnWebgpu("without debug mode the same device takes a dispatch as it comes", async (device) => {
  const extra = planned(() => ({ params: [floatBits(3), 7] }));
  const plain = await init({ backend: "webgpu", gpu, debug: false });
  try {
    assertEquals(plain.describe().includes("debug mode"), false);
    using x = zeros([4], { device: plain });
    using y = extra(x);
    assertEquals(await y.array(), [3, 3, 3, 3]);
  } finally {
    await init({ backend: "webgpu", gpu, debug: true });
  }
  if (plain === device) assertThrows(() => extra(zeros([4])), LevinError, "2 params");
});

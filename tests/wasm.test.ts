/** The WebAssembly backend: its variants, threads, memory, and what runs in it. */
import { assert, assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  arange,
  Device,
  DeviceError,
  init,
  lightningAttention,
  lightningAttentionWithState,
  LimitError,
  loss,
  nn,
  randn,
  scope,
  setDefaultDevice,
  type Tensor,
  tensor,
  uniform,
  zeros,
} from "../mod.ts";
import { Heap } from "../src/backend/wasm/heap.ts";
import { WasmBackend, type WasmBackendOptions } from "../src/backend/wasm/backend.ts";
import { moduleOf, supportedVariant } from "../src/backend/wasm/module.ts";
import { Threads } from "../src/backend/wasm/threads.ts";
import { accuracy } from "../bench/accuracy.ts";
import { cpu, relativeError, test, testInDeno, testOnWasm } from "./harness.ts";

/** Runs `fn` on a device of its own. */
async function onDevice<T>(options: WasmBackendOptions, fn: () => T | Promise<T>): Promise<T> {
  const device = new Device(new WasmBackend(options), "the test made it");
  setDefaultDevice(device);
  try {
    using _ = scope();
    return await fn();
  } finally {
    device.destroy();
    setDefaultDevice(cpu);
  }
}

/** A little of everything that has kernels, forward and backward. */
async function results(): Promise<Float32Array[]> {
  const parameters = [[1, 4, 301, 24], [24, 37], [37]];
  const [x, w, b] = parameters.map((shape, seed) => randn(shape, { seed, requiresGrad: true }));
  const h = lightningAttention(x, x.mul(0.2), x.silu(), { slopes: 0.01 });
  const y = new nn.SRMSNorm().forward(h.matmul(w).add(b));
  const targets = tensor(new Int32Array(4 * 301).map((_, i) => i % 37), { shape: [1, 4, 301] });
  const value = loss.crossEntropy(y, targets).add(y.softmax().square().sum());
  value.backward();
  const gradients = [x, w, b].map((t) => t.grad!);
  return await Promise.all([h, y, value, ...gradients].map((t) => t.data())) as Float32Array[];
}

for (const [variant, words] of [["relaxed", "relaxed SIMD"], ["simd", "plain SIMD"]] as const) {
  test(`the ${variant} variant says so`, () =>
    onDevice({ variant, threads: 1 }, () => {
      const described = zeros([1]).device.describe();
      assert(described.includes(`1 thread, ${words}`), described);
      assert(described.includes("kernels: every operation"), described);
    }));

  test(`the ${variant} variant computes what TypeScript does`, async () => {
    setDefaultDevice(cpu);
    const expected = await (async () => {
      using _ = scope();
      return await results();
    })();
    const found = await onDevice({ variant }, results);
    found.forEach((array, i) => {
      const error = relativeError(array, expected[i]);
      assert(error <= 1e-5, `${i}: ${error}`);
    });
    const device = new Device(new WasmBackend({ variant }), "the test made it");
    const { errors } = await accuracy(device, "f32", 1000, 3.9e-8);
    setDefaultDevice(cpu);
    device.destroy();
    assert(errors.o > 0 && errors.o <= 1e-6 && errors.S <= 1e-6, JSON.stringify(errors));
  });
}

test("any number of threads gives the same bits", async () => {
  const alone = await onDevice({ threads: 1 }, results);
  for (const threads of [2, 3, 5]) {
    // Several times: workers arrive while the first runs are under way.
    const runs = await onDevice({ threads }, async () => {
      const list = [];
      for (let i = 0; i < 10; i++) list.push(await results());
      return list;
    });
    for (const run of runs) assertEquals(run, alone, `${threads} threads`);
  }
});

/** Outputs, last state and gradients of a few heads with every option that reads columns. */
async function fewHeads(heads: number, d: number, e: number, n: number): Promise<Float32Array[]> {
  // The first heads are the same however many there are.
  const draw = async (shape: number[], seed: number) => {
    const data = await randn([8, ...shape], { seed }).slice([0, heads]).data();
    return tensor(data, { shape: [1, heads, ...shape], requiresGrad: true });
  };
  const shapes = [[n, d], [n, d], [n, e], [d, e], [n, e], [d, e]];
  const [q, k, v, initialState, dO, dS] = await Promise.all(shapes.map(draw));
  const inputs = [q, k, v, initialState];
  const { output, state } = lightningAttentionWithState(q, k, v, { slopes: 0.01, initialState });
  output.mul(dO).sum().add(state.mul(dS).sum()).backward();
  const all = [output, state, ...inputs.map((t) => t.grad!)];
  // Of the first head alone.
  return await Promise.all(
    all.map((t) => t.slice(null, [0, 1]).contiguous().data()),
  ) as Float32Array[];
}

test("columns of one head are shared by threads, to the bits of one thread and of many heads", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 256, max: 400 }),
      fc.integer({ min: 1, max: 150 }),
      fc.integer({ min: 1, max: 150 }),
      fc.integer({ min: 1, max: 3 }),
      async (n, d, e, heads) => {
        // Eight heads are a task each, whole; few are cut.
        const whole = await onDevice({ threads: 1 }, () => fewHeads(8, d, e, n));
        assert(whole.every((array) => array.some((x) => x !== 0)));
        for (const threads of [1, 2, 3]) {
          const found = await onDevice({ threads }, () => fewHeads(heads, d, e, n));
          assertEquals(found, whole, `${threads} threads`);
        }
      },
    ),
    { numRuns: 6, examples: [[300, 64, 64, 1], [257, 130, 127, 1]] },
  );
});

test("attention reads rows where they lie, or copies them, to the same bits", async () => {
  // Rows of 64 side by side are read in place, those of 24 heads among each other are copied, odd ones are padded.
  for (const [heads, n, d] of [[24, 97, 64], [24, 96, 64], [3, 50, 20], [4, 260, 7]]) {
    const found = await onDevice({ threads: 2 }, async () => {
      const runs = [true, false].map((copied) => {
        const leaves = [1, 2, 3, 4].map((seed) =>
          randn([1, n, heads, d], { seed, requiresGrad: true })
        );
        const views = leaves.map((t) => t.permute([0, 2, 1, 3]));
        const [q, k, v, gradient] = copied ? views.map((t) => t.contiguous()) : views;
        const o = lightningAttention(q, k, v, { slopes: 0.02 });
        o.backward({ gradient: gradient.detach() });
        return [o, ...leaves.slice(0, 3).map((t) => t.grad!)];
      });
      return await Promise.all(runs.map((run) => Promise.all(run.map((t) => t.data()))));
    });
    assert(found[0].every((array) => Array.from(array as Float32Array).some((x) => x !== 0)));
    assertEquals(found[0], found[1], `${heads} heads, n = ${n}, d = ${d}`);
  }
});

test("memory is shared wherever it can be, and results are the same where it cannot", async () => {
  const { process, crossOriginIsolated } = globalThis as {
    process?: unknown;
    crossOriginIsolated?: boolean;
  };
  const expected = process !== undefined || crossOriginIsolated === true
    ? "2 threads, "
    : "1 thread, ";
  const alone = await onDevice({ threads: 1 }, results);
  await onDevice({ threads: 2 }, async () => {
    const { device } = zeros([1]);
    assert(device.describe().includes(expected), device.describe());
    assertEquals(await results(), alone);
  });
});

test("workers take part: they work in memory of their own", async () => {
  const memory = new WebAssembly.Memory({ initial: 64, maximum: 64, shared: true });
  const threads = new Threads(moduleOf(supportedVariant()!), memory, 2);
  const [spare, matrix, product] = [threads.heap, 2 ** 20, 2 ** 21];
  const bytes = 2 ** 17;
  threads.setScratch(spare, bytes);
  const own = new Int32Array(memory.buffer, spare + bytes, bytes / 4).fill(7);
  new Float32Array(memory.buffer, matrix, 256 * 256).fill(1);
  const dense = [1024, 4];
  const params = [matrix, matrix, product, ...dense, ...dense, ...dense, 256, 256, 256, 32, 32, 0];
  try {
    // A worker takes its time to start.
    for (const began = performance.now(); own.every((word) => word === 7);) {
      threads.run({ kernel: "matmul", params, tasks: 64 });
      assert(new Float32Array(memory.buffer, product, 256 * 256).every((x) => x === 256));
      assert(performance.now() - began < 60_000, "no worker took a task in a minute");
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  } finally {
    threads.destroy();
  }
});

test("a runtime without SIMD gets TypeScript, and is told so when it insists", async () => {
  const { validate } = WebAssembly;
  const relaxedOpcode = 253;
  try {
    WebAssembly.validate = () => false;
    assertEquals(supportedVariant(), undefined);
    const gpu = { requestAdapter: () => Promise.resolve(null) };
    const device = await init({ gpu });
    assertEquals(device.backend, "cpu");
    assert(device.reason.length > 0);
    assertThrows(() => new WasmBackend(), DeviceError, "no WebAssembly SIMD");
    // Plain SIMD, where relaxed SIMD is not valid.
    WebAssembly.validate = (bytes) => !String(bytes).includes(`${relaxedOpcode},133,2`);
    assertEquals(supportedVariant(), "simd");
  } finally {
    WebAssembly.validate = validate;
    setDefaultDevice(cpu);
  }
  assert(supportedVariant() !== undefined);
});

test("what outgrows the memory is refused before any work, and nothing is lost", async () => {
  await onDevice({ memoryBytes: 2 ** 25 }, async () => {
    const x = randn([1024, 1024], { seed: 1 });
    const product = await x.matmul(x).data();
    const before = x.device.memory();
    const content = await x.data();
    assertThrows(() => zeros([4096, 4096]), LimitError, "a WebAssembly memory holds at most");
    // Room for the result, but not for its float32 copy.
    assertThrows(() => x.expand([5, 1024, 1024]).to("f16"), LimitError);
    assertEquals(x.device.memory().liveBytes, before.liveBytes);
    assertEquals(await x.data(), content);
    // What was freed can be had again, in another size too.
    for (let i = 1; i < 40; i++) {
      using _ = scope();
      zeros([i * 100_000]);
    }
    assertEquals(await x.matmul(x).data(), product);
  });
});

/** Ways to want more room than there is, of so many numbers. */
const WISHES: Record<string, (size: number) => Tensor> = {
  "upload of float32": (size) => tensor(new Float32Array(size)),
  "upload of bytes": (size) => tensor(new Uint8Array(size)),
  zeros: (size) => zeros([size]),
  arange: (size) => arange(size),
  randn: (size) => randn([size], { seed: 1 }),
  uniform: (size) => uniform([size], { seed: 1 }),
  "output of an operation": (size) => zeros([1]).expand([size]).exp(),
};

test("more than fits is refused before a number is written, drawn or uploaded", async () => {
  for (const [memoryBytes, size] of [[2 ** 25, 2 ** 23], [2 ** 32, 2 ** 30]]) {
    const { cos } = Math;
    await onDevice({ memoryBytes }, async () => {
      const x = randn([100, 100], { seed: 1 });
      const product = await x.matmul(x).data();
      for (const [name, wish] of Object.entries(WISHES)) {
        using _ = scope();
        const [memory, work] = [x.device.memory(), x.device.activity()];
        let drawn = 0;
        try {
          Math.cos = (x) => ++drawn && cos(x);
          assertThrows(() => wish(size), LimitError, "a WebAssembly memory holds at most");
        } finally {
          Math.cos = cos;
        }
        assertEquals(drawn, 0, name);
        const { liveBytes } = x.device.memory();
        // The one zero that an operation repeats.
        const own = name.startsWith("output") ? 256 : 0;
        assertEquals(liveBytes, memory.liveBytes + own, name);
        const { uploads, dispatches } = x.device.activity();
        assertEquals(uploads, work.uploads, name);
        assertEquals(dispatches, work.dispatches + (own === 0 ? 0 : 1), name);
      }
      assertEquals(await x.matmul(x).data(), product);
    });
  }
});

test("work that runs out of memory on its way leaves nothing behind", async () => {
  const most = 2 ** 23;
  const work: Record<string, (x: Tensor) => unknown> = {
    sum: (x) => x.mul(2).add(1).sum(),
    matmul: (x) => x.matmul(x.transpose()),
    half: (x) => x.to("f16").softmax().to("f32"),
    concat: (x) => x.concat(x, 1).transpose().contiguous(),
    attention: (x) => {
      const q = x.reshape([1, 4, -1, 16]);
      return lightningAttentionWithState(q, q, q, { slopes: 0.1 });
    },
    gather: (x) => x.gather(tensor([1, 2], { dtype: "i32" })),
    backward: (x) => x.silu().matmul(x.transpose()).softmax().square().sum().backward(),
  };
  let refused = 0;
  let done = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...Object.keys(work)),
      fc.integer({ min: 0, max: 24 }),
      async (name, room) => {
        await onDevice({ memoryBytes: most, threads: 2 }, async () => {
          const x = randn([128, 256], { seed: 1, requiresGrad: true });
          const { device } = x;
          const before = device.memory();
          {
            using _ = scope();
            // All the memory, but for some pieces of 64 KiB.
            const pieces: Tensor[] = [];
            assertThrows(() => {
              while (true) pieces.push(zeros([2 ** 14]));
            }, LimitError);
            pieces.slice(-room || pieces.length).forEach((piece) => piece.dispose());
            try {
              work[name](x);
              done++;
            } catch (error) {
              assertInstanceOf(error, LimitError);
              refused++;
            }
            x.grad = null;
          }
          const after = device.memory();
          assertEquals(after.liveBytes, before.liveBytes);
          assertEquals(after.tensors, before.tensors);
          using _ = scope();
          work[name](x);
          x.grad = null;
          assert((await x.square().sum().item()) > 0);
        });
      },
    ),
    // With no room at all, and with some.
    { numRuns: 40, examples: [["matmul", 0], ["backward", 0], ["sum", 24], ["gather", 24]] },
  );
  assert(refused > 1 && done > 1, `${refused} refused, ${done} done`);
});

test("addresses beyond 2 GiB are computed with as low ones are", async () => {
  const alone = await onDevice({ threads: 2 }, results);
  const backend = new WasmBackend({ threads: 2 });
  const device = new Device(backend, "the test made it");
  const [, most] = /at most (\d+) bytes/.exec(device.describe())!;
  // Where the system reserves less, there are no such addresses.
  if (Number(most) < 2 ** 32) return device.destroy();
  setDefaultDevice(device);
  try {
    using _ = scope();
    // Nobody touches these bytes, so the system need not have them.
    const low = backend.allocate(2.5 * 2 ** 30);
    assertEquals(await results(), alone);
    backend.release(low);
  } finally {
    device.destroy();
    setDefaultDevice(cpu);
  }
});

test("attention reads no row ahead that is not there, at the end of memory either", async () => {
  const unit = 4096;
  const shapes = { q: [1, 1, 128, 8], k: [1, 1, 128, 8], v: [1, 1, 128, 16], one: [1, 1, 1024, 1] };
  const draw = (name: keyof typeof shapes, device: Device) =>
    randn(shapes[name], { seed: Object.keys(shapes).indexOf(name), device });
  const attend = async (one: Tensor | undefined, q: Tensor, k: Tensor, v: Tensor) => {
    const wide = one?.expand([1, 1, 1024, 128]);
    const options = { slopes: 0.1, blockSize: 18 };
    const o = lightningAttention(wide ?? q, wide ?? k, wide ?? v, options);
    return await o.data() as Float32Array;
  };
  for (const last of ["q", "k", "v", "one"] as const) {
    const backend = new WasmBackend({ threads: 1, memoryBytes: 4 * 2 ** 20 });
    const device = new Device(backend, "the test made it");
    const filling: ReturnType<typeof backend.allocate>[] = [];
    const fill = (bytes: number) =>
      assertThrows(() => {
        while (true) filling.push(backend.allocate(bytes));
      }, LimitError);
    // What is left after whole units is taken from the beginning, so that the last of them ends where memory does.
    fill(unit);
    const whole = filling.length;
    fill(256);
    const rest = filling.length - whole;
    filling.splice(0).forEach((buffer) => backend.release(buffer));
    device.trim();
    for (let i = 0; i < rest; i++) backend.allocate(256);
    fill(unit);
    const release = (from: number, count: number) => {
      filling.splice(from, count).forEach((buffer) => backend.release(buffer));
      device.trim();
    };
    try {
      using _ = scope();
      // The last bytes that there are hold one tensor to its last number; others get room before.
      const needed = 4 * shapes[last].reduce((size, length) => size * length) / unit;
      release(filling.length - needed, needed);
      const atEnd = draw(last, device);
      release(0, 500);
      const on = (device: Device, name: keyof typeof shapes, given?: Tensor) =>
        name === last && given !== undefined ? given : draw(name, device);
      const operands = (device: Device, given?: Tensor) =>
        [
          last === "one" ? on(device, "one", given) : undefined,
          on(device, "q", given),
          on(device, "k", given),
          on(device, "v", given),
        ] as const;
      const found = await attend(...operands(device, atEnd));
      const expected = await attend(...operands(cpu));
      const error = relativeError(found, expected);
      assert(error <= 1e-5, `${last}: ${error}`);
    } finally {
      device.destroy();
    }
  }
});

test("a heap hands out disjoint blocks and merges what comes back", () => {
  const memory = new WebAssembly.Memory({ initial: 4, maximum: 64, shared: true });
  const heap = new Heap(memory, 100, 64 * 65536);
  const taken: [number, number][] = [];
  let state = 1;
  const random = (n: number) => (state = (state * 48271) % 2147483647) % n;
  for (let i = 0; i < 3000; i++) {
    if (taken.length > 0 && random(2) === 0) {
      const [[at, bytes]] = taken.splice(random(taken.length), 1);
      heap.give(at, bytes);
      continue;
    }
    const bytes = 1 + random(50_000);
    try {
      const at = heap.take(bytes);
      assert(at >= 100 && at % 64 === 0 && at + bytes <= memory.buffer.byteLength);
      for (const [other, size] of taken) assert(at + bytes <= other || other + size <= at);
      taken.push([at, bytes]);
    } catch (error) {
      assertInstanceOf(error, LimitError);
    }
  }
  for (const [at, bytes] of taken) heap.give(at, bytes);
  // All in one piece again.
  heap.take(64 * 65536 - 128);
  assertThrows(() => heap.take(1), LimitError);
});

testOnWasm(
  "pointwise kernels agree with TypeScript for any layout, NaN and infinities included",
  async () => {
    const special = [NaN, Infinity, -Infinity, 0, -0, 1e-42, -3, 2.5, 80, -80, 88.9, -104, 1e30];
    const values = Float32Array.from(
      { length: 7 * 13 },
      (_, i) => special[(i * 5 + (i >> 3)) % 13],
    );
    const layouts: ((t: Tensor) => Tensor)[] = [
      (t) => t,
      (t) => t.transpose(),
      (t) => t.slice([1, 6], [2, 11]),
      (t) => t.slice(null, [undefined, undefined, -2]),
      (t) => t.slice([0, 1]).expand([7, 13]),
    ];
    const unary = [
      "neg",
      "abs",
      "sign",
      "square",
      "reciprocal",
      "exp",
      "sqrt",
      "rsqrt",
      "sin",
      "cos",
      "sigmoid",
      "silu",
      "relu",
    ] as const;
    const binary = [
      "add",
      "sub",
      "mul",
      "div",
      "maximum",
      "minimum",
      "equal",
      "notEqual",
      "less",
      "lessEqual",
      "greater",
      "greaterEqual",
    ] as const;
    const compute = async (device: Device) => {
      const x = tensor(values, { shape: [7, 13], device });
      const y = tensor(values.toReversed(), { shape: [7, 13], device });
      const all: [string, Tensor][] = [];
      layouts.forEach((layout, i) => {
        const [a, b] = [layout(x), layout(y)];
        for (const name of unary) all.push([`${name} ${i}`, a[name]()]);
        for (const name of binary) {
          all.push([`${name} ${i}`, a[name](b)], [`${name} ${i} 2`, a[name](2)]);
        }
        all.push([`where ${i}`, a.greater(b).to("f32").add(a)], [`copy ${i}`, a.contiguous()]);
      });
      return await Promise.all(all.map(async ([name, t]) => [name, await t.data()] as const));
    };
    const expected = await compute(cpu);
    const found = await compute(zeros([1]).device);
    found.forEach(([name, array], i) => {
      array.forEach((value, j) => {
        const wanted = expected[i][1][j];
        const near = Object.is(value, wanted) ||
          Math.abs(value - wanted) <= 3e-7 * Math.abs(wanted) ||
          // Results too small for a normal number may be 0.
          Math.abs(value - wanted) < 2e-37;
        const isWave = name.startsWith("sin") || name.startsWith("cos");
        assert(
          near || (isWave && Math.abs(value - wanted) < 2e-7),
          `${name}[${j}]: ${value}, not ${wanted}`,
        );
      });
    });
  },
);

testInDeno("LEVIN_THREADS that makes no sense is refused", async () => {
  const child = await new Deno.Command(Deno.execPath(), {
    args: [
      "eval",
      "--no-check",
      `import { init } from "${new URL("../mod.ts", import.meta.url)}";
      await init({ backend: "wasm" });`,
    ],
    env: { LEVIN_THREADS: "many", NO_COLOR: "1" },
    stderr: "piped",
  }).output();
  assert(!child.success);
  assert(
    new TextDecoder().decode(child.stderr).includes(
      "Cannot start many threads (from LEVIN_THREADS)",
    ),
  );
  await assertRejects(() => init({ backend: "abacus" as "cpu" }), DeviceError, '"wasm"');
});

testInDeno("a script that used several threads ends by itself, with no permission", async () => {
  const script = `
    import { init, randn } from "${new URL("../mod.ts", import.meta.url)}";
    await init({ backend: "wasm", threads: 3 });
    const a = randn([400, 400]);
    for (let i = 0; i < 50; i++) a.matmul(a).dispose();
    await new Promise((resolve) => setTimeout(resolve, 300));
    console.log((await a.matmul(a).data()).length);`;
  const path = await Deno.makeTempFile({ suffix: ".ts" });
  await Deno.writeTextFile(path, script);
  try {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", "--no-check", path],
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const late = setTimeout(() => child.kill("SIGKILL"), 60_000);
    const { success, stdout, stderr } = await child.output();
    clearTimeout(late);
    assert(success, new TextDecoder().decode(stderr));
    assertEquals(new TextDecoder().decode(stdout).trim(), "160000");
  } finally {
    await Deno.remove(path);
  }
});

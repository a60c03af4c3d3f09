// CPU time of the host for each recorded operation: `deno run -A bench/host.ts [--json] [--backend cpu]`.
// Tensors are tiny, so that what is timed is the way from a method call to an encoded dispatch and back
// to the pool, with its share of the submits. The clock is the main thread's own CPU time where the system
// tells it (Linux): other processes do not disturb it.
import { parseArgs } from "@std/cli/parse-args";
import { type Device, loss, noGrad, optim, randn, type Tensor, tensor, tidy } from "../mod.ts";
import { TransNormerLLM } from "../src/models/mod.ts";
import { chooseDevice } from "../examples/demo/device.ts";

const CLOCK_THREAD_CPUTIME_ID = 3;
const libc = Deno.build.os === "linux"
  ? Deno.dlopen("libc.so.6", { clock_gettime: { parameters: ["i32", "buffer"], result: "i32" } })
  : undefined;
const timespec = new BigInt64Array(2);

/** CPU time of this thread in ms; where nobody tells it, the time of the wall. */
function cpuTime(): number {
  if (libc === undefined) return performance.now();
  libc.symbols.clock_gettime(CLOCK_THREAD_CPUTIME_ID, timespec);
  return Number(timespec[0]) * 1e3 + Number(timespec[1]) / 1e6;
}

/** Least µs of CPU time, over twenty runs, of one of the `count` operations that `fn` asks for. */
async function microseconds(device: Device, count: number, fn: () => void): Promise<number> {
  const samples: number[] = [];
  for (let i = 0; i < 40; i++) {
    const began = cpuTime();
    fn();
    samples.push((cpuTime() - began) * 1000 / count);
    await device.synchronize();
  }
  // The first half compiles, shaders here and JavaScript there.
  return Math.min(...samples.slice(20));
}

const CHAIN = 1000;
type Step = (x: Tensor) => Tensor;

function chain(step: Step, from: Tensor): Tensor {
  let x = from;
  for (let i = 0; i < CHAIN; i++) x = step(x);
  return x;
}

const { json, backend } = parseArgs(Deno.args, { boolean: ["json"], string: ["backend"] });
const device = await chooseDevice(backend ?? "webgpu");
if (!json) console.log(device.describe());
if (!json) console.log(`clock: ${libc ? "CPU time of the main thread" : "wall time"}\n`);

const x = randn([4, 4], { seed: 1 });
const y = randn([4, 4], { seed: 2 });
const row = randn([4], { seed: 3 });
const leaf = randn([4, 4], { seed: 1, requiresGrad: true });
const ops: Record<string, Step> = {
  "neg": (t) => t.neg(),
  "add(number)": (t) => t.add(1),
  "mul(tensor)": (t) => t.mul(y),
  "add(broadcast row)": (t) => t.add(row),
  "matmul": (t) => t.matmul(y),
  "softmax": (t) => t.softmax(),
  "sum, reshape, expand": (t) => t.sum(-1).reshape([4, 1]).expand([4, 4]),
  "reshape (a view)": (t) => t.reshape([4, 4]),
};
const rows: { what: string; micros: number }[] = [];
const report = (what: string, micros: number) => {
  rows.push({ what, micros });
  if (!json) console.log(`| ${what} | ${micros.toFixed(1)} |`);
};
if (!json) console.log("| operation | µs of CPU time each |\n| --- | ---: |");
for (const [name, step] of Object.entries(ops)) {
  const plain = await microseconds(
    device,
    CHAIN,
    () => tidy(() => noGrad(() => void chain(step, x))),
  );
  report(name, plain);
}
for (const [name, step] of Object.entries(ops)) {
  report(
    `${name}, recorded`,
    await microseconds(device, CHAIN, () => tidy(() => void chain(step, leaf))),
  );
}
const both = await microseconds(device, 2 * CHAIN, () =>
  tidy(() => {
    chain(ops["mul(tensor)"], leaf).sum().backward({ releaseGraph: true });
    leaf.grad = null;
  }));
report("mul(tensor), forward and backward", both);

using model = new TransNormerLLM({ vocabulary: 256, size: 32, layers: 4, heads: 4, inner: 48 }, {
  seed: 1,
});
const parameters = model.parameters();
using adamw = new optim.AdamW(parameters);
const ids = tensor(Array.from({ length: 32 }, (_, i) => i * 7 % 256), {
  shape: [2, 16],
  dtype: "i32",
});
const trainingStep = () =>
  tidy(() => {
    loss.crossEntropy(model.forward(ids), ids).backward({ releaseGraph: true });
    adamw.step(optim.clipFactor(parameters, 1));
    adamw.zeroGrad();
  });
trainingStep();
await device.synchronize();
const { spans } = await device.profile(trainingStep);
const each = await microseconds(device, 1, trainingStep);
report(`a training step of 4 layers: ${spans.length} dispatches; each`, each / spans.length);
report("the same step as a whole", each);
if (json) console.log(JSON.stringify({ device: device.name, rows }));

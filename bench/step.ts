// What one training step asks of a GPU, counted without one: dispatches, and the bytes that its programs read
// and write. `deno run -A bench/step.ts`: the demo's model, and TransNormerLLM at 385M by the paper's sizes. Then,
// where WebGPU is (LEVIN_BACKEND=webgpu for a software driver), how busy steps keep it.
import { Device, init, loss, optim, setDefaultDevice, Tensor, tidy, zeros } from "../mod.ts";
import { type TransNormerConfig, TransNormerLLM } from "../src/models/mod.ts";
import { Counter, type Row } from "./counter.ts";
import { wallMs } from "./measure.ts";

/** One step of `config` on `batch` sequences of `n` tokens. */
function count(config: TransNormerConfig, batch: number, n: number): Map<string, Row> {
  const counter = new Counter();
  const device = new Device(counter, "to count");
  setDefaultDevice(device);
  using training = new Training(config, device);
  using ids = Tensor.allocate(device, { shape: [batch, n], dtype: "i32" });
  counter.rows.clear();
  training.step(ids);
  return counter.rows;
}

/** A model that is trained on whatever it is given. */
class Training implements Disposable {
  readonly #model: TransNormerLLM;
  readonly #parameters: Record<string, Tensor>;
  readonly #adamw: optim.AdamW;

  constructor(config: TransNormerConfig, device: Device) {
    this.#model = new TransNormerLLM(config, { seed: 1, device });
    this.#parameters = this.#model.parameters();
    this.#adamw = new optim.AdamW(this.#parameters);
  }

  step(ids: Tensor): void {
    tidy(() => {
      loss.crossEntropy(this.#model.forward(ids), ids).backward({ releaseGraph: true });
      this.#adamw.step(optim.clipFactor(this.#parameters, 1));
      this.#adamw.zeroGrad();
    });
  }

  [Symbol.dispose](): void {
    this.#adamw[Symbol.dispose]();
    this.#model[Symbol.dispose]();
  }
}

/** Prints the share of a step's time in which kernels run: the sum of theirs over the clock's, a step. */
async function printBusy(
  title: string,
  device: Device,
  config: TransNormerConfig,
  [batch, n]: readonly [number, number],
): Promise<void> {
  using training = new Training(config, device);
  using ids = zeros([batch, n], { dtype: "i32", device });
  const step = () => training.step(ids);
  const ms = await wallMs(device, step, 3);
  const profile = await device.profile(step);
  const [work, whole] = [profile.ms, ms].map((x) => x.toFixed(1));
  const busy = (100 * profile.ms / ms).toFixed(0);
  console.log(
    `\n${title} on ${device.name}: ${profile.spans.length} dispatches, ${work} ms of kernels in a step of ` +
      `${whole} ms: busy ${busy} % of it`,
  );
}

/** The rows of a model of many equal layers from those of one and of four. */
function extrapolate(one: Map<string, Row>, four: Map<string, Row>, layers: number) {
  const rows = new Map<string, Row>();
  for (const [name, { dispatches, bytes }] of four) {
    const base = one.get(name) ?? { dispatches: 0, bytes: 0 };
    const share = (layers - 1) / 3;
    rows.set(name, {
      dispatches: Math.round(base.dispatches + share * (dispatches - base.dispatches)),
      bytes: base.bytes + share * (bytes - base.bytes),
    });
  }
  return rows;
}

function print(title: string, rows: Map<string, Row>): void {
  const list = [...rows].sort(([, a], [, b]) => b.bytes - a.bytes);
  const total = list.reduce((sum, [, row]) => sum + row.dispatches, 0);
  const bytes = list.reduce((sum, [, row]) => sum + row.bytes, 0);
  console.log(`\n${title}: ${total} dispatches, ${(bytes / 1e9).toFixed(3)} GB`);
  console.log("| operation | dispatches | GB |\n| --- | ---: | ---: |");
  for (const [name, row] of list) {
    console.log(`| ${name} | ${row.dispatches} | ${(row.bytes / 1e9).toFixed(3)} |`);
  }
}

const demo = { vocabulary: 256, size: 128, layers: 4, heads: 4, inner: 352 };
print("demo's model, 32 windows of 512", count(demo, 32, 512));
// Four layers have three more groups of parameters than one, so that what clipping does in threes is linear.
const paper = { vocabulary: 64000, size: 1024, heads: 8, inner: 2816 };
const [one, four] = [1, 4].map((layers) => count({ ...paper, layers }, 8, 1024));
print("385M (24 layers of size 1024), 8 sequences of 1024", extrapolate(one, four, 24));

const device = await init();
if (device.backend === "webgpu") {
  setDefaultDevice(device);
  await printBusy("demo's model, 8 windows of 256", device, demo, [8, 256]);
  if (!device.software) {
    await printBusy("demo's model, 32 windows of 512", device, demo, [32, 512]);
    await printBusy("385M, 8 sequences of 1024", device, { ...paper, layers: 24 }, [8, 1024]);
  }
}
device.destroy();

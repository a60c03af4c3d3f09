// `deno task paper` as people run it, at small sizes: in a process of its own.
import { assert, assertEquals } from "@std/assert";
import { Counter } from "../bench/counter.ts";
import { Budget } from "../examples/paper/budget.ts";
import { measured, type Plan, SHAPES } from "../examples/paper/efficiency.ts";
import { Device } from "../mod.ts";
import { inFolder, run, spawn } from "./command.ts";
import { crowded } from "./crowded.ts";
import { onDawn, test, webgpu } from "./harness.ts";

async function paper(args: string, folder: string, name: string, backend = "cpu") {
  const { code, out, err } = await run("paper", `${args} --backend ${backend} --out ${folder}`);
  assertEquals(code, 0, err);
  return { out, numbers: JSON.parse(await Deno.readTextFile(`${folder}/${name}.json`)) };
}

async function isChart(path: string, ...names: string[]): Promise<void> {
  const svg = await Deno.readTextFile(path);
  assert(svg.startsWith("<svg") && svg.trimEnd().endsWith("</svg>"));
  for (const name of names) assert(svg.includes(name), `${path} lacks ${name}`);
}

test("paper attention: every form at every length, and memory that does not grow as n²", () =>
  inFolder(async (folder) => {
    const lengths = [64, 512];
    const { out, numbers } = await paper("attention --lengths 64,512", folder, "attention");
    for (const form of ["LA1", "LA2", "FA2"]) {
      const rows = numbers.rows.filter((row: { form: string }) => row.form === form);
      assertEquals(rows.map(({ n }: { n: number }) => n), lengths);
      for (const { forwardMs, backwardMs, n, bytes } of rows) {
        assert(forwardMs > 0 && backwardMs > 0);
        assert(bytes < 2 * n * n * 4 || n < 512, `${bytes} bytes`);
      }
    }
    const table = "| forward, ms | LA2 | LA1 | FA2 |";
    assert(out.includes(table) && out.includes("| 512 |"), out);
    assert((await Deno.readTextFile(`${folder}/attention.md`)).includes(table));
    await isChart(`${folder}/attention.svg`, "LA1", "LA2", "FA2", "backward", "memory");
  }));

test("paper loss: one model by LA1 and by LA2 has one curve", () =>
  inFolder(async (folder) => {
    const sizes = "--size 16 --layers 2 --heads 2 --inner 24 --batch 2 --context 200 --steps 20";
    const { out, numbers } = await paper(
      `loss ${sizes} --text ${folder}/text.txt --learning-rate 0.02`,
      folder,
      "loss",
      // The CPU adds up in float64: there the two are so near that their losses may all round to the same.
      "wasm",
    );
    const [one, two] = numbers.runs;
    assertEquals([one.losses.length, two.losses.length], [20, 20]);
    assert(one.losses[19] < one.losses[0] - 1, "it did not learn");
    assert(one.seconds > 0 && out.includes("TNL-LA1"));
    const differences = one.losses.map((loss: number, i: number) => Math.abs(loss - two.losses[i]));
    assert(Math.max(...differences) < 1e-3, `losses differ by ${Math.max(...differences)}`);
    // Two ways to add up do differ somewhere, if there are two.
    assert(differences.some((d: number) => d > 0), "LA1 and LA2 have the same bits");
    await isChart(`${folder}/loss.svg`, "TNL-LA1", "TNL-LA2");

    const refused = await run(
      "paper",
      `loss ${sizes} --text ${folder}/text.txt --backend cpu --out ${folder} --tolerance=-1`,
    );
    assertEquals([refused.code, refused.err.includes("same function")], [1, true], refused.err);
  }));

interface EfficiencyRow {
  model: string;
  n: number;
  batch: number;
  speed?: { tokensPerSecond: number; steps: number; warm: boolean; bytes: number };
  reason?: string;
}

/** WebGPU where there is one, as on the machine that the experiment is meant for. */
const PLACE = webgpu === undefined ? "wasm" : onDawn ? "dawn" : "webgpu";

test(
  `paper efficiency in float16: tokens/s of three models, the paper's beside them (${PLACE})`,
  () =>
    inFolder(async (folder) => {
      const { out, numbers } = await paper(
        "efficiency --lengths 1K,64 --tokens 128 --layers 1 --precision f16 --chunk 300",
        folder,
        "efficiency",
        PLACE,
      );
      const rows: EfficiencyRow[] = numbers.rows;
      assertEquals(
        rows.map(({ model, batch, n }) => `${model} ${batch} × ${n}`),
        ["TNL-LA2", "LLaMA-FA2", "TNL-LA1"].flatMap((model) => [
          `${model} 2 × 64`,
          `${model} 1 × 1024`,
        ]),
      );
      for (const { speed } of rows) {
        assert(speed!.tokensPerSecond > 0 && speed!.bytes > 0 && speed!.warm);
      }
      assert(out.includes("38615") && out.includes("LA2 over LLaMA-FA2 at 1K"), out);
      await isChart(`${folder}/efficiency.svg`, "TNL-LA2", "LLaMA-FA2", "paper");
    }),
);

test("paper efficiency: what has no time or does not fit is told of, and the rest is measured", () =>
  inFolder(async (folder) => {
    const short = await paper("efficiency --lengths 64,1K --budget 0", folder, "efficiency");
    const late: EfficiencyRow[] = short.numbers.rows;
    assertEquals(late.map(({ reason }) => reason), Array(6).fill("the time was up"));
    assert(short.out.includes("not run: TNL-LA2 at 64: the time was up"), short.out);

    // A device on which long sequences do not fit, as they may not on a GPU.
    const device = crowded(2.5e5);
    const before = device.memory().liveBytes;
    const plan: Plan = {
      sizes: { vocabulary: 32, size: 64, layers: 1, heads: 2, inner: 16 },
      models: ["TNL-LA2", "LLaMA-FA2"],
      lengths: [16, 1000, 48],
      ...{ tokens: 1, precision: "f32", recompute: true, chunk: 8 },
    };
    const rows = await Array.fromAsync(measured(device, plan, new Budget(600)));
    assertEquals(
      rows.map(({ model, n, speed }) => [model, n, speed !== undefined]),
      plan.models.flatMap((model) => [[model, 16, true], [model, 1000, false], [model, 48, true]]),
    );
    for (const { reason, speed } of rows) assert(speed || /no room for \d+ bytes/.test(reason!));
    assertEquals(device.memory().liveBytes, before, "what failed left memory behind");
  }));

test("paper efficiency that is killed leaves the rows that it had", () =>
  inFolder(async (folder) => {
    const child = spawn(
      "paper",
      `efficiency --lengths 64,32K --layers 1 --models TNL-LA1 --backend cpu --budget 1000000 --out ${folder}`,
    );
    const path = `${folder}/efficiency.json`;
    while (!await Deno.stat(path).then(() => true, () => false)) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    child.kill("SIGKILL");
    await Promise.all([child.stdout.cancel(), child.stderr.cancel(), child.status]);
    const { rows } = JSON.parse(await Deno.readTextFile(path));
    assertEquals(rows.length, 1);
    assert(rows[0].speed.tokensPerSecond > 0);
    const report = await Deno.readTextFile(`${folder}/efficiency.md`);
    assert(/\| TNL-LA1 \| \d+ \| – \|/.test(report), report);
  }));

test("the paper's size, planned for an H200: it fits, and steps take no new memory", async () => {
  const plan: Plan = {
    sizes: SHAPES["0.4B"],
    models: ["TNL-LA2", "LLaMA-FA2"],
    lengths: [1024, 92 * 1024],
    ...{ tokens: 16384, precision: "f16", recompute: true, chunk: 4096 },
  };
  const counter = new Counter();
  for await (
    const { speed, reason } of measured(new Device(counter, "to count"), plan, new Budget(600))
  ) {
    // Warm is a speed of steps that others went before; how many depends on how fast this machine plans.
    assert(speed?.warm, reason);
    // Three float32 copies of 0.46 · 10⁹ parameters are the least there can be; the card has 141 GB.
    const { bytes } = speed!;
    assert(bytes > 3 * 4 * 0.45e9 && bytes < 30e9, `${bytes} bytes`);
    // Of many steps, none but the first makes buffers; those of the row before wait to be destroyed.
    assert(counter.peakBytes < 60e9, `${counter.peakBytes} bytes`);
    assert(counter.largestBytes < counter.bindingBytes);
    counter.peakBytes = 0;
  }
});

test("a budget foresees what grows linearly and quadratically, and begins nothing too long", async () => {
  const budget = new Budget(100);
  const costs = { linear: (n: number) => n, both: (n: number) => n + 3 * n * n };
  for (const [kind, cost] of Object.entries(costs)) {
    // In batches, whose times are those of their sequences.
    for (const [n, sequences] of [[1, 4], [2, 1]]) {
      const work = { kind, n, sequences };
      await budget.run(work, () => Promise.resolve(0), () => sequences * cost(n));
    }
    assertEquals(budget.expected({ kind, n: 5 }), cost(5));
    assertEquals(budget.expected({ kind, n: 5, sequences: 2 }), 2 * cost(5));
  }
  assertEquals(budget.expected({ kind: "other", n: 8 }), 0);
  let begun = false;
  const begin = () => Promise.resolve(begun = true);
  assertEquals(
    (await budget.run({ kind: "both", n: 16 }, begin)).reason,
    "would take 784 s of the 100 left",
  );
  assertEquals(begun, false);
  assertEquals(await budget.run({ kind: "linear", n: 16 }, begin), { result: true });
});

test("bad input to the paper's experiments is one clear line", () =>
  inFolder(async (folder) => {
    const cases = [
      ["reproduce", "attention, loss, efficiency"],
      ["attention --lengths 1K,many", `--lengths expects numbers such as 512,1K,92K, found "many"`],
      ["attention --forms LA3", "LA2,LA1,FA2"],
      ["efficiency --shape huge", "--shape expects tiny, small, 0.4B"],
      ["efficiency --precision f8", "--precision"],
      ["attention --toggles disable_robustness", "--toggles are Dawn's"],
      ["loss --steps 0", "--steps expects at least 1"],
      ["loss --heads 0", "--heads expects at least 1"],
      ["attention --heads 0", "--heads expects at least 1"],
      ["attention --head-size 0", "--head-size expects at least 1"],
      ["efficiency --layers 0", "--layers expects at least 1"],
      ["efficiency --chunk 0", "--chunk expects at least 1"],
      ["attention --budget=-1", "--budget expects at least 0"],
    ];
    for (const [args, message] of cases) {
      const { code, err } = await run(
        "paper",
        `${args} --backend cpu --out ${folder}`.replace(/^reproduce .*/, "reproduce"),
      );
      assertEquals([code, err.trimEnd().split("\n").length], [1, 1], err);
      assert(err.startsWith("error: ") && err.includes(message), err);
    }
  }));

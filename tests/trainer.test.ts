/** The demo's training: windows in a fixed order, micro-batches, overflows, metrics, and the curve as it grows. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { Metrics } from "../examples/demo/metrics.ts";
import { textOf } from "../examples/demo/text.ts";
import { Trainer, type TrainingOptions } from "../examples/demo/trainer.ts";
import { type Device, type Tensor, tensor } from "../mod.ts";
import { inFolder } from "./checkpoints.ts";
import { assertNear, test, testOnBackends, testOnCpu } from "./harness.ts";

const CONFIG = { vocabulary: 256, size: 16, layers: 2, heads: 2, inner: 24 };
const OPTIONS: TrainingOptions = {
  ...{ steps: 20, batch: 4, context: 12, learningRate: 0.02, weightDecay: 0.1, warmup: 2 },
  ...{ clip: 1, seed: 7 },
};
const TEXT = await textOf(
  Uint8Array.from({ length: 4000 }, (_, i) => 97 + (i * i + (i >> 5)) % 23),
  "a text",
  OPTIONS.context,
);

/** A trainer, and the ids that its model was given, window by window. */
function watched(device: Device, changes: Partial<TrainingOptions> = {}) {
  const trainer = new Trainer(CONFIG, { ...OPTIONS, ...changes }, TEXT, device);
  const windows: Promise<number[][]>[] = [];
  const { model } = trainer;
  const loss = model.loss.bind(model);
  model.loss = (ids: Tensor, next: Tensor) => {
    windows.push(
      ids.data().then((data) =>
        Array.from(
          { length: ids.shape[0] },
          (_, i) => [...data.subarray(i * ids.shape[1], (i + 1) * ids.shape[1])],
        )
      ),
    );
    return loss(ids, next);
  };
  return { trainer, windows: async () => (await Promise.all(windows)).flat() };
}

testOnBackends("micro-batches make the step that the large batch makes", async (device) => {
  const whole = watched(device);
  const parts = watched(device, { batch: 1, accumulate: 4 });
  using one = whole.trainer;
  using other = parts.trainer;
  const reports = [await one.train(3), await other.train(3)];
  // The same windows, in the same order.
  assertEquals(await parts.windows(), await whole.windows());
  reports[0].forEach(({ loss, gradientNorm }, i) => {
    assert(Math.abs(reports[1][i].loss - loss) < 1e-5 * loss);
    assert(Math.abs(reports[1][i].gradientNorm - gradientNorm) < 1e-4 * gradientNorm);
  });
  for (const [name, p] of Object.entries(one.model.parameters())) {
    const expected = await p.data();
    assert(expected.some((value) => value !== 0));
    await assertNear(other.model.parameters()[name], expected, 1e-3, name);
  }
});

testOnCpu("the windows of a step follow from the seed and its number alone", async (device) => {
  const windowsOf = async (changes: Partial<TrainingOptions>, parts: number[]) => {
    const { trainer, windows } = watched(device, changes);
    using _ = trainer;
    for (const count of parts) await trainer.train(count);
    return await windows();
  };
  const first = await windowsOf({}, [6]);
  assertEquals(first.length, 24);
  assertEquals(new Set(first.map(String)).size, 24);
  // Every window is a piece of the text.
  const text = TEXT.training.join();
  assert(first.every((window) => text.includes(window.join())));
  assertEquals(await windowsOf({}, [1, 3, 2]), first);
  assertEquals(await windowsOf({ learningRate: 1e-3, precision: "f16" }, [6]), first);
  // Neighbouring seeds share no windows, at whatever steps; what a text of 4000 repeats may come twice.
  const known = new Set(first.map(String));
  const other = await windowsOf({ seed: 8 }, [6]);
  const shared = other.map(String).filter((window) => known.has(window));
  assert(shared.length < 4, `${shared.length} of ${first.length} windows are the same`);
});

testOnBackends(
  "a step that overflowed in float16 leaves the weights, and is told of",
  async (device) => {
    const { trainer } = watched(device, { precision: "f16" });
    using _ = trainer;
    await trainer.train(1);
    const snapshot = () =>
      Promise.all(Object.values(trainer.model.parameters()).map(async (p) => [...await p.data()]));
    const before = await snapshot();
    // A scale at which gradients do not fit float16 any more.
    trainer.scaler!.load({ state: tensor([2 ** 60, 0, 0], { device }) });
    const [report] = await trainer.train(1);
    assert(
      Number.isFinite(report.loss) && !Number.isFinite(report.gradientNorm),
      JSON.stringify(report),
    );
    assertEquals(await snapshot(), before);
  },
);

test("metrics are a line of JSON a step, an overflow's norm null", () =>
  inFolder(async (folder) => {
    const path = `${folder}/metrics.jsonl`;
    const report = { step: 1, loss: 2.5, learningRate: 0.1, gradientNorm: 3 };
    {
      using metrics = await Metrics.open(path, 0);
      metrics.write([report, { ...report, step: 2, gradientNorm: Infinity }]);
    }
    const lines = (await Deno.readTextFile(path)).split("\n");
    assertEquals(lines.pop(), "");
    const parsed = lines.map((line) => JSON.parse(line));
    assert(parsed.every(({ seconds }) => seconds >= 0));
    assertEquals(parsed.map(({ seconds: _, ...rest }) => rest), [
      report,
      { ...report, step: 2, gradientNorm: null },
    ]);
  }));

// util-linux's `script` gives a command a terminal; without it there is none to look at.
const script = await Deno.stat("/usr/bin/script").then(() => true, () => false);

test(
  `on a terminal the curve of the losses is drawn as it grows${
    script ? "" : " (skipped: no `script`)"
  }`,
  () =>
    inFolder(async (folder) => {
      await Deno.writeTextFile(`${folder}/text.txt`, "one fish two fish ".repeat(400));
      const sizes = "--size 16 --layers 2 --heads 2 --inner 24 --batch 2 --context 16";
      const args =
        `--backend cpu ${sizes} --steps 100000 --text ${folder}/text.txt --out ${folder}/runs`;
      const command = `${Deno.execPath()} run -A --no-check examples/demo.ts ${args} --samples 0`;
      const child = new Deno.Command("/usr/bin/script", {
        args: ["--quiet", "--return", "--command", command, "/dev/null"],
        cwd: new URL("..", import.meta.url).pathname,
        stdin: "null",
        stdout: "piped",
        stderr: "null",
      }).spawn();
      let shown = "";
      for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
        shown += text;
        if (shown.split("\x1b[0J").length > 3) break;
      }
      child.kill("SIGTERM");
      await child.status;
      // Each ends by going up to where it began, and the next clears what is below.
      const curves = shown.split("\x1b[0J").slice(0, 3);
      for (const curve of curves) {
        assertEquals(curve.match(/\d+\.\d\d [┤┼]/g)?.length, 11, curve);
        assert(curve.endsWith("\x1b[11A"), curve);
      }
      assertMatch(curves[0], /loss \d+\.\d+/);
      // Not their losses: what is learnt by heart has the same one twice.
      const steps = curves.map((curve) => Number(curve.match(/(\d+)\/100000/)?.[1]));
      assert(steps[0] < steps[1] && steps[1] < steps[2], `${steps}`);
    }),
  !script,
);

// `deno task paper` as people run it, at small sizes: in a process of its own.
import { assert, assertEquals } from "@std/assert";
import { Budget } from "../examples/paper/budget.ts";
import { inFolder, run } from "./command.ts";
import { test } from "./harness.ts";

async function paper(args: string, folder: string, name: string) {
  const { code, out, err } = await run("paper", `${args} --backend cpu --out ${folder}`);
  assertEquals(code, 0, err);
  return { out, numbers: JSON.parse(await Deno.readTextFile(`${folder}/${name}.json`)) };
}

async function isChart(path: string, ...names: string[]): Promise<void> {
  const svg = await Deno.readTextFile(path);
  assert(svg.startsWith("<svg") && svg.trimEnd().endsWith("</svg>"));
  for (const name of names) assert(svg.includes(name), `${path} lacks ${name}`);
}

test("paper attention: every form at every length, and linear memory", () =>
  inFolder(async (folder) => {
    const lengths = [32, 64];
    const { out, numbers } = await paper(
      "attention --lengths 32,64 --repeat 1",
      folder,
      "attention",
    );
    for (const form of ["LA1", "LA2", "FA2"]) {
      const rows = numbers.rows.filter((row: { form: string }) => row.form === form);
      assertEquals(rows.map(({ n }: { n: number }) => n), lengths);
      for (const { forwardMs, backwardMs, n, bytes } of rows) {
        assert(forwardMs > 0 && backwardMs > 0);
        // The output and three gradients, [1, 2, n, 64] each, are the least there can be.
        assert(bytes >= 4 * 2 * n * 64 * 4 && bytes < 100 * 2 * n * 64 * 4, `${bytes} bytes`);
      }
    }
    assert(out.includes("| 64 |"));
    for (const part of ["forward", "backward", "memory"]) {
      await isChart(`${folder}/attention-${part}.svg`, "LA1", "LA2", "FA2");
    }
  }));

test("paper loss: one model by LA1 and by LA2 has one curve", () =>
  inFolder(async (folder) => {
    const sizes = "--size 16 --layers 2 --heads 2 --inner 24 --batch 2 --context 200 --steps 20";
    const { out, numbers } = await paper(
      `loss ${sizes} --text ${folder}/text.txt --learning-rate 0.02`,
      folder,
      "loss",
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

test("paper efficiency: tokens/s of three models, the paper's beside them, and what had no time", () =>
  inFolder(async (folder) => {
    const { out, numbers } = await paper(
      "efficiency --lengths 64,1K --tokens 128 --layers 1 --models TNL-LA2,LLaMA-FA2",
      folder,
      "efficiency",
    );
    const found = numbers.rows.map((row: { model: string; n: number; batch: number }) =>
      `${row.model} ${row.batch} × ${row.n}`
    );
    const expected = [
      "TNL-LA2 2 × 64",
      "LLaMA-FA2 2 × 64",
      "TNL-LA2 1 × 1024",
      "LLaMA-FA2 1 × 1024",
    ];
    assertEquals(found, expected);
    assert(numbers.rows.every((row: { tokensPerSecond: number }) => row.tokensPerSecond > 0));
    assert(out.includes("38615") && out.includes("LA2 over LLaMA-FA2 at 1K"), out);
    await isChart(`${folder}/efficiency.svg`, "TNL-LA2", "LLaMA-FA2", "paper");

    const short = await paper("efficiency --lengths 64,1K --budget 0", folder, "efficiency");
    assertEquals([short.numbers.rows.length, short.numbers.omitted.length], [0, 6]);
    assert(short.out.includes("not run"));
  }));

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
  assertEquals(await budget.run({ kind: "both", n: 16 }, begin), undefined);
  assertEquals(begun, false);
  assertEquals(await budget.run({ kind: "linear", n: 16 }, begin), true);
});

test("bad input to the paper's experiments is one clear line", () =>
  inFolder(async (folder) => {
    const cases = [
      ["reproduce", "attention, loss, efficiency"],
      ["attention --lengths 1K,many", `--lengths expects numbers such as 512,1K,92K, found "many"`],
      ["attention --forms LA3", "LA1,LA2,FA2"],
      ["efficiency --shape huge", "--shape expects tiny, small, 0.4B"],
      ["efficiency --precision f8", "--precision"],
      ["loss --steps 0", "--steps expects at least 1"],
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

/** `deno task eval`: scores against sums done by hand, results that go on after any cut, and the command. */
import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import type { Pair } from "../examples/eval/prompts.ts";
import { type Result, ResultsFile } from "../examples/eval/results.ts";
import {
  answer,
  type Answered,
  encodePair,
  judge,
  pooled,
  scoreOf,
} from "../examples/eval/scoring.ts";
import { byteTokenizer } from "../examples/models/byte_tokenizer.ts";
import { loadTokenizer, type TextTokenizer } from "../examples/models/tokenizer.ts";
import { FormatError, LevinError } from "../mod.ts";
import { loadModel } from "../src/models/mod.ts";
import { bytePair } from "./byte_pair.ts";
import { inFolder, llama, transNormer, writeCheckpoint } from "./checkpoints.ts";
import { test, testOnCpu } from "./harness.ts";

testOnCpu("pairs are encoded as the harness encodes them", () =>
  inFolder(async (folder) => {
    const merges: [string, string][] = [["Ġ", "a"], ["a", "b"]];
    await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(bytePair(merges)));
    await Deno.writeTextFile(`${folder}/tokenizer_config.json`, '{"eos_token":"<|endoftext|>"}');
    const tokenizer = await loadTokenizer(folder);
    const [space, a, b] = tokenizer.encode(" ab").length === 2 ? tokenizer.encode("  a b") : [];
    assert(space !== undefined && a !== undefined && b !== undefined);
    const texts = (pair: Pair) => {
      const { context, continuation } = encodePair(tokenizer, pair);
      return [context, continuation].map((ids) => ids.map((id) => tokenizer.decode([id])));
    };
    assertEquals(texts({ context: "b:", continuation: " ab" }), [["b", ":"], [" a", "b"]]);
    // The space moves over, and is one token with what follows.
    assertEquals(texts({ context: "b: ", continuation: "ab" }), [["b", ":"], [" a", "b"]]);
    // Tokens across the border: as many as the context has by itself are taken off the whole.
    assertEquals(texts({ context: "xa", continuation: "b" }), [["x", "a"], []]);
    // An empty context is the token that ends texts.
    const { context, continuation } = encodePair(tokenizer, { context: "", continuation: "ab" });
    assertEquals([context, continuation.length], [[tokenizer.endOfText!], 1]);
    assertThrows(
      () => encodePair(byteTokenizer, { context: "", continuation: "ab" }),
      LevinError,
      "no token that begins",
    );
    // A token at the beginning of every text is in the context and not in the continuation.
    const beginning: TextTokenizer = {
      ...byteTokenizer,
      encode: (text) => [0, ...byteTokenizer.encode(text)],
    };
    assertEquals(encodePair(beginning, { context: "a", continuation: " b" }), {
      context: [0, 97],
      continuation: [32, 98],
    });
  }));

testOnCpu(
  "answers are scored by log-likelihood, and by log-likelihood a character",
  () =>
    inFolder(async (folder) => {
      const kind = transNormer({ vocab_size: 256 });
      const weights = await writeCheckpoint(folder, kind);
      using model = await loadModel(folder);
      const answers = ["é", "rod", "a long answer"];
      const bytes = (text: string) => [...new TextEncoder().encode(text)];
      const sums = answers.map((text) => {
        const ids = bytes(`fish ${text}`);
        const rows = kind.logits(weights, ids);
        return ids.slice(4).reduce((sum, id, i) => {
          const all = Math.log(rows[3 + i].reduce((s, x) => s + Math.exp(x), 0));
          return sum + rows[3 + i][id] - all;
        }, 0);
      });
      for (let gold = 0; gold < 3; gold++) {
        const pairs = answers.map((text) => ({ context: "fish", continuation: ` ${text}` }));
        const found = await answer(model, byteTokenizer, { prompts: [], answers, pairs, gold });
        found.logLikelihoods.forEach((sum, i) => assertAlmostEquals(sum, sums[i], 1e-4));
        assertEquals(found.acc, Number(sums.indexOf(Math.max(...sums)) === gold));
        // é is one character, though two bytes.
        const normed = [sums[0] / 1, sums[1] / 3, sums[2] / 13];
        assertEquals(found.acc_norm, Number(normed.indexOf(Math.max(...normed)) === gold));
        assertEquals(found.truncated, undefined);
      }
      const pairs = [{ context: "fish fish fish", continuation: " a" }];
      const cut = await answer(model, byteTokenizer, {
        prompts: [],
        answers: ["a"],
        pairs,
        gold: 0,
      }, 5);
      assertEquals(cut.truncated, 10);
    }),
);

test("acc_norm divides by characters: not by bytes, UTF-16 units or tokens, the space not among them", () => {
  // −2 and −1.9 a character; with one more character, or two units or four bytes for 😀, the first would win.
  const judged = (gold: number) => judge([-2, -5.7], ["😀", "rod"], gold);
  assertEquals(judged(0), { acc: 1, acc_norm: 0 });
  assertEquals(judged(1), { acc: 0, acc_norm: 1 });
  // Of equals the first.
  assertEquals(judge([-2, -2], ["a", "b"], 0), { acc: 1, acc_norm: 1 });
});

const answered = (acc: number): Answered => ({
  logLikelihoods: [],
  isGreedy: [],
  gold: 0,
  acc,
  acc_norm: 1 - acc,
});

test("standard errors are those of the sample's deviation, pooled over subjects", () => {
  const first = scoreOf([1, 0, 1, 1].map(answered), "acc");
  // Mean 3/4, variance (3 · 1/16 + 9/16) / 3 = 1/4.
  assertEquals(first, { value: 0.75, standardError: Math.sqrt(0.25 / 4), questions: 4 });
  assertEquals(scoreOf([1, 0, 1, 1].map(answered), "acc_norm").value, 0.25);
  assertEquals(scoreOf([answered(1)], "acc"), { value: 1, questions: 1 });
  const second = scoreOf([0, 1].map(answered), "acc");
  assertEquals(second, { value: 0.5, standardError: Math.sqrt(0.5 / 2), questions: 2 });
  const both = pooled([first, second]);
  assertAlmostEquals(both.value, 4 / 6, 1e-15);
  // (3 · 1/4 + 1 · 1/2) / (6 − 2) is the pooled variance.
  assertAlmostEquals(both.standardError!, Math.sqrt(1.25 / 4 / 6), 1e-15);
  assertEquals(pooled([first, scoreOf([answered(1)], "acc")]), { value: 0.8, questions: 5 });
});

test("results go on after any cut, and not in another evaluation's file", () =>
  inFolder(async (folder) => {
    const path = `${folder}/results.jsonl`;
    const lines: Result[] = [0, 1, 2].map((question) => ({
      ...answered(question % 2),
      task: "漢",
      question,
    }));
    {
      using file = await ResultsFile.open(path, { model: "m", shots: 0 });
      for (const line of lines) file.add(line);
    }
    const bytes = await Deno.readFile(path);
    for (let length = 0; length <= bytes.length; length += 1) {
      await Deno.writeFile(path, bytes.subarray(0, length));
      using file = await ResultsFile.open(path, { model: "m", shots: 0 });
      for (const line of lines) {
        const found = file.get("漢", line.question);
        if (found === undefined) file.add(line);
        else assertEquals(found, line);
      }
      assertEquals(await Deno.readFile(path), bytes, `cut to ${length} bytes`);
    }
    // Not two at once, whose lines would stand in the file twice.
    {
      using _ = await ResultsFile.open(path, { model: "m", shots: 0 });
      const second = () => ResultsFile.open(path, { model: "m", shots: 0 });
      await assertRejects(second, LevinError, "is being written by another evaluation");
    }
    const other = () => ResultsFile.open(path, { model: "n", shots: 0 });
    await assertRejects(other, LevinError, 'model was "m" and is "n"');
    assertEquals(await Deno.readFile(path), bytes);
    for (const text of ["precious notes", "precious\nnotes\n", '{"format":"x"}\n', "null\n"]) {
      await Deno.writeTextFile(path, text);
      await assertRejects(() => ResultsFile.open(path, { model: "m" }), FormatError);
      assertEquals(await Deno.readTextFile(path), text);
    }
  }));

const ROOT = new URL("..", import.meta.url).pathname;

function evaluate(args: readonly string[]) {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "examples/eval.ts", "--backend", "cpu", ...args],
    cwd: ROOT,
    stdout: "piped",
    stderr: "piped",
  });
}

test("`deno task eval`, killed at any moment, goes on to the same results", () =>
  inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(bytePair([["t", "h"]])));
    await writeCheckpoint(folder, llama({ vocab_size: 258, max_position_embeddings: 512 }));
    const word = fc.sample(fc.string({ unit: "grapheme", minLength: 3 }), {
      seed: 5,
      numRuns: 400,
    });
    const piqa = Array.from({ length: 60 }, (_, i) => ({
      goal: word[i],
      sol1: word[60 + i],
      sol2: word[120 + i],
      label: i % 2,
    }));
    const mmlu = Array.from({ length: 20 }, (_, i) => ({
      question: word[180 + i],
      subject: i < 12 ? "anatomy" : "law",
      choices: word.slice(200 + 4 * i, 204 + 4 * i),
      answer: i % 4,
    }));
    const write = (name: string, rows: object[]) =>
      Deno.writeTextFile(`${folder}/${name}`, rows.map((row) => JSON.stringify(row)).join("\n"));
    await Deno.mkdir(`${folder}/tasks`);
    await write("tasks/piqa.jsonl", piqa);
    await write("tasks/mmlu.jsonl", mmlu);
    const tasks = `piqa=${folder}/tasks/piqa.jsonl,mmlu=${folder}/tasks/mmlu.jsonl`;
    const args = (results: string) => [
      ...["--model", folder, "--tasks", tasks, "--results", `${folder}/out/${results}`],
      ...["--shots", "2", "--examples", tasks],
    ];
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    const whole = await evaluate(args("whole.jsonl")).output();
    assertEquals(whole.code, 0, text(whole.stderr));
    const lines = (await Deno.readTextFile(`${folder}/out/whole.jsonl`)).trimEnd().split("\n");
    assertEquals(lines.length, 1 + 80);

    const path = `${folder}/out/killed.jsonl`;
    const length = () => Deno.stat(path).then(({ size }) => size, () => 0);
    for (let kills = 0; kills < 2; kills++) {
      const before = await length();
      const child = evaluate(args("killed.jsonl")).spawn();
      while (await length() <= before + 500) await new Promise((go) => setTimeout(go, 2));
      child.kill("SIGKILL");
      await Promise.all([child.status, child.stdout.cancel(), child.stderr.cancel()]);
    }
    const left = (await Deno.readTextFile(path)).split("\n").length;
    assert(left > 5 && left < 80, `killed after ${left} lines`);
    // As if the last line had been half on the disk.
    await Deno.truncate(path, await length() - 7);
    const resumed = await evaluate(args("killed.jsonl")).output();
    assertEquals(resumed.code, 0, text(resumed.stderr));
    assert(/\d+ of 80 are answered/.test(text(resumed.stderr)), text(resumed.stderr));
    assertEquals(await Deno.readTextFile(path), lines.join("\n") + "\n");
    assertEquals(text(resumed.stdout), text(whole.stdout));

    const results = lines.slice(1).map((line) => JSON.parse(line) as Result);
    const share = (task: string) => {
      const of = results.filter((result) => result.task.startsWith(task));
      return (of.reduce((sum, { acc }) => sum + acc, 0) / of.length).toFixed(4);
    };
    const rows = text(whole.stdout).trimEnd().split("\n").map((row) => row.split(/ +/));
    const values = rows.slice(1).map(([task, metric, value, , n]) => [task, metric, value, n]);
    assertEquals(values.filter(([, metric]) => metric === "acc"), [
      ["piqa", "acc", share("piqa"), "60"],
      ["mmlu_anatomy", "acc", share("mmlu_anatomy"), "12"],
      ["mmlu_law", "acc", share("mmlu_law"), "8"],
      ["mmlu", "acc", share("mmlu"), "20"],
    ]);
    assertEquals(values[1].slice(0, 2), ["piqa", "acc_norm"]);

    const other = await evaluate([...args("killed.jsonl"), "--seed", "5"]).output();
    assertEquals(other.code, 1);
    assert(text(other.stderr).includes("seed was 1234 and is 5"), text(other.stderr));
  }));

test("`deno task eval` scores the demo's own checkpoint, byte by byte", () =>
  inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/text.txt`, "one fish two fish ".repeat(400));
    const sizes = "--size 16 --layers 2 --heads 2 --inner 24 --batch 2 --context 32 --backend cpu";
    const rest = "--steps 60 --samples 1 --generate 1 --learning-rate 0.02";
    const files = ["--text", `${folder}/text.txt`, "--out", `${folder}/runs`];
    const demo = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "-A", "--no-check", "examples/demo.ts"],
        ...`${sizes} ${rest}`.split(" "),
        ...files,
      ],
      cwd: ROOT,
    }).output();
    assertEquals(demo.code, 0, new TextDecoder().decode(demo.stderr));
    const [fish, other] = ["fish", "zzzz"];
    const rows = [0, 1].map((label) => ({
      question_stem: "one fish two",
      choices: { text: label === 0 ? [fish, other] : [other, fish], label: ["A", "B"] },
      answerKey: "AB"[label],
    }));
    await Deno.writeTextFile(`${folder}/task.json`, JSON.stringify(rows));
    const { code, stdout, stderr } = await evaluate([
      ...["--model", `${folder}/runs/checkpoint.safetensors`],
      ...["--tasks", `openbookqa=${folder}/task.json`, "--results", `${folder}/results.jsonl`],
    ]).output();
    assertEquals(code, 0, new TextDecoder().decode(stderr));
    assert(/openbookqa +acc +1\.0000 +0\.0000 +2\n/.test(new TextDecoder().decode(stdout)));
  }));

test("`deno task eval` names the question that it cannot ask, and keeps those before it", () =>
  inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(bytePair([["t", "h"]])));
    await writeCheckpoint(folder, llama({ vocab_size: 258, max_position_embeddings: 8 }));
    const piqa = ["ab", "far too long for it"].map((sol1) => ({
      goal: "g",
      sol1,
      sol2: "b",
      label: 0,
    }));
    const mmlu = { question: "q", subject: "law", choices: [..."abcd"], answer: 0 };
    const write = (name: string, rows: object[]) =>
      Deno.writeTextFile(`${folder}/${name}.json`, JSON.stringify(rows));
    await write("piqa", piqa);
    await write("mmlu", [mmlu]);
    const results = `${folder}/results.jsonl`;
    const failing = async (args: string) => {
      const all = ["--model", folder, "--results", results, ...args.split(" ")];
      const { code, stderr } = await evaluate(all).output();
      assertEquals(code, 1);
      return new TextDecoder().decode(stderr);
    };
    const long = await failing(`--tasks piqa=${folder}/piqa.json`);
    assert(long.includes("error: piqa, question 1: logLikelihoods: expected"), long);
    assertEquals((await Deno.readTextFile(results)).trimEnd().split("\n").length, 2);
    const tasks = `mmlu=${folder}/mmlu.json`;
    const few = await failing(`--tasks ${tasks} --shots 2 --examples ${tasks}`);
    assert(few.includes("error: mmlu_law: expected 2 examples"), few);
  }));

test("mistakes on the command line are one line", async () => {
  const cases: [string[], string][] = [
    [[], "expected --model and --tasks"],
    [["--model", "x", "--tasks", "piqa"], 'found "piqa"'],
    [["--model", "x", "--tasks", "sums=x"], 'found "sums=x"'],
    [["--model", "x", "--tasks", "piqa=x", "--shots", "1"], "--examples piqa=PATH"],
    [["--model", "x", "--tasks", "piqa=/nowhere"], "/nowhere"],
    [["--model", "x", "--tasks", "piqa=x,piqa=y"], "piqa once, found it twice"],
    [["--model", "x", "--tasks", ","], "names of boolq"],
    [["--model", "x", "--tasks", "piqa=x", "--examples", "piqa=y"], "--examples expects --shots"],
    [["--model", "x", "--tasks", "piqa=x", "--limit", "0"], "--limit expects at least 1"],
  ];
  await Promise.all(cases.map(async ([args, message]) => {
    const { code, stderr } = await evaluate(args).output();
    const text = new TextDecoder().decode(stderr);
    assertEquals(code, 1, text);
    assert(text.startsWith("error: ") && text.includes(message), text);
  }));
});

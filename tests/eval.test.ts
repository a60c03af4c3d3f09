/** `deno task eval`: prompts against strings written out by hand, scores against sums done by hand. */
import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { hashOf, readSplits } from "../examples/eval/documents.ts";
import { ask, type Pair } from "../examples/eval/prompts.ts";
import { capitalize, lengthOf, PythonRandom, strip, stripEnd } from "../examples/eval/python.ts";
import { type Result, ResultsFile } from "../examples/eval/results.ts";
import {
  answer,
  type Answered,
  encodePair,
  judge,
  pooled,
  scoreOf,
} from "../examples/eval/scoring.ts";
import { TASKS } from "../examples/eval/tasks.ts";
import { byteTokenizer } from "../examples/models/byte_tokenizer.ts";
import { loadTokenizer, type TextTokenizer } from "../examples/models/tokenizer.ts";
import { FormatError, LevinError } from "../mod.ts";
import { loadModel } from "../src/models/mod.ts";
import { bytePair } from "./byte_pair.ts";
import { inFolder, llama, transNormer, writeCheckpoint } from "./checkpoints.ts";
import { test, testOnCpu } from "./harness.ts";

type Fields = Record<string, unknown>;

const asDocuments = (rows: readonly Fields[]) =>
  rows.map((fields, i) => ({ fields, place: `document ${i + 1}` }));

/** What is asked of one document, after these examples. */
function asked(task: string, fields: Fields, examples: Fields[] = [], subject = "") {
  const [question] = ask(TASKS[task], { subject, documents: asDocuments([fields]) }, {
    shots: examples.length,
    // Random ones are drawn from one more, which the question itself can stand for.
    pool: asDocuments(TASKS[task].examples === "random others" ? [...examples, fields] : examples),
  });
  return question;
}

const alike = (context: string, continuations: string[]): Pair[] =>
  continuations.map((continuation) => ({ context, continuation }));

test("BoolQ is asked as in the harness", () => {
  const fields = { passage: "Fish swim.", question: "do fish swim", label: 1 };
  const { pairs, gold } = asked("boolq", fields);
  assertEquals(pairs, alike("Fish swim.\nQuestion: do fish swim?\nAnswer:", [" no", " yes"]));
  assertEquals(gold, 1);
  const example = { passage: "Eggs roll.", question: "do eggs swim", label: 0 };
  assertEquals(
    asked("boolq", fields, [example]).pairs[0].context,
    "Eggs roll.\nQuestion: do eggs swim?\nAnswer: no\n\n" +
      "Fish swim.\nQuestion: do fish swim?\nAnswer:",
  );
  // The original file says true and false, in another field.
  assertEquals(asked("boolq", { passage: "P", question: "q", answer: true }).gold, 1);
});

test("PIQA is asked as in the harness", () => {
  const fields = { goal: "Boil an egg", sol1: "Use water.", sol2: "Use sand.", label: 0 };
  const { pairs, gold } = asked("piqa", fields);
  assertEquals(pairs, alike("Question: Boil an egg\nAnswer:", [" Use water.", " Use sand."]));
  assertEquals(gold, 0);
  const example = { goal: "Catch fish", sol1: "Shout.", sol2: "Wait.", label: 1 };
  assertEquals(
    asked("piqa", fields, [example]).pairs[1].context,
    "Question: Catch fish\nAnswer: Wait.\n\nQuestion: Boil an egg\nAnswer:",
  );
});

test("HellaSwag is asked as in the harness, without its markup", () => {
  const { pairs, gold } = asked("hellaswag", {
    activity_label: "Boiling eggs",
    ctx_a: "[header] How to boil eggs [title] Take a pot.",
    ctx_b: "the Cook",
    endings: ["waits.", " [step] fills  it.", "sings [title] Loud", "runs [a] [b]."],
    label: "2",
  });
  assertEquals(
    pairs,
    alike("Boiling eggs: How to boil eggs. Take a pot. The cook", [
      " waits.",
      "  fills it.",
      " sings. Loud",
      " runs .",
    ]),
  );
  assertEquals(gold, 2);
});

test("WinoGrande is asked as in the harness: two contexts, one continuation", () => {
  const fields = { sentence: "The fish ate _ because it was hungry.", answer: "2" };
  const { pairs, gold } = asked("winogrande", { ...fields, option1: "it", option2: "the egg" });
  assertEquals(pairs, [
    { context: "The fish ate it", continuation: " because it was hungry." },
    { context: "The fish ate the egg", continuation: " because it was hungry." },
  ]);
  assertEquals(gold, 1);
  const example = { sentence: "Eggs roll _ .", option1: "down", option2: "up", answer: "1" };
  assertEquals(
    asked("winogrande", { ...fields, option1: "it", option2: "the egg" }, [example]).pairs[0]
      .context,
    "Eggs roll down .\n\nThe fish ate it",
  );
  assertThrows(
    () => asked("winogrande", { ...fields, sentence: "no", option1: "a", option2: "b" }),
    FormatError,
    'document 1: expected a blank _, found "no"',
  );
});

test("ARC is asked as in the harness, from either layout of its files", () => {
  const choices = { text: ["water", "sand", "air"], label: ["1", "2", "3"] };
  const fields = { question: "What do fish breathe?", choices, answerKey: "1" };
  const expected = alike("Question: What do fish breathe?\nAnswer:", [" water", " sand", " air"]);
  for (const task of ["arc_easy", "arc_challenge"]) {
    const { pairs, gold } = asked(task, fields);
    assertEquals(pairs, expected);
    assertEquals(gold, 0);
    const stem = "What do fish breathe?";
    const list = choices.text.map((text, i) => ({ text, label: "ABC"[i] }));
    const original = asked(task, { question: { stem, choices: list }, answerKey: "C" });
    assertEquals(original.pairs, expected);
    assertEquals(original.gold, 2);
  }
  assertThrows(
    () => asked("arc_easy", { ...fields, answerKey: "A" }),
    FormatError,
    'document 1: expected one of 1, 2, 3 in "answerKey", found "A"',
  );
});

test("OpenBookQA is asked as in the harness: the stem and nothing else", () => {
  const choices = { text: ["a pot", "a pan"], label: ["A", "B"] };
  const fields = { question_stem: "Eggs boil in", choices, answerKey: "A" };
  assertEquals(asked("openbookqa", fields).pairs, alike("Eggs boil in", [" a pot", " a pan"]));
  assertEquals(
    asked("openbookqa", fields, [{ ...fields, answerKey: " B" }]).pairs[0].context,
    "Eggs boil in a pan\n\nEggs boil in",
  );
});

test("MMLU is asked as in the harness: description, first examples, letters", () => {
  const choices = ["fins", "feet", "wings", "wheels"];
  const fields = { question: " What do fish have?\n", choices, answer: 0 };
  const { pairs, gold } = asked(
    "mmlu",
    fields,
    [{ ...fields, question: "Cars?", answer: 3 }],
    "high_school_biology",
  );
  assertEquals(
    pairs,
    alike(
      "The following are multiple choice questions (with answers) about high school biology.\n\n" +
        "Cars?\nA. fins\nB. feet\nC. wings\nD. wheels\nAnswer: D\n\n" +
        "What do fish have?\nA. fins\nB. feet\nC. wings\nD. wheels\nAnswer:",
      [" A", " B", " C", " D"],
    ),
  );
  assertEquals(gold, 0);
});

test("C-Eval is asked as in the harness", () => {
  const fields = { question: "鱼有____。", A: "鳍", B: "脚", C: "翼", D: "轮", answer: "A" };
  const { pairs, gold } = asked("ceval-valid", fields, [{ ...fields, answer: "C" }], "law");
  const question = "鱼有____。\nA. 鳍\nB. 脚\nC. 翼\nD. 轮\n答案：";
  assertEquals(
    pairs,
    alike(
      `以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n${question} C\n\n${question}`,
      [" A", " B", " C", " D"],
    ),
  );
  assertEquals(gold, 0);
  assertThrows(() => asked("ceval-valid", fields, [], "cooking"), FormatError, "found cooking");
});

test("samples are those of Python's random.Random(1234)", () => {
  const random = new PythonRandom(1234);
  const sample = (size: number, count: number) => random.sample([...Array(size).keys()], count);
  // Printed by CPython 3.11, one after the other from one generator.
  assertEquals(sample(10, 3), [7, 1, 0]);
  assertEquals(sample(1000, 5), [92, 932, 965, 961, 826]);
  assertEquals(sample(30, 6), [18, 1, 21, 22, 2, 3]);
  assertEquals(sample(22, 5), [11, 7, 0, 20, 19]);
  assertEquals(sample(21, 5), [15, 19, 14, 4, 2]);
  assertEquals(sample(5, 5), [1, 0, 3, 4, 2]);
  assertEquals(sample(200000, 6), [16924, 174917, 141843, 122132, 17975, 157670]);
  assertEquals(sample(86, 6), [11, 65, 74, 5, 34, 71]);
  assertEquals(sample(1, 1), [0]);
  assertThrows(() => sample(2, 3), LevinError, "expected 3 examples to draw from, found 2");
});

test("random examples differ from question to question and never are the question itself", () => {
  const rows = Array.from({ length: 30 }, (_, i) => ({
    goal: `goal ${i}`,
    sol1: "this",
    sol2: "that",
    label: i % 2,
  }));
  const split = { subject: "", documents: asDocuments(rows) };
  // Fields in another order are the same document.
  const pool = asDocuments(rows.map(({ label, ...rest }) => ({ label, ...rest })));
  const questions = ask(TASKS.piqa, split, { shots: 20, pool });
  questions.forEach(({ pairs }, i) => {
    const goals = [...pairs[0].context.matchAll(/goal \d+\n/g)].map(([goal]) => goal);
    assertEquals(goals.length, 21);
    assertEquals(new Set(goals).size, 21);
    assertEquals(goals[20], `goal ${i}\n`);
  });
  assertEquals(
    new Set(questions.map(({ pairs }) => pairs[0].context.slice(0, 40))).size > 10,
    true,
  );
  assertEquals(ask(TASKS.piqa, split, { shots: 20, pool, limit: 3 }), questions.slice(0, 3));
});

test("white space, lengths and capitals are Python's", () => {
  assertEquals(strip("\x1c\x85\u3000 a b \u2029\n"), "a b");
  assertEquals(strip("\ufeffa\ufeff"), "\ufeffa\ufeff");
  assertEquals([stripEnd(" a \n"), stripEnd("   "), stripEnd("")], [" a", "", ""]);
  assertEquals(lengthOf("a😀é"), 3);
  assertEquals(["ßabC", "éÉ", "ΑΣ", "", "a"].map(capitalize), ["Ssabc", "Éé", "Ας", "", "A"]);
  const long = " ".repeat(2 ** 16) + "a";
  assertEquals(stripEnd(long), long);
});

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

test("documents are lists or lines, of one subject or several; what is wrong is named", () =>
  inFolder(async (folder) => {
    const write = (name: string, text: string) => Deno.writeTextFile(`${folder}/${name}`, text);
    await write("a_test.jsonl", '{"x":1}\n\n{"x":2}');
    await write("b.json", '\n[{"x":3,"subject":"c"},{"x":4}]');
    await write("notes.txt", "no");
    const values = (await readSplits(folder)).map(({ subject, documents }) => [
      subject,
      documents.map(({ fields }) => fields.x),
    ]);
    assertEquals(values, [["a", [1, 2]], ["c", [3]], ["b", [4]]]);
    await write("valid.jsonl", '{"goal":"g","sol1":"a","sol2":"b"}\n'.repeat(2));
    await write("valid-labels.lst", "1\n0\n");
    const [{ documents }] = await readSplits(`${folder}/valid.jsonl`);
    assertEquals(documents.map((d) => TASKS.piqa.question(d).gold), [1, 0]);
    for (
      const [text, message] of [
        ["", "expected documents, found none"],
        ["[]", "expected documents, found none"],
        ['{"x":1}\n{"x":', "bad.jsonl:2 is not JSON"],
        ["[1]", "document 1: expected an object, found 1"],
      ]
    ) {
      await write("bad.jsonl", text);
      await assertRejects(() => readSplits(`${folder}/bad.jsonl`), FormatError, message);
    }
    const unlabelled = { goal: "g", sol1: "a", sol2: "b", label: -1 };
    const message = 'the number of the right choice, 0 to 1 in "label", found -1';
    assertThrows(() => asked("piqa", unlabelled), FormatError, message);
    assertThrows(() => asked("piqa", { goal: 3 }), FormatError, 'a text in "goal", found 3');
    assertThrows(() => asked("piqa", {}), FormatError, "found nothing");
    const before = await hashOf(folder);
    await write("b.json", '[{"x":5}]');
    assert(before !== await hashOf(folder));
  }));

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

test("mistakes on the command line are one line", async () => {
  const cases: [string[], string][] = [
    [[], "expected --model and --tasks"],
    [["--model", "x", "--tasks", "piqa"], 'found "piqa"'],
    [["--model", "x", "--tasks", "sums=x"], 'found "sums=x"'],
    [["--model", "x", "--tasks", "piqa=x", "--shots", "1"], "--examples piqa=PATH"],
    [["--model", "x", "--tasks", "piqa=/nowhere"], "/nowhere"],
    [["--model", "x", "--tasks", "piqa=x", "--limit", "0"], "1 or more"],
  ];
  await Promise.all(cases.map(async ([args, message]) => {
    const { code, stderr } = await evaluate(args).output();
    const text = new TextDecoder().decode(stderr);
    assertEquals(code, 1, text);
    assert(text.startsWith("error: ") && text.includes(message), text);
  }));
});

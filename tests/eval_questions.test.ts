/** What `deno task eval` asks: prompts against strings written out by hand, from documents of either layout. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { hashOf, readSplits } from "../examples/eval/documents.ts";
import { ask, type Pair } from "../examples/eval/prompts.ts";
import { capitalize, lengthOf, PythonRandom, strip, stripEnd } from "../examples/eval/python.ts";
import { TASKS } from "../examples/eval/tasks.ts";
import { FormatError, LevinError } from "../mod.ts";
import { inFolder } from "./checkpoints.ts";
import { test } from "./harness.ts";

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
  }));

test("a hash sees all that documents are made of: texts, names of subjects, labels", () =>
  inFolder(async (folder) => {
    const write = (name: string, text: string) => Deno.writeTextFile(`${folder}/${name}`, text);
    const hashes = new Set<string>();
    const changed = async () => {
      const hash = await hashOf(folder);
      assertEquals(await hashOf(folder), hash);
      assert(!hashes.has(hash), "the hash did not change");
      hashes.add(hash);
    };
    await write("anatomy.jsonl", '{"x":1}');
    await changed();
    await write("anatomy.jsonl", '{"x":2}');
    await changed();
    await Deno.rename(`${folder}/anatomy.jsonl`, `${folder}/law.jsonl`);
    await changed();
    await write("law-labels.lst", "0");
    await changed();
    await write("law-labels.lst", "1");
    await changed();
  }));

test("labels that are not one a document, and splits that are mixed, are refused", () =>
  inFolder(async (folder) => {
    const write = (name: string, text: string) => Deno.writeTextFile(`${folder}/${name}`, text);
    const document = '{"goal":"g","sol1":"a","sol2":"b"}\n';
    await write("valid.jsonl", document.repeat(2));
    for (const labels of ["1", "1\n0\n1\n", ""]) {
      await write("valid-labels.lst", labels);
      const message = `valid-labels.lst: expected 2 labels, found ${
        labels.match(/\d/g)?.length ?? 0
      }`;
      await assertRejects(() => readSplits(`${folder}/valid.jsonl`), FormatError, message);
    }
    // A file of another name has none, and is not its own.
    await write("valid", document);
    const [{ documents }] = await readSplits(`${folder}/valid`);
    assertEquals(documents.map(({ fields }) => Object.keys(fields)), [["goal", "sol1", "sol2"]]);
    // Questions of the test that stand among examples would be scored with them.
    await Deno.mkdir(`${folder}/mmlu`);
    await write("mmlu/anatomy_dev.jsonl", '{"x":1}');
    await write("mmlu/anatomy_test.jsonl", '{"x":2}');
    await assertRejects(
      () => readSplits(`${folder}/mmlu`),
      FormatError,
      "expected one file of each subject, found anatomy_dev.jsonl and anatomy_test.jsonl",
    );
  }));

/**
 * The tasks of the paper's benchmark, asked as lm-evaluation-harness 0.4 asks them: for each the question,
 * its answers, and which of them is right.
 */
import { FormatError } from "../../mod.ts";
import { chineseName } from "./ceval.ts";
import { choiceOf, type Document, has, nameOf, textOf, textsOf } from "./documents.ts";
import { capitalize, strip } from "./python.ts";

/** A question with its choices: answer i comes after prompt i, a space between them. */
export interface Question {
  readonly prompts: readonly string[];
  readonly answers: readonly string[];
  /** The number of the right choice. */
  readonly gold: number;
}

/** How a task is asked and scored. */
export interface Task {
  readonly question: (document: Document) => Question;
  readonly metrics: readonly Metric[];
  /**
   * Which examples come before the question: the first ones, or random ones, other than the question itself
   * if the task's examples may hold it.
   */
  readonly examples: "first" | "random" | "random others";
  /** What comes before everything else, for tasks made of subjects. */
  readonly description?: (subject: string) => string;
}

/** Share of questions whose right answer is the likeliest, or the likeliest by character. */
export type Metric = "acc" | "acc_norm";

/** A question whose choices are answers to one prompt. */
function choose(prompt: string, answers: readonly string[], gold: number): Question {
  return { prompts: answers.map(() => prompt), answers, gold };
}

const LETTERS = ["A", "B", "C", "D"];

function lettered(question: string, choices: readonly string[], end: string): string {
  const lines = choices.map((choice, i) => `${LETTERS[i]}. ${choice}\n`);
  return `${strip(question)}\n${lines.join("")}${end}`;
}

/** The choices of ARC and OpenBookQA: lists of texts and labels, or in the original files a list of both. */
function labelled(document: Document, original: string): { answers: string[]; gold: number } {
  const [answers, labels] = has(document, "choices.text")
    ? [textsOf(document, "choices.text"), textsOf(document, "choices.label")]
    : [textsOf(document, original, "text"), textsOf(document, original, "label")];
  return { answers, gold: nameOf(document, "answerKey", labels) };
}

function arc(document: Document): Question {
  const { answers, gold } = labelled(document, "question.choices");
  const isOriginal = has(document, "question.stem");
  const question = textOf(document, isOriginal ? "question.stem" : "question");
  return choose(`Question: ${question}\nAnswer:`, answers, gold);
}

/** HellaSwag's texts, rid of what is left of the markup of WikiHow. */
function withoutMarkup(text: string): string {
  return strip(text).replaceAll(" [title]", ". ").replaceAll(/\[[^\n]*?\]/g, "")
    .replaceAll("  ", " ");
}

/** The tasks by the harness's names. */
export const TASKS: Readonly<Record<string, Task>> = {
  boolq: {
    metrics: ["acc"],
    examples: "random others",
    question: (d) =>
      choose(
        `${textOf(d, "passage")}\nQuestion: ${textOf(d, "question")}?\nAnswer:`,
        ["no", "yes"],
        choiceOf(d, has(d, "label") ? "label" : "answer", 2),
      ),
  },
  piqa: {
    metrics: ["acc", "acc_norm"],
    examples: "random others",
    question: (d) =>
      choose(
        `Question: ${textOf(d, "goal")}\nAnswer:`,
        [textOf(d, "sol1"), textOf(d, "sol2")],
        choiceOf(d, "label", 2),
      ),
  },
  hellaswag: {
    metrics: ["acc", "acc_norm"],
    examples: "random others",
    question(d) {
      const context = `${textOf(d, "ctx_a")} ${capitalize(textOf(d, "ctx_b"))}`;
      const answers = textsOf(d, "endings").map(withoutMarkup);
      return choose(
        withoutMarkup(`${textOf(d, "activity_label")}: ${context}`),
        answers,
        choiceOf(d, "label", answers.length),
      );
    },
  },
  // The choices stand in the prompt, and what comes after the blank is scored (Trinh and Le, "A simple
  // method for commonsense reasoning", 2018).
  winogrande: {
    metrics: ["acc"],
    examples: "random others",
    question(d) {
      const sentence = textOf(d, "sentence");
      const blank = sentence.indexOf("_");
      if (blank < 0) throw new FormatError(`${d.place}: expected a blank _, found "${sentence}"`);
      const [before, after] = [sentence.slice(0, blank), strip(sentence.slice(blank + 1))];
      return {
        prompts: [textOf(d, "option1"), textOf(d, "option2")].map((option) => before + option),
        answers: [after, after],
        gold: nameOf(d, "answer", ["1", "2"]),
      };
    },
  },
  arc_easy: { metrics: ["acc", "acc_norm"], examples: "random", question: arc },
  arc_challenge: { metrics: ["acc", "acc_norm"], examples: "random", question: arc },
  openbookqa: {
    metrics: ["acc", "acc_norm"],
    examples: "random",
    question(d) {
      const { answers, gold } = labelled(d, "question.choices");
      const stem = has(d, "question_stem") ? "question_stem" : "question.stem";
      return choose(textOf(d, stem), answers, gold);
    },
  },
  mmlu: {
    metrics: ["acc"],
    examples: "first",
    description: (subject) =>
      `The following are multiple choice questions (with answers) about ` +
      `${subject.replaceAll("_", " ")}.\n\n`,
    question: (d) =>
      choose(
        lettered(textOf(d, "question"), textsOf(d, "choices"), "Answer:"),
        LETTERS,
        choiceOf(d, "answer", 4),
      ),
  },
  "ceval-valid": {
    metrics: ["acc", "acc_norm"],
    examples: "first",
    description: (subject) =>
      `以下是中国关于${chineseName(subject)}的单项选择题，请选出其中的正确答案。\n\n`,
    question: (d) =>
      choose(
        lettered(textOf(d, "question"), LETTERS.map((letter) => textOf(d, letter)), "答案："),
        LETTERS,
        nameOf(d, "answer", LETTERS),
      ),
  },
};

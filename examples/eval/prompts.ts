/**
 * What the model is asked: description, examples with their answers, and the question.
 */
import { LevinError } from "../../mod.ts";
import type { Document, Split } from "./documents.ts";
import { PythonRandom } from "./python.ts";
import type { Question, Task } from "./tasks.ts";

/** A text and one that may follow it. */
export interface Pair {
  readonly context: string;
  readonly continuation: string;
}

/** A question as the model gets it: one pair a choice. */
export interface Asked extends Question {
  readonly pairs: readonly Pair[];
}

/** Examples before each question. */
export interface ShotOptions {
  /** How many. Default 0. */
  shots?: number;
  /** What they are taken from. */
  pool?: readonly Document[];
  /** The seed of random ones. Default 1234, as the harness's. */
  seed?: number;
  /** Questions to ask, from the first on. Default: all. */
  limit?: number;
}

const BEFORE_ANSWER = " ";
const AFTER_EXAMPLE = "\n\n";

/**
 * All questions of a split, in order: random examples are drawn for one after the other, so that they are
 * those that the harness draws.
 *
 * @throws {LevinError} if there are not enough examples.
 */
export function ask(
  task: Task,
  { subject, documents }: Split,
  { shots = 0, pool = [], seed = 1234, limit = Infinity }: ShotOptions = {},
): Asked[] {
  const random = new PythonRandom(seed);
  const description = task.description?.(subject) ?? "";
  const examples = new Map<Document, string>();
  const exampleText = (document: Document) => {
    const known = examples.get(document);
    if (known !== undefined) return known;
    const { prompts, answers, gold } = task.question(document);
    const text = prompts[gold] + BEFORE_ANSWER + answers[gold] + AFTER_EXAMPLE;
    examples.set(document, text);
    return text;
  };
  return documents.slice(0, limit).map((document) => {
    const question = task.question(document);
    const chosen = shots === 0 ? [] : choose(task, document, { shots, pool, random });
    const before = description + chosen.map(exampleText).join("");
    const pairs = question.prompts.map((prompt, i) => ({
      context: before + prompt,
      continuation: BEFORE_ANSWER + question.answers[i],
    }));
    return { ...question, pairs };
  });
}

function choose(
  { examples }: Task,
  document: Document,
  { shots, pool, random }: { shots: number; pool: readonly Document[]; random: PythonRandom },
): readonly Document[] {
  if (examples === "random") return random.sample(pool, shots);
  if (examples === "random others") {
    // One more is drawn, in case that the question itself is among them.
    const itself = canonical(document.fields);
    return random.sample(pool, shots + 1).filter(({ fields }) => canonical(fields) !== itself)
      .slice(0, shots);
  }
  if (pool.length >= shots) return pool.slice(0, shots);
  throw new LevinError(`expected ${shots} examples to take the first ones, found ${pool.length}`);
}

/** JSON by which equal values are equal texts, whatever the order of their fields. */
function canonical(value: unknown): string {
  return JSON.stringify(
    value,
    (_, inner) =>
      typeof inner === "object" && inner !== null && !Array.isArray(inner)
        ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => a < b ? -1 : 1))
        : inner,
  );
}

// `deno task eval`: scores a model on the tasks of the paper's benchmark as lm-evaluation-harness does, from
// the tasks' own JSON or JSONL files. What has been answered is kept; run it again to go on.
import { dirname } from "node:path";
import { LevinError } from "../mod.ts";
import { chooseDevice } from "./demo/device.ts";
import { parseFlags, runCommand, UsageError } from "./demo/flags.ts";
import { progressBar } from "./demo/progress_bar.ts";
import { hashOf, readSplits, type Split } from "./eval/documents.ts";
import { ask, type Asked } from "./eval/prompts.ts";
import { ResultsFile } from "./eval/results.ts";
import { answer, type Answered, pooled, type Score, scoreOf } from "./eval/scoring.ts";
import { TASKS } from "./eval/tasks.ts";
import { openModel } from "./models/open.ts";

const FLAGS = {
  model: { kind: "text", help: "a folder with a released model, or a checkpoint of the demo" },
  tasks: {
    kind: "text",
    help: `what to ask: NAME=PATH,… with names of ${Object.keys(TASKS).join(", ")}; ` +
      "paths are .json or .jsonl files, or folders of them, one a subject",
  },
  examples: { kind: "text", help: "where --shots takes examples from: NAME=PATH,…" },
  shots: { kind: "count", help: "examples before each question", fallback: 0 },
  seed: { kind: "count", help: "of the choice of examples", fallback: 1234 },
  limit: { kind: "count", least: 1, help: "questions of each task or subject" },
  context: {
    kind: "count",
    least: 1,
    help: "tokens that the model sees at once, if not its own number",
  },
  results: { kind: "text", help: "the results, question by question", fallback: "runs/eval.jsonl" },
  dtype: { kind: "text", help: "f32 or f16, of a released model's weights", fallback: "f32" },
  backend: { kind: "text", help: "auto, webgpu, dawn, wasm or cpu", fallback: "auto" },
} as const;

/** One subject of a task, or all of it. */
interface Part {
  readonly task: string;
  /** As the harness calls it: `mmlu_anatomy`. */
  readonly name: string;
  readonly asked: readonly Asked[];
}

await runCommand(async () => {
  const usage = "deno task eval --model PATH --tasks NAME=PATH,… [flags]";
  const { values: flags } = parseFlags(FLAGS, Deno.args, usage);
  if (flags.model === undefined || flags.tasks === undefined) {
    throw new UsageError("expected --model and --tasks; --help lists all flags");
  }
  const tasks = pathsOf("tasks", flags.tasks);
  if (flags.shots === 0 && flags.examples !== undefined) {
    throw new UsageError("--examples expects --shots, how many of them come before each question");
  }
  const pools = flags.examples === undefined ? {} : pathsOf("examples", flags.examples);
  const parts: Part[] = [];
  for (const [name, path] of Object.entries(tasks)) {
    if (flags.shots > 0 && !Object.hasOwn(pools, name)) {
      throw new UsageError(`--shots expects --examples ${name}=PATH`);
    }
    const examples = flags.shots > 0 ? await readSplits(pools[name]) : [];
    parts.push(...await partsOf(name, await readSplits(path), examples, flags));
  }

  const device = await chooseDevice(flags.backend);
  const { model, tokenizer, files } = await openModel(flags.model, { device, dtype: flags.dtype });
  using _ = model;
  const contextLength = flags.context ?? model.contextLength;
  await Deno.mkdir(dirname(flags.results), { recursive: true });
  using results = await ResultsFile.open(flags.results, {
    model: files,
    dtype: flags.dtype,
    context: Number.isFinite(contextLength) ? contextLength : "any",
    tasks: await hashes(tasks),
    examples: await hashes(pools),
    shots: flags.shots,
    seed: flags.seed,
  });
  const ended = await answerAll(
    parts,
    results,
    (asked) => answer(model, tokenizer, asked, contextLength),
  );
  if (ended) console.log(table(parts, results));
});

/** `NAME=PATH,…` as an object. */
function pathsOf(flag: string, value: string): Record<string, string> {
  const paths: Record<string, string> = {};
  for (const pair of value.split(",")) {
    const [, name, path] = /^([^=]+)=(.+)$/.exec(pair) ?? [];
    if (name === undefined || !Object.hasOwn(TASKS, name)) {
      throw new UsageError(
        `--${flag} expects NAME=PATH,… with names of ${
          Object.keys(TASKS).join(", ")
        }, found "${pair}"`,
      );
    }
    if (Object.hasOwn(paths, name)) {
      throw new UsageError(`--${flag} expects ${name} once, found it twice`);
    }
    paths[name] = path;
  }
  return paths;
}

async function hashes(paths: Record<string, string>): Promise<Record<string, string>> {
  const pairs = Object.entries(paths).map(async ([name, path]) => [name, await hashOf(path)]);
  return Object.fromEntries(await Promise.all(pairs));
}

/** A task as one part, or a part a subject. */
function partsOf(
  name: string,
  splits: readonly Split[],
  examples: readonly Split[],
  { shots, seed, limit }: { shots: number; seed: number; limit?: number },
): Promise<Part[]> {
  const task = TASKS[name];
  const hasSubjects = task.description !== undefined;
  const merged = (all: readonly Split[]) => all.flatMap(({ documents }) => documents);
  const parts = hasSubjects ? splits : [{ subject: "", documents: merged(splits) }];
  return Promise.all(parts.map(async (split) => {
    const pool = hasSubjects
      ? merged(examples.filter(({ subject }) => subject === split.subject))
      : merged(examples);
    const full = hasSubjects ? `${name}_${split.subject}` : name;
    const asked = await naming(full, () => ask(task, split, { shots, seed, limit, pool }));
    return { task: name, name: full, asked };
  }));
}

/** What `fn` returns; what is wrong with it is said of `place`. */
async function naming<T>(place: string, fn: () => T | Promise<T>): Promise<T> {
  try {
    return await fn();
  } catch (cause) {
    if (!(cause instanceof LevinError)) throw cause;
    throw new LevinError(`${place}: ${cause.message}`, { cause });
  }
}

/** Answers what is not answered yet; false if it was interrupted. */
async function answerAll(
  parts: readonly Part[],
  results: ResultsFile,
  answer: (asked: Asked) => Promise<Answered>,
): Promise<boolean> {
  const bar = progressBar("{bar} {value}/{total}  {name}  {eta_formatted} left");
  let interrupted = false;
  const interrupt = () => void (interrupted = true);
  Deno.addSignalListener("SIGINT", interrupt);
  try {
    const todo = parts.flatMap(({ name, asked }) =>
      [...asked.entries()].filter(([question]) => results.get(name, question) === undefined)
        .map(([question, asked]) => ({ name, question, asked }))
    );
    const total = parts.reduce((sum, { asked }) => sum + asked.length, 0);
    if (todo.length < total) console.error(`${total - todo.length} of ${total} are answered`);
    bar.start(todo.length, 0, { name: "" });
    for (const { name, question, asked } of todo) {
      const answered = await naming(`${name}, question ${question}`, () => answer(asked));
      results.add({ task: name, question, ...answered });
      bar.increment({ name });
      // So that a signal can arrive.
      await new Promise((resolve) => setTimeout(resolve));
      if (interrupted) return false;
    }
    return true;
  } finally {
    bar.stop();
    Deno.removeSignalListener("SIGINT", interrupt);
    if (interrupted) console.error("interrupted; the same command goes on");
  }
}

/** The scores, of tasks made of subjects also together. */
function table(parts: readonly Part[], results: ResultsFile): string {
  const rows = Map.groupBy(parts, ({ task }) => task).entries().flatMap(([task, parts]) =>
    TASKS[task].metrics.flatMap((metric) => {
      const scores = parts.map(({ name, asked }) =>
        scoreOf(asked.map((_, question) => results.get(name, question)!), metric)
      );
      const rows = parts.map(({ name }, i) => row(name, metric, scores[i]));
      return parts[0].name === task ? rows : [...rows, row(task, metric, pooled(scores))];
    })
  ).toArray();
  const cut =
    parts.flatMap(({ name, asked }) => [...asked.keys().map((i) => results.get(name, i)!)])
      .filter(({ truncated }) => truncated !== undefined).length;
  const note = cut > 0 ? [`${cut} questions were cut to fit the model`] : [];
  return [row("task", "metric"), ...rows, ...note].join("\n");
}

function row(name: string, metric: string, score?: Score): string {
  const numbers = score === undefined
    ? ["value", "stderr", "questions"]
    : [score.value.toFixed(4), score.standardError?.toFixed(4) ?? "–", `${score.questions}`];
  const cells = numbers.map((cell) => cell.padStart(9));
  return [name.padEnd(40), metric.padEnd(8), ...cells].join(" ");
}

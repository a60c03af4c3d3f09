/**
 * The nine tasks of the paper's benchmark from end to end, with small models in released formats: `deno task eval`
 * scores them, and a client that asks `deno task serve` over HTTP what lm-evaluation-harness's `local-completions`
 * asks finds the same. `deno test -A tests/nine_tasks.test.ts` prints the scores and a reply.
 */
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { readSplits } from "../examples/eval/documents.ts";
import { ask, type Asked } from "../examples/eval/prompts.ts";
import type { Result } from "../examples/eval/results.ts";
import { judge } from "../examples/eval/scoring.ts";
import { TASKS } from "../examples/eval/tasks.ts";
import { loadTokenizer, type TextTokenizer } from "../examples/models/tokenizer.ts";
import { bytePair } from "./byte_pair.ts";
import { inFolder, llama, pythia, transNormer, writeCheckpoint } from "./checkpoints.ts";
import { run } from "./command.ts";
import { onDawn, test, webgpu } from "./harness.ts";
import { type Choice, parseLogprobs, scoring, startServer } from "./served.ts";

const FOLDER = new URL("tasks", import.meta.url).pathname;
/** A file each, or a folder with a file for each subject. */
const PATHS = Object.keys(TASKS).map((name) =>
  [name, `${FOLDER}/${name === "ceval-valid" ? name : `${name}.jsonl`}`] as const
);

const MERGES: [string, string][] = [["t", "h"], ["th", "e"], ["Ġ", "the"], ["i", "n"], ["Ġ", "a"]];
/** Bytes, what they merge to, and the end of a text. */
const SIZES = { vocab_size: 256 + MERGES.length + 1, max_position_embeddings: 1024 };
const gpu = webgpu === undefined ? "wasm" : onDawn ? "dawn" : "webgpu";
/** Where eval runs; serve runs in plain TypeScript, so that what is the same is so on two backends. */
const MODELS = [
  { kind: transNormer(SIZES), stored: { dtype: "F16", shards: 2 }, backend: gpu },
  { kind: llama(SIZES), stored: { dtype: "BF16", shards: 3 }, backend: "wasm" },
  { kind: pythia(SIZES), stored: { dtype: "F16" }, backend: "cpu" },
] as const;

/** All questions, by the names that results have. */
async function allQuestions(): Promise<Map<string, readonly Asked[]>> {
  const questions = new Map<string, readonly Asked[]>();
  for (const [name, path] of PATHS) {
    const task = TASKS[name];
    for (const split of await readSplits(path)) {
      const full = task.description === undefined ? name : `${name}_${split.subject}`;
      questions.set(full, ask(task, split));
    }
  }
  return questions;
}

/** A context and what may follow it, in tokens, as the harness splits them. */
function tokensOf(tokenizer: TextTokenizer, { pairs }: Asked) {
  return pairs.map(({ context, continuation }) => {
    assertEquals(context.trimEnd(), context);
    return {
      all: tokenizer.encode(context + continuation),
      length: tokenizer.encode(context).length,
    };
  });
}

async function post(url: string, body: object): Promise<{ choices: Choice[] }> {
  const reply = await fetch(`${url}/completions`, {
    method: "POST",
    // The harness sends one, whether there is a key or not.
    headers: { "content-type": "application/json", authorization: "Bearer " },
    body: JSON.stringify(body),
  });
  assertEquals(reply.status, 200);
  return await reply.json();
}

for (const { kind, stored, backend } of MODELS) {
  test(`${kind.name}: nine tasks by eval, and by the harness's client through serve`, () =>
    inFolder(async (folder) => {
      await writeCheckpoint(folder, kind, stored);
      await Deno.writeTextFile(`${folder}/tokenizer.json`, JSON.stringify(bytePair(MERGES)));
      await Deno.writeTextFile(
        `${folder}/tokenizer_config.json`,
        JSON.stringify({ eos_token: "<|endoftext|>" }),
      );
      const tasks = PATHS.map((pair) => pair.join("=")).join();
      const file = `${folder}/results.jsonl`;
      const evaluated = await run(
        "eval",
        `--model ${folder} --tasks ${tasks} --results ${file} --backend ${backend}`,
      );
      assertEquals(evaluated.code, 0, evaluated.err);
      console.log(`${kind.name}, ${stored.dtype}, ${backend}\n${evaluated.out}`);
      const results: Result[] = (await Deno.readTextFile(file)).trimEnd().split("\n").slice(1)
        .map((line) => JSON.parse(line));

      const tokenizer = await loadTokenizer(folder);
      const { child, url, stderr } = await startServer(folder);
      try {
        const right = new Map<string, number[]>();
        for (const [name, questions] of await allQuestions()) {
          for (const [question, asked] of questions.entries()) {
            const prompts = tokensOf(tokenizer, asked);
            const { choices } = await post(url, scoring(prompts.map(({ all }) => all)));
            const found = parseLogprobs(choices, prompts.map(({ length }) => length));
            const own = results.find((one) => one.task === name && one.question === question)!;
            found.forEach(([sum, isGreedy], i) => {
              assert(sum < -1, `${name} ${question}: ln p = ${sum}`);
              assertAlmostEquals(sum, own.logLikelihoods[i], 1e-3 * Math.abs(sum));
              assertEquals(isGreedy, own.isGreedy[i]);
            });
            const { acc } = judge(found.map(([sum]) => sum), asked.answers, asked.gold);
            right.set(name, [...right.get(name) ?? [], acc]);
          }
        }
        assertEquals(right.values().reduce((sum, some) => sum + some.length, 0), results.length);
        // The table has the client's scores.
        for (const [name, some] of right) {
          const mean = some.reduce((a, b) => a + b) / some.length;
          const row = new RegExp(`^${name} +acc +${mean.toFixed(4)} `, "m");
          assert(row.test(evaluated.out), `${row} is not in\n${evaluated.out}`);
        }

        // What it asks to have written: several prompts as tokens, greedily, up to a stop.
        const prompts = ["Question: who pulls the net?\nAnswer:", "the"].map((text) =>
          tokenizer.encode(text)
        );
        const written = await post(url, {
          ...{ prompt: prompts, model: "small", max_tokens: 12, temperature: 0 },
          ...{ stop: ["\n\n", "<|endoftext|>"], seed: 1234 },
        });
        assertEquals(written.choices.map(({ index }) => index), [0, 1]);
        assert(written.choices.every(({ text }) => text.length > 0));
        console.log(JSON.stringify(written));
      } finally {
        child.kill("SIGTERM");
        await child.status;
      }
      assert((await stderr).startsWith("ending:"), await stderr);
    }));
}

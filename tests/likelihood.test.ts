/** Log-likelihoods against float64 forward passes written for the tests. */
import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { LevinError, ShapeError } from "../mod.ts";
import {
  type Continuation,
  loadModel,
  logLikelihoods,
  tokenLikelihood,
  tokenLikelihoods,
} from "../src/models/mod.ts";
import { inFolder, KINDS, writeCheckpoint } from "./checkpoints.ts";
import { testOnBackends, testOnCpu } from "./harness.ts";

/** ln softmax in float64. */
function logSoftmax(logits: readonly number[]): number[] {
  const all = Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));
  return logits.map((x) => x - all);
}

/** Σ ln p(continuation | context), one token after the other, and whether all are the likeliest. */
function expected(
  logits: (ids: number[]) => number[][],
  { context, continuation }: Continuation,
): { logLikelihood: number; isGreedy: boolean } {
  let logLikelihood = 0;
  let isGreedy = true;
  const seen = [...context];
  for (const token of continuation) {
    const row = logSoftmax(logits(seen).at(-1)!);
    logLikelihood += row[token];
    isGreedy &&= row[token] === Math.max(...row);
    seen.push(token);
  }
  return { logLikelihood, isGreedy };
}

for (const kind of KINDS) {
  testOnBackends(
    `${kind.name}: log-likelihoods of continuations against float64`,
    (device) =>
      inFolder(async (folder) => {
        const weights = await writeCheckpoint(folder, kind);
        using model = await loadModel(folder, { device });
        const logits = (ids: number[]) => kind.logits(weights, ids);
        const context = [3, 1, 4, 1, 5];
        const likeliest = (ids: number[]) => {
          const row = logits(ids).at(-1)!;
          return row.indexOf(Math.max(...row));
        };
        const greedy = likeliest(context);
        const cases: Continuation[] = [
          { context, continuation: [9] },
          { context, continuation: [2] },
          { context, continuation: [greedy, likeliest([...context, greedy])] },
          { context, continuation: [2, 6, 5, 3] },
          // Equal tokens, split elsewhere.
          { context: [3, 1, 4], continuation: [1, 5, 2] },
          // Another context altogether.
          { context: [8], continuation: [9, 7] },
        ];
        for (const chunk of [512, 2]) {
          for (const asked of [cases, cases.slice(0, 4), cases.slice(0, 2), [cases[3]]]) {
            const found = await logLikelihoods(model, asked, { chunk });
            assertEquals(found.length, asked.length);
            asked.forEach((one, i) => {
              const { logLikelihood, isGreedy } = expected(logits, one);
              assertAlmostEquals(found[i].logLikelihood, logLikelihood, 2e-5);
              assertEquals(found[i].isGreedy, isGreedy);
              assertEquals(found[i].truncated, 0);
            });
          }
        }
        assert(expected(logits, cases[2]).isGreedy && !expected(logits, cases[3]).isGreedy);
      }),
  );
}

const [transNormer, llama] = KINDS;

testOnCpu("contexts that are too long lose their beginning", () =>
  inFolder(async (folder) => {
    const weights = await writeCheckpoint(folder, llama);
    using model = await loadModel(folder);
    const context = [1, 2, 3, 4, 5, 6, 7];
    const continuation = [8, 9];
    // The model sees 4 tokens at most: 5, 6, 7 and 8; the last is only predicted.
    const [found] = await logLikelihoods(model, [{ context, continuation }], { contextLength: 4 });
    assertEquals(found.truncated, 4);
    const row = (ids: number[]) => logSoftmax(kindLogits(ids).at(-1)!);
    const kindLogits = (ids: number[]) => llama.logits(weights, ids);
    assertAlmostEquals(found.logLikelihood, row([5, 6, 7])[8] + row([5, 6, 7, 8])[9], 2e-5);
    const whole = await logLikelihoods(model, [{ context, continuation }], { contextLength: 8 });
    assertEquals(whole[0].truncated, 0);
    assert(Math.abs(whole[0].logLikelihood - found.logLikelihood) > 1e-3);
  }));

testOnCpu(
  "every token of a text, its likelihood and the likeliest beside it",
  () =>
    inFolder(async (folder) => {
      const weights = await writeCheckpoint(folder, transNormer);
      using model = await loadModel(folder);
      const text = [3, 1, 4, 1, 5, 9, 2];
      const rows = transNormer.logits(weights, text.slice(0, -1)).map(logSoftmax);
      using context = model.start();
      const found = await tokenLikelihoods(model, context, {
        inputs: text.slice(0, -1),
        targets: text.slice(1),
        top: 3,
        chunk: 4,
      });
      assertEquals(context.positions, [6]);
      found.forEach(({ token, logProbability, likeliest }, i) => {
        assertEquals(token, text[i + 1]);
        assertAlmostEquals(logProbability, rows[i][token], 1e-5);
        const order = [...rows[i].keys()].sort((a, b) => rows[i][b] - rows[i][a]);
        assertEquals(likeliest.map(({ token }) => token), order.slice(0, 3));
        assertAlmostEquals(likeliest[0].logProbability, Math.max(...rows[i]), 1e-5);
      });
    }),
);

testOnCpu("the likeliest tokens are those that sorting finds, equal ones by number", () => {
  const logit = fc.integer({ min: -4, max: 4 });
  fc.assert(fc.property(
    fc.array(logit, { minLength: 1, maxLength: 30 }),
    fc.integer({ min: 0, max: 40 }),
    (logits, top) => {
      const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b);
      const { likeliest, logProbability } = tokenLikelihood(logits, 0, top);
      assertEquals(likeliest.map(({ token }) => token), order.slice(0, top));
      assertAlmostEquals(logProbability, logSoftmax(logits)[0], 1e-12);
      if (likeliest[0]?.token === 0) assertEquals(likeliest[0].logProbability, logProbability);
    },
  ));
});

testOnCpu("what cannot be scored is refused", () =>
  inFolder(async (folder) => {
    await writeCheckpoint(folder, llama);
    using model = await loadModel(folder);
    const refused: [Continuation, string][] = [
      [{ context: [], continuation: [1] }, "found 0 and 1"],
      [{ context: [1], continuation: [] }, "found 1 and 0"],
      [{ context: [1], continuation: Array(65).fill(1) }, "1 to 64, found 1 and 65"],
      [{ context: [19], continuation: [1] }, "from 0 to 18, found 19"],
      [{ context: [1], continuation: [-1] }, "found -1"],
    ];
    for (const [one, message] of refused) {
      const good = { context: [1], continuation: [2] };
      await assertRejects(() => logLikelihoods(model, [good, one]), ShapeError, message);
    }
    assertEquals(await logLikelihoods(model, []), []);
    assertThrows(() => tokenLikelihood([0, NaN, 1], 0), LevinError, "found NaN");
    assertThrows(() => tokenLikelihood([0, Infinity, 1], 0), LevinError, "found Infinity");
    assertThrows(() => tokenLikelihood([-Infinity], 0), LevinError, "found -Infinity");
  }));

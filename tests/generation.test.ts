/** Contexts and writing, for every kind of model. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import fc from "fast-check";
import { type Device, io, LevinError, noGrad, ShapeError, type Tensor, tensor } from "../mod.ts";
import {
  type Context,
  generate,
  generateBatch,
  type GenerateOptions,
  type LanguageModel,
  loadModel,
  sample,
} from "../src/models/mod.ts";
import { inFolder, type Kind, KINDS, writeCheckpoint } from "./checkpoints.ts";
import { assertNear, runs, testOnBackends, testOnCpu } from "./harness.ts";

const ids = (...rows: number[][]): Tensor => tensor(rows, { dtype: "i32" });
const sequence = (most: number) => fc.array(fc.nat(18), { minLength: 1, maxLength: most });

async function withModel(
  kind: Kind,
  fn: (model: LanguageModel) => void | Promise<void>,
): Promise<void> {
  await inFolder(async (folder) => {
    await writeCheckpoint(folder, kind, { seed: 3 });
    using model = await loadModel(folder);
    await fn(model);
  });
}

/** The logits of a whole sequence, which a test of their own compares with float64. */
async function logitsOf(model: LanguageModel, tokens: number[]): Promise<number[][]> {
  using logits = noGrad(() => model.forward(ids(tokens)));
  const data = Array.from(await logits.data());
  assert(data.some((value) => Math.abs(value) > 0.1));
  return tokens.map((_, t) => data.slice(t * 19, (t + 1) * 19));
}

for (const kind of KINDS) {
  const { name } = kind;

  testOnBackends(`${name}: parts of any length have the logits of the whole`, async () => {
    await withModel(kind, async (model) => {
      const parts = fc.array(sequence(7), { minLength: 1, maxLength: 4 });
      await fc.assert(
        fc.asyncProperty(parts, fc.integer({ min: 1, max: 9 }), async (parts, capacity) => {
          using context = model.start({ capacity });
          const logits = parts.map((part) => model.extend(context, ids(part)));
          const whole = parts.flat();
          assertEquals(context.positions, [whole.length]);
          const expected = (await logitsOf(model, whole)).flat();
          await assertNear(logits[0].concat(logits.slice(1), 1), expected, 1e-5);
        }),
        runs(6),
      );
    });
  });

  testOnBackends(`${name}: sequences of different lengths go on side by side`, async () => {
    await withModel(kind, async (model) => {
      const prompts = [[1, 2, 3, 4, 5], [18], [7, 7, 0]];
      const made = prompts.map((prompt) => {
        const context = model.start();
        model.extend(context, ids(prompt));
        return context;
      });
      using all = made[0].join(made.slice(1));
      for (const context of made) context[Symbol.dispose]();
      assertEquals(all.positions, [5, 1, 3]);
      // The last first, and the first twice.
      using chosen = all.select([2, 0, 0]);
      const logits = model.extend(chosen, ids([4, 9], [5, 5], [6, 1]));
      assertEquals([chosen.positions, all.positions], [[5, 7, 7], [5, 1, 3]]);
      const rows = [[...prompts[2], 4, 9], [...prompts[0], 5, 5], [...prompts[0], 6, 1]];
      const expected = await Promise.all(rows.map((row) => logitsOf(model, row)));
      await assertNear(logits, expected.flatMap((row) => row.slice(-2).flat()), 1e-5);
      // And step by step, one position for each.
      const next = model.extend(chosen, ids([8], [8], [3]), { last: true });
      const after = await Promise.all(
        [[...rows[0], 8], [...rows[1], 8], [...rows[2], 3]].map((row) => logitsOf(model, row)),
      );
      await assertNear(next, after.flatMap((row) => row.slice(-1).flat()), 1e-5);
    });
  });

  testOnBackends(`${name}: a context that is saved goes on later`, async () => {
    await withModel(kind, async (model) => {
      await inFolder(async (folder) => {
        const path = `${folder}/context.safetensors`;
        const prompt = [3, 1, 4, 1, 5, 9];
        {
          using one = model.start({ capacity: 2 });
          model.extend(one, ids(prompt));
          using pair = one.select([0, 0]);
          model.extend(pair, ids([2], [6]));
          await io.saveSafetensors(path, pair.tensors());
        }
        const { tensors } = await io.loadSafetensors(path);
        using context = await model.resume(tensors);
        assertEquals(context.positions, [7, 7]);
        const missing = Object.keys(tensors).find((name) => name.startsWith("layers.1."))!;
        const { [missing]: _, ...others } = tensors;
        await assertRejects(() => model.resume(others), LevinError, "Cannot restore");
        Object.values(tensors).forEach((t) => t.dispose());
        const logits = model.extend(context, ids([5], [3]));
        const rows = await Promise.all(
          [[...prompt, 2, 5], [...prompt, 6, 3]].map((row) => logitsOf(model, row)),
        );
        await assertNear(logits, rows.flatMap((row) => row.slice(-1).flat()), 1e-5);
      });
    });
  });

  testOnBackends(`${name}: what fails half-way leaves the context as it was`, async () => {
    await withModel(kind, async (model) => {
      using context = model.start({ capacity: 4 });
      model.extend(context, ids([1, 2, 3]));
      const { logits } = model;
      model.logits = () => {
        throw new Error("no room");
      };
      for (let attempt = 0; attempt < 3; attempt++) {
        assertThrows(() => model.extend(context, ids([4, 5, 6, 7, 8])), Error, "no room");
      }
      model.logits = logits;
      assertEquals(context.positions, [3]);
      const next = model.extend(context, ids([9]));
      await assertNear(next, (await logitsOf(model, [1, 2, 3, 9]))[3], 1e-5);
    });
  });

  testOnBackends(`${name}: the likeliest tokens, whatever the chunks and the company`, async () => {
    await withModel(kind, async (model) => {
      const prompts = [[1, 2, 3, 4, 5, 6, 7], [18, 0], [7]];
      const options = { maxTokens: 5, temperature: 0 };
      const alone = [];
      for (const prompt of prompts) {
        const expected: number[] = [];
        while (expected.length < 5) {
          const row = (await logitsOf(model, [...prompt, ...expected])).at(-1)!;
          expected.push(row.indexOf(Math.max(...row)));
        }
        for (const chunk of [1, 3, 512]) {
          assertEquals(await written(model, prompt, { ...options, chunk }), expected);
        }
        alone.push(expected);
      }
      assertEquals(await writtenSideBySide(model, prompts, options), alone);
    });
  });

  testOnBackends(`${name}: a prefix is shared, and a context goes on in place`, async () => {
    await withModel(kind, async (model) => {
      const [prefix, prompt] = [[4, 4, 17, 2], [11, 3]];
      const options = { maxTokens: 6, seed: 7 };
      const expected = await written(model, [...prefix, ...prompt], options);
      using seen = model.start();
      model.extend(seen, ids(prefix));
      for (let time = 0; time < 2; time++) {
        using copy = seen.select([0]);
        assertEquals(await written(model, prompt, { ...options, context: copy }), expected);
        const [first] = await writtenSideBySide(model, [prompt, [5]], { ...options, prefix: seen });
        assertEquals(first, expected);
      }
      assertEquals(seen.positions, [4]);
      const begun = await written(model, prompt, { ...options, maxTokens: 3, context: seen });
      assertEquals([begun, seen.positions], [expected.slice(0, 3), [8]]);
      const next = model.extend(seen, ids(begun.slice(-1)));
      const all = [...prefix, ...prompt, ...begun];
      await assertNear(next, (await logitsOf(model, all)).at(-1)!, 1e-5);
    });
  });
}

async function written(
  model: LanguageModel,
  prompt: number[],
  options: GenerateOptions & { context?: Context },
): Promise<number[]> {
  return await Array.fromAsync(generate(model, prompt, options));
}

async function writtenSideBySide(
  model: LanguageModel,
  prompts: number[][],
  options: GenerateOptions & { prefix?: Context },
): Promise<number[][]> {
  const all: number[][] = prompts.map(() => []);
  const ended = new Set<number>();
  for await (const { sequence, token, last } of generateBatch(model, prompts, options)) {
    assert(!ended.has(sequence), `sequence ${sequence} went on after its last token`);
    all[sequence].push(token);
    if (last) ended.add(sequence);
  }
  assertEquals(ended.size, prompts.length);
  return all;
}

testOnBackends("writing ends after a stop, alone and side by side", async () => {
  await withModel(KINDS[1], async (model) => {
    const options = { maxTokens: 12, seed: 2 };
    const prompts = [[1, 2, 3], [4], [9, 9]];
    const whole = await writtenSideBySide(model, prompts, options);
    assertEquals(whole.map((tokens) => tokens.length), [12, 12, 12]);
    assertEquals(whole[0], await written(model, prompts[0], options));
    assert(whole[1].some((token, i) => token !== whole[2][i]), "both sequences drew the same");
    const stops = [[whole[0][4]], [[whole[0][3], whole[0][4]], whole[1][2]]];
    for (const stop of stops) {
      const ends = (tokens: number[]) => {
        const isEnd = (i: number) =>
          stop.some((end) =>
            typeof end === "number"
              ? tokens[i] === end
              : end.every((token, at) => tokens[i - end.length + 1 + at] === token)
          );
        const at = tokens.findIndex((_, i) => isEnd(i));
        return at < 0 ? tokens : tokens.slice(0, at + 1);
      };
      assertEquals(await written(model, prompts[0], { ...options, stop }), ends(whole[0]));
      assert(ends(whole[0]).length < 12);
      assertEquals(await writtenSideBySide(model, prompts, { ...options, stop }), whole.map(ends));
    }
  });
});

testOnBackends(
  "writing takes no more memory with every token while the caches have room",
  async (device) => {
    for (const kind of KINDS) {
      await withModel(kind, async (model) => {
        const bytes: number[] = [];
        for await (const _ of generate(model, [1, 2, 3], { maxTokens: 25 })) {
          bytes.push(device.memory().liveBytes);
        }
        assertEquals(bytes, Array(25).fill(bytes[0]), kind.name);
      });
    }
  },
);

testOnBackends("what stops reading half-way leaves nothing behind", async (device: Device) => {
  await withModel(KINDS[2], async (model) => {
    const before = device.memory().liveBytes;
    for await (const _ of generate(model, [1, 2], {})) break;
    for await (const _ of generateBatch(model, [[1, 2], [3]], {})) break;
    // The table of rotations grew to its first size.
    const table = 64 * 4 * 4;
    assertEquals(device.memory().liveBytes, before + table);
  });
});

testOnCpu("writing refuses what makes no sense before it does anything", async () => {
  await withModel(KINDS[1], async (model) => {
    const refused = (options: GenerateOptions & { context?: Context }, what: string) =>
      assertRejects(() => written(model, [1], options), ShapeError, what);
    await refused({ chunk: 0 }, "chunk");
    await refused({ stop: [[]] }, "stops");
    await refused({ topK: 0 }, "topK");
    using pair = model.start({ batch: 2 });
    await refused({ context: pair }, "one sequence");
    const batch = (prompts: number[][], prefix?: Context) =>
      assertRejects(() => writtenSideBySide(model, prompts, { prefix, maxTokens: 1 }), ShapeError);
    await batch([]);
    await batch([[1], []]);
    await batch([[1], [19]]);
    await batch([[1]], pair);
    assertThrows(() => model.start({ batch: 0 }), ShapeError);
    assertThrows(() => pair.select([2]), ShapeError, "found 2");
    assertThrows(() => pair.select([]), ShapeError, "none");
    using empty = model.start();
    assertThrows(() => pair.join([empty]), LevinError, "empty");
    await assertRejects(() => model.resume({}), LevinError, "positions");
    const strange = { positions: ids([0]).reshape([1]), "layers.9.state": ids([1]) };
    await assertRejects(() => model.resume(strange), LevinError, "layers.9.state");
  });
});

testOnCpu("a draw is one of the likeliest, as often as its probability says", () => {
  const problem = fc.record({
    // On a grid, so that logits are equal or have weights that differ.
    logits: fc.array(fc.integer({ min: -64, max: 64 }).map((x) => x / 8), {
      minLength: 1,
      maxLength: 12,
    }),
    temperature: fc.double({ min: 0.2, max: 3, noNaN: true }),
    topK: fc.option(fc.integer({ min: 1, max: 12 }), { nil: undefined }),
    topP: fc.oneof(fc.constant(1), fc.double({ min: 0.05, max: 1, noNaN: true })),
  });
  fc.assert(
    fc.property(problem, ({ logits, temperature, topK, topP }) => {
      const order = logits.map((_, i) => i).sort((a, b) => logits[b] - logits[a] || a - b);
      const weight = (i: number) => Math.exp((logits[i] - logits[order[0]]) / temperature);
      const top = order.slice(0, topK);
      const total = top.reduce((sum, i) => sum + weight(i), 0);
      const kept: number[] = [];
      let mass = 0;
      for (const i of top) {
        // On the edge, either side is right.
        if (Math.abs(mass - topP * total) < 1e-9 * total) return;
        if (mass >= topP * total) break;
        kept.push(i);
        mass += weight(i);
      }
      const counts = new Map<number, number>();
      const draws = 2000;
      for (let i = 0; i < draws; i++) {
        const token = sample(logits, { temperature, topK, topP, random: (i + 0.5) / draws });
        counts.set(token, (counts.get(token) ?? 0) + 1);
      }
      for (const token of counts.keys()) assert(kept.includes(token), `drew ${token}`);
      for (const i of kept) {
        const expected = draws * weight(i) / mass;
        assert(Math.abs((counts.get(i) ?? 0) - expected) <= 1.01, `${i}: ${counts.get(i)}`);
      }
    }),
    { numRuns: 200 },
  );
});

testOnCpu("logits that are not finite are refused; −∞ is never drawn", () => {
  assertThrows(() => sample([1, NaN, 3], { random: 0.5 }), LevinError, "NaN for token 1");
  assertThrows(() => sample([1, Infinity], { random: 0.5 }), LevinError);
  assertThrows(() => sample([-Infinity, -Infinity], { random: 0 }), LevinError);
  for (const random of [0, 0.3, 0.999999]) {
    assertEquals(sample([-Infinity, 2, -Infinity], { random }), 1);
  }
  assertEquals(sample([5, 5, 5, 5], { topK: 2, random: 0.99 }), 1);
});

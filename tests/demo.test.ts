// `deno task demo` and `deno task generate` as people run them: in a process of their own.
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { decodeSafetensors } from "../src/io.ts";
import { inFolder, run, spawn } from "./command.ts";
import { test } from "./harness.ts";

const SMALL = "--backend cpu --size 16 --layers 2 --heads 2 --inner 24 --batch 2 --context 16 " +
  "--samples 1 --generate 20";

async function lossesOf(path: string): Promise<number[]> {
  const { tensors } = decodeSafetensors(await readFile(path));
  const losses = [...await tensors["training.losses"].data()];
  for (const t of Object.values(tensors)) t.dispose();
  return losses;
}

test("the demo learns, reports, saves, and its checkpoint goes on writing", () =>
  inFolder(async (folder) => {
    const { code, out, err } = await run(
      "demo",
      `${SMALL} --text ${folder}/text.txt --steps 150 --learning-rate 0.02 --out ${folder}/runs`,
    );
    assertEquals(code, 0, err);
    const heldOut = Number(/held-out loss ([\d.]+) nats/.exec(out)![1]);
    const unigram = Number(/unigram entropy ([\d.]+) nats/.exec(out)![1]);
    assert(heldOut < unigram - 0.3, `held out ${heldOut}, unigram ${unigram}`);
    assert(/\d tokens\/s with a state of \d+ bytes/.test(out));
    const svg = await readFile(`${folder}/runs/loss.svg`, "utf8");
    assert(svg.startsWith("<svg") && svg.includes("held out") && svg.trimEnd().endsWith("</svg>"));
    const losses = await lossesOf(`${folder}/runs/checkpoint.safetensors`);
    assertEquals(losses.length, 150);
    assert(losses[149] < losses[0] - 1);

    const write = (more: string) =>
      run(
        "generate",
        `--checkpoint ${folder}/runs/checkpoint.safetensors --backend cpu --prompt two ` +
          `--tokens 30 ${more}`,
      );
    const first = await write("--seed 1");
    assertEquals(first.code, 0, first.err);
    assert(first.out.startsWith("two"));
    assertEquals((await write("--seed 1")).out, first.out);
    assertNotEquals((await write("--seed 2 --temperature 2")).out, first.out);
  }));

test("a run that is interrupted and resumed has the losses of an unbroken one", () =>
  inFolder(async (folder) => {
    const args = `${SMALL} --text ${folder}/text.txt --steps 40`;
    const whole = await run("demo", `${args} --out ${folder}/whole`);
    assertEquals(whole.code, 0, whole.err);
    const broken = await run("demo", `${args} --out ${folder}/broken`, "it writes:");
    assertEquals(broken.code, 130, broken.err);
    const path = `${folder}/broken/checkpoint.safetensors`;
    const taken = (await lossesOf(path)).length;
    assert(taken >= 20 && taken < 40, `${taken} steps were taken`);
    const rest = await run(
      "demo",
      `--backend cpu --resume ${path} --out ${folder}/broken --generate 0`,
    );
    assertEquals(rest.code, 0, rest.err);
    const expected = await lossesOf(`${folder}/whole/checkpoint.safetensors`);
    assertEquals(await lossesOf(path), expected);
  }));

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.size ?? 0;
}

async function metricsOf(folder: string): Promise<{ step: number; loss: number }[]> {
  const text = await readFile(`${folder}/metrics.jsonl`, "utf8");
  return text.trimEnd().split("\n").map((line) => JSON.parse(line));
}

test("a run killed at random moments again and again ends in the bytes of an unbroken one", () =>
  inFolder(async (folder) => {
    // Checkpoints so often that most moments are in the midst of one.
    const args = `${SMALL} --text ${folder}/text.txt --steps 60 --generate 0 --samples 0 ` +
      `--precision f16 --accumulate 2 --recompute 1 --save-every 1`;
    const whole = await run("demo", `${args} --out ${folder}/whole`);
    assertEquals(whole.code, 0, whole.err);

    const broken = `${folder}/broken`;
    const checkpoint = `${broken}/checkpoint.safetensors`;
    const seed = Math.floor(Math.random() * 2 ** 32);
    console.log(`seed ${seed}`);
    let state = seed;
    const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
    const resumed: number[] = [];
    // On a machine at work little happens between two: then it takes more of them.
    const enough = () => resumed.length >= 4 && new Set(resumed).size >= 3;
    for (let kills = 0; kills < 6 || (!enough() && kills < 30); kills++) {
      const begun = await sizeOf(checkpoint) > 0;
      if (begun) resumed.push((await lossesOf(checkpoint)).length);
      const before = await sizeOf(`${broken}/metrics.jsonl`);
      const how = begun
        ? `--backend cpu --generate 0 --samples 0 --save-every 1 --resume ${checkpoint}`
        : args;
      const child = spawn("demo", `${how} --out ${broken}`);
      const draining = Promise.all(
        [child.stdout, child.stderr].map((pipe) => new Response(pipe).text()),
      );
      // Wait until it trains, and then some.
      const begin = Date.now();
      while (await sizeOf(`${broken}/metrics.jsonl`) <= before && Date.now() - begin < 60_000) {
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      await new Promise((resolve) => setTimeout(resolve, random() * 300));
      child.kill("SIGKILL");
      await draining;
      assertEquals((await child.status).signal, "SIGKILL", "it was not killed but ended by itself");
    }
    const rest = await run(
      "demo",
      `--backend cpu --generate 0 --samples 0 --resume ${checkpoint} --out ${broken}`,
    );
    assertEquals(rest.code, 0, rest.err);
    assert(enough(), `resumed after steps ${resumed}`);
    assertEquals(
      await readFile(checkpoint),
      await readFile(`${folder}/whole/checkpoint.safetensors`),
    );
    const lines = (metrics: { step: number; loss: number }[]) =>
      metrics.map(({ step, loss }) => [step, loss]);
    const expected = lines(await metricsOf(`${folder}/whole`));
    assertEquals(expected.map(([step]) => step), Array.from({ length: 60 }, (_, i) => i + 1));
    assertEquals(lines(await metricsOf(broken)), expected);
    const left = await readdir(broken);
    assertEquals(left.sort(), ["checkpoint.safetensors", "loss.svg", "metrics.jsonl"]);
  }));

test("bad input to the demo is one clear line and exit code 1, and damages no file", () =>
  inFolder(async (folder) => {
    await writeFile(`${folder}/empty.txt`, "");
    const made = await run(
      "demo",
      `${SMALL} --text ${folder}/text.txt --steps 1 --out ${folder}/a`,
    );
    assertEquals(made.code, 0, made.err);
    const checkpoint = `${folder}/a/checkpoint.safetensors`;
    const whole = await readFile(checkpoint);
    await writeFile(`${folder}/cut.safetensors`, whole.subarray(0, whole.length - 7));
    const cases = [
      [`--text ${folder}/absent.txt`, "absent.txt"],
      [`--text ${folder}/empty.txt`, "0 bytes are too few"],
      [`--resume ${folder}/cut.safetensors`, "cut short"],
      [`--resume ${folder}/text.txt`, "safetensors"],
      [`--resume ${checkpoint} --size 32`, "--size 32"],
      [`--size 30 --heads 4`, "4 heads do not divide"],
      [`--steps many`, `--steps expects a whole number, found "many"`],
      [`--batch 0`, "--batch expects at least 1"],
      [`--accumulate 0`, "--accumulate expects at least 1"],
      [`--precision f8`, `--precision expects f32 or f16, found "f8"`],
      [`--colour red`, "--colour"],
      [`--backend abacus`, "abacus"],
    ];
    for (const [args, message] of cases) {
      const { code, err } = await run("demo", `--backend cpu --out ${folder}/a ${args}`);
      assertEquals(code, 1, `${args}: ${err}`);
      assertEquals(err.trimEnd().split("\n").length, 1, err);
      assert(err.startsWith("error: ") && err.includes(message), `${args}: ${err}`);
    }
    const absent = await run("generate", `--checkpoint ${folder}/absent`);
    assertEquals([absent.code, absent.err.trimEnd().split("\n").length], [1, 1], absent.err);
    assertEquals(await readFile(checkpoint), whole);
  }));

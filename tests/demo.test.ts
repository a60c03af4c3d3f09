// `deno task demo` and `deno task generate` as people run them: in a process of their own.
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { decodeSafetensors } from "../src/io.ts";
import { testInDeno } from "./harness.ts";

const ROOT = new URL("..", import.meta.url).pathname;
const SMALL = "--backend cpu --size 16 --layers 2 --heads 2 --inner 24 --batch 2 --context 16 " +
  "--samples 1 --generate 20";

async function run(script: string, args: string, signalAfter?: string) {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", `examples/${script}.ts`, ...args.split(" ")],
    cwd: ROOT,
    stdout: "piped",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).spawn();
  let out = "";
  const reading = (async () => {
    for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
      out += text;
      if (signalAfter !== undefined && out.includes(signalAfter)) child.kill("SIGINT");
    }
  })();
  const err = await new Response(child.stderr).text();
  await reading;
  const { code } = await child.status;
  return { code, out, err };
}

async function inFolder(fn: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    const words = ["one fish ", "two fish ", "red fish ", "blue fish "];
    const text = Array.from({ length: 600 }, (_, i) => words[(i * i) % 4]).join("");
    await Deno.writeTextFile(`${folder}/text.txt`, text);
    await fn(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function lossesOf(path: string): Promise<number[]> {
  const { tensors } = decodeSafetensors(await Deno.readFile(path));
  const losses = [...await tensors["training.losses"].data()];
  for (const t of Object.values(tensors)) t.dispose();
  return losses;
}

testInDeno(
  "the demo learns, reports, saves, and its checkpoint goes on writing",
  () =>
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
      const svg = await Deno.readTextFile(`${folder}/runs/loss.svg`);
      assert(
        svg.startsWith("<svg") && svg.includes("held out") && svg.trimEnd().endsWith("</svg>"),
      );
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
    }),
);

testInDeno(
  "a run that is interrupted and resumed has the losses of an unbroken one",
  () =>
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
    }),
);

testInDeno(
  "bad input to the demo is one clear line and exit code 1, and damages no file",
  () =>
    inFolder(async (folder) => {
      await Deno.writeTextFile(`${folder}/empty.txt`, "");
      const made = await run(
        "demo",
        `${SMALL} --text ${folder}/text.txt --steps 1 --out ${folder}/a`,
      );
      assertEquals(made.code, 0, made.err);
      const checkpoint = `${folder}/a/checkpoint.safetensors`;
      const whole = await Deno.readFile(checkpoint);
      await Deno.writeFile(`${folder}/cut.safetensors`, whole.subarray(0, whole.length - 7));
      const cases = [
        [`--text ${folder}/absent.txt`, "absent.txt"],
        [`--text ${folder}/empty.txt`, "0 bytes are too few"],
        [`--resume ${folder}/cut.safetensors`, "cut short"],
        [`--resume ${folder}/text.txt`, "safetensors"],
        [`--resume ${checkpoint} --size 32`, "--size 32"],
        [`--size 30 --heads 4`, "4 heads do not divide"],
        [`--steps many`, `--steps expects a whole number, found "many"`],
        [`--batch 0`, "--batch expects at least 1"],
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
      assertEquals(await Deno.readFile(checkpoint), whole);
    }),
);

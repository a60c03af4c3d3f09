// `deno task test:chromium [--filter TEXT] [--runs N] [--minutes N] [--figures] [FILE...]`: tests in a headless
// Chromium, on its WebGPU through SwiftShader, a renderer in software: each file in a browser of its own, by
// default all files; and what bench/runtimes.ts tells of it. SwiftShader takes seconds to compile a variant of the
// kernels of attention, and properties draw ever new ones: --runs says how many runs of a property are enough.
import { parseArgs } from "@std/cli/parse-args";
import { build, type Plugin } from "esbuild";
import { chromium, type Page } from "playwright-core";

const ROOT = new URL("../..", import.meta.url).pathname;
const CHROMIUM = Deno.env.get("CHROMIUM") ?? "/usr/bin/chromium";
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-background-networking",
  "--disable-component-update",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--enable-features=Vulkan",
  "--js-flags=--expose-gc",
];

/** Files that no page can run, and why. Of other files, tests that ask for Node's modules end there as skipped. */
const NOT_IN_PAGES: Readonly<Record<string, string>> = {
  "tests/demo.test.ts": "they start the demo's programs in processes",
  "tests/eval.test.ts": "they read and write files, and start processes, by Deno's functions",
  "tests/paper.test.ts": "they start the paper's experiments in processes",
  "tests/serve.test.ts": "they read models from files by Deno's functions, and serve them",
  "tests/wasm_build.test.ts": "they compile WebAssembly from files",
};

/** Node's modules as tests import them: there is something to import, and whoever calls it is told. */
const absentModules: Plugin = {
  name: "absent modules",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^node:/ }, ({ path, kind }) => {
      // The library asks for them when it runs, and has to find what any page finds.
      if (kind === "dynamic-import") return { path, external: true };
      return { path, namespace: "absent" };
    });
    onLoad({ filter: /./, namespace: "absent" }, ({ path }) => ({
      resolveDir: ROOT,
      // What esbuild takes names from is the prototype of what a module exports.
      contents: `const { AbsentError } = require("./tests/runtimes/absent.ts");
        module.exports = Object.create(new Proxy({}, {
          get: (_, name) => () => { throw new AbsentError(\`\${String(name)} of ${path}\`); },
        }));`,
    }));
  },
};

/** The script that a page loads: the tests of `files`, then functions that run them and take figures. */
async function bundle(files: readonly string[]): Promise<string> {
  const imports = files.map((file) => `import ${JSON.stringify(`./${file}`)};`);
  const { outputFiles } = await build({
    stdin: {
      contents: [...imports, `export { runTests, takeFigures } from "./tests/runtimes/page.ts";`]
        .join("\n"),
      resolveDir: ROOT,
    },
    bundle: true,
    write: false,
    format: "esm",
    target: "es2022",
    plugins: [absentModules],
    define: { "import.meta.main": "false" },
  });
  return outputFiles[0].text;
}

/** What was counted, of one file or of all. */
interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

/** Evaluates `call`, of the functions above, in a page of a browser of its own; fails if the page does. */
async function inPage<T>(files: readonly string[], call: string, minutes: number): Promise<T> {
  const script = await bundle(files);
  const html = `<!doctype html><meta charset="utf-8"><title>Levin</title>`;
  await using server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    (request) => {
      const isScript = new URL(request.url).pathname === "/tests.js";
      const headers = {
        "content-type": isScript ? "text/javascript" : "text/html",
        // Only isolated pages may share memory between threads, as the WebAssembly backend does.
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-embedder-policy": "require-corp",
      };
      return new Response(isScript ? script : html, { headers });
    },
  );
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    const page = await browser.newPage();
    await page.addInitScript(`levinEnvironment = ${JSON.stringify(environment)}`);
    page.on("console", (message) => console.log(message.text()));
    const broken = new Promise<never>((_, reject) => {
      page.on("pageerror", reject);
      page.on("crash", () => reject(new Error("the page crashed")));
      timer = setTimeout(
        () => reject(new Error(`not done after ${minutes} minutes, which --minutes gives`)),
        minutes * 60_000,
      );
    });
    return await Promise.race([broken, evaluate<T>(page, server.addr.port, call)]);
  } finally {
    clearTimeout(timer);
    await browser.close();
  }
}

async function evaluate<T>(page: Page, port: number, call: string): Promise<T> {
  // WebGPU is offered to secure pages only; those of this machine count as such.
  await page.goto(`http://127.0.0.1:${port}/`);
  return await page.evaluate(`import("/tests.js").then((page) => page.${call})`);
}

/** Runs a file, and tells of it. */
async function run(file: string, filter: string, minutes: number): Promise<Counts> {
  console.log(`\n${file}`);
  if (file in NOT_IN_PAGES) {
    console.log(`all skipped: ${NOT_IN_PAGES[file]}`);
    return { passed: 0, failed: 0, skipped: 0 };
  }
  try {
    return await inPage<Counts>([file], `runTests(${JSON.stringify(filter)})`, minutes);
  } catch (error) {
    console.log(`${file} FAILED: ${(error as Error).message}`);
    return { passed: 0, failed: 1, skipped: 0 };
  }
}

async function allFiles(): Promise<string[]> {
  const names = await Array.fromAsync(Deno.readDir(`${ROOT}tests`), ({ name }) => name);
  return names.filter((name) => name.endsWith(".test.ts")).sort().map((name) => `tests/${name}`);
}

const { _: named, filter, runs, minutes, figures } = parseArgs(Deno.args, {
  string: ["filter", "runs", "minutes"],
  boolean: ["figures"],
  default: { filter: "", minutes: "15" },
});
const environment = { LEVIN_TEST_RUNS: runs };
const files = named.length > 0 ? named.map(String) : await allFiles();
const total: Counts = { passed: 0, failed: 0, skipped: 0 };
const lines: string[] = [];
for (const file of files) {
  const began = performance.now();
  const counts = await run(file, filter, Number(minutes));
  const seconds = Math.round((performance.now() - began) / 1000);
  for (const key of ["passed", "failed", "skipped"] as const) total[key] += counts[key];
  lines.push(`${file} ${told(counts)} (${seconds} s)`);
}
for (const file of files) {
  if (file in NOT_IN_PAGES) lines.push(`${file} not run here: ${NOT_IN_PAGES[file]}`);
}
console.log(`\n${lines.join("\n")}\n${told(total)}`);
if (figures) console.log(await inPage([], "takeFigures()", Number(minutes)));
if (total.passed + total.skipped === 0) throw new Error("no test of these files has such a name");
Deno.exit(total.failed === 0 ? 0 : 1);

function told({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`;
}

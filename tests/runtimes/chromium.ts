// `deno task test:chromium [--filter TEXT] [--figures] [--isolated] FILE...`: tests in a headless Chromium, on its
// WebGPU through SwiftShader, a renderer in software; and what bench/runtimes.ts tells of it. With --isolated the
// page is cross-origin isolated, so that threads may share memory.
import { parseArgs } from "@std/cli/parse-args";
import { build } from "esbuild";
import { chromium } from "playwright-core";

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
];

/** The script that a page loads: the tests of `files`, then a function that runs them. */
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
    external: ["node:*"],
    define: { "import.meta.main": "false" },
  });
  return outputFiles[0].text;
}

const { _: files, filter, figures, isolated } = parseArgs(Deno.args, {
  string: ["filter"],
  boolean: ["figures", "isolated"],
  default: { filter: "" },
});
if (files.length === 0) throw new Error("name the files of tests, say tests/tensor.test.ts");
const script = await bundle(files.map(String));
const html = `<!doctype html><meta charset="utf-8"><title>Levin</title>`;
await using server = Deno.serve(
  { port: 0, hostname: "127.0.0.1", onListen: () => {} },
  (request) => {
    const isScript = new URL(request.url).pathname === "/tests.js";
    const type = isScript ? "text/javascript" : "text/html";
    const isolation: Record<string, string> = isolated
      ? {
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-embedder-policy": "require-corp",
      }
      : {};
    return new Response(isScript ? script : html, {
      headers: { "content-type": type, ...isolation },
    });
  },
);
const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
let failed = 0;
try {
  const page = await browser.newPage();
  page.on("pageerror", (error) => {
    failed++;
    console.error(error.message);
  });
  page.on("console", (message) => console.log(message.text()));
  // WebGPU is offered to secure pages only; those of this machine count as such.
  await page.goto(`http://127.0.0.1:${server.addr.port}/`);
  const call = `import("/tests.js").then((tests) => tests.runTests(${JSON.stringify(filter)}))`;
  const counts = await page.evaluate(call) as { passed: number; failed: number; skipped: number };
  failed += counts.failed;
  console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
  if (counts.passed === 0) failed++;
  if (figures) {
    console.log(await page.evaluate(`import("/tests.js").then((tests) => tests.takeFigures())`));
  }
} finally {
  await browser.close();
}
Deno.exit(failed === 0 ? 0 : 1);

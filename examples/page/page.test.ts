// `deno task test:page`: the page in a real Chromium, as a visitor uses it.
import { assert, assertEquals, assertMatch } from "@std/assert";
import axe from "axe-core";
import { type Browser, chromium, type Page } from "playwright-core";
import { serveSite } from "./server.ts";

const CHROMIUM = Deno.env.get("CHROMIUM") ?? "/usr/bin/chromium";
const QUIET = [
  "--headless",
  "--no-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
/** WebGPU by a software renderer: slow, but Chromium's own compiler and validation. */
const WEBGPU = [
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--enable-features=Vulkan",
];
const NO_ADAPTER = ["--disable-gpu"];

const PHONE = { width: 390, height: 844 };
const TEXT = "one fish two fish red fish blue fish\n".repeat(120);

/** Opens the page, and fails if the console tells of an error. */
async function visit(
  { flags, query = "", colorScheme = "light", before = "", fails = false }: {
    flags: string[];
    query?: string;
    /** A script that the worker runs first. */
    before?: string;
    /** Whether the page is to end with a complaint. */
    fails?: boolean;
    colorScheme?: "light" | "dark";
  },
  fn: (page: Page) => Promise<void>,
): Promise<void> {
  const server = await serveSite(0);
  let browser: Browser | undefined;
  try {
    browser = await chromium.launch({ executablePath: CHROMIUM, args: [...QUIET, ...flags] });
    const page = await browser.newPage({ viewport: { width: 1200, height: 900 }, colorScheme });
    const errors: string[] = [];
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    page.on("pageerror", (error) => errors.push(error.message));
    page.setDefaultTimeout(240_000);
    await page.route("**/worker.js", async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: before + await response.text() });
    });
    await page.goto(`http://127.0.0.1:${server.addr.port}/${query}`);
    await page.locator(fails ? "#failure" : "#learn:enabled").waitFor();
    await fn(page);
    assertEquals(errors, []);
    assertEquals(await page.locator("#failure").isVisible(), fails);
  } finally {
    await browser?.close();
    await server.shutdown();
  }
}

/** Registers a test that opens a browser. */
function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, fn, sanitizeOps: false, sanitizeResources: false });
}

/** The steps taken and the bits a byte of the last one, as the page tells them. */
async function progress(page: Page): Promise<{ step: number; bits: number }> {
  const text = await page.locator("#progress").textContent() ?? "";
  const [, step, bits] = /step (\d+) of \d+ · ([\d.]+) bits/.exec(text) ?? [];
  return { step: Number(step ?? 0), bits: Number(bits) };
}

/** Waits until so many steps have been taken. */
async function learnt(page: Page, steps: number): Promise<void> {
  const step = `/step (\\d+)/.exec(document.querySelector("#progress").textContent)?.[1] ?? 0`;
  const failed = `!document.querySelector("#failure").hidden`;
  await page.waitForFunction(`${failed} || Number(${step}) >= ${steps}`);
  assert(!await page.locator("#failure").isVisible(), `${await page.textContent("#failure")}`);
}

/** The places of a line in pixels, as it is drawn. */
async function line(page: Page, selector: string): Promise<[x: number, y: number][]> {
  const path = await page.locator(selector).getAttribute("d") ?? "";
  return [...path.matchAll(/[ML]([\d.]+),([\d.]+)/g)].map(([, x, y]) => [Number(x), Number(y)]);
}

/** At the width of a desk, a phone and the smallest phone. */
async function fitsEveryWidth(page: Page): Promise<void> {
  for (const width of [1200, PHONE.width, 320]) {
    await page.setViewportSize({ ...PHONE, width });
    // Charts are drawn anew in the next frame.
    await page.waitForTimeout(200);
    const found = await page.evaluate("document.documentElement.scrollWidth");
    assertEquals(found, width, `at a width of ${width}`);
    const outside = await page.evaluate(
      `[...document.querySelectorAll(".chart text")].filter((text) => {
      const [inner, outer] = [text, text.ownerSVGElement].map((it) => it.getBoundingClientRect());
      return inner.left < outer.left - 1 || inner.right > outer.right + 1;
    }).map((text) => text.textContent)`,
    );
    assertEquals(outside, [], `at a width of ${width} these stick out of their charts`);
  }
}

/** What WCAG 2.2 AA and the best practices of axe find wanting. */
async function isAccessible(page: Page): Promise<void> {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate("axe.run()") as axe.AxeResults;
  assertEquals(violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]), []);
}

async function learnsAndWrites(page: Page, steps: number): Promise<void> {
  await page.fill("#text", TEXT);
  await page.click("#learn");
  await learnt(page, 1);
  const first = (await progress(page)).bits;
  assert(first > 5, `the first loss is ${first} bits`);
  // Frames go on while the worker computes.
  const frames = await page.evaluate(`new Promise((resolve) => {
    const began = performance.now();
    let frames = 0;
    const next = () => ++frames === 10 ? resolve(performance.now() - began) : requestAnimationFrame(next);
    next();
  })`) as number;
  assert(frames < 3000, `ten frames took ${frames} ms`);
  await learnt(page, steps);
  await page.click("#learn");
  await page.locator("#learn", { hasText: "Go on learning" }).waitFor();
  const { step, bits } = await progress(page);
  assert(bits < first - 1, `${first} bits became ${bits}`);
  const curve = await line(page, "#loss path.lightning:not(.faint)");
  assertEquals(curve.length, step);
  assert(curve.at(-1)![1] > curve[0][1] + 10, "the curve falls");
  const samples = await page.locator("#samples p").allTextContents();
  // Stopping may have cut the last one short.
  const [last, ...whole] = samples.toReversed();
  assert(last.length > 0 && whole.every((text) => text.length > 20), `${samples}`);
}

async function memoryStaysFlat(page: Page, tokens: number): Promise<void> {
  await page.click("#write");
  const count = `Number(document.querySelector("#tokens").textContent.replaceAll(",", ""))`;
  await page.waitForFunction(`${count} >= ${tokens}`);
  const kept = await page.textContent("#kept");
  const all = await page.textContent("#all");
  await page.waitForFunction(`${count} >= ${2 * tokens}`);
  assertEquals(await page.textContent("#kept"), kept);
  assertEquals(await page.textContent("#all"), all);
  await page.click("#write");
  await page.locator("#write", { hasText: "Write on and on" }).waitFor();
  assertEquals(kept, "24 KiB"); // 4 · 2 · (64 · 32 + 32 · 32): two layers of two heads, float32
  const flat = await line(page, "#bytes path.lightning");
  assert(flat.length >= 3 && flat.every(([, y]) => y === flat[0][1]), `${flat}`);
  const cache = await line(page, "#bytes path.softmax");
  assert(cache[1][1] < cache[0][1], "the cache's line rises");
  assert((await page.textContent("#endless"))!.length > tokens);
}

async function timesBoth(page: Page, least: number): Promise<void> {
  await page.click("#measure");
  await page.waitForFunction(
    `document.querySelectorAll("#times circle.lightning").length >= ${least} &&
     document.querySelectorAll("#times circle.softmax").length >= ${least}`,
  );
  await page.click("#measure");
  await page.locator("#measure", { hasText: "Measure" }).waitFor();
  await page.waitForFunction(`document.querySelector("#verdict").textContent.startsWith("At n")`);
  assertMatch(
    (await page.textContent("#verdict"))!,
    /At n = [\d,]+ .* takes [\d.,]+ ms and .* [\d.,]+ ms, [\d.]+ times/,
  );
  assert(await page.locator("#rows tr").count() >= least);
}

test("without WebGPU the page says so and learns on the CPU, staying alive", () =>
  visit({ flags: NO_ADAPTER }, async (page) => {
    assertEquals(await page.textContent("#device"), "Computing on your CPU.");
    assert(await page.locator("#notice").isVisible());
    assertMatch(
      (await page.textContent("#notice"))!,
      /No GPU through WebGPU\. .*WebGPU found no adapter/s,
    );
    await isAccessible(page);
    await learnsAndWrites(page, 40);
    assert(await page.locator("#samples p").count() >= 2);
    await memoryStaysFlat(page, 200);
    await timesBoth(page, 3);
    await isAccessible(page);
    await fitsEveryWidth(page);
  }));

test("with WebGPU the page learns, writes and measures on it", () =>
  visit({ flags: WEBGPU, query: "?backend=webgpu" }, async (page) => {
    assertMatch((await page.textContent("#device"))!, /WebGPU: google swiftshader/);
    assertEquals(await page.locator("#notice").isVisible(), false);
    await learnsAndWrites(page, 10);
    await memoryStaysFlat(page, 20);
    await timesBoth(page, 3);
  }));

test("a browser that knows no WebGPU, by the keyboard alone, and in the dark", () => {
  const before = `Object.defineProperty(WorkerNavigator.prototype, "gpu", { value: undefined });`;
  return visit({ flags: NO_ADAPTER, colorScheme: "dark", before }, async (page) => {
    assertMatch((await page.textContent("#notice"))!, /This runtime has no navigator\.gpu/);
    const [red] =
      (await page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))!
        .toString().match(/\d+/g)!;
    assert(Number(red) < 60, `the background is ${red}`);
    await isAccessible(page);
    await page.keyboard.press("Tab");
    assertEquals(await page.evaluate("document.activeElement.id"), "text");
    await page.keyboard.press("Tab");
    assertEquals(await page.evaluate("document.activeElement.id"), "learn");
    await page.keyboard.press("Enter");
    await learnt(page, 2);
    await page.keyboard.press("Enter");
    await page.locator("#learn", { hasText: "Go on learning" }).waitFor();
    await fitsEveryWidth(page);
  });
});

test("too little text is refused in words", () =>
  visit({ flags: NO_ADAPTER }, async (page) => {
    await page.fill("#text", "too short");
    await page.click("#learn");
    await page.locator("#failure").waitFor();
    assertMatch((await page.textContent("#failure"))!, /9 bytes are too few/);
    // The next try begins anew, and the complaint goes.
    await page.fill("#text", TEXT);
    await page.click("#learn");
    await learnt(page, 1);
  }));

test("a device that is insisted on and missing is told of", () =>
  visit({ flags: NO_ADAPTER, query: "?backend=webgpu", fails: true }, async (page) => {
    assertMatch((await page.textContent("#failure"))!, /Cannot initialise WebGPU: .* no adapter/);
    assertEquals(await page.textContent("#device"), "No device could be opened.");
    assertEquals(await page.locator("button:enabled").count(), 0);
    await isAccessible(page);
    await fitsEveryWidth(page);
  }));

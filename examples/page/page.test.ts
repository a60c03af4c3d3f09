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
    // In software WebGPU compiles for a minute, on a busy machine for ten.
    page.setDefaultTimeout(flags === WEBGPU ? 1_200_000 : 240_000);
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

/** The steps taken and the bits a byte of the last one, as the page tells them each time that it does. */
async function progress(page: Page): Promise<{ step: number; bits: number }[]> {
  const texts = await page.evaluate("globalThis.told") as string[];
  return texts.map((text) => {
    const [, step, bits] = /step (\d+) of \d+ · ([\d.]+) bits/.exec(text) ?? [];
    return { step: Number(step), bits: Number(bits) };
  });
}

/** How many steps the page says were taken. */
const STEP =
  `Number(/step (\\d+)/.exec(document.querySelector("#progress").textContent)?.[1] ?? 0)`;

/** Waits until so many steps have been taken. */
async function learnt(page: Page, steps: number): Promise<void> {
  const failed = `!document.querySelector("#failure").hidden`;
  await page.waitForFunction(`${failed} || ${STEP} >= ${steps}`);
  assert(!await page.locator("#failure").isVisible(), `${await page.textContent("#failure")}`);
}

/**
 * Presses a job's button from within the page as soon as `condition` holds there, so that the job cannot end
 * meanwhile; waits for the button's name in idleness. What has ended by itself is left alone.
 */
async function stopWhen(page: Page, button: string, condition: string, idle: string) {
  await page.waitForFunction(`(() => {
    const button = document.querySelector("${button}");
    const failed = !document.querySelector("#failure").hidden;
    if (button.textContent === "${idle}" || failed) return true;
    if (!(${condition})) return false;
    button.click();
    return true;
  })()`);
  assert(!await page.locator("#failure").isVisible(), `${await page.textContent("#failure")}`);
  await page.locator(button, { hasText: idle }).waitFor();
}

/** The places of a line in pixels, as it is drawn: charts are, in the frame after what they show is told of. */
async function line(page: Page, selector: string): Promise<[x: number, y: number][]> {
  await page.evaluate(
    "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))",
  );
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
  // Noted as it is told: however fast the machine, the first loss is among it.
  await page.evaluate(`{
    globalThis.told = [];
    const line = document.querySelector("#progress");
    new MutationObserver(() => told.push(line.textContent)).observe(line, { childList: true });
  }`);
  await page.click("#learn");
  await learnt(page, 1);
  // Frames go on while the worker computes.
  const frames = await page.evaluate(`new Promise((resolve) => {
    const began = performance.now();
    let frames = 0;
    const next = () => ++frames === 10 ? resolve(performance.now() - began) : requestAnimationFrame(next);
    next();
  })`) as number;
  // On a busy machine they take a second, and what is computed or compiled in between a minute.
  assert(frames < 20_000, `ten frames took ${frames} ms`);
  await stopWhen(page, "#learn", `${STEP} >= ${steps}`, "Go on learning");
  const told = await progress(page);
  const [{ bits: first }, { step, bits }] = [told[0], told.at(-1)!];
  assert(first > 5, `the first loss is ${first} bits`);
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
  // The page is told of tokens at most every 80 ms, which may be thousands.
  const points =
    `document.querySelector("#bytes path.lightning").getAttribute("d").split("L").length`;
  await page.waitForFunction(`${count} >= ${2 * tokens} && ${points} >= 3`);
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
  await page.locator("#measure", { hasText: "Stop measuring" }).waitFor();
  const timed = (form: string) => `document.querySelectorAll("#times circle.${form}").length`;
  const enough = ["lightning", "softmax"].map((form) => `${timed(form)} >= ${least}`).join(" && ");
  await stopWhen(page, "#measure", enough, "Measure");
  await page.waitForFunction(`document.querySelector("#verdict").textContent.startsWith("At n")`);
  assertMatch(
    (await page.textContent("#verdict"))!,
    /At n = [\d,]+ .* takes [\d.,]+ ms and .* [\d.,]+ ms, [\d.]+ times/,
  );
  // A form whose call took a quarter of a second was not asked for more.
  const rows = await page.locator("#rows tr").count();
  assert(rows >= 1 && (rows >= least || await isSlow(page)), `${rows} lengths were measured`);
}

/** Whether the longest call that was measured took so long that the page gave up on longer ones. */
async function isSlow(page: Page): Promise<boolean> {
  const cells = await page.locator("#rows tr:last-child td").allTextContents();
  return cells.slice(1, 3).some((ms) => Number(ms.replaceAll(",", "")) > 200);
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
  // Every turn of the worker takes 10 ms: on no machine has it learnt all before the keys are pressed.
  const before = `Object.defineProperty(WorkerNavigator.prototype, "gpu", { value: undefined });
  {
    const { postMessage } = MessagePort.prototype;
    MessagePort.prototype.postMessage = function (...message) {
      setTimeout(() => postMessage.apply(this, message), 10);
    };
  }`;
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
    const shown = await page.locator("[hidden]").evaluateAll((all) =>
      (all as unknown as { id: string; checkVisibility(): boolean }[])
        .filter((one) => one.checkVisibility()).map(({ id }) => id)
    );
    assertEquals(shown, [], "these are hidden and seen");
    assertMatch((await page.textContent("#failure"))!, /Cannot initialise WebGPU: .* no adapter/);
    assertEquals(await page.textContent("#device"), "No device could be opened.");
    assertEquals(await page.locator("button:enabled").count(), 0);
    await isAccessible(page);
    await fitsEveryWidth(page);
  }));

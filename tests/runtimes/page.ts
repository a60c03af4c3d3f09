/** What a page is asked for: to run the tests that were registered in it, and figures of its WebGPU. */
import { figures } from "../../bench/runtimes.ts";
import { DeviceError } from "../../mod.ts";
import { type BrowserTest, wasm, webgpu } from "../harness.ts";
import { AbsentError } from "./absent.ts";

/** Runs those whose names contain `filter`, one after the other, and tells the console of each. */
export async function runTests(filter: string) {
  if (webgpu === undefined) throw new Error("Cannot test in this browser: it has no WebGPU");
  console.log(`${wasm.describe()}\n\n${webgpu.describe()}`);
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const { levinTests = [] } = globalThis as { levinTests?: BrowserTest[] };
  for (const { name, fn, ignore } of levinTests.filter(({ name }) => name.includes(filter))) {
    if (ignore) {
      counts.skipped++;
      console.log(`${name} ... skipped`);
      continue;
    }
    const start = performance.now();
    const error = await errorOf(fn);
    const took = `${Math.round(performance.now() - start)}ms`;
    const reason = reasonToSkip(error);
    if (reason !== undefined) {
      counts.skipped++;
      console.log(`${name} ... skipped (${took}): ${reason}`);
    } else if (error !== undefined) {
      counts.failed++;
      console.log(`${name} ... FAILED (${took}): ${error.stack}`);
    } else {
      counts.passed++;
      console.log(`${name} ... ok (${took})`);
    }
  }
  return counts;
}

/** What `fn` threw. */
async function errorOf(fn: () => void | Promise<void>): Promise<Error | undefined> {
  try {
    await fn();
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

/** What a test that was begun turned out to need and a page has not; undefined if that is not why it failed. */
function reasonToSkip(error: Error | undefined): string | undefined {
  if (error instanceof AbsentError) return `it came to ${error.message}, which pages have not`;
  if (error instanceof DeviceError && error.message.includes('needs the feature "shader-f16"')) {
    return "it came to f16, which this browser's device has not";
  }
}

/** Figures of the page's WebGPU, as JSON. */
export async function takeFigures(): Promise<string> {
  return `${JSON.stringify(await figures(webgpu!))}\n${webgpu!.describe()}`;
}

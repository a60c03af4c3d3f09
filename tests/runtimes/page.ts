/** What a page is asked for: to run the tests that were registered in it, and figures of its WebGPU. */
import { figures } from "../../bench/runtimes.ts";
import { DeviceError } from "../../mod.ts";
import { type BrowserTest, wasm, webgpu } from "../harness.ts";

/** Runs those whose names contain `filter`, one after the other, and tells the console of each. */
export async function runTests(filter: string) {
  console.log(`${wasm.describe()}\n\n${webgpu?.describe() ?? "no WebGPU"}`);
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const { levinTests = [] } = globalThis as { levinTests?: BrowserTest[] };
  for (const { name, fn, ignore } of levinTests.filter(({ name }) => name.includes(filter))) {
    if (ignore) {
      counts.skipped++;
      continue;
    }
    const start = performance.now();
    try {
      await fn();
      counts.passed++;
      console.log(`${name} ... ok (${Math.round(performance.now() - start)}ms)`);
    } catch (error) {
      if (
        error instanceof DeviceError && error.message.includes('needs the feature "shader-f16"')
      ) {
        counts.skipped++;
        console.log(
          `${name} ... skipped from where it needs f16, which this browser's device has not`,
        );
        continue;
      }
      counts.failed++;
      console.log(`${name} ... FAILED: ${(error as Error).stack}`);
    }
  }
  return counts;
}

/** Figures of the page's WebGPU, as JSON. */
export async function takeFigures(): Promise<string> {
  return `${JSON.stringify(await figures(webgpu!))}\n${webgpu!.describe()}`;
}

/**
 * The float32 multiply-adds that this machine's WebAssembly SIMD can do, and no kernel will pass. Run as a
 * worker, this file is one of its threads.
 */
import openWabt from "wabt";
import source from "./simd_peak.wat" with { type: "text" };

/** Operations of one iteration of the loop in simd_peak.wat. */
const OPERATIONS = 12 * 4 * 2;
const ITERATIONS = 2e7;

/** GFLOP/s of `threads` threads at once: the best of five runs. */
export async function simdPeak(threads: number): Promise<number> {
  const wabt = await openWabt();
  const parsed = wabt.parseWat("simd_peak.wat", source, { simd: true, relaxed_simd: true });
  const { buffer } = parsed.toBinary({});
  const module = await WebAssembly.compile(buffer as BufferSource);
  const workers = Array.from(
    { length: threads },
    () => new Worker(new URL(import.meta.url), { type: "module" }),
  );
  const answer = (worker: Worker) =>
    new Promise<void>((resolve, reject) => {
      worker.onmessage = () => resolve();
      worker.onerror = (event) => reject(new Error(event.message));
    });
  const all = (message: unknown) =>
    Promise.all(workers.map((worker) => {
      const answered = answer(worker);
      worker.postMessage(message);
      return answered;
    }));
  await Promise.all(workers.map(answer));
  await all(module);
  let best = Infinity;
  for (let i = 0; i < 5; i++) {
    const began = performance.now();
    await all("run");
    best = Math.min(best, performance.now() - began);
  }
  workers.forEach((worker) => worker.terminate());
  return threads * ITERATIONS * OPERATIONS / best / 1e6;
}

// deno-lint-ignore no-explicit-any
const self = globalThis as any;
if (
  typeof self.DedicatedWorkerGlobalScope === "function" &&
  self instanceof self.DedicatedWorkerGlobalScope
) {
  let run: (iterations: number) => number;
  self.onmessage = async ({ data }: MessageEvent<WebAssembly.Module | "run">) => {
    if (data !== "run") {
      run = (await WebAssembly.instantiate(data)).exports.run as typeof run;
      run(1e5);
    } else run(ITERATIONS);
    self.postMessage("done");
  };
  self.postMessage("ready");
}

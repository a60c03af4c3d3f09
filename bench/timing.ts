/** GPU times that hold: many calls in a row, so that the clocks have risen, each timed by timestamp queries. */
import type { Device } from "../mod.ts";

/** What one call takes on the GPU. */
export interface CallTimes {
  /** The median over calls of the time from the first kernel's begin to the last one's end, in ms. */
  readonly ms: number;
  /** The median of each kernel's times in a call added up, in ms, by name. */
  readonly kernels: ReadonlyMap<string, number>;
}

/** Medians over the second half of `calls` calls of `fn`, after one that compiles. */
export async function timesOf(device: Device, fn: () => void, calls = 12): Promise<CallTimes> {
  fn();
  await device.synchronize();
  const { spans } = await device.profile(() => {
    for (let i = 0; i < calls; i++) fn();
  });
  const each = spans.length / calls;
  const totals: number[] = [];
  const byKernel = new Map<string, number[]>();
  for (let call = Math.floor(calls / 2); call < calls; call++) {
    const own = spans.slice(call * each, (call + 1) * each);
    const last = own[own.length - 1];
    totals.push(last.startMs + last.ms - own[0].startMs);
    const sums = new Map<string, number>();
    for (const { name, ms } of own) sums.set(name, (sums.get(name) ?? 0) + ms);
    for (const [name, ms] of sums) byKernel.set(name, [...(byKernel.get(name) ?? []), ms]);
  }
  const kernels = [...byKernel].map(([name, ms]) => [name, median(ms)] as const);
  return { ms: median(totals), kernels: new Map(kernels) };
}

/** The middle value. */
export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}

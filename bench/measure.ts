/** How benchmarks measure time and memory. */
import type { Device } from "../mod.ts";
import { median, timesOf } from "./timing.ts";

/** A GPU that has idled needs so long to raise its clocks, in ms, and more calls than these raise them no further. */
const BUSY_MS = 500;
const MOST_CALLS = 400;

/**
 * The median ms that the device works on what one call of `fn` asks of it: on WebGPU by timestamp queries over
 * many calls in a row, or two where one takes long; elsewhere by the clock, until the device is done.
 */
export async function deviceMs(device: Device, fn: () => void): Promise<number> {
  if (device.backend === "webgpu") {
    const { ms } = await device.profile(fn);
    const calls = device.software ? 12 : Math.min(MOST_CALLS, Math.ceil(BUSY_MS / ms));
    return (await timesOf(device, fn, ms > 500 ? 2 : Math.max(12, calls))).ms;
  }
  return repeated(async () => {
    const began = performance.now();
    fn();
    await device.synchronize();
    return performance.now() - began;
  });
}

/** Milliseconds of calls that a median is of, where so many calls do not take longer. */
const LEAST_MS = 500;
const LEAST_CALLS = 7;

/**
 * The median of several calls, of many where they are short, since a runtime goes on compiling meanwhile; of fewer
 * where one takes long. The first call is not counted.
 */
async function repeated(call: () => Promise<number>): Promise<number> {
  const first = await call();
  const samples: number[] = [];
  const began = performance.now();
  for (let ms = 0; samples.length < LEAST_CALLS || ms < LEAST_MS; ms = performance.now() - began) {
    if (samples.length > 0 && ms + first > 2000) break;
    samples.push(await call());
  }
  return median(samples);
}

/**
 * Median ms of the clock for one call of `fn`, host and device together. A wait costs a fixed pause, on
 * Deno's WebGPU 11 ms, so the time of a short call is a difference of two batches with one wait each.
 */
export async function wallMs(device: Device, fn: () => void, batches = 5): Promise<number> {
  const once = async (count: number) => {
    const began = performance.now();
    for (let i = 0; i < count; i++) fn();
    await device.synchronize();
    return performance.now() - began;
  };
  await once(1);
  const one = await once(1);
  if (one > 300) return median([one, await once(1), await once(1)]);
  const three = await once(3);
  const count = Math.max(1, Math.min(200, Math.ceil(100 / Math.max(0.05, (three - one) / 2))));
  const samples: number[] = [];
  for (let i = 0; i < batches; i++) {
    const [short, long] = [await once(1), await once(1 + count)];
    samples.push((long - short) / count);
  }
  return median(samples);
}

/** Bytes that `fn` needed at its peak, as far as the pool of freed buffers remembers them. */
export async function peakBytes(device: Device, fn: () => void): Promise<number> {
  await device.synchronize();
  device.trim();
  const before = device.memory();
  fn();
  await device.synchronize();
  const after = device.memory();
  return after.liveBytes + after.pooledBytes - before.liveBytes - before.pooledBytes;
}

/** What benchmarks run on. */
import { type Device, DeviceError, init } from "../mod.ts";

/** The CPU and, if there is an adapter, WebGPU; if there is none, says so. */
export async function allDevices(): Promise<Device[]> {
  const found = [await init({ backend: "cpu" })];
  try {
    found.push(await init({ backend: "webgpu" }));
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    console.log(error.message);
  }
  return found;
}

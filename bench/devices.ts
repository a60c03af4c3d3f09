/** What benchmarks run on. */
import { type Device, DeviceError, init } from "../mod.ts";

/** The CPU, in TypeScript and by WebAssembly, and, if there is an adapter, WebGPU; if there is none, says so. */
export async function allDevices(): Promise<Device[]> {
  const found = [await init({ backend: "cpu" }), await init({ backend: "wasm" })];
  try {
    found.push(await init({ backend: "webgpu" }));
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    console.log(error.message);
  }
  return found;
}

/** What benchmarks run on. */
import { type Device, DeviceError, init, type InitOptions } from "../mod.ts";

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

/** The device of a backend, which is then the default. */
export function openDevice(backend: string): Promise<Device> {
  // Vulkan's loader complains on stderr if this is unset, and needs nothing of it.
  if (!Deno.env.get("XDG_RUNTIME_DIR")) Deno.env.set("XDG_RUNTIME_DIR", "/tmp");
  return init({ backend: backend as InitOptions["backend"] });
}

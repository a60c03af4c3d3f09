/**
 * The device that a command runs on.
 */
import process from "node:process";
import { type Device, init } from "../../mod.ts";
import { dawn } from "../../src/dawn.ts";
import { UsageError } from "./flags.ts";

const BACKENDS = ["auto", "webgpu", "dawn", "wasm", "cpu"] as const;

function isBackend(name: string): name is typeof BACKENDS[number] {
  return (BACKENDS as readonly string[]).includes(name);
}

/**
 * The device of a backend; "dawn" is WebGPU through npm `webgpu`, with `toggles`, divided by commas, enabled.
 *
 * @throws {UsageError} unless `backend` is one, or if toggles are given to another than Dawn.
 */
export async function chooseDevice(backend: string, toggles?: string): Promise<Device> {
  if (!isBackend(backend)) {
    throw new UsageError(`--backend expects ${BACKENDS.join(", ")}, found "${backend}"`);
  }
  if (toggles !== undefined && backend !== "dawn") {
    throw new UsageError(`--toggles are Dawn's: expected --backend dawn, found "${backend}"`);
  }
  // Vulkan's loader complains on stderr if this is unset, and needs nothing of it.
  process.env.XDG_RUNTIME_DIR ||= "/tmp";
  if (backend !== "dawn") return init({ backend });
  const gpu = await dawn({ toggles: toggles?.split(",") });
  return init({ backend: "webgpu", gpu });
}

/**
 * The device that a command runs on.
 */
import { type Device, init } from "../../mod.ts";
import { UsageError } from "./flags.ts";

const BACKENDS = ["auto", "webgpu", "wasm", "cpu"] as const;

function isBackend(name: string): name is typeof BACKENDS[number] {
  return (BACKENDS as readonly string[]).includes(name);
}

/** @throws {UsageError} unless `backend` is one. */
export function chooseDevice(backend: string): Promise<Device> {
  if (!isBackend(backend)) {
    throw new UsageError(`--backend expects ${BACKENDS.join(", ")}, found "${backend}"`);
  }
  // Vulkan's loader complains on stderr if this is unset, and needs nothing of it.
  if (!Deno.env.get("XDG_RUNTIME_DIR")) Deno.env.set("XDG_RUNTIME_DIR", "/tmp");
  return init({ backend });
}

/**
 * The device that a command runs on.
 */
import { type Device, init } from "../../mod.ts";
import { UsageError } from "./flags.ts";

/** @throws {UsageError} unless `backend` is one. */
export function chooseDevice(backend: string): Promise<Device> {
  if (backend !== "auto" && backend !== "webgpu" && backend !== "cpu") {
    throw new UsageError(`--backend expects auto, webgpu or cpu, found "${backend}"`);
  }
  // Vulkan's loader complains on stderr if this is unset, and needs nothing of it.
  if (!Deno.env.get("XDG_RUNTIME_DIR")) Deno.env.set("XDG_RUNTIME_DIR", "/tmp");
  return init({ backend });
}

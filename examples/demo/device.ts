/**
 * The device that a command runs on, and what a model keeps there between two tokens.
 */
import { type Device, init } from "../../mod.ts";
import type { TransNormerLLM } from "../../src/models/mod.ts";
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

/** The bytes of a model's state for one sequence. */
export function stateBytes(model: TransNormerLLM): number {
  const { size, heads } = model.config;
  const value = size / heads;
  const entries = model.model.layers.map(({ token_mixer }) => token_mixer.keySize * value * heads);
  return 4 * entries.reduce((a, b) => a + b);
}

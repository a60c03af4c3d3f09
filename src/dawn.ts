/**
 * WebGPU through Dawn, the implementation of Chromium, in Deno, Bun and Node: the npm package `webgpu`,
 * which the user installs (`npm install webgpu`; Deno fetches it when it is first asked for).
 *
 * @module
 */
import { DeviceError } from "./errors.ts";

/** How {@linkcode dawn} is asked to work. */
export interface DawnOptions {
  /** The API beneath: say `"vulkan"`, `"metal"` or `"d3d12"`. Default: Vulkan on Linux, else Dawn's choice. */
  backend?: string;
  /**
   * Dawn's toggles to enable, beside what Levin needs: `allow_unsafe_apis` for subgroup matrices, and
   * `vulkan_enable_f16_on_nvidia`. `timestamp_quantization` is disabled: it rounds the times of
   * `device.profile()` to 0.07 ms, for web pages that are not trusted.
   */
  toggles?: readonly string[];
}

/** What is used of the package. */
interface DawnModule {
  create(options: string[]): GPU;
  globals: { GPUQueue: { prototype: Pick<GPUQueue, "submit"> } };
}

/** The package's name, and the version that Levin is tested with. */
const PACKAGE = "webgpu";
const VERSION = "0.6.2";

/**
 * Resolves to a GPU object of Dawn, for `init({ gpu })`, which keeps it alive.
 *
 * @example In Bun or Node, after `npm install @levin/levin webgpu`
 * ```ts ignore
 * import { init } from "@levin/levin";
 * import { dawn } from "@levin/levin/dawn";
 *
 * const device = await init({ gpu: await dawn() });
 * console.log(device.describe());
 * ```
 * @throws {DeviceError} if the package is not installed or does not work on this machine.
 */
export async function dawn(options: DawnOptions = {}): Promise<GPU> {
  const { backend = defaultBackend(), toggles = [] } = options;
  const features = ["allow_unsafe_apis", "vulkan_enable_f16_on_nvidia", ...toggles];
  const settings = [
    `enable-dawn-features=${features.join(",")}`,
    "disable-dawn-features=timestamp_quantization",
  ];
  if (backend !== undefined) settings.push(`backend=${backend}`);
  // A name that is no literal: nobody who does without Dawn should have to fetch 132 MB of it.
  const specifier = "Deno" in globalThis ? `npm:${PACKAGE}@${VERSION}` : PACKAGE;
  try {
    const { create, globals } = await import(specifier) as DawnModule;
    if ("Deno" in globalThis) waitPatiently(globals.GPUQueue.prototype);
    return create(settings);
  } catch (cause) {
    throw new DeviceError(
      `Cannot load Dawn: expected the npm package ${specifier}, found "${
        (cause as Error).message
      }"; install it with \`npm install ${PACKAGE}@${VERSION}\``,
      { cause },
    );
  }
}

function defaultBackend(): string | undefined {
  const { process } = globalThis as { process?: { platform: string } };
  return process?.platform === "linux" ? "vulkan" : undefined;
}

/** Turns of the event loop that Dawn may take at once after a submission: some 10 ms. */
const IMMEDIATE_TURNS = 64;
const patient = new WeakSet<object>();

/**
 * While something is awaited, Dawn takes every turn of the event loop, each through a new function made
 * natively. Deno frees those in quadratic time: after half a minute of waiting, say for a software
 * driver that compiles, it does nothing else for minutes. So a long wait asks every millisecond.
 */
function waitPatiently(queue: Pick<GPUQueue, "submit">): void {
  if (patient.has(queue)) return;
  patient.add(queue);
  const { setImmediate } = globalThis;
  const { submit } = queue;
  let turns = 0;
  queue.submit = function (commands) {
    turns = 0;
    return submit.call(this, commands);
  };
  const patientSetImmediate = (turn: (...args: unknown[]) => void, ...args: unknown[]) => {
    const isDawns = args.length === 0 && turn.name === "" && String(turn).includes("[native code]");
    if (!isDawns || ++turns <= IMMEDIATE_TURNS) return setImmediate(turn, ...args);
    return setTimeout(turn, 1);
  };
  globalThis.setImmediate = patientSetImmediate as unknown as typeof setImmediate;
}

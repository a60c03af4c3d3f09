/**
 * Which of the embedded WebAssembly modules this runtime can run.
 *
 * @module
 */
import { relaxed, simd } from "./embedded.ts";

/** A module with fused multiply-add (relaxed SIMD), or one with plain SIMD. */
export type Variant = "relaxed" | "simd";

// (module (func (result v128) (f32x4.relaxed_madd (v128.const 0 …) ×3))), and the same with f32x4.add of two.
const PRELUDE = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0];
const ZERO = [253, 12, ...Array<number>(16).fill(0)];

function probe(...body: number[]): Uint8Array<ArrayBuffer> {
  const code = [0, ...body, 11];
  return new Uint8Array([...PRELUDE, 10, code.length + 2, 1, code.length, ...code]);
}

const PROBES: Record<Variant, Uint8Array<ArrayBuffer>> = {
  relaxed: probe(...ZERO, ...ZERO, ...ZERO, 253, 133, 2),
  simd: probe(...ZERO, ...ZERO, 253, 228, 1),
};

/** The better variant that the runtime has, if it has one. */
export function supportedVariant(): Variant | undefined {
  if (typeof WebAssembly === "undefined") return undefined;
  return (["relaxed", "simd"] as const).find((name) => WebAssembly.validate(PROBES[name]));
}

const compiled = new Map<Variant, WebAssembly.Module>();

/** The module, compiled once. */
export function moduleOf(variant: Variant): WebAssembly.Module {
  let module = compiled.get(variant);
  if (module === undefined) {
    const text = atob({ relaxed, simd }[variant]);
    module = new WebAssembly.Module(Uint8Array.from(text, (c) => c.charCodeAt(0)));
    compiled.set(variant, module);
  }
  return module;
}

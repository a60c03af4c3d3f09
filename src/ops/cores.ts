/**
 * What operations share that have kernels on matrix units, and how such kernels read and write float16:
 * eight neighbours at once where they lie so, else one by one.
 *
 * @module
 */
import type { View } from "../backend/contract.ts";
import cores from "../../shaders/cores.wgsl" with { type: "text" };
import results from "../../shaders/cores_results.wgsl" with { type: "text" };
import { isInGroups } from "./tiles.ts";

/** The whole of a shader that goes on in cores.wgsl: its directives have to come first. */
export function withCores(...texts: string[]): string {
  return [...texts, cores].join("\n");
}

/** The whole of a shader that goes on in cores_results.wgsl too. */
export function withCoresAndResults(...texts: string[]): string {
  return withCores(...texts, results);
}

/** Constants by which such shaders read float16 operands, by name. */
export function eights(
  views: Readonly<Record<string, View>>,
  axis: -1 | -2 = -1,
): Record<string, string | number> {
  const constants: Record<string, string | number> = {};
  for (const [name, view] of Object.entries(views)) {
    if (!isInGroups(view, axis, 8)) continue;
    constants[`Element_${name}`] = "vec4u";
    constants[`PER_${name}`] = 8;
    constants[`eight_${name}`] = `${name}[at.low.x]`;
  }
  return constants;
}

/** Constants by which they store float16 outputs. */
export function eightResults(out: View): Record<string, string | boolean> {
  if (!isInGroups(out, -1, 8)) return {};
  return {
    Element_out: "vec4u",
    OUT_IN_EIGHTS: true,
    eight_results: "values",
    one_result: "Element_out()",
  };
}

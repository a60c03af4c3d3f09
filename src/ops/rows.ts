/**
 * Operations on dense rows, as WebAssembly runs them: many rows to a task.
 *
 * @module
 */
import { addressOf, type WasmJob, type WasmView } from "../backend/contract.ts";
import { type Shape, sizeOf } from "../shape.ts";

/** Elements that are worth a task. */
const TASK = 2 ** 13;

/** A job over the rows of `shape`, with what else the kernel takes before and after the views' addresses. */
export function rowsJob(
  kernel: string,
  shape: Shape,
  views: readonly WasmView[],
  { before = [], after = [] }: { before?: readonly number[]; after?: readonly number[] } = {},
): WasmJob {
  const length = shape.at(-1)!;
  const rows = sizeOf(shape.slice(0, -1));
  const perTask = Math.max(1, Math.floor(TASK / Math.max(1, length)));
  return {
    kernel,
    params: [rows, perTask, length, ...before, ...views.map(addressOf), ...after],
    tasks: Math.ceil(rows / perTask),
  };
}

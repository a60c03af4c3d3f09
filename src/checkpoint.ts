/**
 * Activation checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174):
 * what a function's gradient needs is not kept but computed again when the gradient is.
 *
 * While `fn` runs, its tape is recorded as ever, to learn what it depends on; then the tape is dropped, and
 * one node stands for it. When `backward` comes to that node, `fn` runs again on the same inputs, and the walk
 * goes on through the new tape as if it had always been there. So gradients have the same bits as without.
 *
 * @module
 */
import { dependencies, type Edge, isRecording, Node, recording } from "./autograd.ts";
import { LevinError } from "./errors.ts";
import { Saved, whatItReads } from "./operation.ts";
import { tidy } from "./scope.ts";
import type { Storage } from "./storage.ts";
import { Tensor } from "./tensor.ts";

/**
 * `fn(...inputs)`, whose intermediate results are freed at once and computed again in `backward()`: for one
 * more forward pass, memory for a layer's insides is needed for one layer at a time.
 *
 * Tensors that `fn` closes over, such as parameters, get their gradients too. Checkpoints may be nested, and
 * differentiated twice.
 *
 * @param fn A function that computes the same each time: no `await`, no randomness without a seed.
 * @returns What `fn` returned, with the same gradients to the last bit.
 *
 * @example
 * ```ts
 * import { checkpoint, nn, randn, type Tensor } from "@levin/levin";
 *
 * const layers = [1, 2, 3].map((seed) => new nn.Linear(8, 8, { seed }));
 * const x = randn([4, 8], { seed: 0 });
 * const y = layers.reduce<Tensor>((x, layer) => checkpoint((x) => layer.forward(x).silu(), [x]), x);
 * y.sum().backward(); // runs each layer once more, last one first
 * ```
 * @throws {LevinError} in `backward()`, if a tensor that `fn` read was written in place since.
 */
export function checkpoint<Result extends Tensor | readonly Tensor[]>(
  fn: (...inputs: Tensor[]) => Result,
  inputs: readonly Tensor[],
): Result {
  if (!isRecording()) return tidy(() => fn(...inputs));
  const oldest = Node.made;
  const [results, read] = whatItReads(() => tidy(() => fn(...inputs)));
  const list = [results].flat() as Tensor[];
  const isInside = ({ node }: Tensor) => node !== undefined && node.id > oldest;
  if (!list.some(isInside)) return results;

  const saved = inputs.map((t) => new Saved(t, t.node));
  const edges = edgesOutOf(list, oldest);
  const node = new Node("checkpoint", edges, undefined, () => saved.forEach((s) => s.free()));
  const kept = list.map((t, i) =>
    isInside(t) ? new Tensor(t.storage.retain(), t, node.retain(), i) : t
  );
  node.release();
  for (const t of list) if (isInside(t)) t.dispose();
  // What died with the tape will be made again; the rest must still be what it was.
  for (const storage of read.keys()) if (storage.released) read.delete(storage);
  node.reopen = () => {
    checkUnchanged(read);
    return recording(() =>
      tidy(() => [fn(...saved.map((s) => s.restore("checkpoint")))].flat() as Tensor[])
    );
  };
  return (Array.isArray(results) ? kept : kept[0]) as Result;
}

/** What the tape of `results`, younger than `oldest`, takes from before it. */
function edgesOutOf(results: readonly Tensor[], oldest: number): Edge[] {
  const inside = dependencies(results.flatMap(({ node }) => node ?? []), oldest);
  const outside = new Map<Node, Set<number>>();
  for (const edge of inside.flatMap(({ edges }) => edges)) {
    if (edge === undefined || edge.node.id > oldest) continue;
    outside.set(edge.node, (outside.get(edge.node) ?? new Set()).add(edge.index));
  }
  return [...outside].flatMap(([node, places]) => [...places].map((index) => ({ node, index })));
}

function checkUnchanged(read: ReadonlyMap<Storage, number>): void {
  for (const [{ version }, before] of read) {
    if (version === before) continue;
    throw new LevinError(
      `Cannot compute a checkpoint again: a tensor that its function read was written in place since, by ` +
        `an optimizer, a loader of weights or a step of decoding; call backward() before`,
    );
  }
}

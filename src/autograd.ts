/**
 * Reverse-mode differentiation over a tape.
 *
 * Every recorded operation appends a {@linkcode Node}; its id is its position on the tape. To
 * differentiate, walk the nodes that a result depends on from the last to the first, handing each
 * node's rule the gradients of its results and adding up what it says about its inputs. Rules are
 * made of tensor operations themselves, so with `createGraph` a gradient can be differentiated again.
 *
 * @module
 */
import { LevinError, ShapeError } from "./errors.ts";
import { adopt, type Scope, scope, tidy } from "./scope.ts";
import { format, sameShape } from "./shape.ts";
import type { Tensor } from "./tensor.ts";

/**
 * Turns the gradients of a node's results into those of its inputs; `needs` says which are used. `before` is what has
 * arrived at the inputs that the node adds to: it is part of what the rule returns for them.
 */
export type Rule = (
  grads: (Tensor | undefined)[],
  needs: boolean[],
  before: readonly (Tensor | undefined)[],
) => (Tensor | null | undefined)[];

/** Where a leaf's gradient accumulates. */
export interface GradSlot {
  /** The sum of all gradients so far. */
  grad: Tensor | null;
}

/** An input of a recorded operation: which result of which node. */
export interface Edge {
  /** The node that made it. */
  readonly node: Node;
  /** Which of its results it is. */
  readonly index: number;
}

/** One recorded operation, or a leaf. It is held by its results and by the nodes after it. */
export class Node {
  static #made = 0;
  /** Its position on the tape. */
  readonly id: number = ++Node.#made;
  /**
   * Set if it stands for a stretch of the tape that was not kept: makes that stretch again, with new nodes on
   * the same inputs, and returns its results.
   */
  reopen: (() => readonly Tensor[]) | undefined;
  /** Inputs whose gradient the rule adds to what has arrived there before. */
  adds: readonly number[] = [];
  #holders = 1;
  #freed = false;

  /** Keeps `edges` alive, and calls `free` when the last holder lets go. */
  constructor(
    readonly name: string,
    readonly edges: readonly (Edge | undefined)[],
    readonly rule: Rule | undefined,
    readonly free: () => void = () => {},
    readonly slot?: GradSlot,
  ) {
    for (const edge of edges) edge?.node.retain();
  }

  /** A node without inputs that accumulates the gradient of a leaf. */
  static leaf(): Node {
    const slot: GradSlot = { grad: null };
    return new Node("leaf", [], undefined, () => slot.grad?.dispose(), slot);
  }

  /** How many nodes have been made, and so the id of the newest one. */
  static get made(): number {
    return Node.#made;
  }

  /** Whether the saved tensors have been given up. */
  get freed(): boolean {
    return this.#freed;
  }

  /** Gives up the saved tensors, so that their memory can be reused. */
  freeSaved(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.free();
  }

  /** Adds a holder. */
  retain(): this {
    this.#holders++;
    return this;
  }

  /** Removes a holder; the last one frees what was saved, and lets go of the nodes before it. */
  release(): void {
    // A loop, not a recursion: graphs can be many thousands of nodes deep.
    const pending: Node[] = [this];
    for (let node = pending.pop(); node !== undefined; node = pending.pop()) {
      if (--node.#holders > 0) continue;
      node.freeSaved();
      for (const edge of node.edges) if (edge !== undefined) pending.push(edge.node);
    }
  }
}

/** How to walk back. */
export interface BackwardOptions {
  /**
   * The gradient of some final scalar with respect to the tensor to start from, of its shape. May be
   * left out when that tensor has one element: then it is 1.
   */
  gradient?: Tensor;
  /** Record the gradient's own computation, so that it can be differentiated too. Default false. */
  createGraph?: boolean;
  /**
   * Give up each operation's saved tensors as soon as they have been used: less memory at the peak,
   * and no second `backward()` through the same graph. Default false.
   */
  releaseGraph?: boolean;
}

let suspended = 0;

/** Whether operations are being recorded. */
export function isRecording(): boolean {
  return suspended === 0;
}

/**
 * Runs `fn` without recording: results do not require gradients and nothing is saved for them. An
 * asynchronous `fn` suspends recording, for everybody, until its promise settles.
 *
 * @example
 * ```ts
 * import { noGrad, tensor } from "@levin/levin";
 *
 * const weight = tensor([1, 2], { requiresGrad: true });
 * console.log(noGrad(() => weight.mul(2)).requiresGrad); // false
 * ```
 */
export function noGrad<T>(fn: () => T): T {
  suspended++;
  let settling = false;
  try {
    const result = fn();
    if (result instanceof Promise) {
      settling = true;
      return result.finally(() => suspended--) as T;
    }
    return result;
  } finally {
    if (!settling) suspended--;
  }
}

/** Runs `fn` with recording on, whatever surrounds it. */
export function recording<T>(fn: () => T): T {
  const outer = suspended;
  suspended = 0;
  try {
    return fn();
  } finally {
    suspended = outer;
  }
}

/**
 * Walks back from `root`. Without `wanted`, adds to the gradient of every leaf on the way and returns
 * nothing of use; with it, returns the gradients of those nodes, undefined where none arrived.
 */
export function differentiate(
  root: Tensor,
  seed: Tensor,
  wanted?: readonly Node[],
  options: BackwardOptions = {},
): (Tensor | undefined)[] {
  if (root.node === undefined) {
    throw new LevinError(
      `Cannot differentiate ${root}: nothing it was computed from requires a gradient; ` +
        `make the inputs with { requiresGrad: true }`,
    );
  }
  if (!sameShape(root.shape, seed.shape)) {
    throw new ShapeError(
      `Cannot differentiate ${root} with a gradient of shape ${format(seed.shape)}: ` +
        `the shapes must be equal`,
    );
  }
  using region = scope();
  const goals = wanted === undefined ? undefined : new Set(wanted);
  const walk = () => walkBack(region, root, seed, goals, options);
  const arrived = options.createGraph ? recording(walk) : noGrad(walk);
  if (wanted === undefined) return [];
  return wanted.map((node) => {
    const gradient = arrived.get(node)?.[0];
    return gradient === undefined ? undefined : region.keep(gradient);
  });
}

function walkBack(
  region: Scope,
  root: Tensor,
  seed: Tensor,
  goals: Set<Node> | undefined,
  { createGraph = false, releaseGraph = false }: BackwardOptions,
): Map<Node, (Tensor | undefined)[]> {
  const isGoal = (node: Node) => goals === undefined ? node.slot !== undefined : goals.has(node);
  const leads = new Set<Node>();
  const grads = new Map<Node, (Tensor | undefined)[]>();
  const arrive = ({ node, index }: Edge, gradient: Tensor) => {
    const list = grads.get(node) ?? [];
    if (grads.get(node) === undefined) grads.set(node, list);
    const before = list[index];
    list[index] = before === undefined ? gradient : before.add(gradient);
    if (before !== undefined) [before, gradient].forEach((t) => t.dispose());
  };
  const take = ({ node, index }: Edge) => {
    const list = grads.get(node);
    const gradient = list?.[index];
    if (list !== undefined) list[index] = undefined;
    return gradient;
  };
  arrive({ node: root.node!, index: root.outputIndex }, seed.alias());

  const visit = (node: Node, release: boolean) => {
    const arrived = grads.get(node);
    if (arrived === undefined || !leads.has(node)) return;
    if (isGoal(node)) {
      if (goals === undefined) accumulate(node.slot!, region.keep(arrived[0]!));
      return;
    }
    if (node.freed) {
      throw new LevinError(
        `Cannot differentiate ${node.name} again: an earlier backward() with releaseGraph gave up ` +
          `what it had saved`,
      );
    }
    if (node.reopen !== undefined) {
      const newest = Node.made;
      const results = node.reopen();
      arrived.forEach((gradient, i) => {
        const { node, outputIndex: index } = results[i];
        if (gradient !== undefined) arrive({ node: node!, index }, gradient);
      });
      grads.delete(node);
      // What was made for this walk alone is given up as soon as it has been used.
      walk(results, newest, !createGraph);
      results.forEach((t) => t.dispose());
      if (release) node.freeSaved();
      return;
    }
    const needs = node.edges.map((edge) => edge !== undefined && leads.has(edge.node));
    const before: (Tensor | undefined)[] = [];
    for (const i of node.adds) if (needs[i]) before[i] = take(node.edges[i]!);
    // Aliases, because a rule may hand on the very tensor it was given, or the same one twice.
    const results = tidy(() => node.rule!(arrived, needs, before).map((t) => t?.alias()));
    before.forEach((t) => t?.dispose());
    node.edges.forEach((edge, i) => {
      const gradient = results[i];
      if (gradient === undefined) return;
      if (needs[i]) arrive(edge!, gradient);
      else gradient.dispose();
    });
    arrived.forEach((t) => t?.dispose());
    grads.delete(node);
    if (release) node.freeSaved();
  };
  // The nodes after `oldest` that the results depend on, from the last to the first.
  const walk = (results: readonly Tensor[], oldest: number, release: boolean) => {
    const tape = dependencies(results.flatMap(({ node }) => node ?? []), oldest);
    for (const node of tape) {
      if (isGoal(node) || node.edges.some((e) => e !== undefined && leads.has(e.node))) {
        leads.add(node);
      }
    }
    for (const node of tape.reverse()) visit(node, release);
  };
  walk([root], 0, releaseGraph);
  return grads;
}

function accumulate(slot: GradSlot, gradient: Tensor): void {
  const before = slot.grad;
  slot.grad = adopt(before === null ? gradient : before.add(gradient));
  if (before === null) return;
  before.dispose();
  gradient.dispose();
}

/** Those of the nodes and of all that they depend on which are younger than `oldest`, in the tape's order. */
export function dependencies(nodes: readonly Node[], oldest = 0): Node[] {
  const seen = new Set<Node>(nodes.filter(({ id }) => id > oldest));
  for (const { edges } of seen) {
    for (const edge of edges) if (edge !== undefined && edge.node.id > oldest) seen.add(edge.node);
  }
  return [...seen].sort((a, b) => a.id - b.id);
}

/** Whether `node` depends on anything differentiable that lies outside of `inside`. */
export function dependsBeyond(node: Node, inside: readonly Node[]): boolean {
  const known = new Set(inside);
  return dependencies([node]).some((n) => n.edges.length === 0 && !known.has(n));
}

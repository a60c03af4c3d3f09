/**
 * Scopes: every tensor made while a scope is open, and not kept, is disposed when it closes.
 *
 * Scopes form one stack, so they belong to one thread of control: a scope left open across an
 * `await` also catches what other asynchronous code makes meanwhile.
 *
 * @module
 */
import type { Tensor } from "./tensor.ts";

const stack: Scope[] = [];

/** A region whose tensors die with it. Made by {@linkcode scope}, closed by `using`. */
export class Scope implements Disposable {
  #tensors = new Set<Tensor>();

  /** Takes `tensor` out of this scope, and gives it to the one around it, if any. */
  keep<T extends Tensor>(tensor: T): T {
    if (!this.#tensors.delete(tensor)) return tensor;
    const around = stack[stack.indexOf(this) - 1];
    if (around === undefined) tensor.watch();
    else around.add(tensor);
    return tensor;
  }

  /** Puts `tensor` under this scope's care. */
  add(tensor: Tensor): void {
    this.#tensors.add(tensor);
  }

  /** Takes `tensor` out of this scope's care, and gives it to no other. */
  forget(tensor: Tensor): void {
    if (this.#tensors.delete(tensor)) tensor.watch();
  }

  /** Disposes every tensor that was made in the scope and not kept. */
  [Symbol.dispose](): void {
    const index = stack.indexOf(this);
    if (index >= 0) stack.splice(index, 1);
    for (const tensor of this.#tensors) tensor.dispose();
    this.#tensors.clear();
  }
}

/**
 * Opens a scope. `using` closes it at the end of the block, and with it go the intermediate results.
 *
 * @example
 * ```ts
 * import { scope, tensor } from "@levin/levin";
 *
 * const x = tensor([1, 2, 3]);
 * using step = scope();
 * const y = step.keep(x.mul(x).add(1)); // x·x dies here, y lives on
 * console.log(await y.data()); // Float32Array [2, 5, 10]
 * ```
 */
export function scope(): Scope {
  const opened = new Scope();
  stack.push(opened);
  return opened;
}

/**
 * Runs `fn` in a scope of its own and keeps what it returns: a tensor, or an array or plain object of
 * tensors at any depth. `fn` must not be asynchronous.
 */
export function tidy<T>(fn: () => T): T {
  using region = scope();
  const result = fn();
  forEachTensor(result, (tensor) => region.keep(tensor));
  return result;
}

/** The innermost open scope. */
export function currentScope(): Scope | undefined {
  return stack[stack.length - 1];
}

/** Takes `tensor` out of every open scope: its owner disposes it. */
export function adopt<T extends Tensor>(tensor: T): T {
  for (const open of stack) open.forget(tensor);
  return tensor;
}

function forEachTensor(value: unknown, visit: (tensor: Tensor) => void): void {
  if (value === null || typeof value !== "object") return;
  if ("storage" in value && "strides" in value) visit(value as Tensor);
  else if (Array.isArray(value)) { for (const item of value) forEachTensor(item, visit); }
  else if (Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) forEachTensor(item, visit);
  }
}

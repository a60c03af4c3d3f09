/**
 * Differentiation as a function of functions: `grad(f)` is the function that computes f's gradient.
 *
 * @module
 */
import { dependsBeyond, differentiate, isRecording, Node, noGrad, recording } from "./autograd.ts";
import { ShapeError } from "./errors.ts";
import { tidy } from "./scope.ts";
import { format } from "./shape.ts";
import { checkDifferentiable, Tensor } from "./tensor.ts";

/** A tensor, or an array or plain object of tensors, at any depth. */
export type Tree = Tensor | readonly Tree[] | { readonly [name: string]: Tree };

/** A function from tensors, and whatever else, to a tensor of one element. */
export type ScalarFunction<T, Rest extends unknown[]> = (x: T, ...rest: Rest) => Tensor;

/**
 * The function that computes the gradient of `fn` with respect to its first argument, in the argument's
 * own structure. `fn` returns a tensor of one element. The gradient is differentiable in turn.
 *
 * @example
 * ```ts
 * import { grad, type Tensor, tensor } from "@levin/levin";
 *
 * const cube = (x: Tensor) => x.pow(3).sum();
 * const slope = grad(cube); // 3x²
 * const curvature = grad((x: Tensor) => slope(x).sum()); // 6x
 * console.log(await curvature(tensor([1, 2])).data()); // Float32Array [6, 12]
 * ```
 * @throws {ShapeError} when called, if `fn` returns more than one element.
 */
export function grad<T extends Tree, Rest extends unknown[]>(
  fn: ScalarFunction<T, Rest>,
): (x: T, ...rest: Rest) => T {
  const both = valueAndGrad(fn);
  return (x, ...rest) => tidy(() => both(x, ...rest)[1]);
}

/**
 * Like {@linkcode grad}, but the function returns the value too: `[fn(x), gradient]`.
 *
 * @example
 * ```ts
 * import { type Tensor, tensor, valueAndGrad } from "@levin/levin";
 *
 * const line = ({ w, b }: { w: Tensor; b: Tensor }) => w.mul(3).add(b).sum();
 * const [value, { w }] = valueAndGrad(line)({ w: tensor([1, 2]), b: tensor([0, 1]) });
 * console.log(await value.item(), await w.data()); // 10, Float32Array [3, 3]
 * ```
 */
export function valueAndGrad<T extends Tree, Rest extends unknown[]>(
  fn: ScalarFunction<T, Rest>,
): (x: T, ...rest: Rest) => [value: Tensor, gradient: T] {
  return (x, ...rest) =>
    tidy(() => {
      const variables: Tensor[] = [];
      const inner = mapTree(x, (t) => {
        const variable = variableOf(t);
        variables.push(variable);
        return variable;
      });
      const value = recording(() => fn(inner, ...rest));
      if (value.size !== 1) {
        throw new ShapeError(
          `Cannot differentiate a function that returns ${
            format(value.shape)
          }: expected one element; ` +
            `reduce it, say with sum()`,
        );
      }
      const nodes = variables.map((t) => t.node!);
      // A gradient needs a graph of its own only if something outside could be differentiated by it.
      const createGraph = value.node !== undefined && isRecording() &&
        dependsBeyond(value.node, nodes);
      const gradients = value.node === undefined
        ? []
        : differentiate(value, Tensor.one(value), nodes, { createGraph });
      let next = 0;
      const gradient = mapTree(x, (t) => {
        const arrived = gradients[next++];
        return arrived ?? noGrad(() => t.mul(0));
      });
      return [isRecording() ? value : value.detach(), gradient];
    });
}

/** `t` as a variable of its own, through which gradients flow on to `t` if they are recorded. */
function variableOf(t: Tensor): Tensor {
  checkDifferentiable(t.dtype);
  const edge = isRecording() && t.node && { node: t.node, index: t.outputIndex };
  const node = edge
    ? new Node("variable", [edge], ([g]) => [g])
    : new Node("variable", [], undefined);
  const variable = t.alias(t, node);
  node.release();
  return variable;
}

/** The same structure with every tensor replaced. */
function mapTree<T extends Tree>(tree: T, replace: (t: Tensor) => Tensor): T {
  const visit = (item: Tree): Tree => {
    if (item instanceof Tensor) return replace(item);
    if (Array.isArray(item)) return item.map(visit);
    return Object.fromEntries(Object.entries(item).map(([name, value]) => [name, visit(value)]));
  };
  return visit(tree) as T;
}

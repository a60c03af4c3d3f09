/**
 * The module: parameters by name.
 *
 * @module
 */
import { LevinError } from "../errors.ts";
import { loadInto } from "../ops/pointwise.ts";
import { adopt } from "../scope.ts";
import { format, sameShape, type Shape } from "../shape.ts";
import { Tensor } from "../tensor.ts";

/**
 * Something with parameters. A module's parameters are those of its fields that are tensors with
 * `requiresGrad`, and the parameters of the fields that are modules or arrays of modules. Names are the
 * fields' names joined by dots, as in checkpoints: `layers.0.channel_mixer.l1.weight`.
 *
 * @example
 * ```ts
 * import { nn, randn, type Tensor } from "@levin/levin";
 *
 * class Perceptron extends nn.Module {
 *   hidden = new nn.Linear(4, 16, { seed: 1 });
 *   output = new nn.Linear(16, 2, { seed: 2 });
 *   forward(x: Tensor): Tensor {
 *     return this.output.forward(this.hidden.forward(x).silu());
 *   }
 * }
 * const perceptron = new Perceptron();
 * console.log(Object.keys(perceptron.parameters())); // ["hidden.weight", "output.weight"]
 * console.log(perceptron.forward(randn([8, 4])).shape); // [8, 2]
 * ```
 */
export abstract class Module implements Disposable {
  /** All parameters by name, in the order of the fields. */
  parameters(): Record<string, Tensor> {
    return Object.fromEntries([...tensorsOf(this, "")].filter(([, t]) => t.requiresGrad));
  }

  /** The number of elements of all parameters. */
  parameterCount(): number {
    return Object.values(this.parameters()).reduce((sum, { size }) => sum + size, 0);
  }

  /**
   * Copies values into the parameters, converting dtypes.
   *
   * @throws {LevinError} listing by name all tensors that are missing, extra, of another shape, on
   * another device or disposed; then no parameter has been changed.
   */
  load(values: Readonly<Record<string, Tensor>>): void {
    const own = this.parameters();
    const problems = this.mismatches(values);
    for (const [name, { device }] of Object.entries(own)) {
      const value = values[name];
      if (value?.disposed) problems.push(`${name} was disposed`);
      else if (value !== undefined && value.device !== device) {
        problems.push(
          `${name} is on another device, ${value.device.name}, expected ${device.name}`,
        );
      }
    }
    if (problems.length > 0) {
      throw new LevinError(`Cannot load parameters: ${problems.join("; ")}`);
    }
    loadInto(Object.entries(own).map(([name, target]) => [values[name], target]));
  }

  /** By name, which of these tensors are missing, unknown or of another shape than the parameters. */
  mismatches(values: Readonly<Record<string, { readonly shape: Shape }>>): string[] {
    const own = this.parameters();
    return [
      ...Object.keys(own).filter((name) => !Object.hasOwn(values, name)).map((name) =>
        `${name} is missing`
      ),
      ...Object.keys(values).filter((name) => !Object.hasOwn(own, name)).map((name) =>
        `${name} is unknown`
      ),
      ...Object.entries(own).flatMap(([name, { shape }]) => {
        const found = values[name]?.shape ?? shape;
        return sameShape(found, shape)
          ? []
          : [`${name} has shape ${format(found)}, expected ${format(shape)}`];
      }),
    ];
  }

  /** Frees every tensor of the module. */
  [Symbol.dispose](): void {
    for (const [, t] of tensorsOf(this, "")) t.dispose();
  }
}

/** A tensor that belongs to a module: no scope disposes it. */
export function owned(t: Tensor): Tensor {
  return adopt(t);
}

function* tensorsOf(value: unknown, name: string): Generator<[string, Tensor]> {
  if (value instanceof Tensor) yield [name, value];
  else if (value instanceof Module || Array.isArray(value)) {
    for (const [key, item] of Object.entries(value)) {
      yield* tensorsOf(item, name === "" ? key : `${name}.${key}`);
    }
  }
}

/**
 * The operation: one definition that says what comes out, how the CPU and the GPU compute it, and how
 * gradients flow back through it. Every operation in `ops/` is made here, and a user's own are too.
 *
 * @module
 */
import { isRecording, Node, noGrad, type Rule } from "./autograd.ts";
import { extentOf, type Program, type View } from "./backend/contract.ts";
import type { Device } from "./device.ts";
import { bytesOf, isFloat } from "./dtype.ts";
import { DeviceError, LevinError, LimitError } from "./errors.ts";
import { scope, tidy } from "./scope.ts";
import { format, sizeOf } from "./shape.ts";
import type { Storage } from "./storage.ts";
import { type Layout, Tensor, type TensorSpec } from "./tensor.ts";

/** What a gradient rule is given. */
export interface BackwardContext<Options> {
  /** For each output, the gradient of the loss with respect to it; undefined if none arrived. */
  readonly grads: readonly Tensor[];
  /** The inputs that `saves` names, at their own places. */
  readonly inputs: readonly Tensor[];
  /** The outputs that `saves` names, at their own places. */
  readonly outputs: readonly Tensor[];
  /** Shapes and dtypes of all inputs, saved or not. */
  readonly specs: readonly TensorSpec[];
  /** Which inputs' gradients are wanted; the others may be left undefined. */
  readonly needs: readonly boolean[];
  /** For inputs that `adds` names, the gradient that has arrived already, to be added to; undefined if none has. */
  readonly before: readonly (Tensor | undefined)[];
  /** The options of the call. */
  readonly options: Options;
}

/** The gradients of all inputs at once, or one rule an input, evaluated only if it is wanted. */
export type Backward<Options> =
  | ((context: BackwardContext<Options>) => (Tensor | null | undefined)[])
  | readonly ((context: BackwardContext<Options>) => Tensor)[];

/** What comes out of an operation. */
export interface ResultSpec extends TensorSpec {
  /** Its axes as they lie in memory, outermost first. Default: row-major. */
  readonly order?: readonly number[];
  /** It is no new tensor but a view of an input, which nobody has to write; for operations that read strides. */
  readonly view?: Pick<Layout, "strides" | "offset"> & { readonly of: number };
}

/** A differentiable operation; see {@linkcode defineOp}. */
export interface OpDefinition<Options, Output extends ResultSpec | ResultSpec[]>
  extends Program<Options> {
  /** Shapes and dtypes of the results. The place to refuse bad input, by throwing. */
  readonly output: (inputs: readonly Tensor[], options: Options) => Output;
  /**
   * The gradient rules. They are made of tensor operations, so that they can be differentiated too;
   * a definition without them throws when a gradient arrives.
   */
  readonly backward?: Backward<Options>;
  /** Which inputs and outputs the rules use, by position. Default: all of them. */
  readonly saves?: { readonly inputs?: readonly number[]; readonly outputs?: readonly number[] };
  /**
   * Inputs whose gradient the rules add to `before`, what other uses of them have sent: one pass then, instead of
   * another one that adds the two. Default: none.
   */
  readonly adds?: readonly number[];
  /**
   * Instead of `cpu` and `gpu`: writes the outputs by other operations in place. Nothing it does is
   * recorded; `backward` speaks for all of it.
   */
  readonly compose?: (
    inputs: readonly Tensor[],
    outputs: readonly Tensor[],
    options: Options,
  ) => void;
  /**
   * Beside `cpu` and `gpu`: writes the outputs by calls for parts of the inputs, where some operand outgrows a
   * binding and no cut of `cuts` helps. Nothing it does is recorded either.
   */
  readonly inPieces?: (
    inputs: readonly Tensor[],
    outputs: readonly Tensor[],
    options: Options,
  ) => void;
  /** Whether the implementations read strides. If not, inputs are made dense first. Default false. */
  readonly strided?: boolean;
}

/** What {@linkcode defineOp} makes: call it with the inputs and, last, the options if it has any. */
export type Op<Options = undefined, Output = ResultSpec> = (
  ...inputsAndOptions: undefined extends Options ? (Tensor | Options)[]
    : [...inputs: Tensor[], options: Options]
) => Output extends readonly unknown[] ? Tensor[] : Tensor;

/**
 * Makes a differentiable operation from a CPU function, a WGSL kernel or both, and its backward.
 *
 * The CPU function gets dense typed arrays (`view.data`); float16 arrives widened to float32. The
 * kernel's bindings are the inputs, then the outputs, then a uniform block of `params`. Prove the
 * gradient with `gradcheck`.
 *
 * @example
 * ```ts
 * import { defineOp, gradcheck, tensor } from "@levin/levin";
 *
 * const cube = defineOp({
 *   name: "cube",
 *   output: ([x]) => ({ shape: x.shape, dtype: x.dtype }),
 *   cpu: ([x], [y]) => y.data.forEach((_, i) => y.data[i] = x.data[i] ** 3),
 *   gpu: ([x]) => ({
 *     shader: `
 *       @group(0) @binding(0) var<storage, read> x: array<f32>;
 *       @group(0) @binding(1) var<storage, read_write> y: array<f32>;
 *       @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
 *         if (id.x < arrayLength(&y)) { y[id.x] = x[id.x] * x[id.x] * x[id.x]; }
 *       }`,
 *     workgroups: [Math.ceil(x.shape[0] / 64)],
 *   }),
 *   backward: ({ inputs: [x], grads: [dy] }) => [x.mul(x).mul(3).mul(dy)],
 * });
 * await gradcheck(cube, [tensor([1, -2, 0.5])]);
 * ```
 */
export function defineOp<
  Options = undefined,
  const Output extends ResultSpec | ResultSpec[] = ResultSpec,
>(definition: OpDefinition<Options, Output>): Op<Options, Output> {
  const call = (...given: unknown[]) => {
    const inputs = given.filter((item) => item instanceof Tensor);
    const options = given.find((item) => item !== undefined && !(item instanceof Tensor));
    const specs = definition.output(inputs, options as Options);
    const outputs = apply(definition, inputs, [specs].flat(), options as Options);
    return Array.isArray(specs) ? outputs : outputs[0];
  };
  Object.defineProperty(call, "name", { value: definition.name });
  return call as unknown as Op<Options, Output>;
}

/** Runs an operation on new outputs of the given shapes and, if a gradient may ask, records it. */
function apply<Options, Output extends ResultSpec | ResultSpec[]>(
  definition: OpDefinition<Options, Output>,
  inputs: readonly Tensor[],
  specs: readonly ResultSpec[],
  options: Options,
): Tensor[] {
  const device = commonDevice(definition.name, inputs);
  for (const { storage } of inputs) reading?.set(storage, storage.version);
  const ready = definition.strided || inputs.every((t) => t.isContiguous);
  if (ready && definition.compose === undefined) {
    // Nothing is made on the way, so no scope is needed to take it away.
    const outputs = execute(device, definition, inputs, specs, options);
    return record(definition, inputs, outputs, options);
  }
  using region = scope();
  const operands = ready ? inputs : noGrad(() => inputs.map(dense));
  const outputs = execute(device, definition, operands, specs, options);
  return record(definition, inputs, outputs, options).map((t) => region.keep(t));
}

/** New tensors with the results of an operation; what fails leaves none. */
function execute<Options, Output extends ResultSpec | ResultSpec[]>(
  device: Device,
  definition: OpDefinition<Options, Output>,
  operands: readonly Tensor[],
  specs: readonly ResultSpec[],
  options: Options,
): Tensor[] {
  const outputs: Tensor[] = [];
  try {
    for (const { shape, dtype, order, view } of specs) {
      outputs.push(
        view === undefined
          ? Tensor.allocate(device, { shape, dtype }, order)
          : operands[view.of].alias({ shape, dtype, ...view }, null),
      );
    }
    if (definition.compose) noGrad(() => definition.compose!(operands, outputs, options));
    else {
      const written = outputs.filter((_, i) => specs[i].view === undefined);
      const refusal = run(device, definition, viewsIn(operands), viewsIn(written), options);
      if (refusal) noGrad(() => tidy(() => runOtherwise(definition, operands, written, options)));
    }
  } catch (error) {
    outputs.forEach((t) => t.dispose());
    throw error;
  }
  return outputs;
}

let reading: Map<Storage, number> | undefined;

/** Runs `fn`, and tells in which version each memory was that its operations read. */
export function whatItReads<T>(fn: () => T): [result: T, read: Map<Storage, number>] {
  const outer = reading;
  const own = reading = new Map<Storage, number>();
  try {
    return [fn(), own];
  } finally {
    reading = outer;
    for (const [storage, version] of own) outer?.set(storage, version);
  }
}

/** Runs a program that writes, in place, tensors that exist already: optimizers, loaders of weights, decoding. */
export function runInPlace<Options>(
  program: Program<Options>,
  inputs: readonly Tensor[],
  targets: readonly Tensor[],
  options: Options,
): void {
  const device = commonDevice(program.name, [...inputs, ...targets]);
  const refusal = run(device, program, viewsIn(inputs), viewsIn(targets), options);
  if (refusal) throw refusal;
  for (const target of targets) target.storage.version++;
}

/** Several tensors over the memory of `x`, with the rule that maps their gradients back to its own. */
export function viewsOf(
  name: string,
  x: Tensor,
  layouts: readonly Omit<Layout, "dtype">[],
  backward: (gradients: readonly (Tensor | undefined)[]) => Tensor,
): Tensor[] {
  const full = layouts.map((layout) => ({ ...layout, dtype: x.dtype }));
  if (x.node === undefined || !isRecording()) return full.map((layout) => x.alias(layout, null));
  const edge = { node: x.node, index: x.outputIndex };
  const count = layouts.length;
  const node = new Node(name, [edge], (grads) => [
    backward(Array.from({ length: count }, (_, i) => grads[i])),
  ]);
  const results = full.map((layout, i) => new Tensor(x.storage.retain(), layout, node.retain(), i));
  node.release();
  return results;
}

/** Another tensor over the memory of `x`, with the rule that maps its gradient back. */
export function viewOf(
  name: string,
  x: Tensor,
  layout: Omit<Layout, "dtype">,
  backward: (gradient: Tensor) => Tensor,
): Tensor {
  return viewsOf(name, x, [layout], ([gradient]) => backward(gradient!))[0];
}

/**
 * Cuts a call until every operand fits one binding and loops are short enough, and hands the pieces to the backend.
 * What is returned is why no cut makes it fit; then nothing has run.
 */
function run<Options>(
  device: Device,
  program: Program<Options>,
  inputs: View[],
  outputs: View[],
  options: Options,
): LimitError | undefined {
  if (outputs.every((view) => sizeOf(view.shape) === 0)) return;
  const limit = device.engine.bindingBytes;
  const views = [...inputs, ...outputs];
  const scratch = program.scratchBytes?.(inputs, outputs, options) ?? 0;
  const bytes = Math.max(scratch, ...views.map(bytesBound));
  const turns = program.loopTurns?.(inputs, outputs, options) ?? 0;
  const { loopTurns } = device.engine;
  if (bytes <= limit && turns <= loopTurns) {
    device.engine.run(program, inputs, outputs, options);
    return;
  }

  const lengthAlong = (cut: number[]) =>
    Math.max(...cut.map((axis, i) => axis < 0 ? 1 : views[i].shape[axis]));
  const cut = program.cuts?.(inputs, outputs, options).find((axes) => lengthAlong(axes) > 1);
  if (cut === undefined) {
    return new LimitError(
      `Cannot run ${program.name} on ${views.map((view) => format(view.shape)).join(", ")}: ` +
        (bytes > limit
          ? `it needs ${bytes} bytes in one binding and the device allows ${limit} ` +
            `(maxStorageBufferBindingSize)`
          : `its loops take ${turns} turns and the driver ends them after ${loopTurns}`) +
        `; split the tensors into smaller ones`,
    );
  }
  const middle = Math.ceil(lengthAlong(cut) / 2);
  for (const [from, to] of [[0, middle], [middle, Infinity]]) {
    const part = views.map((view, i) => cut[i] < 0 ? view : window(view, cut[i], from, to));
    const [sources, targets] = [part.slice(0, inputs.length), part.slice(inputs.length)];
    // Only the first half can be refused: the other one is no larger.
    const refusal = run(device, program, sources, targets, options);
    if (refusal) return refusal;
  }
}

/** Runs what no cut makes fit: in pieces; or with operands dense of which a part spans more than a binding. */
function runOtherwise<Options, Output extends TensorSpec | TensorSpec[]>(
  definition: OpDefinition<Options, Output>,
  operands: readonly Tensor[],
  outputs: readonly Tensor[],
  options: Options,
): void {
  if (definition.inPieces) return definition.inPieces(operands, outputs, options);
  const { device } = operands[0];
  const closer = operands.map((t) =>
    bytesBound(t.view) > device.engine.bindingBytes ? dense(t) : t
  );
  const refusal = run(device, definition, viewsIn(closer), viewsIn(outputs), options);
  if (refusal) throw refusal;
}

function viewsIn(tensors: readonly Tensor[]): View[] {
  return tensors.map((t) => t.view);
}

/** Entries `from` (inclusive) to `to` (exclusive) along `axis`; a repeated entry stays whole. */
function window(view: View, axis: number, from: number, to: number): View {
  if (view.shape[axis] === 1) return view;
  const shape = [...view.shape];
  shape[axis] = Math.min(to, shape[axis]) - from;
  return { ...view, shape, offset: view.offset + from * view.strides[axis] };
}

function bytesBound(view: View): number {
  if (sizeOf(view.shape) === 0) return 0;
  const [first, last] = extentOf(view);
  return (last - first + 1) * bytesOf(view.dtype);
}

function dense(tensor: Tensor): Tensor {
  return tensor.isContiguous ? tensor : tensor.contiguous();
}

function commonDevice(name: string, tensors: readonly Tensor[]): Device {
  if (tensors.length === 0) throw new LevinError(`${name} was called without a tensor`);
  const [{ device }] = tensors;
  const stranger = tensors.find((t) => t.device !== device);
  if (stranger !== undefined) {
    throw new DeviceError(
      `Cannot run ${name} on tensors of two devices, ${device.name} and ${stranger.device.name}: ` +
        `make them with the same { device }`,
    );
  }
  return device;
}

/** Puts the call on the tape, where its outputs become results of the new node. */
function record<Options, Output extends ResultSpec | ResultSpec[]>(
  definition: OpDefinition<Options, Output>,
  inputs: readonly Tensor[],
  outputs: Tensor[],
  options: Options,
): Tensor[] {
  const differentiable = inputs.some((t) => t.node !== undefined) &&
    outputs.some((t) => isFloat(t.dtype));
  if (!isRecording() || !differentiable) return outputs;

  const { name, backward, saves, adds } = definition;
  const edges = inputs.map(({ node, outputIndex: index }) => node && { node, index });
  const specs = inputs.map(({ shape, dtype }) => ({ shape, dtype }));
  const keeps = (list: readonly number[] | undefined, i: number) =>
    backward !== undefined && (list === undefined ? saves === undefined : list.includes(i));
  const savedInputs = inputs.map((t, i) => keeps(saves?.inputs, i) ? new Saved(t, t.node) : null);
  const savedOutputs: (Saved | null)[] = [];
  const rule: Rule = (grads, needs, before) => {
    if (backward === undefined) {
      throw new LevinError(
        `Cannot differentiate ${name}: it has no gradient rule; give defineOp a \`backward\`, or ` +
          `detach() its result`,
      );
    }
    const context: BackwardContext<Options> = {
      grads: grads as Tensor[],
      inputs: savedInputs.map((s) => s?.restore(name)) as Tensor[],
      outputs: savedOutputs.map((s, i) => s?.restore(name, node, i)) as Tensor[],
      specs,
      needs,
      before,
      options,
    };
    if (typeof backward === "function") return backward(context);
    return needs.map((needed, i) => needed ? backward[i](context) : undefined);
  };
  const node: Node = new Node(name, edges, rule, () => {
    for (const saved of [...savedInputs, ...savedOutputs]) saved?.free();
  });
  if (adds !== undefined) node.adds = adds;
  outputs.forEach((t, i) => {
    t.attach(node.retain(), i);
    savedOutputs.push(keeps(saves?.outputs, i) ? new Saved(t) : null);
  });
  node.release();
  return outputs;
}

/** A tensor that a node keeps for its rule: a hold on the memory and, for inputs, on the node. */
export class Saved {
  readonly #tensor: Pick<Tensor, "storage" | "outputIndex"> & Layout;
  readonly #version: number;

  constructor(tensor: Tensor, readonly node?: Node) {
    const { storage, shape, dtype, strides, offset, outputIndex } = tensor;
    this.#tensor = { storage, shape, dtype, strides, offset, outputIndex };
    this.#version = storage.version;
    storage.retain();
    node?.retain();
  }

  /** A handle for the rule to use; the scope that the rule runs in disposes it. */
  restore(name: string, node: Node | undefined = this.node, index?: number): Tensor {
    const { storage, outputIndex } = this.#tensor;
    if (storage.version !== this.#version) {
      throw new LevinError(
        `Cannot differentiate ${name}: a tensor it had saved was written in place since, by an ` +
          `optimizer, a loader of weights or a step of decoding; call backward() before`,
      );
    }
    return new Tensor(storage.retain(), this.#tensor, node?.retain(), index ?? outputIndex);
  }

  free(): void {
    this.#tensor.storage.release();
    this.node?.release();
  }
}

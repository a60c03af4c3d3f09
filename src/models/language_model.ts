/**
 * What generation, evaluation and training hold a language model by, whatever it is made of.
 *
 * @module
 */
import { noGrad } from "../autograd.ts";
import { checkpoint } from "../checkpoint.ts";
import type { Device } from "../device.ts";
import { LevinError, ShapeError } from "../errors.ts";
import { crossEntropy } from "../loss.ts";
import type { Memory } from "../nn/memory.ts";
import { Module } from "../nn/module.ts";
import { tensor } from "../ops/create.ts";
import { tidy } from "../scope.ts";
import { format, sameShape } from "../shape.ts";
import type { Tensor } from "../tensor.ts";

/** What every model's configuration has. */
export interface ModelConfig {
  /** Tokens in the vocabulary. */
  readonly vocabulary: number;
  /** Layers. */
  readonly layers: number;
  /** Tokens of the longest sequence that it was trained on, if it cannot do with longer ones. */
  readonly contextLength?: number;
}

/** Options of {@linkcode LanguageModel.start}. */
export interface ContextOptions {
  /** Sequences side by side. Default 1. */
  batch?: number;
  /** Tokens a sequence for which there is room at first, where there have to be some. Default 256. */
  capacity?: number;
}

/**
 * What a model remembers of the tokens it has seen, for each sequence of a batch: states of constant size
 * if its attention is linear, else all keys and values. Made by `start`, brought up to date by `extend`; it
 * belongs to no scope, so dispose it or declare it with `using`.
 */
export class Context implements Disposable {
  /** Tokens seen by each sequence. */
  readonly positions: number[];
  /** The memory of each layer. */
  readonly layers: readonly Memory[];

  /** Sequences that have seen so many tokens. */
  constructor(positions: readonly number[], layers: readonly Memory[]) {
    this.positions = [...positions];
    this.layers = layers;
  }

  /** Sequences. */
  get batch(): number {
    return this.positions.length;
  }

  /**
   * Copies of some sequences, in this order, as a context of their own: all of them to go on twice from
   * one prefix, one of them several times, or those that are not finished.
   *
   * @throws {ShapeError} if a number names no sequence, or none is named.
   */
  select(sequences: readonly number[]): Context {
    const wrong = sequences.find((i) => !(Number.isInteger(i) && i >= 0 && i < this.batch));
    if (wrong !== undefined || sequences.length === 0) {
      throw new ShapeError(
        `Context.select: expected numbers of sequences, from 0 to ${this.batch - 1}, found ` +
          `${wrong ?? "none"}`,
      );
    }
    return new Context(
      sequences.map((i) => this.positions[i]),
      this.layers.map((memory) => memory.select(sequences)),
    );
  }

  /**
   * Copies of the sequences of this context and then of others of the same model, as one batch; they may
   * have seen different numbers of tokens, but each some.
   *
   * @throws {LevinError} if a context has seen nothing, or is another model's.
   */
  join(others: readonly Context[]): Context {
    const all = [this, ...others];
    if (all.some(({ layers }) => layers.length !== this.layers.length)) {
      throw new LevinError("Context.join: expected contexts of one model, found other layers");
    }
    const positions = all.flatMap((context) => context.positions);
    if (positions.includes(0)) {
      throw new LevinError(
        "Context.join: expected sequences of a token or more, found an empty one",
      );
    }
    return new Context(
      positions,
      this.layers.map((memory, i) => memory.join(others.map(({ layers }) => layers[i]))),
    );
  }

  /**
   * All there is to it as tensors by name, to be saved with `io.saveSafetensors` and given to the model's
   * `resume` later. They are handles on the context's own memory.
   */
  tensors(): Record<string, Tensor> {
    const named = this.layers.flatMap((memory, i) =>
      Object.entries(memory.tensors()).map(([name, t]) => [`layers.${i}.${name}`, t] as const)
    );
    const { device } = named[0]?.[1] ?? {};
    return {
      positions: tensor(this.positions, { dtype: "i32", device }),
      ...Object.fromEntries(named),
    };
  }

  /** Frees what the layers remember. */
  [Symbol.dispose](): void {
    for (const memory of this.layers) memory[Symbol.dispose]();
  }
}

/**
 * A language model: from tokens to logits of the next one.
 *
 * @example
 * ```ts
 * import { tensor } from "@levin/levin";
 * import { type LanguageModel, TransNormerLLM } from "@levin/levin/models";
 *
 * const model: LanguageModel = //
 *   new TransNormerLLM({ vocabulary: 256, size: 32, layers: 2, heads: 4, inner: 64 });
 * const ids = tensor([[72, 105]], { dtype: "i32" });
 * console.log(model.forward(ids).shape); // [1, 2, 256], with gradients
 *
 * using context = model.start();
 * console.log(model.extend(context, ids).shape); // [1, 2, 256], without
 * console.log(model.extend(context, tensor([[33]], { dtype: "i32" })).shape); // [1, 1, 256]
 * console.log(context.positions); // [3]
 * ```
 */
export abstract class LanguageModel extends Module {
  /** The sizes. */
  abstract readonly config: ModelConfig;

  /** ids [b, n], which come after what `context` remembers → what the head sees [b, n, size]. */
  abstract hidden(ids: Tensor, context?: Context): Tensor;

  /**
   * Whether a tensor of this name in a checkpoint holds nothing but what follows from the configuration, so
   * that loading passes it over.
   */
  isDerived(_name: string): boolean {
    return false;
  }

  /** What the head sees [.., size] → logits [.., vocabulary]. */
  abstract logits(hidden: Tensor): Tensor;

  /** An empty memory for one layer, with room for `capacity` tokens at first if it needs some. */
  protected abstract memory(capacity: number): Memory;

  /**
   * How what the layers compute is stored: `"f16"` over float32 parameters is mixed precision, in which
   * products still add up in float32 and gradients arrive in float32. Default: as the parameters are.
   */
  compute: "f32" | "f16" | undefined;

  /** Compute the insides of each layer again in `backward()` instead of keeping them. Default false. */
  recompute = false;

  /** Tokens in the vocabulary: ids run from 0 to this, exclusive. */
  get vocabulary(): number {
    return this.config.vocabulary;
  }

  /** Tokens of the longest sequence that the model was trained on; Infinity if there is no such length. */
  get contextLength(): number {
    return this.config.contextLength ?? Infinity;
  }

  /** Where the parameters live. */
  get device(): Device {
    return Object.values(this.parameters())[0].device;
  }

  /**
   * ids [b, n], i32 or u32 → logits [b, n, vocabulary], through which gradients flow.
   *
   * @throws {ShapeError} unless ids have two axes.
   */
  forward(ids: Tensor): Tensor {
    checkIds(ids);
    return tidy(() => this.logits(this.hidden(ids)));
  }

  /**
   * The mean cross-entropy, in nats, of `targets`, the tokens that follow `ids`; both [b, n], i32 or u32.
   *
   * With `chunk`, logits are made for so many tokens at a time, in `backward()` a second time: [b, n,
   * vocabulary] of them, often the largest tensor of all, are never there at once.
   *
   * @returns A float32 scalar.
   * @throws {ShapeError} unless ids have two axes and targets their shape, and a chunk has a token.
   */
  loss(ids: Tensor, targets: Tensor, { chunk }: { chunk?: number } = {}): Tensor {
    checkIds(ids);
    if (!sameShape(ids.shape, targets.shape)) {
      throw new ShapeError(
        `loss: expected targets ${format(ids.shape)} as the ids, found ${format(targets.shape)}`,
      );
    }
    if (chunk !== undefined && !(Number.isInteger(chunk) && chunk >= 1)) {
      throw new ShapeError(`loss: expected a chunk of 1 token or more, found ${chunk}`);
    }
    return tidy(() => {
      const hidden = this.hidden(ids);
      if (chunk === undefined) return crossEntropy(this.logits(hidden), targets);
      const rows = hidden.reshape([ids.size, hidden.shape[2]]);
      const flat = targets.reshape([-1]);
      const sums: Tensor[] = [];
      for (let first = 0; first < ids.size; first += chunk) {
        const part = [first, Math.min(ids.size, first + chunk)] as const;
        const sum = (rows: Tensor, targets: Tensor) =>
          crossEntropy(this.logits(rows), targets, { reduction: "sum" });
        sums.push(checkpoint(sum, [rows.slice(part), flat.slice(part)]));
      }
      return sums.reduce((a, b) => a.add(b)).mul(1 / ids.size);
    });
  }

  /** A context that has seen nothing. */
  start({ batch = 1, capacity = 256 }: ContextOptions = {}): Context {
    if (!Number.isInteger(batch) || batch < 1 || !Number.isInteger(capacity) || capacity < 1) {
      throw new ShapeError(
        `start: expected a batch and a capacity of 1 or more, found ${batch} and ${capacity}`,
      );
    }
    return this.#context(Array<number>(batch).fill(0), capacity);
  }

  /**
   * The logits of the next tokens; the context then remembers them too. No gradient is recorded. If it
   * throws, the context is as it was.
   *
   * @param ids The next tokens of each sequence [b, n], i32 or u32.
   * @returns The logits [b, n, vocabulary], or with `last` those of the last token only [b, 1, vocabulary].
   * @throws {ShapeError} unless ids have two axes, as many rows as the context has sequences, and a token.
   * @throws {LevinError} if the context is another model's.
   */
  extend(context: Context, ids: Tensor, { last = false }: { last?: boolean } = {}): Tensor {
    checkIds(ids);
    const [batch, n] = ids.shape;
    if (batch !== context.batch || n === 0) {
      throw new ShapeError(
        `extend: expected ids [${context.batch}, n], n ≥ 1, for a context of ${context.batch} ` +
          `sequences, found ${format(ids.shape)}`,
      );
    }
    if (context.layers.length !== this.config.layers) {
      throw new LevinError(
        `extend: the context has ${context.layers.length} layers, the model ${this.config.layers}`,
      );
    }
    try {
      const logits = tidy(() =>
        noGrad(() => {
          const hidden = this.hidden(ids, context);
          return this.logits(last ? hidden.slice(null, [n - 1]) : hidden);
        })
      );
      for (const memory of context.layers) memory.commit();
      for (let i = 0; i < batch; i++) context.positions[i] += n;
      return logits;
    } catch (error) {
      for (const memory of context.layers) memory.rollback();
      throw error;
    }
  }

  #context(positions: readonly number[], capacity: number): Context {
    return new Context(
      positions,
      Array.from({ length: this.config.layers }, () => this.memory(capacity)),
    );
  }

  /**
   * The context that `context.tensors()` described, on the model's device. The tensors are copied.
   *
   * @throws {LevinError} if they are not a context of this model.
   */
  async resume(tensors: Readonly<Record<string, Tensor>>): Promise<Context> {
    const { positions, ...rest } = tensors;
    if (positions === undefined) throw new LevinError("resume: expected positions, found none");
    const context = this.#context([...await positions.data()], 256);
    try {
      const names = new Set(Object.keys(rest));
      context.layers.forEach((memory, i) => {
        const prefix = `layers.${i}.`;
        const own = [...names].filter((name) => name.startsWith(prefix));
        own.forEach((name) => names.delete(name));
        const named = own.map((name) => [name.slice(prefix.length), rest[name]] as const);
        memory.restore(Object.fromEntries(named), context.positions);
      });
      if (names.size > 0) {
        throw new LevinError(`resume: the model has no layers for ${[...names].join(", ")}`);
      }
      return context;
    } catch (error) {
      context[Symbol.dispose]();
      throw error;
    }
  }
}

/**
 * x through the layers in turn; each result is freed once the next is there, unless a gradient needs it. To
 * `recompute` is to keep, for the gradient, nothing else; tensors that all layers share are named then too.
 */
export function throughLayers<Layer>(
  layers: readonly Layer[],
  x: Tensor,
  apply: (layer: Layer, x: Tensor, index: number, ...shared: Tensor[]) => Tensor,
  recompute: boolean,
  ...shared: Tensor[]
): Tensor {
  return layers.reduce((before, layer, index) => {
    const one = (x: Tensor, ...shared: Tensor[]) => apply(layer, x, index, ...shared);
    const after = recompute ? checkpoint(one, [before, ...shared]) : one(before, ...shared);
    before.dispose();
    return after;
  }, x);
}

/** Refuses sizes of a model that are not positive integers. */
export function checkSizes(model: string, sizes: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(sizes)) {
    if (!Number.isInteger(value) || value < 1) {
      throw new ShapeError(`${model}: expected ${name} to be a positive integer, found ${value}`);
    }
  }
}

function checkIds(ids: Tensor): void {
  if (ids.rank !== 2) {
    throw new ShapeError(`Expected ids [batch, n], found ${format(ids.shape)}`);
  }
}

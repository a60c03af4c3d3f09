/**
 * What LLaMA and Pythia share: softmax attention whose queries and keys are turned by their positions, in layers
 * between an embedding and a norm.
 *
 * @module
 */
import type { Embedding } from "../nn/linear.ts";
import { SoftmaxMemory } from "../nn/memory.ts";
import type { Rotary } from "../nn/rotary.ts";
import { tidy } from "../scope.ts";
import type { Tensor } from "../tensor.ts";
import { type Context, LanguageModel, throughLayers } from "./language_model.ts";

/** One layer of a {@linkcode RotaryModel}. */
export interface RotaryLayer {
  /** x [b, n, size], turned by `rotations`, after what `memory` holds → the same shape. */
  forward(x: Tensor, rotations: Tensor, memory?: SoftmaxMemory): Tensor;
}

/** The parts of a {@linkcode RotaryModel} before its head, whatever their names in checkpoints. */
export interface RotaryParts {
  /** A vector for each token. */
  readonly embedding: Embedding;
  /** The layers, in order. */
  readonly layers: readonly RotaryLayer[];
  /** After the last layer: x [.., size] → the same shape. */
  readonly norm: { forward(x: Tensor): Tensor };
}

/** A language model by softmax attention with rotary positions. */
export abstract class RotaryModel extends LanguageModel {
  /** The rotations of positions. */
  abstract readonly rotary: Rotary;

  /** What tokens go through before the head. */
  protected abstract get parts(): RotaryParts;

  /** ids [b, n], which come after what `context` remembers → what the head sees [b, n, size]. */
  hidden(ids: Tensor, context?: Context): Tensor {
    return tidy(() => {
      const { embedding, layers, norm } = this.parts;
      const rotations = this.rotary.at(context?.positions ?? 0, ids.shape[1]);
      const embedded = embedding.forward(ids);
      const x = throughLayers(
        layers,
        embedded.to(this.compute ?? embedded.dtype),
        (layer, x, i, rotations) =>
          layer.forward(x, rotations, context?.layers[i] as SoftmaxMemory | undefined),
        this.recompute,
        rotations,
      );
      return norm.forward(x);
    });
  }

  /** All keys and values. */
  protected memory(capacity: number): SoftmaxMemory {
    return new SoftmaxMemory(capacity);
  }
}

/**
 * Checkpoints: one safetensors file with the parameters under the names of released TransNormerLLM
 * checkpoints, the optimizer's averages under `optimizer.`, the losses so far, and as metadata what is
 * needed to go on.
 */
import { type Device, io, LevinError, type Tensor, tensor } from "../../mod.ts";
import { type TransNormerConfig, TransNormerLLM } from "../../src/models/mod.ts";
import type { Trainer, TrainingOptions } from "./trainer.ts";

/** What a checkpoint says of itself. */
export interface CheckpointHeader {
  readonly config: TransNormerConfig;
  readonly options: TrainingOptions;
  /** Steps taken. */
  readonly step: number;
  /** Where the text came from, if it was named. */
  readonly textPath?: string;
  /** The SHA-256 of the text. */
  readonly textHash: string;
}

const FORMAT = "levin-demo-2";
const OPTIMIZER = "optimizer.";
const SCALER = "scaler.";
const LOSSES = "training.losses";

/** Writes a trainer's whole state. */
export async function saveCheckpoint(
  path: string,
  trainer: Trainer,
  textPath: string | undefined,
): Promise<void> {
  const { model, optimizer, losses, config, options, text } = trainer;
  const header: CheckpointHeader = {
    config,
    options,
    step: optimizer.steps,
    textPath,
    textHash: text.hash,
  };
  using lossTensor = tensor(losses, { device: trainer.device });
  await io.saveSafetensors(path, {
    ...model.parameters(),
    ...prefixed(OPTIMIZER, optimizer.state()),
    ...prefixed(SCALER, trainer.scaler?.state() ?? {}),
    [LOSSES]: lossTensor,
  }, { format: FORMAT, header: JSON.stringify(header) });
}

function prefixed(prefix: string, tensors: Record<string, Tensor>): Record<string, Tensor> {
  return Object.fromEntries(Object.entries(tensors).map(([name, t]) => [prefix + name, t]));
}

/** A checkpoint that has been read: dispose it once its tensors are copied. */
export class Checkpoint implements Disposable {
  private constructor(
    readonly header: CheckpointHeader,
    readonly tensors: io.SafetensorsContent["tensors"],
    readonly path: string,
  ) {}

  /** @throws {LevinError} if the file is not a whole checkpoint of this program. */
  static async read(path: string, device: Device): Promise<Checkpoint> {
    const { tensors, metadata } = await io.loadSafetensors(path, { device });
    try {
      if (metadata.format !== FORMAT) throw new Error("its metadata lacks the format");
      return new Checkpoint(JSON.parse(metadata.header), tensors, path);
    } catch (cause) {
      for (const t of Object.values(tensors)) t.dispose();
      throw new LevinError(`${path} is not a checkpoint of \`deno task demo\``, { cause });
    }
  }

  /** The model alone, to write with. */
  model(device: Device): TransNormerLLM {
    const model = new TransNormerLLM(this.header.config, { device });
    model.load(this.#parameters());
    return model;
  }

  /** Puts a trainer where the checkpoint's left off. */
  async restore(trainer: Trainer): Promise<void> {
    trainer.model.load(this.#parameters());
    trainer.optimizer.load(this.#below(OPTIMIZER), this.header.step);
    trainer.scaler?.load(this.#below(SCALER));
    trainer.losses.push(...await this.tensors[LOSSES].data());
  }

  /** The tensors whose names begin with `prefix`, without it. */
  #below(prefix: string): Record<string, Tensor> {
    const entries = Object.entries(this.tensors).filter(([name]) => name.startsWith(prefix));
    return Object.fromEntries(entries.map(([name, t]) => [name.slice(prefix.length), t]));
  }

  #parameters() {
    const isParameter = (name: string) =>
      ![OPTIMIZER, SCALER].some((prefix) => name.startsWith(prefix)) && name !== LOSSES;
    return Object.fromEntries(Object.entries(this.tensors).filter(([name]) => isParameter(name)));
  }

  [Symbol.dispose](): void {
    for (const t of Object.values(this.tensors)) t.dispose();
  }
}

/**
 * What the page and its worker say to each other.
 */

/** What the page asks for. A wish ends the work that is going on. */
export type Wish =
  | { readonly kind: "open"; readonly backend: string }
  | { readonly kind: "learn"; readonly text: string }
  | { readonly kind: "write" }
  | { readonly kind: "time" }
  | { readonly kind: "stop" };

/** Work that goes on until it is done or another wish arrives. */
export type Job = "learn" | "write" | "time";

/** The two attentions that are timed. */
export type Form = "lightning" | "softmax";

/** What the worker tells. */
export type News =
  /** The device is open: which it is, and the sizes that suit it. */
  | { readonly kind: "opened"; readonly device: DeviceNews }
  | { readonly kind: "began"; readonly job: Job }
  /** Work is done or was broken off. */
  | { readonly kind: "ended"; readonly job: Job }
  /** A new model: its parameters, its steps, and the loss of guessing by letter frequencies alone. */
  | {
    readonly kind: "model";
    readonly parameters: number;
    readonly steps: number;
    /** Nats a byte. */
    readonly unigram: number;
    /** Bytes of state for one sequence, and bytes that a key/value cache would take for a token. */
    readonly stateBytes: number;
    readonly cacheBytes: number;
  }
  /** The losses of the latest steps, nats a byte; `rate` in tokens/s. */
  | { readonly kind: "losses"; readonly losses: number[]; readonly rate: number }
  | { readonly kind: "heldOut"; readonly step: number; readonly loss: number }
  /** The sample that is written after `step` steps, as far as it goes. */
  | { readonly kind: "sample"; readonly step: number; readonly text: string }
  /** More of the endless text. Bytes are counted at every token since the last news. */
  | {
    readonly kind: "written";
    readonly text: string;
    readonly tokens: number;
    /** The most that the device held above what it held before the first token. */
    readonly bytes: number;
    /** All that the device holds, in use and pooled for reuse. */
    readonly heldBytes: number;
    /** Tokens/s. */
    readonly rate: number;
  }
  /** One call of an attention on n tokens. */
  | { readonly kind: "timed"; readonly form: Form; readonly n: number; readonly ms: number }
  | { readonly kind: "failed"; readonly message: string };

/** A device, as people are told of it. */
export interface DeviceNews {
  readonly backend: string;
  readonly name: string;
  /** Why it was chosen. */
  readonly reason: string;
}

/** Says something to the page. */
export type Tell = (news: News) => void;

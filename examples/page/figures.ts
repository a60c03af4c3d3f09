/// <reference lib="dom" />
/**
 * The three figures: each takes in the worker's news and draws itself.
 */
import { BITS } from "../demo/text.ts";
import { Chart, type Point } from "./chart.ts";
import type { Form } from "./protocol.ts";

const count = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** 1024 → "1 KiB". */
export function bytesText(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB"];
  const power = bytes < 1 ? 0 : Math.min(3, Math.floor(Math.log2(bytes) / 10));
  return `${Number((bytes / 1024 ** power).toPrecision(3))} ${units[power]}`;
}

/** 0.01234 → "0.0123"; 1234.5 → "1,230". */
export function msText(ms: number): string {
  return ms.toLocaleString("en", { maximumSignificantDigits: 3 });
}

/** What a byte costs the model, step by step. */
export class LossFigure {
  readonly #chart: Chart;
  #steps = 1;
  #unigram = 8;
  #losses: Point[] = [];
  #heldOut: Point[] = [];

  constructor(svg: SVGSVGElement) {
    this.#chart = new Chart(
      svg,
      { title: "step", least: [0, 100], format: (step) => step.toLocaleString("en") },
      { title: "bits a byte", least: [0, 8], format: String },
    );
    this.#chart.draw([], "The loss; nothing has been learnt yet");
  }

  /** A new model, of so many steps; what letter frequencies alone would pay, in nats. */
  begin(steps: number, unigram: number): void {
    this.#steps = steps;
    this.#unigram = unigram * BITS;
    this.#losses = [];
    this.#heldOut = [];
    this.#draw();
  }

  /** The losses of the next steps, in nats. */
  add(losses: readonly number[]): void {
    for (const loss of losses) this.#losses.push([this.#losses.length + 1, loss * BITS]);
    this.#draw();
  }

  /** The loss on text that is held out, in nats. */
  test(step: number, loss: number): void {
    this.#heldOut.push([step, loss * BITS]);
    this.#draw();
  }

  #draw(): void {
    const means = this.#losses.map(([step], i): Point => [step, meanAround(this.#losses, i)]);
    const [, mean] = means.at(-1) ?? [0, 8];
    const rule: Point[] = [[0, this.#unigram], [this.#steps, this.#unigram]];
    this.#chart.draw(
      [
        { name: "letter frequencies", points: rule, look: "softmax dashed" },
        { points: this.#losses, look: "lightning faint" },
        { name: "this model", points: means, look: "lightning" },
        { points: this.#heldOut, look: "lightning apart", dots: true },
      ],
      `The loss after ${this.#losses.length} of ${this.#steps} steps: ${
        mean.toFixed(2)
      } bits a byte`,
    );
  }
}

/** The mean over neighbours: as many after as before, where there are. */
function meanAround(points: readonly Point[], i: number): number {
  const reach = Math.min(8, i);
  const near = points.slice(i - reach, i + reach + 1);
  return near.reduce((sum, [, y]) => sum + y, 0) / near.length;
}

/** What is kept for the context, token by token. */
export class MemoryFigure {
  readonly #chart: Chart;
  #cacheBytes = 0;
  #points: Point[] = [];

  constructor(svg: SVGSVGElement) {
    this.#chart = new Chart(
      svg,
      { title: "tokens of context", least: [0, 200], format: (n) => count.format(n) },
      {
        title: "bytes",
        least: [0, 2 ** 10],
        step: (least) => 2 ** Math.ceil(Math.log2(least)),
        format: (bytes) => bytes === 0 ? "0" : bytesText(bytes),
      },
    );
    this.#chart.draw([], "Memory against tokens; nothing has been written yet");
  }

  /** A new text, by a model whose key/value cache would take so many bytes a token. */
  begin(cacheBytes: number): void {
    this.#cacheBytes = cacheBytes;
    this.#points = [];
  }

  /** Bytes kept for `tokens`. */
  add(tokens: number, bytes: number): void {
    // Half of the points tell as much, once there are more than pixels.
    if (this.#points.length >= 400) this.#points = this.#points.filter((_, i) => i % 2 === 0);
    this.#points.push([tokens, bytes]);
    const cache = tokens * this.#cacheBytes;
    this.#chart.draw(
      [
        { name: "key/value cache", points: [[0, 0], [tokens, cache]], look: "softmax dashed" },
        { name: "this model", points: this.#points, look: "lightning" },
      ],
      `After ${tokens} tokens this model keeps ${bytesText(bytes)}; a cache would take ${
        bytesText(cache)
      }`,
    );
  }
}

/** What a call takes, by the number of tokens. */
export class TimeFigure {
  readonly #chart: Chart;
  readonly times: Record<Form, Point[]> = { lightning: [], softmax: [] };

  constructor(svg: SVGSVGElement) {
    this.#chart = new Chart(
      svg,
      {
        title: "n, tokens",
        base: 4,
        least: [128, 1024],
        format: (n) => n < 1024 ? `${n}` : `${n / 1024}K`,
      },
      { title: "ms", base: 10, least: [1, 10], format: (ms) => ms.toLocaleString("en") },
    );
    this.#chart.draw([], "Time against tokens; nothing has been measured yet");
  }

  /** Forgets all times. */
  begin(): void {
    this.times.lightning = [];
    this.times.softmax = [];
    this.#draw();
  }

  /** One call on n tokens takes so many ms; of several times the least counts. */
  add(form: Form, n: number, ms: number): void {
    const points = this.times[form];
    const known = points.findIndex(([x]) => x === n);
    if (known < 0) points.push([n, ms]);
    else points[known] = [n, Math.min(ms, points[known][1])];
    this.#draw();
  }

  /** Rows of n and the ms of both, where they were measured. */
  rows(): { n: number; lightning?: number; softmax?: number }[] {
    const { lightning, softmax } = this.times;
    const at = (points: Point[], n: number) => points.find(([x]) => x === n)?.[1];
    const lengths = [...new Set([...lightning, ...softmax].map(([n]) => n))];
    return lengths.map((n) => ({ n, lightning: at(lightning, n), softmax: at(softmax, n) }));
  }

  /** The longest text that both were measured on, in words; "" if there is none. */
  verdict(): string {
    const both = this.rows().filter((row) =>
      row.lightning !== undefined && row.softmax !== undefined
    );
    const last = both.at(-1);
    if (last === undefined) return "";
    const ratio = last.softmax! / last.lightning!;
    const factor = ratio < 1
      ? `${(1 / ratio).toFixed(1)} times less`
      : `${ratio.toFixed(1)} times as long`;
    return `At n = ${last.n.toLocaleString("en")} Lightning Attention-2 takes ` +
      `${msText(last.lightning!)} ms and softmax attention ${msText(last.softmax!)} ms, ${factor}.`;
  }

  #draw(): void {
    this.#chart.draw([
      { name: "softmax", points: this.times.softmax, look: "softmax", dots: true },
      { name: "Lightning", points: this.times.lightning, look: "lightning", dots: true },
    ], this.verdict() || "Time against tokens");
  }
}

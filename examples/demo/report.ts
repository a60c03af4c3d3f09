/**
 * What the demo shows: a progress bar, the loss curve in the terminal and as SVG, and text as it is
 * written.
 */
import process from "node:process";
import asciichart from "asciichart";
import * as echarts from "echarts";
import { progressBar } from "./progress_bar.ts";
import type { GenerateOptions, LanguageModel } from "../../src/models/mod.ts";
import { BITS } from "./text.ts";
import { written, type WrittenOptions } from "./writing.ts";

/**
 * The progress of training on stderr: the curve of the losses as it grows, and a bar. Off a terminal, the bar
 * alone, as a line every few seconds.
 */
export class ProgressBar {
  readonly #bar = progressBar(
    "{bar} {value}/{total}  loss {loss}  {bits} bits/byte  {rate} tokens/s  {left} left",
  );
  readonly #began = performance.now();
  readonly #start: number;
  #drawn = { lines: 0, at: -Infinity };

  /** For `total` steps, whose losses are appended to `losses`. */
  constructor(
    readonly total: number,
    readonly losses: readonly number[],
    readonly tokensPerStep: number,
  ) {
    this.#start = losses.length;
    this.show();
  }

  /** Shows where training has come to. */
  show(): void {
    const { losses, total } = this;
    if (process.stderr.isTTY) this.#draw();
    const loss = losses.at(-1);
    const seconds = (performance.now() - this.#began) / 1000;
    const taken = losses.length - this.#start;
    const numbers = taken === 0 || loss === undefined
      ? { loss: "…", bits: "…", rate: "…", left: "…" }
      : {
        loss: loss.toFixed(3),
        bits: (loss * BITS).toFixed(3),
        rate: Math.round(taken * this.tokensPerStep / seconds),
        left: duration((total - losses.length) * seconds / taken),
      };
    if (!this.#bar.isActive) this.#bar.start(total, losses.length, numbers);
    else this.#bar.update(losses.length, numbers);
  }

  /** Takes the bar away, so that something else can be printed; `show` brings it back. */
  hide(): void {
    this.#bar.stop();
    this.#drawn = { lines: 0, at: -Infinity };
  }

  /** Draws the curve over the last one, at most once a second. */
  #draw(): void {
    const now = performance.now();
    if (this.losses.length < 2 || now - this.#drawn.at < 1000) return;
    this.#bar.stop();
    const chart = lossChart(this.losses);
    // Up to the first line of the last curve, and from there on clear.
    const over = this.#drawn.lines > 0 ? `\x1b[${this.#drawn.lines}A\x1b[0J` : "";
    process.stderr.write(`${over}${chart}\n`);
    this.#drawn = { lines: chart.split("\n").length, at: now };
  }
}

function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** The curve in as many columns as a terminal has. */
export function lossChart(losses: readonly number[], columns = 72): string {
  const buckets = Math.min(columns, losses.length);
  const means = Array.from({ length: buckets }, (_, i) => {
    const from = Math.floor(i * losses.length / buckets);
    const part = losses.slice(from, Math.floor((i + 1) * losses.length / buckets));
    return part.reduce((a, b) => a + b) / part.length;
  });
  return asciichart.plot(means, { height: 10, format: (x: number) => x.toFixed(2).padStart(7) });
}

/** The curve as an SVG document, with the unigram entropy as a line to beat. */
export function lossSvg(
  { losses, validation, unigram }: {
    losses: readonly number[];
    validation: readonly (readonly [step: number, loss: number])[];
    unigram: number;
  },
): string {
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width: 840, height: 480 });
  chart.setOption({
    animation: false,
    title: { text: "Loss of a byte-level TransNormerLLM", left: "center" },
    legend: { bottom: 0 },
    grid: { left: 70, right: 40, top: 50, bottom: 80 },
    xAxis: { type: "value", name: "step", nameLocation: "middle", nameGap: 28, max: losses.length },
    yAxis: { type: "value", name: "nats a byte", min: 0 },
    series: [
      { name: "training", type: "line", showSymbol: false, data: losses.map((y, i) => [i + 1, y]) },
      { name: "held out", type: "line", data: validation },
      {
        name: "unigram entropy",
        type: "line",
        showSymbol: false,
        lineStyle: { type: "dashed" },
        data: [[0, unigram], [losses.length, unigram]],
      },
    ],
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

/** Writes text as it comes, and returns how fast it came in tokens/s. */
export async function writeText(
  model: LanguageModel,
  prompt: string,
  options: GenerateOptions,
  texts: WrittenOptions = {},
): Promise<number> {
  const write = (text: string) => process.stdout.write(text);
  write(prompt);
  const began = performance.now();
  let count = 0;
  for await (const text of written(model, prompt, options, texts)) {
    count++;
    write(text);
    // So that a signal can arrive.
    await new Promise((resolve) => setTimeout(resolve));
  }
  write("\n");
  return count / ((performance.now() - began) / 1000);
}

/**
 * What the experiments write: Markdown tables on stdout, and line charts as SVG.
 */
import * as echarts from "echarts";
import { io } from "../../mod.ts";
import { UsageError } from "../demo/flags.ts";

/** A table in Markdown, numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const rule = head.map((_, i) => i === 0 ? "---" : "---:");
  return [head, rule, ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/** A line: points (x, y), and whether it is another's measurement, drawn dashed. */
export interface Line {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  readonly dashed?: boolean;
}

/** What a chart shows. */
export interface Chart {
  readonly title: string;
  readonly x: string;
  readonly y: string;
  readonly lines: readonly Line[];
  /** Both axes logarithmic, x by powers of two. Default false. */
  readonly logarithmic?: boolean;
  /** Dots at the points. Default: as many as one can see. */
  readonly symbols?: boolean;
}

/** An SVG document. */
export function svgOf({ title, x, y, lines, logarithmic = false, symbols }: Chart): string {
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width: 840, height: 520 });
  const shared = { nameLocation: "middle", scale: true } as const;
  const axis = logarithmic
    ? { ...shared, type: "log" } as const
    : { ...shared, type: "value" } as const;
  chart.setOption({
    animation: false,
    title: { text: title, left: "center" },
    legend: { bottom: 0 },
    grid: { left: 90, right: 40, top: 50, bottom: 90 },
    xAxis: { ...axis, name: x, nameGap: 28, ...(logarithmic ? { logBase: 2 } : {}) },
    yAxis: { ...axis, name: y, nameGap: 65 },
    series: lines.map(({ name, points, dashed }) => ({
      name,
      type: "line",
      showSymbol: symbols ?? points.length < 30,
      lineStyle: { type: dashed ? "dashed" : "solid" },
      data: points.map(([x, y]) => [x, y]),
    })),
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

/** Writes what an experiment found: a chart or several, and the numbers as JSON. */
export async function writeReport(
  folder: string,
  name: string,
  charts: Readonly<Record<string, Chart>>,
  numbers: unknown,
): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  const paths = Object.keys(charts).map((chart) => `${folder}/${name}${chart}.svg`);
  for (const [chart, content] of Object.entries(charts)) {
    await io.writeFileSafely(`${folder}/${name}${chart}.svg`, svgOf(content));
  }
  const json = `${folder}/${name}.json`;
  await io.writeFileSafely(json, JSON.stringify(numbers, null, 2));
  console.log(`\nwrote ${[...paths, json].join(", ")}`);
}

/** 1024 → 1K, and what is no multiple of it as it is. */
export function inK(n: number): string {
  return n % 1024 === 0 ? `${n / 1024}K` : `${n}`;
}

/**
 * Lengths as `--lengths` lists them, say `1K,2K,512`.
 *
 * @throws {UsageError} unless they are whole numbers of 1 or more.
 */
export function lengthsOf(text: string): number[] {
  return text.split(",").map((word) => {
    const [, digits, k] = /^(\d+)(k?)$/i.exec(word.trim()) ?? [];
    const n = Number(digits) * (k ? 1024 : 1);
    if (!(n >= 1)) {
      throw new UsageError(`--lengths expects numbers such as 512,1K,92K, found "${word}"`);
    }
    return n;
  });
}

/** Those of `known` that a comma-separated flag names. */
export function namesOf<Name extends string>(
  flag: string,
  text: string | undefined,
  known: readonly Name[],
): Name[] {
  if (text === undefined) return [...known];
  return text.split(",").map((word) => {
    const name = known.find((name) => name.toLowerCase() === word.trim().toLowerCase());
    if (name === undefined) {
      throw new UsageError(`--${flag} expects some of ${known}, found "${word}"`);
    }
    return name;
  });
}

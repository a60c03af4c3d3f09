/// <reference lib="dom" />
/**
 * Line charts in SVG, drawn anew at the size they are shown at, with names at the lines' ends.
 */

/** A place in a chart, in the units of its axes. */
export type Point = readonly [x: number, y: number];

/** An axis, horizontal or vertical. */
export interface Axis {
  readonly title: string;
  /** The ratio between the ticks of a logarithmic axis; absent on a linear one, which starts at 0. */
  readonly base?: number;
  /** The step between the ticks of a linear axis that is no less than this one. Default: 1, 2, 5, 10, … */
  readonly step?: (least: number) => number;
  /** The range that is shown however little there is to show. */
  readonly least: Point;
  readonly format: (value: number) => string;
}

/** A line, or dots. */
export interface Line {
  /** Written at its end. */
  readonly name?: string;
  readonly points: readonly Point[];
  /** Classes for the style sheet. */
  readonly look: string;
  readonly dots?: boolean;
}

interface Scale {
  readonly ticks: number[];
  /** From the axis' units to pixels. */
  place(value: number): number;
}

const NARROW = 480;
const LINE_HEIGHT = 17;
/** Of the names, on average, in pixels. */
const LETTER_WIDTH = 7.6;

/** One chart. */
export class Chart {
  #lines: readonly Line[] = [];
  #waiting = false;

  constructor(readonly svg: SVGSVGElement, readonly x: Axis, readonly y: Axis) {
    new ResizeObserver(() => this.#paint()).observe(svg);
  }

  /** Shows `lines` at the next frame; `label` says in words what they show. */
  draw(lines: readonly Line[], label: string): void {
    this.#lines = lines;
    this.svg.setAttribute("aria-label", label);
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => this.#paint());
  }

  #paint(): void {
    this.#waiting = false;
    const { clientWidth: width, clientHeight: height } = this.svg;
    const narrow = width < NARROW;
    const [top, bottom] = [30, height - 40];
    const points = this.#lines.flatMap((line) => line.points);
    const y = scale(this.y, points.map(([, y]) => y), [bottom, top]);
    const digits = Math.max(...y.ticks.map((value) => this.y.format(value).length));
    const [left, right] = [12 + 8 * digits, width - (narrow ? 16 : 148)];
    const x = scale(this.x, points.map(([x]) => x), [left, right]);

    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren(
      element("text", { x: 0, y: 12 }, this.y.title),
      element(
        "text",
        { x: right, y: height - 4, "text-anchor": "end" },
        this.x.title,
      ),
      ...y.ticks.flatMap((value) => {
        const at = y.place(value);
        return [
          element("line", {
            class: "grid",
            x1: left,
            x2: right,
            y1: at,
            y2: at,
          }),
          element(
            "text",
            { x: left - 8, y: at + 4, "text-anchor": "end" },
            this.y.format(value),
          ),
        ];
      }),
      ...x.ticks.map((value) =>
        element(
          "text",
          { x: x.place(value), y: bottom + 18, "text-anchor": "middle" },
          this.x.format(value),
        )
      ),
      ...this.#lines.flatMap((line) => shapes(line, x, y)),
      ...this.#names(x, y, width),
    );
  }

  /** The lines' names, apart from each other: beside their ends, or above them where there is no room. */
  #names(x: Scale, y: Scale, width: number): SVGElement[] {
    const named = this.#lines.filter(({ name, points }) => name !== undefined && points.length > 0);
    const ends = named.map(({ name, look, points }) => {
      const [endX, endY] = points[points.length - 1];
      const at = x.place(endX);
      const beside = at + 9 + LETTER_WIDTH * name!.length <= width;
      return { name, look, beside, x: at, y: y.place(endY) + (beside ? 4 : -9) };
    }).sort((a, b) => a.y - b.y);
    for (let i = 1; i < ends.length; i++) {
      ends[i].y = Math.max(ends[i].y, ends[i - 1].y + LINE_HEIGHT);
    }
    // Above a line's end words go back along it.
    return ends.map(({ name, look, beside, x, y }) => {
      const place = { x: beside ? x + 9 : x, y, "text-anchor": beside ? "start" : "end" };
      return element("text", { class: look, ...place }, name);
    });
  }
}

function shapes({ points, look, dots }: Line, x: Scale, y: Scale): SVGElement[] {
  if (points.length === 0) return [];
  const places = points.map(([a, b]) => [x.place(a), y.place(b)] as const);
  const path = element("path", { class: `line ${look}`, d: `M${places.join("L")}` });
  if (!dots) return [path];
  const marks = places.map(([cx, cy]) => element("circle", { class: `dot ${look}`, cx, cy, r: 3 }));
  return look.includes("apart") ? marks : [path, ...marks];
}

function scale(axis: Axis, values: readonly number[], [from, to]: Point): Scale {
  const low = values.reduce((a, b) => Math.min(a, b), axis.least[0]);
  const high = values.reduce((a, b) => Math.max(a, b), axis.least[1]);
  const { base } = axis;
  if (base === undefined) {
    const step = (axis.step ?? roundStep)(high / 4);
    // What hardly passes a tick needs no other.
    const count = Math.ceil(high / step - 0.1);
    const ticks = Array.from({ length: count + 1 }, (_, i) => i * step);
    return { ticks, place: (value) => from + value / (count * step) * (to - from) };
  }
  const power = (value: number) => Math.log(value) / Math.log(base);
  const [first, last] = [power(low), power(high)];
  const ticks: number[] = [];
  for (let i = Math.ceil(first - 1e-9); i <= last + 1e-9; i++) ticks.push(base ** i);
  return {
    ticks,
    place: (value) => from + (power(value) - first) / (last - first) * (to - from),
  };
}

/** The least of one, two and five times a power of ten that is no less than `step`, or nearly so. */
function roundStep(step: number): number {
  const power = 10 ** Math.floor(Math.log10(step));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= 0.99 * step)!;
}

function element(
  name: string,
  attributes: Readonly<Record<string, string | number>>,
  text = "",
): SVGElement {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  made.textContent = text;
  return made;
}

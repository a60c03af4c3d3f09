/** Plots of measurements as SVG documents. */
import * as echarts from "echarts";

/** A curve: what is drawn at which places, on logarithmic axes, so all numbers are above 0. */
export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

/** One diagram. */
export interface Panel {
  readonly title: string;
  /** What the axes count. */
  readonly x: string;
  readonly y: string;
  readonly series: readonly Series[];
}

const WIDTH = 400;
const HEIGHT = 400;
const SHAPES = ["circle", "rect", "triangle", "diamond"];

/** Diagrams side by side, log-log, with one legend: a series of one name has one colour in all of them. */
export function plotSvg(title: string, panels: readonly Panel[]): string {
  const names = [...new Set(panels.flatMap(({ series }) => series.map(({ name }) => name)))];
  const chart = echarts.init(null, null, {
    renderer: "svg",
    ssr: true,
    width: WIDTH * panels.length,
    height: HEIGHT,
  });
  chart.setOption({
    animation: false,
    backgroundColor: "#fff",
    title: [
      { text: title, left: "center", top: 6, textStyle: { fontSize: 15 } },
      ...panels.map(({ title }, i) => ({
        text: title,
        left: WIDTH * i + WIDTH / 2,
        top: 34,
        textAlign: "center",
        textStyle: { fontSize: 13, fontWeight: "normal" },
      })),
    ],
    legend: { bottom: 4, data: names },
    grid: panels.map((_, i) => ({ left: WIDTH * i + 66, width: WIDTH - 90, top: 66, bottom: 78 })),
    xAxis: panels.map(({ x, series }, gridIndex) => {
      const places = series.flatMap(({ points }) => points.map(([at]) => at));
      return {
        ...{ gridIndex, type: "log", logBase: 2, name: x, nameLocation: "middle", nameGap: 26 },
        ...{ min: Math.min(...places), max: Math.max(...places) },
        axisLabel: { formatter: short, fontSize: 10, hideOverlap: true },
      };
    }),
    yAxis: panels.map(({ y }, gridIndex) => ({
      ...{ gridIndex, type: "log", name: y, nameLocation: "middle", nameGap: 46 },
      axisLabel: { formatter: short, fontSize: 10 },
      minorSplitLine: { show: false },
    })),
    series: panels.flatMap(({ series }, i) =>
      series.map(({ name, points }) => ({
        ...{ name, type: "line", data: points, xAxisIndex: i, yAxisIndex: i },
        ...{ symbol: SHAPES[names.indexOf(name) % SHAPES.length], symbolSize: 6 },
        color: chartColor(names.indexOf(name)),
      }))
    ),
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

/** Colours that are told apart without red and green (Okabe and Ito). */
function chartColor(index: number): string {
  return ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"][index % 6];
}

/** 4096 as 4096, 131072 as 128Ki, 1e6 as 1e6. */
function short(value: number): string {
  if (value >= 2 ** 14 && value % 1024 === 0) return `${value / 1024}Ki`;
  if (value >= 1e5) return value.toExponential(0).replace("+", "");
  return Number.isInteger(value) ? `${value}` : `${Number(value.toPrecision(3))}`;
}

/** Plots of measurements as SVG documents. */
import * as echarts from "echarts";

/** A curve: what is drawn at which places; on logarithmic axes all numbers are above 0. */
export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  /** Default false. */
  readonly dashed?: boolean;
  /** The series whose colour it shares. Default: it has its own. */
  readonly like?: string;
}

/** One diagram. */
export interface Panel {
  readonly title: string;
  /** What the axes count. */
  readonly x: string;
  readonly y: string;
  /** Both axes from 0 and even, instead of logarithmic. Default false. */
  readonly linear?: boolean;
  readonly series: readonly Series[];
}

const HEIGHT = 400;
const SHAPES = ["circle", "rect", "triangle", "diamond"];
/** So many points are seen one by one. */
const FEW = 30;

/** Diagrams side by side with one legend: a series of one name has one colour in all of them. */
export function plotSvg(title: string, panels: readonly Panel[]): string {
  const all = panels.flatMap(({ series }) => series);
  const names = [...new Set(all.map(({ name }) => name))];
  const kinds = [...new Set(all.map(({ name, like }) => like ?? name))];
  const width = panels.length === 1 ? 760 : 400;
  const chart = echarts.init(null, null, {
    renderer: "svg",
    ssr: true,
    width: width * panels.length,
    height: HEIGHT,
  });
  chart.setOption({
    animation: false,
    backgroundColor: "#fff",
    title: [
      { text: title, left: "center", top: 6, textStyle: { fontSize: 15 } },
      ...panels.map(({ title }, i) => ({
        text: title,
        left: width * i + width / 2,
        top: 34,
        textAlign: "center",
        textStyle: { fontSize: 13, fontWeight: "normal" },
      })),
    ],
    legend: { bottom: 4, data: names },
    grid: panels.map((_, i) => ({ left: width * i + 66, width: width - 90, top: 66, bottom: 78 })),
    xAxis: panels.map(({ x, series, linear }, gridIndex) => {
      const places = series.flatMap(({ points }) => points.map(([at]) => at));
      return {
        ...{ gridIndex, name: x, nameLocation: "middle", nameGap: 26 },
        ...(linear ? { type: "value" } : { type: "log", logBase: 2 }),
        ...(places.length > 0 &&
          { min: linear ? 0 : Math.min(...places), max: Math.max(...places) }),
        axisLabel: { formatter: short, fontSize: 10, hideOverlap: true },
      };
    }),
    yAxis: panels.map(({ y, linear }, gridIndex) => ({
      ...{ gridIndex, name: y, nameLocation: "middle", nameGap: 46 },
      type: linear ? "value" : "log",
      axisLabel: { formatter: short, fontSize: 10 },
      minorSplitLine: { show: false },
    })),
    series: panels.flatMap(({ series }, i) =>
      series.map(({ name, points, dashed, like }) => {
        const kind = kinds.indexOf(like ?? name);
        return {
          ...{ name, type: "line", data: points, xAxisIndex: i, yAxisIndex: i },
          ...{ symbol: SHAPES[kind % SHAPES.length], symbolSize: 6 },
          showSymbol: points.length <= FEW,
          lineStyle: { type: dashed ? "dashed" : "solid" },
          color: chartColor(kind),
        };
      })
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

/**
 * What a device did and how long it took: by operation, and piece by piece.
 *
 * @module
 */
import type { Span } from "./backend/contract.ts";

/** All calls of one kernel. */
export interface ProfileRow {
  /** The operation, and which of its kernels where it has several: `lightningAttention: outputs`. */
  name: string;
  /** How many times it ran. */
  calls: number;
  /** What all of them took, in ms. */
  ms: number;
  /** That time over the time of everything, from 0 to 1. */
  share: number;
}

/** What `device.profile` found. As a string, a table of the operations, slowest first. */
export class Profile {
  /** Made by `device.profile`. */
  constructor(
    /** The name of the device. */
    readonly device: string,
    /** Every piece of work, in the order in which it was asked for. */
    readonly spans: readonly Span[],
  ) {}

  /** The time in which the device worked, in ms. */
  get ms(): number {
    return this.spans.reduce((sum, { ms }) => sum + ms, 0);
  }

  /** The time from the beginning of the first piece to the end of the last, in ms. */
  get elapsedMs(): number {
    if (this.spans.length === 0) return 0;
    const ends = this.spans.map(({ startMs, ms }) => startMs + ms);
    return Math.max(...ends) - Math.min(...this.spans.map(({ startMs }) => startMs));
  }

  /** One row a kernel, slowest first. */
  get operations(): ProfileRow[] {
    const rows = new Map<string, ProfileRow>();
    const total = this.ms;
    for (const { name, ms } of this.spans) {
      const row = rows.get(name) ?? { name, calls: 0, ms: 0, share: 0 };
      row.calls++;
      row.ms += ms;
      row.share = total === 0 ? 0 : row.ms / total;
      rows.set(name, row);
    }
    return [...rows.values()].sort((a, b) => b.ms - a.ms);
  }

  /** The operations as a Markdown table. */
  toString(): string {
    const rows = this.operations.map(({ name, calls, ms, share }) =>
      `| ${name} | ${calls} | ${ms.toFixed(3)} | ${(100 * share).toFixed(1)} % |`
    );
    const busy = this.elapsedMs === 0 ? 100 : 100 * this.ms / this.elapsedMs;
    return [
      `${this.device}: ${this.ms.toFixed(3)} ms of work, ${busy.toFixed(0)} % of the time it spans`,
      "",
      "| operation | calls | ms | share |",
      "| --- | ---: | ---: | ---: |",
      ...rows,
    ].join("\n");
  }

  /** A Chrome trace, JSON text for a file that chrome://tracing or ui.perfetto.dev opens. */
  toChromeTrace(): string {
    const [pid, tid] = [1, 1];
    const work = this.spans.map(({ name, startMs, ms }) => (
      { name, ph: "X", ts: startMs * 1000, dur: ms * 1000, pid, tid }
    ));
    const title = { name: "process_name", ph: "M", pid, tid, args: { name: this.device } };
    return JSON.stringify({ traceEvents: [title, ...work], displayTimeUnit: "ms" });
  }
}

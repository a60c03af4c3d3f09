/**
 * A bar on stderr; off a terminal, a line every few seconds.
 */
import process from "node:process";
import progress from "cli-progress";

/** @param format What stands in the line, in the notation of cli-progress. */
export function progressBar(format: string): progress.SingleBar {
  return new progress.SingleBar({
    format,
    barsize: 20,
    hideCursor: true,
    clearOnComplete: true,
    // Ctrl-C is the program's to answer; a handler of the bar's would keep the process alive.
    gracefulExit: false,
    noTTYOutput: !process.stderr.isTTY,
    notTTYSchedule: 10_000,
  }, progress.Presets.shades_classic);
}

/** Who is faster: every result is checked, then the fastest way of each library is timed in turn. */
import { relativeError } from "../../tests/relative_error.ts";
import { median } from "../timing.ts";
import type { Candidate, Library, Ways } from "./library.ts";

/** What one library did in a contest. */
export interface Outcome {
  readonly library: string;
  readonly threads: number;
  /** The way that was the fastest. */
  readonly way: string;
  /** Median ms of one call. */
  readonly ms: number;
  /** Its largest relative RMS error against the reference. */
  readonly error: number;
  /** The other ways: ms of one call, or why they were left out. */
  readonly others: Readonly<Record<string, number | string>>;
}

/** A contest: what each library is asked to do, and what must come out. */
export interface Contest {
  readonly title: string;
  readonly ways: (library: Library) => Ways;
  readonly expected: readonly ArrayLike<number>[];
  /** The largest relative RMS error allowed. */
  readonly tolerance: number;
  /** Ways left out, and why, by library and way. */
  readonly skip?: (library: string, way: string) => string | undefined;
}

interface Tried extends Omit<Outcome, "ms"> {
  readonly candidate: Candidate;
}

async function timed(candidate: Candidate): Promise<number> {
  const began = performance.now();
  await candidate.run();
  return performance.now() - began;
}

/** The largest error of a candidate's results; throws if it is above the tolerance. */
async function check(candidate: Candidate, { expected, tolerance }: Contest): Promise<number> {
  const found = await candidate.results();
  if (found.length !== expected.length) {
    throw new Error(`expected ${expected.length} results, found ${found.length}`);
  }
  const error = Math.max(...expected.map((values, i) => relativeError(found[i], values)));
  // NaN must fail, so the comparison asks for success.
  if (error <= tolerance) return error;
  throw new Error(`expected a relative error of at most ${tolerance}, found ${error}`);
}

/** The fastest way of one library. A wrong result ends the run. */
async function best(library: Library, contest: Contest): Promise<Tried> {
  const others: Record<string, number | string> = {};
  let winner: { way: string; candidate: Candidate; ms: number; error: number } | undefined;
  for (const [way, make] of Object.entries(contest.ways(library))) {
    const reason = contest.skip?.(library.name, way);
    if (reason !== undefined) {
      others[way] = reason;
      continue;
    }
    const candidate = make();
    const error = await check(candidate, contest).catch((cause) => {
      throw new Error(`${library.name}, ${contest.title}, ${way}: ${cause}`, { cause });
    });
    let ms = await timed(candidate);
    for (let i = 0; i < 2 && ms < 1000; i++) ms = Math.min(ms, await timed(candidate));
    const [faster, slower] = winner === undefined || ms < winner.ms
      ? [{ way, candidate, ms, error }, winner]
      : [winner, { way, candidate, ms, error }];
    if (slower !== undefined) {
      others[slower.way] = slower.ms;
      slower.candidate.dispose();
    }
    winner = faster;
  }
  if (winner === undefined) throw new Error(`${library.name}: no way to do ${contest.title}`);
  const { way, candidate, error } = winner;
  return { library: library.name, threads: library.threads, way, candidate, error, others };
}

/** How long each library has its turn in a round, in ms: for one call at least, and as many as begin in that time. */
const TURN_MS = 1000;

/**
 * Runs a contest: A B C, A B C, … for `rounds` rounds; medians of all calls. What disturbs a machine for a tenth of a
 * second is in every slow call and would decide on a fast one, so all have the same time. A turn begins with a call that
 * does not count: while the others run, a library's memory leaves the caches and its threads fall asleep.
 */
export async function run(
  contest: Contest,
  libraries: readonly Library[],
  rounds: number,
): Promise<Outcome[]> {
  const tried: Tried[] = [];
  for (const library of libraries) tried.push(await best(library, contest));
  const samples = tried.map((): number[] => []);
  for (let round = 0; round < rounds; round++) {
    for (const [i, { candidate }] of tried.entries()) {
      await candidate.run();
      for (let spent = 0; spent < TURN_MS;) {
        const ms = await timed(candidate);
        samples[i].push(ms);
        spent += ms;
      }
    }
  }
  return tried.map(({ candidate, ...outcome }, i) => {
    candidate.dispose();
    return { ...outcome, ms: median(samples[i]) };
  });
}

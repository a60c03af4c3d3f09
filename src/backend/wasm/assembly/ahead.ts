// The rows that the next block needs, read a line of the cache at a time between the tiles of this one. WebAssembly cannot
// ask for memory without waiting for it; but as long as a stream moves on, the processor foresees its next lines and
// fetches them meanwhile. It does not while a block is computed, and rows read all at once come at the memory's rate.

/** Bytes of a line. */
const LINE: i32 = 64;

// Six streams, of each the row it is at and the step to the next: q, k and `turned` have rows whose last number is at
// `deep` bytes, the others at `wide`. Every thread has its own instance, and so its own of these.
let q: usize = 0, k: usize = 0, v: usize = 0, out: usize = 0, r: usize = 0, turned: usize = 0;
let qRow: usize = 0, kRow: usize = 0, vRow: usize = 0, outRow: usize = 0, rRow: usize = 0;
let turnedRow: usize = 0;
let deep: i32 = 0, wide: i32 = 0, pair: bool = false;
/** Rows that are left, and where in them the next line is. */
let rows: i32 = 0, at: i32 = 0;
let first: i32 = 0, step: i32 = 0, longest: i32 = 0;
/** Two blocks of scores that lie one before the other, of each the line it is at, and lines that are left. */
let scores: usize = 0, pairScores: usize = 0, scoresLeft: i32 = 0;
/** Of all that was read, lest it be left out. */
let sum: i32 = 0;

/** Begins with `count` rows of four streams. */
export function begin(
  count: i32,
  d: i32,
  e: i32,
  ofQ: usize,
  stepOfQ: usize,
  ofK: usize,
  stepOfK: usize,
  ofV: usize,
  stepOfV: usize,
  ofOut: usize,
  stepOfOut: usize,
): void {
  q = ofQ, qRow = stepOfQ;
  k = ofK, kRow = stepOfK;
  v = ofV, vRow = stepOfV;
  out = ofOut, outRow = stepOfOut;
  pair = false;
  scoresLeft = 0;
  rows = count;
  deep = (d - 1) << 2, wide = (e - 1) << 2;
  longest = max(deep, wide);
  // Where time runs backwards, so do lines: the processor foresees either direction, but not both by turns.
  const falls = <i32> stepOfQ < 0;
  step = falls ? -LINE : LINE;
  at = first = falls ? longest : 0;
}

/** Two more streams. */
export function beginPair(
  ofR: usize,
  stepOfR: usize,
  ofTurned: usize,
  stepOfTurned: usize,
): void {
  r = ofR, rRow = stepOfR;
  turned = ofTurned, turnedRow = stepOfTurned;
  pair = true;
}

/** Two more, which are shorter: `bytes` bytes before each address, from the last to the first. */
export function beginScores(ofFirst: usize, ofPair: usize, bytes: usize): void {
  scores = ofFirst, pairScores = ofPair;
  scoresLeft = (<i32> bytes + LINE - 1) / LINE;
}

/** Reads a line of each stream. */
// @ts-ignore: decorator
@inline
export function readLine(): void {
  if (rows != 0) {
    const inDeep = min(at, deep), inWide = min(at, wide);
    let read = load<i32>(q + inDeep) + load<i32>(k + inDeep);
    read += load<i32>(v + inWide) + load<i32>(out + inWide);
    if (pair) read += load<i32>(r + inWide) + load<i32>(turned + inDeep);
    if (scoresLeft != 0) {
      scores -= LINE, pairScores -= LINE;
      read += load<i32>(scores) + load<i32>(pairScores);
      scoresLeft--;
    }
    sum += read;
    at += step;
    if (<u32> at > <u32> longest) nextRow();
  }
}

/** Reads what is left. */
export function readRest(): void {
  while (rows != 0) readLine();
}

function nextRow(): void {
  at = first;
  rows--;
  q += qRow, k += kRow, v += vRow, out += outRow, r += rRow, turned += turnedRow;
}

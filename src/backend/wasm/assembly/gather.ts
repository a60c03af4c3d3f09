// Rows of a table by their numbers, and their sums back into it: see gather.ts of the operations for the formulas.
// Elements are any four bytes to gather, float32 to add.

// Params: the indices' address and step; outer, count and inner of the rows; the length of the table's axis, the first
// entry of it that this window holds, and whether it is the first window; then of the rows and of the table the address
// and the steps of all three axes; how many rows, or columns, are one task; what stands for an entry that is not there.
const INDICES: usize = 0;
const INDEX_STEP: usize = 4;
const OUTER: usize = 8;
const COUNT: usize = 12;
const INNER: usize = 16;
const LENGTH: usize = 20;
const FIRST: usize = 24;
const BEGINS: usize = 28;
const ROWS: usize = 32;
const TABLE: usize = 48;
const PER_TASK: usize = 64;
const MISSING: usize = 68;

/** Where row (o, j) of a view of three axes begins. */
// @ts-ignore: decorator
@inline
function rowOf(view: usize, o: i32, j: i32): usize {
  return load<usize>(view) + o * load<i32>(view, 4) + j * load<i32>(view, 8);
}

/** Some rows a task. What a window does not hold is left to the others; the first writes what none does. */
export function gather(params: usize, task: i32, _scratch: usize): void {
  const count = load<i32>(params, COUNT), inner = load<i32>(params, INNER);
  const length = load<u32>(params, LENGTH), first = load<i32>(params, FIRST);
  const perTask = load<i32>(params, PER_TASK);
  const end = min(load<i32>(params, OUTER) * count, (task + 1) * perTask);
  const toStep = load<usize>(params + ROWS, 12), fromStep = load<usize>(params + TABLE, 12);
  for (let row = task * perTask; row < end; row++) {
    const o = row / count, j = row % count;
    const index = load<i32>(load<usize>(params, INDICES) + j * load<i32>(params, INDEX_STEP)) - first;
    const found = <u32> index < length;
    if (!found && load<i32>(params, BEGINS) == 0) continue;
    let to = rowOf(params + ROWS, o, j);
    let from = found ? rowOf(params + TABLE, o, index) : params + MISSING;
    const step = found ? fromStep : 0;
    if (toStep == 4 && step == 4) memory.copy(to, from, inner << 2);
    else {
      for (let i = 0; i < inner; i++) {
        store<u32>(to, load<u32>(from));
        to += toStep;
        from += step;
      }
    }
  }
}

/** Added to what is there, some columns a task: every sum takes the rows in order, however many tasks there are. */
export function scatterAdd(params: usize, task: i32, _scratch: usize): void {
  const count = load<i32>(params, COUNT);
  const length = load<u32>(params, LENGTH), first = load<i32>(params, FIRST);
  const perTask = load<i32>(params, PER_TASK);
  const tasks = (load<i32>(params, INNER) + perTask - 1) / perTask;
  const o = task / tasks, column = (task % tasks) * perTask;
  const columns = min(load<i32>(params, INNER) - column, perTask);
  const toStep = load<usize>(params + TABLE, 12), fromStep = load<usize>(params + ROWS, 12);
  const dense = toStep == 4 && fromStep == 4;
  for (let j = 0; j < count; j++) {
    const index = load<i32>(load<usize>(params, INDICES) + j * load<i32>(params, INDEX_STEP)) - first;
    if (<u32> index >= length) continue;
    let to = rowOf(params + TABLE, o, index) + column * toStep;
    let from = rowOf(params + ROWS, o, j) + column * fromStep;
    let i = 0;
    if (dense) {
      for (; i + 4 <= columns; i += 4) {
        v128.store(to, f32x4.add(v128.load(to), v128.load(from)));
        to += 16;
        from += 16;
      }
    }
    for (; i < columns; i++) {
      store<f32>(to, load<f32>(to) + load<f32>(from));
      to += toStep;
      from += fromStep;
    }
  }
}

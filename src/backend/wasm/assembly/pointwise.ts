// Pointwise operations. `pointwise` walks operands of any strides and hands dense stretches of them to one of the
// functions of maps.ts and integer_maps.ts, whose counts are multiples of four.

// Params: the function's place; inputs; the length of the last axis and how much of it is one task; entries of the
// axes before it, how many are one task, and how many axes they are; the value of an operand without an address; for
// out and three inputs the address and the step along the last axis; sizes and, for each operand, steps of the others.
const FUNCTION: usize = 0;
const INPUTS: usize = 4;
const LENGTH: usize = 8;
const CHUNK: usize = 12;
const ROWS: usize = 16;
const ROWS_PER_TASK: usize = 20;
const RANK: usize = 24;
const VALUE: usize = 28;
const OPERANDS: usize = 32;
const SHAPE: usize = 64;

/** Elements of a stretch. */
const STRETCH: i32 = 1024;
const STRETCH_BYTES: usize = 4096;

export function pointwise(params: usize, task: i32, scratch: usize): void {
  const apply = load<i32>(params, FUNCTION);
  const inputs = load<i32>(params, INPUTS);
  const length = load<i32>(params, LENGTH), chunk = load<i32>(params, CHUNK);
  const rank = load<i32>(params, RANK);
  const chunks = (length + chunk - 1) / chunk;
  const first = (task % chunks) * chunk, end = min(length, first + chunk);
  const perTask = load<i32>(params, ROWS_PER_TASK);
  const firstRow = (task / chunks) * perTask;
  const endRow = min(load<i32>(params, ROWS), firstRow + perTask);
  for (let o = 1; o <= inputs; o++) {
    // A number is written out once, as long as any stretch is.
    if (load<usize>(params + (o << 3), OPERANDS) != 0) continue;
    spread(scratch + o * STRETCH_BYTES, load<u32>(params, VALUE), min(STRETCH, end - first));
  }
  for (let row = firstRow; row < endRow; row++) {
    for (let i = first; i < end; i += STRETCH) {
      const count = min(STRETCH, end - i);
      const x = stretch(params, 1, row, rank, i, count, inputs, scratch);
      const y = stretch(params, 2, row, rank, i, count, inputs, scratch);
      const z = stretch(params, 3, row, rank, i, count, inputs, scratch);
      const step = load<i32>(params, OPERANDS + 4);
      const out = addressOf(params, 0, row, rank) + i * step;
      const whole = step == 4 ? count & ~3 : 0;
      if (whole > 0) call_indirect<void>(apply, whole, out, x, y, z);
      if (whole == count) continue;
      // Less than four elements, or a result that is not dense, by way of the scratch.
      const done = whole << 2;
      const rest = count - whole;
      if (step == 4) {
        memory.copy(scratch + 4 * STRETCH_BYTES, x + done, rest << 2);
        memory.copy(scratch + 4 * STRETCH_BYTES + 16, y + done, rest << 2);
        memory.copy(scratch + 4 * STRETCH_BYTES + 32, z + done, rest << 2);
        const spare = scratch + 4 * STRETCH_BYTES;
        call_indirect<void>(apply, 4, scratch, spare, spare + 16, spare + 32);
        memory.copy(out + done, scratch, rest << 2);
      } else {
        call_indirect<void>(apply, (count + 3) & ~3, scratch, x, y, z);
        let to = out;
        for (let j = 0; j < count; j++) {
          store<u32>(to, load<u32>(scratch + (j << 2)));
          to += step;
        }
      }
    }
  }
}

/** Where an operand's entries in a row begin. */
function addressOf(params: usize, operand: i32, row: i32, rank: i32): usize {
  let at = load<usize>(params + (operand << 3), OPERANDS);
  const steps = params + SHAPE + (((1 + operand) * rank) << 2);
  for (let axis = rank - 1; axis >= 0 && row > 0; axis--) {
    const size = load<i32>(params + SHAPE + (axis << 2));
    at += (row % size) * load<i32>(steps + (axis << 2));
    row /= size;
  }
  return at;
}

/** Where an input's elements lie one after the other: where they are, or a copy. */
function stretch(
  params: usize,
  operand: i32,
  row: i32,
  rank: i32,
  from: i32,
  count: i32,
  inputs: i32,
  scratch: usize,
): usize {
  const copy = scratch + operand * STRETCH_BYTES;
  if (operand > inputs || load<usize>(params + (operand << 3), OPERANDS) == 0) return copy;
  const step = load<i32>(params + (operand << 3), OPERANDS + 4);
  let at = addressOf(params, operand, row, rank) + from * step;
  // A result that is not dense reads whole fours, which the operand may not have.
  if (step == 4 && load<i32>(params, OPERANDS + 4) == 4) return at;
  if (step == 0) spread(copy, load<u32>(at), count);
  else {
    for (let i = 0; i < count; i++) {
      store<u32>(copy + (i << 2), load<u32>(at));
      at += step;
    }
  }
  return copy;
}

function spread(to: usize, value: u32, count: i32): void {
  const values = i32x4.splat(value);
  for (let i = 0; i < count; i += 4) v128.store(to + (i << 2), values);
}

// What the kernels of Lightning Attention on matrix units share; this text comes after theirs. A workgroup of
// eight subgroups makes ROWS × COLUMNS; a subgroup, half of the rows and a quarter of the columns, as 2 × 2
// fragments: many small subgroups hide each other's waits better than a few large ones.

const THREADS: u32 = 8 * LANES;
const ROWS: u32 = 4 * SIDE;
const COLUMNS: u32 = 8 * SIDE;
// In workgroup memory, in eights: lines of ROWS float16, and lines of COLUMNS float16 or ROWS float32. A line
// has one more than it holds, so that neighbouring lines start in different banks.
const NARROW_PITCH: u32 = SIDE / 2 + 1;
const WIDE_PITCH: u32 = SIDE + 1;
const NARROW_TILE: u32 = ROWS * NARROW_PITCH;
const WIDE_TILE: u32 = ROWS * WIDE_PITCH;
// The threads of a workgroup share a tile by eights, first along a line: lines from one of a thread's eights
// to its next one. Of a narrow tile a thread has two, of a wide one four.
const NARROW_STEP: u32 = 2 * SIDE;
const WIDE_STEP: u32 = SIDE;
// From one fragment to the next: eights of float16, eights of float32.
const NEXT: u32 = SIDE / 8;
const NEXT_SUM: u32 = SIDE / 4;

// Batch, group, member of the group, and a row: what the strides of a view [b, groups, members, n] go with.
fn entry_of(head: u32, groups: u32, members: u32, row: u32) -> vec4u {
  let in_batch = head % (groups * members);
  return vec4u(head / (groups * members), in_batch / members, in_batch % members, row);
}

// How much decay lies between two positions; see lightning_positions.wgsl.
fn between(earlier: vec2u, later: vec2u) -> f32 {
  let high = later.x - earlier.x - select(0u, 1u, later.y < earlier.y);
  return f32(high) / 65536.0 + f32(later.y - earlier.y) / 281474976710656.0;
}

// What a thread has of a narrow tile, and of a wide one.
struct Two { a: vec4u, b: vec4u }
struct Four { a: vec4u, b: vec4u, c: vec4u, d: vec4u }

// Puts four eights of a wide tile in their places.
fn put_wide(place: u32, values: Four) {
  const STEP = WIDE_STEP * WIDE_PITCH;
  tiles[place] = values.a;
  tiles[place + STEP] = values.b;
  tiles[place + 2u * STEP] = values.c;
  tiles[place + 3u * STEP] = values.d;
}

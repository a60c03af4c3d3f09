// What the kernels of Lightning Attention on matrix units share; this text comes after theirs.

// A scalar, or eight neighbours in a row of a dense matrix.
alias Element_k = f16;
alias Element_v = f16;
const PER_k: u32 = 1;
const PER_v: u32 = 1;
// Whether all chunks have CHUNK rows.
const WHOLE_N: bool = false;
// Whether d and e are whole numbers of tiles.
const WHOLE_D: bool = false;
const WHOLE_E: bool = false;
const SUBGROUPS: u32 = 8;
// Rows of a chunk, at most.
const CHUNK: u32 = 512;

@group(0) @binding(0) var<storage, read> k: array<Element_k>;
@group(0) @binding(1) var<storage, read> v: array<Element_v>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;

const THREADS: u32 = SUBGROUPS * LANES;
const ROWS: u32 = 4 * SIDE;
const COLUMNS: u32 = 8 * SIDE;
// In workgroup memory, in eights: lines of ROWS float16, and lines of COLUMNS float16 or ROWS float32. A line
// has one more than it holds, so that neighbouring lines start in different banks.
const NARROW_PITCH: u32 = SIDE / 2 + 1;
const WIDE_PITCH: u32 = SIDE + 1;
// Lines of float32 start eight banks apart instead of four: a lane stores two neighbours of them at once.
const SUM_PITCH: u32 = SIDE + 2;
const SUM_TILE: u32 = ROWS * SUM_PITCH;
// The threads of a workgroup share a tile by eights, first along a line: lines from one of a thread's eights
// to its next one in a wide tile. Of four subgroups a thread has four eights of half a wide tile or of a narrow one.
const WIDE_STEP: u32 = SIDE * SUBGROUPS / 8;
// From one fragment to the next: eights of float16, eights of float32.
const NEXT: u32 = SIDE / 8;
const NEXT_SUM: u32 = SIDE / 4;

// d and e, which are constants where they are whole numbers of tiles.
fn width_d() -> u32 { return params.d; }
fn width_e() -> u32 { return params.e; }

fn eight_k(at: Eight) -> vec4u { return together(vec4<f16>(k[at.low.x], k[at.low.y], k[at.low.z], k[at.low.w]), vec4<f16>(k[at.high.x], k[at.high.y], k[at.high.z], k[at.high.w])); }
fn eight_v(at: Eight) -> vec4u { return together(vec4<f16>(v[at.low.x], v[at.low.y], v[at.low.z], v[at.low.w]), vec4<f16>(v[at.high.x], v[at.high.y], v[at.high.z], v[at.high.w])); }

// A column, or the last one instead of one past the end.
fn column_of(whole: bool, column: u32, width: u32) -> u32 {
  if (whole) { return column; }
  return min(column, width - 1u);
}

// Eight columns of a row, zeros outside, of which the first there is lies at `at`.
fn load_k(at: u32, column: u32) -> vec4u {
  let values = eight_k(eight_of(PER_k, at, params.k_column, column, params.d));
  if (WHOLE_D) { return values; }
  return inside(values, column, params.d);
}

fn load_v(at: u32, column: u32) -> vec4u {
  let values = eight_v(eight_of(PER_v, at, params.v_column, column, params.e));
  if (WHOLE_E) { return values; }
  return inside(values, column, params.e);
}

// Batch, group, member of the group, and a row: what the strides of a view [b, groups, members, n] go with.
fn entry_of(head: u32, groups: u32, members: u32, row: u32) -> vec4u {
  let in_batch = head % (groups * members);
  return vec4u(head / (groups * members), in_batch / members, in_batch % members, row);
}

// How much decay lies between two positions; see decays.wgsl.
fn between(earlier: vec2u, later: vec2u) -> f32 {
  let high = later.x - earlier.x - select(0u, 1u, later.y < earlier.y);
  return f32(high) / 65536.0 + f32(later.y - earlier.y) / 281474976710656.0;
}

// The state before every chunk, in float16, and the state after the last, on matrix units:
//   S ← initial / β;  for every chunk: states[chunk] ← S;  S ← exp(−P_m) · S + Σ_r exp(P_r − P_m) · k_rᵀ v_r
//   last ← β · S
// P is what lightning_positions.wgsl wrote. A workgroup walks along one sequence with a tile of the state,
// ROWS of d by COLUMNS of e, in float32; while it multiplies ROWS tokens, the next are on their way. What it
// writes is rounded relative to the largest entry of its tile: every tile has a power of two of its own.
// Goes on in lightning_cores.wgsl and cores.wgsl.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

const SIDE: u32 = 16;
const LANES: u32 = 32;
alias Element_k = f16;
alias Element_v = f16;
const HAS_INITIAL: bool = false;
// Whether d and e are whole numbers of tiles.
const WHOLE_D: bool = false;
const WHOLE_E: bool = false;

struct Params {
  k_strides: vec4u,          // of batch, group, member of the group, row
  v_strides: vec4u,
  initial_strides: vec4u,
  last_strides: vec4u,
  k_column: u32,
  v_column: u32,
  initial_column: u32,
  last_column: u32,
  k_offset: u32,
  v_offset: u32,
  initial_offset: u32,
  last_offset: u32,
  groups: u32,
  members: u32,
  n: u32,
  d: u32,
  e: u32,
  chunk: u32,
  chunks: u32,
  workgroups: u32,
  source_scale: f32,
}

@group(0) @binding(0) var<storage, read> k: array<Element_k>;
@group(0) @binding(1) var<storage, read> v: array<Element_v>;
@group(0) @binding(2) var<storage, read> positions: array<vec2u>;
@group(0) @binding(3) var<storage, read> initial: array<f32>;
@group(0) @binding(4) var<storage, read_write> states: array<vec4u>;
@group(0) @binding(5) var<storage, read_write> scales: array<f32>;
@group(0) @binding(6) var<storage, read_write> last: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;

// A narrow tile of weighted k and a wide one of v. Or the sums in float32: those of the left half of the
// columns, then those of the right half.
var<workgroup> tiles: array<vec4u, 2 * WIDE_TILE>;
const OF_V: u32 = NARROW_TILE;
var<workgroup> largest: atomic<u32>;

// Eight elements a step apart, the last of them repeated after the first count + 1.
fn one_k(at: u32) -> f16 { return k[at]; }
fn eight_k(at: u32, step: u32, count: u32) -> vec4u { return gathered_k(at, step, count); }
fn gathered_k(at: u32, step: u32, count: u32) -> vec4u {
  var values = vec4u();
  for (var i = 0u; i < 4u; i++) {
    values[i] = two(one_k(at + min(2u * i, count) * step), one_k(at + min(2u * i + 1u, count) * step));
  }
  return values;
}
fn one_v(at: u32) -> f16 { return v[at]; }
fn eight_v(at: u32, step: u32, count: u32) -> vec4u { return gathered_v(at, step, count); }
fn gathered_v(at: u32, step: u32, count: u32) -> vec4u {
  var values = vec4u();
  for (var i = 0u; i < 4u; i++) {
    values[i] = two(one_v(at + min(2u * i, count) * step), one_v(at + min(2u * i + 1u, count) * step));
  }
  return values;
}

// Eight columns of a row, zeros outside; of rows past the end, the last one. `base` is that of row 0 and of the
// first column, or of the last there is.
fn load_k(base: u32, row: u32, column: u32) -> vec4u {
  let count = params.d - 1u - min(column, params.d - 1u);
  let values = eight_k(base + min(row, params.n - 1u) * params.k_strides.w, params.k_column, count);
  if (WHOLE_D) { return values; }
  return first_eight(values, i32(params.d) - i32(column));
}

fn load_v(base: u32, row: u32, column: u32) -> vec4u {
  let count = params.e - 1u - min(column, params.e - 1u);
  let values = eight_v(base + min(row, params.n - 1u) * params.v_strides.w, params.v_column, count);
  if (WHOLE_E) { return values; }
  return first_eight(values, i32(params.e) - i32(column));
}

fn two_of_k(base: u32, row: u32, column: u32) -> Two {
  return Two(load_k(base, row, column), load_k(base, row + NARROW_STEP, column));
}

fn four_of_v(base: u32, row: u32, column: u32) -> Four {
  return Four(
    load_v(base, row, column), load_v(base, row + WIDE_STEP, column),
    load_v(base, row + 2u * WIDE_STEP, column), load_v(base, row + 3u * WIDE_STEP, column));
}

// Where two rows stand, and the end of their chunk.
struct Stand { a: vec2u, b: vec2u, whole: vec2u }

fn stand_of(base: u32, row: u32, chunk: u32) -> Stand {
  let end = params.n - 1u;
  return Stand(
    positions[base + min(row, end)], positions[base + min(row + NARROW_STEP, end)],
    positions[base + params.n + min(chunk, params.chunks - 1u)]);
}

// The decay of a row until the end of its chunk; 0 of rows past the end.
fn weight(row: u32, position: vec2u, whole: vec2u) -> f32 {
  return select(0.0, exp(-between(position, whole)), row < params.n);
}

// Four columns of a row of the initial state, over β; zeros outside.
fn load_initial(base: u32, row: u32, column: u32) -> vec4f {
  var values = vec4f();
  for (var i = 0u; row < params.d && column + i < params.e && i < 4u; i++) {
    values[i] = initial[base + row * params.initial_strides.w + (column + i) * params.initial_column];
  }
  return values / params.source_scale;
}

fn highest(low: vec4f, high: vec4f) -> f32 {
  let most = max(abs(low), abs(high));
  return max(max(most.x, most.y), max(most.z, most.w));
}

@compute @workgroup_size(8 * LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let number = group.y * groups.x + group.x;
  if (number >= params.workgroups) { return; }
  let tiles_d = (params.d + ROWS - 1u) / ROWS;
  let tiles_e = (params.e + COLUMNS - 1u) / COLUMNS;
  let tile_e = number % tiles_e;
  let tile_d = number / tiles_e % tiles_d;
  let instance = number / tiles_e / tiles_d;
  let first_d = tile_d * ROWS;
  let first_e = tile_e * COLUMNS;
  let at = entry_of(instance, params.groups, params.members, 0u);
  let base_position = instance * (params.n + params.chunks);
  let subgroup = thread / LANES;
  let half = subgroup / 4u * 2u * SIDE;
  let quarter = subgroup % 4u;
  // What this thread has of narrow and of wide tiles.
  let line = thread / (ROWS / 8u);
  let eighth = thread % (ROWS / 8u);
  let narrow = line * NARROW_PITCH + eighth;
  let wide_line = thread / (COLUMNS / 8u);
  let wide_eighth = thread % (COLUMNS / 8u);
  let wide = OF_V + wide_line * WIDE_PITCH + wide_eighth;
  let column_k = first_d + 8u * eighth;
  let column_v = first_e + 8u * wide_eighth;
  let base_k = params.k_offset + dot(at, params.k_strides) + min(column_k, params.d - 1u) * params.k_column;
  let base_v = params.v_offset + dot(at, params.v_strides) + min(column_v, params.e - 1u) * params.v_column;
  // Where this subgroup's sums go as float32, and where this thread finds its share of all of them.
  let sums = quarter / 2u * WIDE_TILE + half * WIDE_PITCH + quarter % 2u * 2u * NEXT_SUM;
  let below = sums + SIDE * WIDE_PITCH;
  let share = wide_eighth / (ROWS / 8u) * WIDE_TILE + wide_line * WIDE_PITCH + wide_eighth % (ROWS / 8u) * 2u;
  const STEP = WIDE_STEP * WIDE_PITCH;

  var a0 = Sum(); var a1 = Sum();
  var b0 = Sum(); var b1 = Sum();
  if (HAS_INITIAL) {
    let base = params.initial_offset + dot(at, params.initial_strides);
    for (var i = 0u; i < 4u; i++) {
      let row = first_d + wide_line + i * WIDE_STEP;
      tiles[share + i * STEP] = bitcast<vec4u>(load_initial(base, row, column_v));
      tiles[share + i * STEP + 1u] = bitcast<vec4u>(load_initial(base, row, column_v + 4u));
    }
    workgroupBarrier();
    a0 = subgroupMatrixLoad<Sum, row_major>(&tiles, sums, WIDE_PITCH);
    a1 = subgroupMatrixLoad<Sum, row_major>(&tiles, sums + NEXT_SUM, WIDE_PITCH);
    b0 = subgroupMatrixLoad<Sum, row_major>(&tiles, below, WIDE_PITCH);
    b1 = subgroupMatrixLoad<Sum, row_major>(&tiles, below + NEXT_SUM, WIDE_PITCH);
    workgroupBarrier();
  }

  var from_k = two_of_k(base_k, line, column_k);
  var from_v = four_of_v(base_v, wide_line, column_v);
  var stand = stand_of(base_position, line, 0u);
  for (var row = 0u; ; row += ROWS) {
    let chunk = row / params.chunk;
    let ended = row >= params.n;
    if (ended || (row % params.chunk == 0u && (HAS_INITIAL || row > 0u))) {
      subgroupMatrixStore<row_major>(&tiles, sums, a0, WIDE_PITCH);
      subgroupMatrixStore<row_major>(&tiles, sums + NEXT_SUM, a1, WIDE_PITCH);
      subgroupMatrixStore<row_major>(&tiles, below, b0, WIDE_PITCH);
      subgroupMatrixStore<row_major>(&tiles, below + NEXT_SUM, b1, WIDE_PITCH);
      if (thread == 0u) { atomicStore(&largest, 0u); }
      workgroupBarrier();
      if (ended) { break; }
      let l0 = bitcast<vec4f>(tiles[share]);
      let h0 = bitcast<vec4f>(tiles[share + 1u]);
      let l1 = bitcast<vec4f>(tiles[share + STEP]);
      let h1 = bitcast<vec4f>(tiles[share + STEP + 1u]);
      let l2 = bitcast<vec4f>(tiles[share + 2u * STEP]);
      let h2 = bitcast<vec4f>(tiles[share + 2u * STEP + 1u]);
      let l3 = bitcast<vec4f>(tiles[share + 3u * STEP]);
      let h3 = bitcast<vec4f>(tiles[share + 3u * STEP + 1u]);
      let most = subgroupMax(max(max(highest(l0, h0), highest(l1, h1)), max(highest(l2, h2), highest(l3, h3))));
      if (thread % LANES == 0u) { atomicMax(&largest, bitcast<u32>(most)); }
      workgroupBarrier();
      // Scaled so that the largest entry lies in [2¹⁴, 2¹⁵): a power of two, made from its exponent.
      let exponent = clamp(atomicLoad(&largest) >> 23u, 15u, 253u);
      let up = bitcast<f32>((268u - exponent) << 23u);
      let entry = (instance * params.chunks + chunk) * tiles_d + tile_d;
      if (thread == 0u) { scales[entry * tiles_e + tile_e] = bitcast<f32>((exponent - 14u) << 23u); }
      let pitch = tiles_e * COLUMNS / 8u;
      let to = (entry * ROWS + wide_line) * pitch + first_e / 8u + wide_eighth;
      states[to] = rounded(up * l0, up * h0);
      states[to + WIDE_STEP * pitch] = rounded(up * l1, up * h1);
      states[to + 2u * WIDE_STEP * pitch] = rounded(up * l2, up * h2);
      states[to + 3u * WIDE_STEP * pitch] = rounded(up * l3, up * h3);
    }
    if (row % params.chunk == 0u) {
      let decay = exp(-between(vec2u(), positions[base_position + params.n + chunk]));
      a0 = subgroupMatrixScalarMultiply(a0, decay); a1 = subgroupMatrixScalarMultiply(a1, decay);
      b0 = subgroupMatrixScalarMultiply(b0, decay); b1 = subgroupMatrixScalarMultiply(b1, decay);
    }

    tiles[narrow] = times(from_k.a, weight(row + line, stand.a, stand.whole));
    tiles[narrow + NARROW_STEP * NARROW_PITCH] = times(from_k.b, weight(row + line + NARROW_STEP, stand.b, stand.whole));
    put_wide(wide, from_v);
    workgroupBarrier();
    let next = row + ROWS;
    from_k = two_of_k(base_k, next + line, column_k);
    from_v = four_of_v(base_v, next + wide_line, column_v);
    stand = stand_of(base_position, next + line, next / params.chunk);
    for (var r = 0u; r < ROWS; r += SIDE) {
      let left = r * NARROW_PITCH + half / 8u;
      let right = OF_V + r * WIDE_PITCH + quarter * 2u * NEXT;
      let a = subgroupMatrixLoad<Left, col_major>(&tiles, left, NARROW_PITCH);
      let b = subgroupMatrixLoad<Left, col_major>(&tiles, left + NEXT, NARROW_PITCH);
      let r0 = subgroupMatrixLoad<Right, row_major>(&tiles, right, WIDE_PITCH);
      a0 = subgroupMatrixMultiplyAccumulate(a, r0, a0);
      b0 = subgroupMatrixMultiplyAccumulate(b, r0, b0);
      let r1 = subgroupMatrixLoad<Right, row_major>(&tiles, right + NEXT, WIDE_PITCH);
      a1 = subgroupMatrixMultiplyAccumulate(a, r1, a1);
      b1 = subgroupMatrixMultiplyAccumulate(b, r1, b1);
    }
    workgroupBarrier();
  }

  let base = params.last_offset + dot(at, params.last_strides);
  for (var i = 0u; i < 4u; i++) {
    let row = first_d + wide_line + i * WIDE_STEP;
    let low = params.source_scale * bitcast<vec4f>(tiles[share + i * STEP]);
    let high = params.source_scale * bitcast<vec4f>(tiles[share + i * STEP + 1u]);
    let place = base + row * params.last_strides.w + column_v * params.last_column;
    let count = select(0u, params.e - min(column_v, params.e), row < params.d);
    for (var j = 0u; j < min(4u, count); j++) { last[place + j * params.last_column] = low[j]; }
    for (var j = 4u; j < min(8u, count); j++) { last[place + j * params.last_column] = high[j - 4u]; }
  }
}

// The outputs of ROWS rows of one chunk and COLUMNS of e, in float16, on matrix units, from the state S
// before the chunk and the rows up to them, for d ≤ COLUMNS:
//   o_r = α β (exp(−P_r) · q_r S + Σ_{t ≤ r} exp(P_t − P_r) · (q_r · k_t) · v_t)
// P is what lightning_positions.wgsl wrote, S (over β) what lightning_states_cores.wgsl wrote.
// Goes on in lightning_cores.wgsl and cores.wgsl.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

const SIDE: u32 = 16;
const LANES: u32 = 32;
alias Element_q = f16;
alias Element_k = f16;
alias Element_v = f16;
alias Element_out = f16;
const OUT_IN_EIGHTS: bool = false;
const HAS_INITIAL: bool = false;
// Whether d and e are whole numbers of tiles.
const WHOLE_D: bool = false;
const WHOLE_E: bool = false;

struct Params {
  q_strides: vec4u,          // of batch, group, member of the group, row
  k_strides: vec4u,
  v_strides: vec4u,
  out_strides: vec4u,
  q_column: u32,
  k_column: u32,
  v_column: u32,
  out_column: u32,
  q_offset: u32,
  k_offset: u32,
  v_offset: u32,
  out_offset: u32,
  groups: u32,
  members: u32,
  n: u32,
  d: u32,
  e: u32,
  chunk: u32,
  chunks: u32,
  workgroups: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<Element_q>;
@group(0) @binding(1) var<storage, read> k: array<Element_k>;
@group(0) @binding(2) var<storage, read> v: array<Element_v>;
@group(0) @binding(3) var<storage, read> positions: array<vec2u>;
@group(0) @binding(4) var<storage, read> states: array<vec4u>;
@group(0) @binding(5) var<storage, read> scales: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<Element_out>;
@group(0) @binding(7) var<uniform> params: Params;

// A wide tile of q; a wide one of k, of v, of a state or, in float32, of scores; and a narrow one of what the
// second is multiplied by, decayed scores or q. In the end the first two hold the results in float32.
var<workgroup> tiles: array<vec4u, 2 * WIDE_TILE + NARROW_TILE>;
const OF_Q: u32 = 0;
const RIGHT: u32 = WIDE_TILE;
const LEFT: u32 = 2 * WIDE_TILE;
// How much decay lies between the first row of the workgroup and each of its rows, and each source.
var<workgroup> rows_after: array<f32, ROWS>;
var<workgroup> sources_after: array<f32, ROWS>;
// α β · exp(−P_r) of its rows.
var<workgroup> from_state: array<f32, ROWS>;

// Eight elements a step apart, the last of them repeated after the first count + 1.
fn one_q(at: u32) -> f16 { return q[at]; }
fn eight_q(at: u32, step: u32, count: u32) -> vec4u { return gathered_q(at, step, count); }
fn gathered_q(at: u32, step: u32, count: u32) -> vec4u {
  var values = vec4u();
  for (var i = 0u; i < 4u; i++) {
    values[i] = two(one_q(at + min(2u * i, count) * step), one_q(at + min(2u * i + 1u, count) * step));
  }
  return values;
}
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

// Eight columns of a row, zeros outside. `base` is that of row 0 and of the first column, or of the last there is.
fn load_q(base: u32, row: u32, column: u32) -> vec4u {
  let count = params.d - 1u - min(column, params.d - 1u);
  let values = eight_q(base + row * params.q_strides.w, params.q_column, count);
  if (WHOLE_D) { return values; }
  return first_eight(values, i32(params.d) - i32(column));
}

fn load_k(base: u32, row: u32, column: u32) -> vec4u {
  let count = params.d - 1u - min(column, params.d - 1u);
  let values = eight_k(base + row * params.k_strides.w, params.k_column, count);
  if (WHOLE_D) { return values; }
  return first_eight(values, i32(params.d) - i32(column));
}

fn load_v(base: u32, row: u32, column: u32) -> vec4u {
  let count = params.e - 1u - min(column, params.e - 1u);
  let values = eight_v(base + row * params.v_strides.w, params.v_column, count);
  if (WHOLE_E) { return values; }
  return first_eight(values, i32(params.e) - i32(column));
}

// What a thread has of a wide tile, of rows up to `end`; of rows after it, that one.
fn four_of_q(base: u32, row: u32, end: u32, column: u32) -> Four {
  return Four(
    load_q(base, min(row, end), column), load_q(base, min(row + WIDE_STEP, end), column),
    load_q(base, min(row + 2u * WIDE_STEP, end), column), load_q(base, min(row + 3u * WIDE_STEP, end), column));
}

fn four_of_k(base: u32, row: u32, end: u32, column: u32) -> Four {
  return Four(
    load_k(base, min(row, end), column), load_k(base, min(row + WIDE_STEP, end), column),
    load_k(base, min(row + 2u * WIDE_STEP, end), column), load_k(base, min(row + 3u * WIDE_STEP, end), column));
}

fn four_of_v(base: u32, row: u32, end: u32, column: u32) -> Four {
  return Four(
    load_v(base, min(row, end), column), load_v(base, min(row + WIDE_STEP, end), column),
    load_v(base, min(row + 2u * WIDE_STEP, end), column), load_v(base, min(row + 3u * WIDE_STEP, end), column));
}

fn four_of_states(place: u32, step: u32) -> Four {
  return Four(states[place], states[place + step], states[place + 2u * step], states[place + 3u * step]);
}

// How much decay lies between two positions, of which the second may come first.
fn after(earlier: vec2u, later: vec2u) -> f32 {
  if (later.x < earlier.x || (later.x == earlier.x && later.y < earlier.y)) { return -between(later, earlier); }
  return between(earlier, later);
}

// The decay from four sources on to a row, 0 where a source comes after it. Selected, not multiplied by a
// mask: 0 · inf would be NaN.
fn decay(row: u32, row_after: f32, source: u32, at: u32) -> vec4f {
  let sources = vec4f(sources_after[at], sources_after[at + 1u], sources_after[at + 2u], sources_after[at + 3u]);
  let weights = exp(min(vec4f(), sources - vec4f(row_after)));
  return select(vec4f(), weights, vec4u(source, source + 1u, source + 2u, source + 3u) <= vec4u(row));
}

// Eight decayed scores of a line of the tile.
fn decayed(line: u32, eighth: u32, first_row: u32, source: u32) -> vec4u {
  let score = RIGHT + line * WIDE_PITCH + 2u * eighth;
  let row = first_row + line;
  let row_after = rows_after[line];
  let at = 8u * eighth;
  return rounded(
    params.scale * bitcast<vec4f>(tiles[score]) * decay(row, row_after, source + at, at),
    params.scale * bitcast<vec4f>(tiles[score + 1u]) * decay(row, row_after, source + at + 4u, at + 4u));
}

fn eight_results(values: vec4u) -> Element_out { return Element_out(); }
fn one_result(values: vec4f, lane: u32) -> Element_out { return Element_out(values[lane]); }

fn store(base: u32, row: u32, column: u32, low: vec4f, high: vec4f) {
  let at = base + row * params.out_strides.w + column * params.out_column;
  if (OUT_IN_EIGHTS) {
    out[at / 8u] = eight_results(rounded(low, high));
  } else {
    let count = params.e - column;
    for (var i = 0u; i < min(4u, count); i++) { out[at + i * params.out_column] = one_result(low, i); }
    for (var i = 4u; i < min(8u, count); i++) { out[at + i * params.out_column] = one_result(high, i - 4u); }
  }
}

@compute @workgroup_size(8 * LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let number = group.y * groups.x + group.x;
  if (number >= params.workgroups) { return; }
  let tiles_e = (params.e + COLUMNS - 1u) / COLUMNS;
  let tiles_row = params.chunk / ROWS;
  let tile_e = number % tiles_e;
  let first_row = number / tiles_e % tiles_row * ROWS;
  let chunk = number / tiles_e / tiles_row % params.chunks;
  let instance = number / tiles_e / tiles_row / params.chunks;
  let first_e = tile_e * COLUMNS;
  let at = entry_of(instance, params.groups, params.members, 0u);
  let start = chunk * params.chunk;
  let rows = min(params.chunk, params.n - start);
  if (first_row >= rows) { return; }
  let end = rows - 1u;
  let base_position = instance * (params.n + params.chunks) + start;
  let subgroup = thread / LANES;
  let half = subgroup / 4u * 2u * SIDE;
  let quarter = subgroup % 4u;
  // What this thread has of narrow and of wide tiles.
  let line = thread / (ROWS / 8u);
  let eighth = thread % (ROWS / 8u);
  let narrow = LEFT + line * NARROW_PITCH + eighth;
  let wide_line = thread / (COLUMNS / 8u);
  let wide_eighth = thread % (COLUMNS / 8u);
  let wide = wide_line * WIDE_PITCH + wide_eighth;
  let column_d = 8u * wide_eighth;
  let column_e = first_e + 8u * wide_eighth;
  let inside_d = min(column_d, params.d - 1u);
  let base_q = params.q_offset + dot(at, params.q_strides) + start * params.q_strides.w + inside_d * params.q_column;
  let base_k = params.k_offset + dot(at, params.k_strides) + start * params.k_strides.w + inside_d * params.k_column;
  let base_v = params.v_offset + dot(at, params.v_strides) + start * params.v_strides.w +
    min(column_e, params.e - 1u) * params.v_column;
  const NARROW = NARROW_STEP * NARROW_PITCH;

  put_wide(OF_Q + wide, four_of_q(base_q, first_row + wide_line, end, column_d));
  let corner = positions[base_position + first_row];
  if (thread < ROWS) {
    let position = positions[base_position + min(first_row + thread, end)];
    rows_after[thread] = after(corner, position);
    from_state[thread] = params.scale * exp(-between(vec2u(), position));
  }

  var a0 = Sum(); var a1 = Sum();
  var b0 = Sum(); var b1 = Sum();
  // First decayed scores times v, then q times the state, both a narrow tile times a wide one.
  let sources = first_row / ROWS + 1u;
  let tiles_d = select(0u, (params.d + ROWS - 1u) / ROWS, HAS_INITIAL || chunk > 0u);
  let entry = (instance * params.chunks + chunk) * ((params.d + ROWS - 1u) / ROWS);
  // What the sums are multiples of: 1, or the power of two that goes with a tile of the state.
  var unit = 1.0;
  for (var step = 0u; step < sources + tiles_d; step++) {
    if (step < sources) {
      let source = step * ROWS;
      put_wide(RIGHT + wide, four_of_k(base_k, source + wide_line, end, column_d));
      if (thread < ROWS) {
        sources_after[thread] = after(corner, positions[base_position + min(source + thread, end)]);
      }
      workgroupBarrier();
      var c0 = Sum();
      var c1 = Sum();
      for (var d = 0u; d < params.d; d += SIDE) {
        let left = OF_Q + half * WIDE_PITCH + d / 8u;
        let above = subgroupMatrixLoad<Left, row_major>(&tiles, left, WIDE_PITCH);
        let below = subgroupMatrixLoad<Left, row_major>(&tiles, left + SIDE * WIDE_PITCH, WIDE_PITCH);
        let keys = subgroupMatrixLoad<Right, col_major>(&tiles, RIGHT + quarter * SIDE * WIDE_PITCH + d / 8u, WIDE_PITCH);
        c0 = subgroupMatrixMultiplyAccumulate(above, keys, c0);
        c1 = subgroupMatrixMultiplyAccumulate(below, keys, c1);
      }
      let from_v = four_of_v(base_v, source + wide_line, end, column_e);
      workgroupBarrier();
      let place = RIGHT + half * WIDE_PITCH + quarter * NEXT_SUM;
      subgroupMatrixStore<row_major>(&tiles, place, c0, WIDE_PITCH);
      subgroupMatrixStore<row_major>(&tiles, place + SIDE * WIDE_PITCH, c1, WIDE_PITCH);
      workgroupBarrier();
      tiles[narrow] = decayed(line, eighth, first_row, source);
      tiles[narrow + NARROW] = decayed(line + NARROW_STEP, eighth, first_row, source);
      workgroupBarrier();
      put_wide(RIGHT + wide, from_v);
    } else {
      let tile_d = step - sources;
      let pitch = tiles_e * COLUMNS / 8u;
      let place = ((entry + tile_d) * ROWS + wide_line) * pitch + first_e / 8u + wide_eighth;
      put_wide(RIGHT + wide, four_of_states(place, WIDE_STEP * pitch));
      let from_q = OF_Q + line * WIDE_PITCH + tile_d * (ROWS / 8u) + eighth;
      tiles[narrow] = times(tiles[from_q], from_state[line]);
      tiles[narrow + NARROW] = times(tiles[from_q + NARROW_STEP * WIDE_PITCH], from_state[line + NARROW_STEP]);
      let next = scales[(entry + tile_d) * tiles_e + tile_e];
      let factor = unit / next;
      unit = next;
      a0 = subgroupMatrixScalarMultiply(a0, factor); a1 = subgroupMatrixScalarMultiply(a1, factor);
      b0 = subgroupMatrixScalarMultiply(b0, factor); b1 = subgroupMatrixScalarMultiply(b1, factor);
    }
    workgroupBarrier();
    for (var depth = 0u; depth < ROWS; depth += SIDE) {
      let left = LEFT + half * NARROW_PITCH + depth / 8u;
      let right = RIGHT + depth * WIDE_PITCH + quarter * 2u * NEXT;
      let a = subgroupMatrixLoad<Left, row_major>(&tiles, left, NARROW_PITCH);
      let b = subgroupMatrixLoad<Left, row_major>(&tiles, left + SIDE * NARROW_PITCH, NARROW_PITCH);
      let r0 = subgroupMatrixLoad<Right, row_major>(&tiles, right, WIDE_PITCH);
      a0 = subgroupMatrixMultiplyAccumulate(a, r0, a0);
      b0 = subgroupMatrixMultiplyAccumulate(b, r0, b0);
      let r1 = subgroupMatrixLoad<Right, row_major>(&tiles, right + NEXT, WIDE_PITCH);
      a1 = subgroupMatrixMultiplyAccumulate(a, r1, a1);
      b1 = subgroupMatrixMultiplyAccumulate(b, r1, b1);
    }
    workgroupBarrier();
  }

  // Columns of the left half go where q was, those of the right half next to them.
  a0 = subgroupMatrixScalarMultiply(a0, unit); a1 = subgroupMatrixScalarMultiply(a1, unit);
  b0 = subgroupMatrixScalarMultiply(b0, unit); b1 = subgroupMatrixScalarMultiply(b1, unit);
  let above = quarter / 2u * WIDE_TILE + half * WIDE_PITCH + quarter % 2u * 2u * NEXT_SUM;
  let below = above + SIDE * WIDE_PITCH;
  subgroupMatrixStore<row_major>(&tiles, above, a0, WIDE_PITCH);
  subgroupMatrixStore<row_major>(&tiles, above + NEXT_SUM, a1, WIDE_PITCH);
  subgroupMatrixStore<row_major>(&tiles, below, b0, WIDE_PITCH);
  subgroupMatrixStore<row_major>(&tiles, below + NEXT_SUM, b1, WIDE_PITCH);
  workgroupBarrier();
  let base_out = params.out_offset + dot(at, params.out_strides) + start * params.out_strides.w;
  let results = wide_eighth / (ROWS / 8u) * WIDE_TILE + wide_eighth % (ROWS / 8u) * 2u;
  for (var i = wide_line; i < ROWS; i += WIDE_STEP) {
    let place = results + i * WIDE_PITCH;
    if (first_row + i < rows && column_e < params.e) {
      store(base_out, first_row + i, column_e, bitcast<vec4f>(tiles[place]), bitcast<vec4f>(tiles[place + 1u]));
    }
  }
}

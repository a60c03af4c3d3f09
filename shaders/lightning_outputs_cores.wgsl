// The outputs of one chunk and COLUMNS of e, in float16, on matrix units, from the state S before the chunk and
// its rows, for d ≤ COLUMNS:
//   o_r = α β (exp(−P_r) · q_r S + Σ_{t ≤ r} exp(P_t − P_r) · (q_r · k_t) · v_t)
// P is what lightning_positions.wgsl wrote, S (over β) what lightning_states_cores.wgsl wrote. A workgroup makes
// ROWS rows after the other.
// Goes on in lightning_cores.wgsl, decays.wgsl, cores.wgsl and cores_results.wgsl.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

// Whether S is read turned over: the stored one is [e, d].
const STATE_TURNED: bool = false;
// Whether the next tile is asked for before the one at hand is used, and v before scores are decayed.
const AHEAD: bool = true;
const V_AHEAD: bool = true;
// Whether decays are told from places in float32 of all rows of the chunk, of which there are at most CHUNK.
const PLACES: bool = false;
const CHUNK: u32 = 8;
const DECAYS: u32 = ROWS;
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

alias Element_q = f16;

@group(0) @binding(3) var<storage, read> q: array<Element_q>;
@group(0) @binding(4) var<storage, read> states: array<vec4u>;
@group(0) @binding(5) var<storage, read> scales: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<Element_out>;
@group(0) @binding(7) var<uniform> params: Params;

// A wide tile of q; one of k, of v, of a state or, in float32, of scores, wide, or narrow with twice the lines;
// and a narrow one of what the second is multiplied by, decayed scores or q. In the end the first two hold the
// results in float32.
var<workgroup> tiles: array<vec4u, WIDE_TILE + RIGHT_TILE + NARROW_TILE>;
const RIGHT_TILE: u32 = 2 * NARROW_TILE;
const OF_Q: u32 = 0;
const RIGHT: u32 = WIDE_TILE;
const LEFT: u32 = WIDE_TILE + RIGHT_TILE;
// What the state's tiles are multiples of: the two of its rows, or, turned over, of the left and of the right columns.
var<workgroup> units: array<f32, 2>;
// How much decay lies between the first of ROWS rows and each of them, and each source.
var<workgroup> rows_after: array<f32, DECAYS>;
var<workgroup> sources_after: array<f32, DECAYS>;
// α β · exp(−P_r) of these rows.
var<workgroup> from_state: array<f32, DECAYS>;
// The places of all rows: their multiples of 2⁻⁸, by fours, and then the rests.
var<workgroup> places: array<vec4f, CHUNK / 2>;

fn eight_q(at: Eight) -> vec4u { return together(vec4<f16>(q[at.low.x], q[at.low.y], q[at.low.z], q[at.low.w]), vec4<f16>(q[at.high.x], q[at.high.y], q[at.high.z], q[at.high.w])); }

fn load_q(base: u32, row: u32, column: u32) -> vec4u {
  let values = eight_q(eight_of(base + row * params.q_strides.w, params.q_column, column, params.d));
  if (WHOLE_D) { return values; }
  return inside(values, column, params.d);
}

fn four_of_q(base: u32, rows: vec4u, column: u32) -> Four {
  return Four(load_q(base, rows.x, column), load_q(base, rows.y, column), load_q(base, rows.z, column), load_q(base, rows.w, column));
}

fn four_of_k(base: u32, rows: vec4u, column: u32) -> Four {
  return Four(load_k(base, rows.x, column), load_k(base, rows.y, column), load_k(base, rows.z, column), load_k(base, rows.w, column));
}

// Where a thread finds what a step multiplies by: first rows of k, for `sources` steps, then tiles of the state.
struct From {
  sources: u32,
  base_k: u32,
  line: u32,
  column: u32,
  end: u32,                  // the last row
  base_position: u32,
  thread: u32,
  states: u32,               // its first eight of a state, and from one tile to the next
  states_step: u32,
  states_line: u32,          // its lines of a tile: the first one, and how many there are
  states_lines: u32,
  pitch: u32,
}

struct Asked { tile: Four, position: vec2u }

fn four_of_state(base: u32, lines: vec4u, pitch: u32) -> Four {
  let at = vec4u(base) + lines * pitch;
  return Four(states[at.x], states[at.y], states[at.z], states[at.w]);
}

fn ask(there: From, step: u32) -> Asked {
  var asked = Asked();
  if (step < there.sources) {
    let source = step * ROWS;
    asked.tile = four_of_k(there.base_k, lines_from(source + there.line, WIDE_STEP, there.end), there.column);
    if (!PLACES && there.thread < ROWS) { asked.position = positions[there.base_position + min(source + there.thread, there.end)]; }
  } else {
    let tile = step - there.sources;
    let base = there.states + tile * there.states_step;
    const STEP = select(WIDE_STEP, NARROW_STEP, STATE_TURNED);
    asked.tile = four_of_state(base, lines_from(there.states_line, STEP, there.states_lines), there.pitch);
  }
  return asked;
}

// How many columns of q and k there are: a constant where it can be, so that the loop over them is written out.
fn depth_of_keys() -> u32 {
  if (WHOLE_D) { return COLUMNS; }
  return params.d;
}

// A fragment of what the narrow tile is multiplied by: rows from `depth` on, columns from `column` on.
fn right_at(depth: u32, column: u32, turned: bool) -> Right {
  if (STATE_TURNED && turned) {
    return subgroupMatrixLoad<Right, col_major>(&tiles, RIGHT + column * NARROW_PITCH + depth / 8u, NARROW_PITCH);
  }
  return subgroupMatrixLoad<Right, row_major>(&tiles, RIGHT + depth * WIDE_PITCH + column / 8u, WIDE_PITCH);
}

// How much decay lies between two positions, of which the second may come first.
fn after(earlier: vec2u, later: vec2u) -> f32 {
  if (later.x < earlier.x || (later.x == earlier.x && later.y < earlier.y)) { return -between(later, earlier); }
  return between(earlier, later);
}

// The decays from four sources on to a row of which `x` are the exponents, 0 where a source comes after it.
// Selected, not multiplied by a mask: 0 · inf would be NaN.
fn masked(row: u32, source: u32, x: vec4f) -> vec4f {
  return select(vec4f(), exp(min(vec4f(), x)), vec4u(source, source + 1u, source + 2u, source + 3u) <= vec4u(row));
}

fn decay(line: u32, first_row: u32, at: u32, first_source: u32) -> vec4f {
  let row = first_row + line;
  let source = first_source + at;
  if (PLACES) {
    let place = place_at(row);
    let x = places[source / 4u] - place.x;
    return masked(row, source, x + (places[CHUNK / 4u + source / 4u] - place.y));
  }
  let sources = vec4f(sources_after[at], sources_after[at + 1u], sources_after[at + 2u], sources_after[at + 3u]);
  return masked(row, source, sources - rows_after[line]);
}

fn place_at(row: u32) -> vec2f {
  return vec2f(places[row / 4u][row % 4u], places[CHUNK / 4u + row / 4u][row % 4u]);
}

// What a line of q is multiplied by before the state is.
fn weight_of(line: u32, first_row: u32) -> f32 {
  if (PLACES) { return params.scale * decay_between(vec2f(), place_at(first_row + line)); }
  return from_state[line];
}

// Eight decayed scores of a line of the tile.
fn decayed(line: u32, eighth: u32, first_row: u32, source: u32) -> vec4u {
  let scores = sums_at(RIGHT + line * SUM_PITCH + 2u * eighth, eighth);
  let at = 8u * eighth;
  return rounded(
    params.scale * scores.low * decay(line, first_row, at, source),
    params.scale * scores.high * decay(line, first_row, at + 4u, source));
}

@compute @workgroup_size(SUBGROUPS * LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let number = group.y * groups.x + group.x;
  if (number >= params.workgroups) { return; }
  let tiles_e = (width_e() + COLUMNS - 1u) / COLUMNS;
  let tile_e = number % tiles_e;
  let chunk = number / tiles_e % params.chunks;
  let instance = number / tiles_e / params.chunks;
  let first_e = tile_e * COLUMNS;
  let at = entry_of(instance, params.groups, params.members, 0u);
  let start = chunk * rows_of_a_chunk();
  let rows = min(rows_of_a_chunk(), params.n - start);
  let end = rows - 1u;
  let base_position = instance * (params.n + params.chunks) + start;
  let subgroup = thread / LANES;
  // Its rows and its quarter of the columns.
  let band = subgroup / 4u * 2u * SIDE;
  let quarter = subgroup % 4u;
  // What this thread has of narrow and of wide tiles.
  let line = thread / (ROWS / 8u);
  let eighth = thread % (ROWS / 8u);
  let narrow = LEFT + line * NARROW_PITCH + eighth;
  let wide_line = thread / (COLUMNS / 8u);
  let wide_eighth = thread % (COLUMNS / 8u);
  let wide = wide_line * WIDE_PITCH + wide_eighth;
  const NARROW = NARROW_STEP * NARROW_PITCH;
  const WIDE = WIDE_STEP * WIDE_PITCH;
  let column_d = 8u * wide_eighth;
  let column_e = first_e + 8u * wide_eighth;
  let inside_d = min(column_d, width_d() - 1u);
  let base_q = params.q_offset + dot(at, params.q_strides) + start * params.q_strides.w + inside_d * params.q_column;
  let base_v = params.v_offset + dot(at, params.v_strides) + start * params.v_strides.w +
    min(column_e, width_e() - 1u) * params.v_column;

  var there = From();
  there.base_k = params.k_offset + dot(at, params.k_strides) + start * params.k_strides.w + inside_d * params.k_column;
  there.base_position = base_position;
  there.line = wide_line;
  there.thread = thread;
  there.end = end;
  there.column = column_d;
  // The state is stored in tiles of ROWS × COLUMNS: so many one below the other and side by side.
  let down = (select(width_d(), width_e(), STATE_TURNED) + ROWS - 1u) / ROWS;
  let across = (select(width_e(), width_d(), STATE_TURNED) + COLUMNS - 1u) / COLUMNS;
  let entry = (instance * params.chunks + chunk) * down;
  let pitch = across * COLUMNS / 8u;
  there.pitch = pitch;
  if (STATE_TURNED) {
    there.states = entry * ROWS * pitch + eighth;
    there.states_line = first_e + line;
    there.states_lines = down * ROWS - 1u;
    there.states_step = ROWS / 8u;
  } else {
    there.states = entry * ROWS * pitch + first_e / 8u + wide_eighth;
    there.states_line = wide_line;
    there.states_lines = ROWS - 1u;
    there.states_step = ROWS * pitch;
  }

  if (thread < 2u) {
    let tile = min(thread + select(0u, first_e / ROWS, STATE_TURNED), down - 1u);
    units[thread] = scales[(entry + tile) * across + select(tile_e, 0u, STATE_TURNED)];
  }
  // The next tile is asked for before the one at hand is used; the first one is k's first, whatever the rows.
  there.sources = 1u;
  var asked = Asked();
  if (AHEAD) { asked = ask(there, 0u); }
  if (PLACES) {
    for (var row = thread; row < CHUNK; row += SUBGROUPS * LANES) {
      let place = place_of(positions[base_position + min(row, end)]);
      places[row / 4u][row % 4u] = place.x;
      places[CHUNK / 4u + row / 4u][row % 4u] = place.y;
    }
  }
  for (var first_row = 0u; first_row < rows; first_row += ROWS) {
    // First decayed scores times v, then q times the state, both a narrow tile times a wide one.
    let sources = first_row / ROWS + 1u;
    let steps = sources + select(0u, (width_d() + ROWS - 1u) / ROWS, HAS_INITIAL || chunk > 0u);
    there.sources = sources;
    if (first_row > 0u) { workgroupBarrier(); }
    put(OF_Q + wide, WIDE, four_of_q(base_q, lines_from(first_row + wide_line, WIDE_STEP, end), column_d));
    var corner = vec2u();
    if (!PLACES) { corner = positions[base_position + first_row]; }
    if (!PLACES && thread < ROWS) {
      let position = positions[base_position + min(first_row + thread, end)];
      rows_after[thread] = after(corner, position);
      from_state[thread] = params.scale * exp(-between(vec2u(), position));
    }

    var a0 = Sum(); var a1 = Sum();
    var b0 = Sum(); var b1 = Sum();
    // What the sums are multiples of: 1, or the power of two that goes with a tile of the state.
    var unit = 1.0;
    for (var step = 0u; step < steps; step++) {
      let of_state = step >= sources;
      if (!AHEAD) { asked = ask(there, step); }
      if (!of_state) {
        let source = step * ROWS;
        put(RIGHT + wide, WIDE, asked.tile);
        if (!PLACES && thread < ROWS) { sources_after[thread] = after(corner, asked.position); }
        workgroupBarrier();
        var s0 = Sum(); var s1 = Sum();
        for (var d = 0u; d < depth_of_keys(); d += SIDE) {
          let left = OF_Q + band * WIDE_PITCH + d / 8u;
          let keys = subgroupMatrixLoad<Right, col_major>(&tiles, RIGHT + quarter * SIDE * WIDE_PITCH + d / 8u, WIDE_PITCH);
          let above = subgroupMatrixLoad<Left, row_major>(&tiles, left, WIDE_PITCH);
          let below = subgroupMatrixLoad<Left, row_major>(&tiles, left + SIDE * WIDE_PITCH, WIDE_PITCH);
          s0 = subgroupMatrixMultiplyAccumulate(above, keys, s0);
          s1 = subgroupMatrixMultiplyAccumulate(below, keys, s1);
        }
        var from_v = Four();
        if (V_AHEAD) { from_v = four_of_v(base_v, lines_from(source + wide_line, WIDE_STEP, end), column_e); }
        workgroupBarrier();
        let place = RIGHT + band * SUM_PITCH + quarter * NEXT_SUM;
        subgroupMatrixStore<row_major>(&tiles, place, s0, SUM_PITCH);
        subgroupMatrixStore<row_major>(&tiles, place + SIDE * SUM_PITCH, s1, SUM_PITCH);
        workgroupBarrier();
        for (var i = 0u; i < ROWS; i += NARROW_STEP) {
          tiles[narrow + i * NARROW_PITCH] = decayed(line + i, eighth, first_row, source);
        }
        if (!V_AHEAD) { from_v = four_of_v(base_v, lines_from(source + wide_line, WIDE_STEP, end), column_e); }
        workgroupBarrier();
        put(RIGHT + wide, WIDE, from_v);
      } else {
        if (STATE_TURNED) {
          put(RIGHT + line * NARROW_PITCH + eighth, NARROW, asked.tile);
        } else {
          put(RIGHT + wide, WIDE, asked.tile);
        }
        let from_q = OF_Q + line * WIDE_PITCH + (step - sources) * (ROWS / 8u) + eighth;
        for (var i = 0u; i < ROWS; i += NARROW_STEP) {
          tiles[narrow + i * NARROW_PITCH] = times(tiles[from_q + i * WIDE_PITCH], weight_of(line + i, first_row));
        }
        let next_unit = units[select(step - sources, quarter / 2u, STATE_TURNED)];
        let factor = unit / next_unit;
        unit = next_unit;
        a0 = subgroupMatrixScalarMultiply(a0, factor); a1 = subgroupMatrixScalarMultiply(a1, factor);
        b0 = subgroupMatrixScalarMultiply(b0, factor); b1 = subgroupMatrixScalarMultiply(b1, factor);
      }
      if (AHEAD && (step + 1u < steps || first_row + ROWS < rows)) { asked = ask(there, select(step + 1u, 0u, step + 1u == steps)); }
      workgroupBarrier();
      for (var depth = 0u; depth < ROWS; depth += SIDE) {
        let left = LEFT + band * NARROW_PITCH + depth / 8u;
        let a = subgroupMatrixLoad<Left, row_major>(&tiles, left, NARROW_PITCH);
        let b = subgroupMatrixLoad<Left, row_major>(&tiles, left + SIDE * NARROW_PITCH, NARROW_PITCH);
        let r0 = right_at(depth, quarter * 2u * SIDE, of_state);
        let r1 = right_at(depth, quarter * 2u * SIDE + SIDE, of_state);
        a0 = subgroupMatrixMultiplyAccumulate(a, r0, a0);
        a1 = subgroupMatrixMultiplyAccumulate(a, r1, a1);
        b0 = subgroupMatrixMultiplyAccumulate(b, r0, b0);
        b1 = subgroupMatrixMultiplyAccumulate(b, r1, b1);
      }
      workgroupBarrier();
    }

    // Columns of the left half go first, where q was, those of the right half next to them.
    let above = quarter / 2u * SUM_TILE + band * SUM_PITCH + quarter % 2u * 2u * NEXT_SUM;
    subgroupMatrixStore<row_major>(&tiles, above, subgroupMatrixScalarMultiply(a0, unit), SUM_PITCH);
    subgroupMatrixStore<row_major>(&tiles, above + NEXT_SUM, subgroupMatrixScalarMultiply(a1, unit), SUM_PITCH);
    let below = above + SIDE * SUM_PITCH;
    subgroupMatrixStore<row_major>(&tiles, below, subgroupMatrixScalarMultiply(b0, unit), SUM_PITCH);
    subgroupMatrixStore<row_major>(&tiles, below + NEXT_SUM, subgroupMatrixScalarMultiply(b1, unit), SUM_PITCH);
    workgroupBarrier();
    let base_out = params.out_offset + dot(at, params.out_strides) + start * params.out_strides.w;
    let results = wide_eighth / (ROWS / 8u) * SUM_TILE + wide_eighth % (ROWS / 8u) * 2u;
    for (var i = wide_line; i < ROWS; i += WIDE_STEP) {
      let sums = sums_at(results + i * SUM_PITCH, wide_eighth);
      if (first_row + i < rows && column_e < width_e()) {
        let to = base_out + (first_row + i) * params.out_strides.w + column_e * params.out_column;
        store(to, params.out_column, width_e() - column_e, sums.low, sums.high);
      }
    }
  }
}

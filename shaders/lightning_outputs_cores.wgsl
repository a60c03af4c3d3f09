// The outputs of one chunk and COLUMNS of e, in float16, on matrix units, from the state S before the chunk and
// its rows, for d ≤ COLUMNS:
//   o_r = α β (exp(−P_r) · q_r S + Σ_{t ≤ r} exp(P_t − P_r) · (q_r · k_t) · v_t)
// P is what lightning_places.wgsl tells, S (over β) what lightning_states_cores.wgsl wrote. A workgroup makes
// ROWS rows after the other. It takes less than 24 KB of workgroup memory and 128 registers a thread, so that two
// fit where a processor gives 48 KB in all: tiles are of half the depth, and q, which caches hold, is read again for
// every tile of sources.
// Goes on in lightning_cores.wgsl, decays.wgsl, lightning_places.wgsl, cores.wgsl and cores_results.wgsl.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

// Whether S is read turned over: the stored one is [e, d].
const STATE_TURNED: bool = false;

struct Params {
  g_strides: vec4u,          // of batch, group, member of the group, row
  q_strides: vec4u,          // the same
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
  chunks: u32,
  workgroups: u32,
  scale: f32,
  g_offset: u32,
}

alias Element_q = f16;

@group(0) @binding(3) var<storage, read> q: array<Element_q>;
@group(0) @binding(4) var<storage, read> states: array<vec4u>;
@group(0) @binding(5) var<storage, read> scales: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<Element_out>;
@group(0) @binding(7) var<uniform> params: Params;

// On the left ROWS of q or of decayed scores by ROWS terms; on the right ROWS of k by the same terms, or DEPTH terms by
// COLUMNS of v or of the state, or, turned over, COLUMNS by DEPTH terms. Or ROWS × ROWS scores or results in float32.
const DEPTH: u32 = 2 * SIDE;
const TURNED_PITCH: u32 = DEPTH / 8 + 1;
const RIGHT_TILE: u32 = COLUMNS * TURNED_PITCH;
const RIGHT: u32 = NARROW_TILE;
var<workgroup> tiles: array<vec4u, NARROW_TILE + RIGHT_TILE>;
// The places of all rows: their multiples of 2⁻⁸, by fours, and then the rests.
var<workgroup> places: array<vec4f, CHUNK / 2>;
// What the state's tiles are multiples of: the two of its rows, or, turned over, of the left and of the right columns.
var<workgroup> units: array<f32, 2>;

fn eight_q(at: Eight) -> vec4u { return together(vec4<f16>(q[at.low.x], q[at.low.y], q[at.low.z], q[at.low.w]), vec4<f16>(q[at.high.x], q[at.high.y], q[at.high.z], q[at.high.w])); }

fn load_q(base: u32, row: u32, column: u32) -> vec4u {
  let values = eight_q(eight_of(base + row * params.q_strides.w, params.q_column, column, params.d));
  if (WHOLE_D) { return values; }
  return inside(values, column, params.d);
}

// What a thread has of a tile.
struct Two { a: vec4u, b: vec4u }

// Where a thread reads: the chunk's first row of q, of k and of v, and the column of v; the chunk's last row; the state.
struct Places { q: u32, k: u32, v: u32, column_v: u32, last: u32, state: u32, pitch: u32, line: u32, lines: u32 }

fn ask_q(at: Places, row: u32, column: u32) -> Two {
  let base = at.q + min(column, width_d() - 1u) * params.q_column;
  return Two(load_q(base, min(row, at.last), column), load_q(base, min(row + NARROW_STEP, at.last), column));
}

fn ask_k(at: Places, row: u32, column: u32) -> Two {
  let base = at.k + min(column, width_d() - 1u) * params.k_column;
  return Two(load_k(base, min(row, at.last), column), load_k(base, min(row + NARROW_STEP, at.last), column));
}

fn ask_v(at: Places, row: u32) -> Two {
  return Two(load_v(at.v, min(row, at.last), at.column_v), load_v(at.v, min(row + WIDE_STEP, at.last), at.column_v));
}

// DEPTH terms of the state from `term` on.
fn ask_state(at: Places, term: u32) -> Two {
  if (STATE_TURNED) {
    let column = at.state + term / 8u;
    return Two(states[column + min(at.line, at.lines) * at.pitch], states[column + min(at.line + COLUMNS / 2u, at.lines) * at.pitch]);
  }
  let row = at.state + (term + at.line) * at.pitch;
  return Two(states[row], states[row + WIDE_STEP * at.pitch]);
}

fn put_two(place: u32, step: u32, values: Two) {
  tiles[place] = values.a;
  tiles[place + step] = values.b;
}

// A fragment of the right tile: terms from `depth` on, columns from `column` on.
fn right_at(depth: u32, column: u32, turned: bool) -> Right {
  if (STATE_TURNED && turned) {
    return subgroupMatrixLoad<Right, col_major>(&tiles, RIGHT + column * TURNED_PITCH + depth / 8u, TURNED_PITCH);
  }
  return subgroupMatrixLoad<Right, row_major>(&tiles, RIGHT + depth * WIDE_PITCH + column / 8u, WIDE_PITCH);
}

fn place_at(row: u32) -> vec2f {
  return vec2f(places[row / 4u][row % 4u], places[CHUNK / 4u + row / 4u][row % 4u]);
}

// The decays from four sources on to a row, 0 where a source comes after it. Selected, not multiplied by a mask:
// 0 · inf would be NaN.
fn decay(row: u32, place: vec2f, source: u32) -> vec4f {
  let x = (places[source / 4u] - place.x) + (places[CHUNK / 4u + source / 4u] - place.y);
  return select(vec4f(), exp(min(vec4f(), x)), vec4u(source, source + 1u, source + 2u, source + 3u) <= vec4u(row));
}

// Eight decayed scores of a line.
fn decayed(line: u32, eighth: u32, first_row: u32, first_source: u32) -> vec4u {
  let scores = sums_at(line * SUM_PITCH + 2u * eighth, eighth);
  let row = first_row + line;
  let place = place_at(row);
  let source = first_source + 8u * eighth;
  return rounded(params.scale * scores.low * decay(row, place, source), params.scale * scores.high * decay(row, place, source + 4u));
}

// What a row of q is multiplied by before the state is.
fn weight_of(row: u32) -> f32 { return params.scale * decay_between(vec2f(), place_at(row)); }

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
  let entry_at = entry_of(instance, params.groups, params.members, 0u);
  let start = chunk * CHUNK;
  let rows = min(CHUNK, params.n - start);
  // Its fragments: two rows of them, of scores one column, of results two.
  let subgroup = thread / LANES;
  let band = subgroup / 4u * 2u * SIDE;
  let quarter = subgroup % 4u;
  // What this thread has of narrow and of wide tiles.
  let line = thread / (ROWS / 8u);
  let eighth = thread % (ROWS / 8u);
  let narrow = line * NARROW_PITCH + eighth;
  let wide_line = thread / (COLUMNS / 8u);
  let wide_eighth = thread % (COLUMNS / 8u);
  let wide = RIGHT + wide_line * WIDE_PITCH + wide_eighth;
  let turned_line = thread / (DEPTH / 8u);
  let turned_eighth = thread % (DEPTH / 8u);
  let turned = RIGHT + turned_line * TURNED_PITCH + turned_eighth;
  const NARROW = NARROW_STEP * NARROW_PITCH;
  const WIDE = WIDE_STEP * WIDE_PITCH;
  const TURNED = COLUMNS / 2 * TURNED_PITCH;

  var at = Places();
  at.q = params.q_offset + dot(entry_at, params.q_strides) + start * params.q_strides.w;
  at.k = params.k_offset + dot(entry_at, params.k_strides) + start * params.k_strides.w;
  at.column_v = first_e + 8u * wide_eighth;
  at.v = params.v_offset + dot(entry_at, params.v_strides) + start * params.v_strides.w +
    min(at.column_v, width_e() - 1u) * params.v_column;
  at.last = rows - 1u;
  // The state is stored in tiles of ROWS × COLUMNS: so many one below the other and side by side.
  let down = (select(width_d(), width_e(), STATE_TURNED) + ROWS - 1u) / ROWS;
  let across = (select(width_e(), width_d(), STATE_TURNED) + COLUMNS - 1u) / COLUMNS;
  let entry = (instance * params.chunks + chunk) * down;
  at.pitch = across * COLUMNS / 8u;
  at.state = entry * ROWS * at.pitch + select(first_e / 8u + wide_eighth, turned_eighth, STATE_TURNED);
  at.line = select(wide_line, first_e + turned_line, STATE_TURNED);
  at.lines = down * ROWS - 1u;
  if (thread < 2u) {
    let tile = min(thread + select(0u, first_e / ROWS, STATE_TURNED), down - 1u);
    units[thread] = scales[(entry + tile) * across + select(tile_e, 0u, STATE_TURNED)];
  }
  let base_position = positions_from(instance, entry_at, start);
  for (var row = thread; row < CHUNK; row += SUBGROUPS * LANES) {
    let place = place_of(position_from(found_at(base_position, min(row, at.last)), row));
    places[row / 4u][row % 4u] = place.x;
    places[CHUNK / 4u + row / 4u][row % 4u] = place.y;
  }

  let terms = (width_d() + ROWS - 1u) / ROWS * ROWS;
  let of_state = HAS_INITIAL || chunk > 0u;
  let column = 8u * eighth;
  // What goes to the left and to the right was asked for in the step before.
  var left = ask_q(at, line, column);
  var right = ask_k(at, line, column);
  for (var first_row = 0u; first_row < rows; first_row += ROWS) {
    let row = first_row + line;
    var a0 = Sum(); var a1 = Sum();
    var b0 = Sum(); var b1 = Sum();
    for (var source = 0u; source <= first_row; source += ROWS) {
      var s0 = Sum(); var s1 = Sum();
      for (var term = 0u; term < terms; term += ROWS) {
        put_two(narrow, NARROW, left);
        put_two(RIGHT + narrow, NARROW, right);
        workgroupBarrier();
        if (term + ROWS < terms) {
          left = ask_q(at, row, term + ROWS + column);
          right = ask_k(at, source + line, term + ROWS + column);
        } else {
          right = ask_v(at, source + wide_line);
        }
        // Two fragments of d a turn, and not a constant number of turns: all written out take a third more registers.
        for (var pair = 0u; pair < min(ROWS, params.d - term); pair += 2u * SIDE) {
          for (var depth = pair; depth < pair + 2u * SIDE; depth += SIDE) {
            let here = band * NARROW_PITCH + depth / 8u;
            let keys = subgroupMatrixLoad<Right, col_major>(&tiles, RIGHT + quarter * SIDE * NARROW_PITCH + depth / 8u, NARROW_PITCH);
            let above = subgroupMatrixLoad<Left, row_major>(&tiles, here, NARROW_PITCH);
            let below = subgroupMatrixLoad<Left, row_major>(&tiles, here + SIDE * NARROW_PITCH, NARROW_PITCH);
            s0 = subgroupMatrixMultiplyAccumulate(above, keys, s0);
            s1 = subgroupMatrixMultiplyAccumulate(below, keys, s1);
          }
        }
        workgroupBarrier();
      }
      let to = band * SUM_PITCH + quarter * NEXT_SUM;
      subgroupMatrixStore<row_major>(&tiles, to, s0, SUM_PITCH);
      subgroupMatrixStore<row_major>(&tiles, to + SIDE * SUM_PITCH, s1, SUM_PITCH);
      workgroupBarrier();
      let scores = Two(decayed(line, eighth, first_row, source), decayed(line + NARROW_STEP, eighth, first_row, source));
      workgroupBarrier();
      put_two(narrow, NARROW, scores);
      for (var half = 0u; half < ROWS; half += DEPTH) {
        put_two(wide, WIDE, right);
        if (half == 0u) {
          right = ask_v(at, source + DEPTH + wide_line);
        } else if (source < first_row) {
          left = ask_q(at, row, column);
          right = ask_k(at, source + ROWS + line, column);
        } else if (of_state) {
          left = ask_q(at, row, column);
          right = ask_state(at, 0u);
        } else {
          left = ask_q(at, row + ROWS, column);
          right = ask_k(at, line, column);
        }
        workgroupBarrier();
        for (var depth = 0u; depth < DEPTH; depth += SIDE) {
          let here = band * NARROW_PITCH + (half + depth) / 8u;
          let a = subgroupMatrixLoad<Left, row_major>(&tiles, here, NARROW_PITCH);
          let b = subgroupMatrixLoad<Left, row_major>(&tiles, here + SIDE * NARROW_PITCH, NARROW_PITCH);
          let r0 = right_at(depth, quarter * 2u * SIDE, false);
          let r1 = right_at(depth, quarter * 2u * SIDE + SIDE, false);
          a0 = subgroupMatrixMultiplyAccumulate(a, r0, a0);
          a1 = subgroupMatrixMultiplyAccumulate(a, r1, a1);
          b0 = subgroupMatrixMultiplyAccumulate(b, r0, b0);
          b1 = subgroupMatrixMultiplyAccumulate(b, r1, b1);
        }
        workgroupBarrier();
      }
    }

    // What the sums are multiples of: 1, or the power of two that goes with a tile of the state.
    var unit = 1.0;
    for (var term = 0u; of_state && term < terms; term += DEPTH) {
      if (term % ROWS == 0u) {
        put_two(narrow, NARROW, Two(times(left.a, weight_of(row)), times(left.b, weight_of(row + NARROW_STEP))));
        let next_unit = units[select(term / ROWS, quarter / 2u, STATE_TURNED)];
        let factor = unit / next_unit;
        unit = next_unit;
        a0 = subgroupMatrixScalarMultiply(a0, factor); a1 = subgroupMatrixScalarMultiply(a1, factor);
        b0 = subgroupMatrixScalarMultiply(b0, factor); b1 = subgroupMatrixScalarMultiply(b1, factor);
      }
      put_two(select(wide, turned, STATE_TURNED), select(WIDE, TURNED, STATE_TURNED), right);
      let next = term + DEPTH;
      if (next == terms) {
        left = ask_q(at, row + ROWS, column);
        right = ask_k(at, line, column);
      } else {
        if (next % ROWS == 0u) { left = ask_q(at, row, next + column); }
        right = ask_state(at, next);
      }
      workgroupBarrier();
      for (var depth = 0u; depth < DEPTH; depth += SIDE) {
        let here = band * NARROW_PITCH + (term % ROWS + depth) / 8u;
        let a = subgroupMatrixLoad<Left, row_major>(&tiles, here, NARROW_PITCH);
        let b = subgroupMatrixLoad<Left, row_major>(&tiles, here + SIDE * NARROW_PITCH, NARROW_PITCH);
        let r0 = right_at(depth, quarter * 2u * SIDE, true);
        let r1 = right_at(depth, quarter * 2u * SIDE + SIDE, true);
        a0 = subgroupMatrixMultiplyAccumulate(a, r0, a0);
        a1 = subgroupMatrixMultiplyAccumulate(a, r1, a1);
        b0 = subgroupMatrixMultiplyAccumulate(b, r0, b0);
        b1 = subgroupMatrixMultiplyAccumulate(b, r1, b1);
      }
      workgroupBarrier();
    }

    // The left half of the columns, then the right one.
    let base_out = params.out_offset + dot(entry_at, params.out_strides) + start * params.out_strides.w;
    for (var half = 0u; half < 2u; half++) {
      if (quarter / 2u == half) {
        let to = band * SUM_PITCH + quarter % 2u * 2u * NEXT_SUM;
        subgroupMatrixStore<row_major>(&tiles, to, subgroupMatrixScalarMultiply(a0, unit), SUM_PITCH);
        subgroupMatrixStore<row_major>(&tiles, to + NEXT_SUM, subgroupMatrixScalarMultiply(a1, unit), SUM_PITCH);
        let below = to + SIDE * SUM_PITCH;
        subgroupMatrixStore<row_major>(&tiles, below, subgroupMatrixScalarMultiply(b0, unit), SUM_PITCH);
        subgroupMatrixStore<row_major>(&tiles, below + NEXT_SUM, subgroupMatrixScalarMultiply(b1, unit), SUM_PITCH);
      }
      workgroupBarrier();
      let column_e = first_e + half * ROWS + 8u * eighth;
      for (var i = 0u; i < ROWS; i += NARROW_STEP) {
        let sums = sums_at((line + i) * SUM_PITCH + 2u * eighth, eighth);
        if (row + i < rows && column_e < width_e()) {
          let to = base_out + (row + i) * params.out_strides.w + column_e * params.out_column;
          store(to, params.out_column, width_e() - column_e, sums.low, sums.high);
        }
      }
      workgroupBarrier();
    }
  }
}

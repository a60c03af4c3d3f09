// The outputs of a few chunks and COLUMNS of e, in float16, on matrix units, from the state S before each chunk and
// its rows, for d ≤ COLUMNS:
//   o_r = α β (exp(−P_r) · q_r S + Σ_{t ≤ r} exp(P_t − P_r) · (q_r · k_t) · v_t)
// P is what lightning_places.wgsl tells, S (over β) what lightning_states_cores.wgsl wrote. A workgroup walks along several
// chunks and makes ROWS rows after the other: q S by quarters of the terms, then, for each tile of ROWS sources, q kᵀ by
// halves of the terms, and its product with v by halves of the sources. What sets the pace is how much goes through
// workgroup memory, so a subgroup has as many fragments as registers hold, 4 × 2 of the results; and how many
// instructions there are, so steps are written out, not looped over. It takes less than 24 KB of workgroup memory, so that
// two workgroups fit where a processor gives 48 KB in all, and one is busy while the other waits.
// Goes on in lightning_weights_cores.wgsl, lightning_cores.wgsl, decays.wgsl, lightning_places.wgsl, cores.wgsl and
// cores_results.wgsl.
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
  walk: u32,                 // chunks of a workgroup
  scale: f32,
  g_offset: u32,
}

alias Element_q = f16;
const PER_q: u32 = 1;

@group(0) @binding(3) var<storage, read> q: array<Element_q>;
@group(0) @binding(4) var<storage, read> states: array<vec4u>;
@group(0) @binding(5) var<storage, read> scales: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<Element_out>;
@group(0) @binding(7) var<uniform> params: Params;

// On the left ROWS of q or of decayed scores by ROWS terms; on the right ROWS of k by the same terms, or DEPTH terms by
// COLUMNS of v or of the state, or, turned over, COLUMNS by DEPTH terms. Or in float32 ROWS × ROWS scores, or two times
// SIDE × COLUMNS results.
const DEPTH: u32 = 2 * SIDE;
const TURNED_PITCH: u32 = DEPTH / 8 + 1;
const RIGHT_TILE: u32 = COLUMNS * TURNED_PITCH;
const RIGHT: u32 = NARROW_TILE;
var<workgroup> tiles: array<vec4u, NARROW_TILE + RIGHT_TILE>;
const RESULT_PITCH: u32 = 2 * SIDE + 2;

fn eight_q(at: Eight) -> vec4u { return together(vec4<f16>(q[at.low.x], q[at.low.y], q[at.low.z], q[at.low.w]), vec4<f16>(q[at.high.x], q[at.high.y], q[at.high.z], q[at.high.w])); }

fn load_q(at: u32, column: u32) -> vec4u {
  let values = eight_q(eight_of(PER_q, at, params.q_column, column, params.d));
  if (WHOLE_D) { return values; }
  return inside(values, column, params.d);
}

// Where a thread reads: the walk's first row of q, of k and of v, and its column of v; the walk's last row; its first state.
struct Places { q: u32, k: u32, v: u32, column_v: u32, last: u32, state: u32, pitch: u32, line: u32, lines: u32 }

// What a thread has of ROWS rows of q or of k: lines SIDE apart.
fn ask_q(at: Places, row: u32, column: u32) -> Four {
  let base = at.q + items(PER_q, params.q_column, column_of(WHOLE_D, column, params.d));
  let lines = rows_from(base, params.q_strides.w / PER_q, row, SIDE, at.last);
  return Four(load_q(lines.x, column), load_q(lines.y, column), load_q(lines.z, column), load_q(lines.w, column));
}
fn ask_k(at: Places, row: u32, column: u32) -> Four {
  let base = at.k + items(PER_k, params.k_column, column_of(WHOLE_D, column, params.d));
  let lines = rows_from(base, params.k_strides.w / PER_k, row, SIDE, at.last);
  return Four(load_k(lines.x, column), load_k(lines.y, column), load_k(lines.z, column), load_k(lines.w, column));
}

// Sources are multiplied in the order in which threads have decayed scores: of an eight, four that lie in one SIDE of a half
// of them, and four that lie in the other; of the second half the later ones come first, so that neither read of eight
// threads has two in one bank. Which source has the place `place` of a half.
fn source_of(place: u32, half: u32) -> u32 {
  let later = place % 8u / 4u;
  return place / 8u * 4u + place % 4u + SIDE * select(later, 3u - later, half == 1u);
}

// What a thread has of one half of ROWS sources' v, `line` being its first line.
fn ask_v(at: Places, source: u32, line: u32, half: u32) -> Four {
  // It is one of the first WIDE_STEP; said for compilers.
  let place = line % WIDE_STEP;
  let row = source + source_of(place, half);
  let pitch = params.v_strides.w / PER_v;
  // From one eight to the next it is four sources.
  if (WIDE_STEP == 8u) { return four_of_v(rows_from(at.v, pitch, row, 4u, at.last), at.column_v); }
  let rows = vec4u(
    row, source + source_of(place + WIDE_STEP, half),
    source + source_of(place + 2u * WIDE_STEP, half), source + source_of(place + 3u * WIDE_STEP, half),
  );
  return four_of_v(at.v + min(rows, vec4u(at.last)) * pitch, at.column_v);
}

// DEPTH terms of the state from `term` on.
fn ask_state(at: Places, state: u32, term: u32) -> Four {
  if (STATE_TURNED) {
    let column = at.state + state + term / 8u;
    let lines = min(at.line + COLUMNS / 4u * vec4u(0, 1, 2, 3), vec4u(at.lines)) * at.pitch;
    return Four(states[column + lines.x], states[column + lines.y], states[column + lines.z], states[column + lines.w]);
  }
  let row = at.state + state + (term + at.line) * at.pitch;
  let step = WIDE_STEP * at.pitch;
  return Four(states[row], states[row + step], states[row + 2u * step], states[row + 3u * step]);
}

// A subgroup has 2 × 2 fragments of scores, from row `band` and column `side` on, and of results 4 × 2 from `column` on.
struct Part { band: u32, side: u32, column: u32 }
struct Scores { a0: Sum, a1: Sum, b0: Sum, b1: Sum }
struct Results { a0: Sum, a1: Sum, b0: Sum, b1: Sum, c0: Sum, c1: Sum, d0: Sum, d1: Sum }

// Adds q kᵀ over the terms in the tiles.
fn add_scores(scores: ptr<function, Scores>, part: Part, terms: u32) {
  for (var depth = 0u; depth < terms; depth += SIDE) {
    let here = part.band * NARROW_PITCH + depth / 8u;
    let there = RIGHT + part.side * NARROW_PITCH + depth / 8u;
    let a = subgroupMatrixLoad<Left, row_major>(&tiles, here, NARROW_PITCH);
    let b = subgroupMatrixLoad<Left, row_major>(&tiles, here + SIDE * NARROW_PITCH, NARROW_PITCH);
    let k0 = subgroupMatrixLoad<Right, col_major>(&tiles, there, NARROW_PITCH);
    let k1 = subgroupMatrixLoad<Right, col_major>(&tiles, there + SIDE * NARROW_PITCH, NARROW_PITCH);
    (*scores).a0 = subgroupMatrixMultiplyAccumulate(a, k0, (*scores).a0);
    (*scores).a1 = subgroupMatrixMultiplyAccumulate(a, k1, (*scores).a1);
    (*scores).b0 = subgroupMatrixMultiplyAccumulate(b, k0, (*scores).b0);
    (*scores).b1 = subgroupMatrixMultiplyAccumulate(b, k1, (*scores).b1);
  }
}

// A fragment of the left tile: rows from `row` on, terms from `term` on.
fn left_at(row: u32, term: u32) -> Left {
  return subgroupMatrixLoad<Left, row_major>(&tiles, row * NARROW_PITCH + term / 8u, NARROW_PITCH);
}

// A fragment of the right tile: terms from `depth` on, columns from `column` on.
fn right_at(depth: u32, column: u32, turned: bool) -> Right {
  if (STATE_TURNED && turned) {
    return subgroupMatrixLoad<Right, col_major>(&tiles, RIGHT + column * TURNED_PITCH + depth / 8u, TURNED_PITCH);
  }
  return subgroupMatrixLoad<Right, row_major>(&tiles, RIGHT + depth * WIDE_PITCH + column / 8u, WIDE_PITCH);
}

// Adds DEPTH terms of the left tile, from `first` on, times the right tile; to the upper half of the rows, if they have any.
fn add_results(results: ptr<function, Results>, column: u32, first: u32, turned: bool, upper: bool) {
  for (var depth = 0u; depth < DEPTH; depth += SIDE) {
    let r0 = right_at(depth, column, turned);
    let r1 = right_at(depth, column + SIDE, turned);
    if (upper) {
      let a = left_at(0u, first + depth);
      let b = left_at(SIDE, first + depth);
      (*results).a0 = subgroupMatrixMultiplyAccumulate(a, r0, (*results).a0);
      (*results).a1 = subgroupMatrixMultiplyAccumulate(a, r1, (*results).a1);
      (*results).b0 = subgroupMatrixMultiplyAccumulate(b, r0, (*results).b0);
      (*results).b1 = subgroupMatrixMultiplyAccumulate(b, r1, (*results).b1);
    }
    let c = left_at(2u * SIDE, first + depth);
    let d = left_at(3u * SIDE, first + depth);
    (*results).c0 = subgroupMatrixMultiplyAccumulate(c, r0, (*results).c0);
    (*results).c1 = subgroupMatrixMultiplyAccumulate(c, r1, (*results).c1);
    (*results).d0 = subgroupMatrixMultiplyAccumulate(d, r0, (*results).d0);
    (*results).d1 = subgroupMatrixMultiplyAccumulate(d, r1, (*results).d1);
  }
}

fn scale_results(results: ptr<function, Results>, unit: f32) {
  (*results).a0 = subgroupMatrixScalarMultiply((*results).a0, unit); (*results).a1 = subgroupMatrixScalarMultiply((*results).a1, unit);
  (*results).b0 = subgroupMatrixScalarMultiply((*results).b0, unit); (*results).b1 = subgroupMatrixScalarMultiply((*results).b1, unit);
  (*results).c0 = subgroupMatrixScalarMultiply((*results).c0, unit); (*results).c1 = subgroupMatrixScalarMultiply((*results).c1, unit);
  (*results).d0 = subgroupMatrixScalarMultiply((*results).d0, unit); (*results).d1 = subgroupMatrixScalarMultiply((*results).d1, unit);
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
  let walks = (params.chunks + params.walk - 1u) / params.walk;
  let first_chunk = number / tiles_e % walks * params.walk;
  let instance = number / tiles_e / walks;
  let first_e = tile_e * COLUMNS;
  let entry_at = entry_of(instance, params.groups, params.members, 0u);
  let start = first_chunk * CHUNK;
  let chunks = min(params.walk, params.chunks - first_chunk);
  let rows = select(min(chunks * CHUNK, params.n - start), chunks * CHUNK, WHOLE_N);
  let subgroup = thread / LANES;
  let part = Part(subgroup / 2u * 2u * SIDE, subgroup % 2u * 2u * SIDE, subgroup * 2u * SIDE);
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
  const NARROW = SIDE * NARROW_PITCH;
  const WIDE = WIDE_STEP * WIDE_PITCH;
  const TURNED = COLUMNS / 4 * TURNED_PITCH;

  var at = Places();
  at.q = (params.q_offset + dot(entry_at, params.q_strides) + start * params.q_strides.w) / PER_q;
  at.k = (params.k_offset + dot(entry_at, params.k_strides) + start * params.k_strides.w) / PER_k;
  at.column_v = first_e + 8u * wide_eighth;
  at.v = (params.v_offset + dot(entry_at, params.v_strides) + start * params.v_strides.w) / PER_v +
    items(PER_v, params.v_column, column_of(WHOLE_E, at.column_v, params.e));
  at.last = rows - 1u;
  // The state is stored in tiles of ROWS × COLUMNS: so many one below the other and side by side.
  let down = (select(width_d(), width_e(), STATE_TURNED) + ROWS - 1u) / ROWS;
  let across = (select(width_e(), width_d(), STATE_TURNED) + COLUMNS - 1u) / COLUMNS;
  let entry = instance * params.chunks + first_chunk;
  at.pitch = across * COLUMNS / 8u;
  let state_size = down * ROWS * at.pitch;
  at.state = entry * state_size + select(first_e / 8u + wide_eighth, turned_eighth, STATE_TURNED);
  at.line = select(wide_line, first_e + turned_line, STATE_TURNED);
  at.lines = down * ROWS - 1u;
  let base_out = params.out_offset + dot(entry_at, params.out_strides) + start * params.out_strides.w;

  let two_steps = width_d() > ROWS;
  let column = 8u * eighth;
  let terms = select(min(params.d, ROWS), ROWS, WHOLE_D);
  let later_terms = select(params.d - min(params.d, ROWS), ROWS, WHOLE_D);
  // Both halves of q's terms stay in registers; what goes to the right is asked for two steps before, as `even` and `odd`.
  var left = ask_q(at, line, column);
  var later = ask_q(at, line, ROWS + column);
  var even = Four(); var odd = Four();
  if (EVERY_STATE || first_chunk > 0u) {
    even = ask_state(at, 0u, 0u);
    odd = ask_state(at, 0u, DEPTH);
  } else {
    even = ask_k(at, line, column);
    odd = ask_k(at, line, ROWS + column);
  }

  for (var first_row = 0u; first_row < rows; first_row += ROWS) {
    let chunk = first_row / CHUNK;
    let chunk_row = first_row % CHUNK;
    let chunk_start = first_row - chunk_row;
    // What comes after these rows, or the first ones again, for nothing.
    let next_row = select(0u, first_row + ROWS, first_row + ROWS < rows);
    let of_state = EVERY_STATE || first_chunk + chunk > 0u;
    let state = chunk * state_size;
    let next_of_state = EVERY_STATE || first_chunk + next_row / CHUNK > 0u;
    let next_state = next_row / CHUNK * state_size;
    // What the state is a multiple of.
    let unit = scales[(entry + chunk) * across + tile_e];
    if (first_row == 0u || (!STEADY && chunk_row == 0u)) {
      write_decays(instance, entry_at, start + chunk_start, at.last - chunk_start, thread);
      workgroupBarrier();
    }
    var results = Results();
    if (of_state) {
      const STEP = select(WIDE, TURNED, STATE_TURNED);
      let place = select(wide, turned, STATE_TURNED);
      put(narrow, NARROW, weighted(left, chunk_row + line));
      put(place, STEP, even);
      workgroupBarrier();
      if (two_steps) { even = ask_state(at, state, 2u * DEPTH); } else { even = ask_k(at, chunk_start + line, column); }
      add_results(&results, part.column, 0u, true, true);
      workgroupBarrier();
      put(place, STEP, odd);
      workgroupBarrier();
      if (two_steps) { odd = ask_state(at, state, 3u * DEPTH); }
      add_results(&results, part.column, DEPTH, true, true);
      workgroupBarrier();
      if (two_steps) {
        put(narrow, NARROW, weighted(later, chunk_row + line));
        put(place, STEP, even);
        workgroupBarrier();
        even = ask_k(at, chunk_start + line, column);
        add_results(&results, part.column, 0u, true, true);
        workgroupBarrier();
        put(place, STEP, odd);
        workgroupBarrier();
        odd = ask_k(at, chunk_start + line, ROWS + column);
        add_results(&results, part.column, DEPTH, true, true);
        workgroupBarrier();
      }
      scale_results(&results, unit);
    }

    for (var source = chunk_start; source <= first_row; source += ROWS) {
      let is_last = source == first_row;
      var scores = Scores();
      put(narrow, NARROW, left);
      put(RIGHT + narrow, NARROW, even);
      workgroupBarrier();
      // Always so; in a branch, lest a compiler put the asking off until v is needed.
      if (source < rows) { even = ask_v(at, source, wide_line, 0u); }
      add_scores(&scores, part, terms);
      workgroupBarrier();
      if (two_steps) {
        put(narrow, NARROW, later);
        put(RIGHT + narrow, NARROW, odd);
        workgroupBarrier();
        if (source < rows) { odd = ask_v(at, source, wide_line, 1u); }
        add_scores(&scores, part, later_terms);
        workgroupBarrier();
      } else {
        if (source < rows) { odd = ask_v(at, source, wide_line, 1u); }
      }
      let to = part.band * SUM_PITCH + part.side / 4u;
      subgroupMatrixStore<row_major>(&tiles, to, scores.a0, SUM_PITCH);
      subgroupMatrixStore<row_major>(&tiles, to + NEXT_SUM, scores.a1, SUM_PITCH);
      subgroupMatrixStore<row_major>(&tiles, to + SIDE * SUM_PITCH, scores.b0, SUM_PITCH);
      subgroupMatrixStore<row_major>(&tiles, to + SIDE * SUM_PITCH + NEXT_SUM, scores.b1, SUM_PITCH);
      workgroupBarrier();
      let of_sources = decayed_lines(line, eighth, chunk_row, source - chunk_start);
      workgroupBarrier();
      put(narrow, NARROW, of_sources);
      put(wide, WIDE, even);
      workgroupBarrier();
      let from_state = is_last && next_of_state;
      let next_source = select(source + ROWS, next_row / CHUNK * CHUNK, is_last) + line;
      if (from_state) { even = ask_state(at, next_state, 0u); } else { even = ask_k(at, next_source, column); }
      if (is_last) { left = ask_q(at, next_row + line, column); }
      add_results(&results, part.column, 0u, false, true);
      workgroupBarrier();
      put(wide, WIDE, odd);
      workgroupBarrier();
      if (from_state) { odd = ask_state(at, next_state, DEPTH); } else { odd = ask_k(at, next_source, ROWS + column); }
      if (is_last) { later = ask_q(at, next_row + line, ROWS + column); }
      // The upper rows come before the second half of the last sources.
      add_results(&results, part.column, DEPTH, false, !is_last);
      workgroupBarrier();
    }

    // SIDE rows after the other, in one half of the tiles and in the other by turns.
    let to = part.column / 4u;
    const OTHER = SIDE * RESULT_PITCH;
    put_results(to, results.a0, results.a1);
    workgroupBarrier();
    store_rows(base_out, first_row, rows, at.column_v, wide_line, wide_eighth, 0u);
    put_results(to + OTHER, results.b0, results.b1);
    workgroupBarrier();
    store_rows(base_out, first_row + SIDE, rows, at.column_v, wide_line, wide_eighth, OTHER);
    put_results(to, results.c0, results.c1);
    workgroupBarrier();
    store_rows(base_out, first_row + 2u * SIDE, rows, at.column_v, wide_line, wide_eighth, 0u);
    put_results(to + OTHER, results.d0, results.d1);
    workgroupBarrier();
    store_rows(base_out, first_row + 3u * SIDE, rows, at.column_v, wide_line, wide_eighth, OTHER);
    workgroupBarrier();
  }
}

fn put_results(place: u32, left: Sum, right: Sum) {
  subgroupMatrixStore<row_major>(&tiles, place, left, RESULT_PITCH);
  subgroupMatrixStore<row_major>(&tiles, place + NEXT_SUM, right, RESULT_PITCH);
}

// Stores what a thread has of SIDE rows of results, from `first` on.
fn store_rows(base: u32, first: u32, rows: u32, column: u32, line: u32, eighth: u32, place: u32) {
  for (var i = 0u; i < SIDE; i += WIDE_STEP) {
    let row = first + line + i;
    let values = eight_sums(place + (line + i) * RESULT_PITCH + 2u * eighth, eighth);
    if ((WHOLE_N || row < rows) && (WHOLE_E || column < params.e)) {
      let to = base + row * params.out_strides.w + column * params.out_column;
      store(to, params.out_column, params.e - column, values);
    }
  }
}

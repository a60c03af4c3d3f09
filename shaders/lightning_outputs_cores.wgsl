// The outputs of a few chunks and COLUMNS of e, in float16, on matrix units, from the state S before each chunk and
// its rows, for d ≤ COLUMNS:
//   o_r = α β (exp(−P_r) · q_r S + Σ_{t ≤ r} exp(P_t − P_r) · (q_r · k_t) · v_t)
// P is what lightning_places.wgsl tells, S (over β) what lightning_states_cores.wgsl wrote. A workgroup walks along several
// chunks and makes ROWS rows after the other: q S by quarters of the terms, then, for each tile of ROWS sources, q kᵀ by
// halves of the terms, and its product with v by halves of the sources. What sets the pace is how much goes through
// workgroup memory, so a subgroup has as many fragments as registers hold, 4 × 2 of the results; how many instructions
// there are, so steps are written out, not looped over; and how soon memory is asked, so that is done in branches that are
// always taken: compilers put off what they may. It takes less than 24 KB of workgroup memory, so that two workgroups fit
// where a processor gives 48 KB in all, and one is busy while the other waits.
// Goes on in lightning_asks_cores.wgsl, lightning_weights_cores.wgsl, lightning_cores.wgsl, decays.wgsl,
// lightning_places.wgsl, cores.wgsl and cores_results.wgsl.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

// Whether S is read turned over: the stored one is [e, d].
const STATE_TURNED: bool = false;
// Whether there is a state before the first chunk too, an initial one or zeros.
const EVERY_STATE: bool = false;

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
// COLUMNS of v or of the state, or, turned over, COLUMNS by DEPTH terms. Or in float32, on the left and then on the right,
// ROWS × ROWS scores, or on either side SIDE × COLUMNS results, half of the columns in each half.
// Each half of a tile is an array of its own: see cores.wgsl on bounds.
const DEPTH: u32 = 2 * SIDE;
const TURNED_PITCH: u32 = DEPTH / 8 + 1;
var<workgroup> left: array<array<vec4u, SIDE * SUM_PITCH>, 2>;
var<workgroup> right: array<array<vec4u, COLUMNS / 2 * TURNED_PITCH>, 2>;

// What a thread has of a narrow and of a wide tile, and where it puts it; where it puts its part of a state.
struct Share { line: u32, eighth: u32, wide_line: u32, wide_eighth: u32, narrow: u32, wide: u32, state: u32 }

// What a thread has in registers: both halves of q's terms, and what goes to the right, asked for two steps before.
struct Held { left: Four, later: Four, even: Four, odd: Four }

// A walk: how many rows, its first chunk, the first scale of a state and from one to the next, what a state takes, and where
// the first row of o goes.
struct Walk { rows: u32, first_chunk: u32, scale: u32, scales: u32, state_size: u32, out: u32 }

// Which subgroup, and its number's two bits. It has 2 × 2 fragments of scores, in the half `high` of the rows and the half
// `low` of the columns, and 4 × 2 of the results, in one quarter of the columns: in the half `low` of the half `high`.
struct Part { number: u32, high: u32, low: u32 }
struct Scores { a0: Sum, a1: Sum, b0: Sum, b1: Sum }
struct Results { a0: Sum, a1: Sum, b0: Sum, b1: Sum, c0: Sum, c1: Sum, d0: Sum, d1: Sum }

// Adds q kᵀ over the terms in the tiles.
fn add_scores(scores: ptr<function, Scores>, part: Part, terms: u32) {
  for (var depth = 0u; depth < terms; depth += SIDE) {
    let a = subgroupMatrixLoad<Left, row_major>(&left[part.high], depth / 8u, NARROW_PITCH);
    let b = subgroupMatrixLoad<Left, row_major>(&left[part.high], NARROW + depth / 8u, NARROW_PITCH);
    let k0 = subgroupMatrixLoad<Right, col_major>(&right[part.low], depth / 8u, NARROW_PITCH);
    let k1 = subgroupMatrixLoad<Right, col_major>(&right[part.low], NARROW + depth / 8u, NARROW_PITCH);
    (*scores).a0 = subgroupMatrixMultiplyAccumulate(a, k0, (*scores).a0);
    (*scores).a1 = subgroupMatrixMultiplyAccumulate(a, k1, (*scores).a1);
    (*scores).b0 = subgroupMatrixMultiplyAccumulate(b, k0, (*scores).b0);
    (*scores).b1 = subgroupMatrixMultiplyAccumulate(b, k1, (*scores).b1);
  }
}

// A fragment of the left tile: rows from `row` on, terms from `term` on.
fn left_at(row: u32, term: u32) -> Left {
  const HALF = 2 * SIDE;
  return subgroupMatrixLoad<Left, row_major>(&left[row / HALF], row % HALF * NARROW_PITCH + term / 8u, NARROW_PITCH);
}

// A fragment of the right tile: terms from `depth` on, of what a subgroup has the columns from `column` on.
fn right_at(depth: u32, part: Part, column: u32, turned: bool) -> Right {
  if (STATE_TURNED && turned) {
    let line = part.low * 2u * SIDE + column;
    return subgroupMatrixLoad<Right, col_major>(&right[part.high], line * TURNED_PITCH + depth / 8u, TURNED_PITCH);
  }
  return subgroupMatrixLoad<Right, row_major>(&right[depth / SIDE], (part.number * 2u * SIDE + column) / 8u, WIDE_PITCH);
}

// Adds DEPTH terms of the left tile, from `first` on, times the right tile; to the upper half of the rows, if they have any.
fn add_results(results: ptr<function, Results>, part: Part, first: u32, turned: bool, upper: bool) {
  for (var depth = 0u; depth < DEPTH; depth += SIDE) {
    let r0 = right_at(depth, part, 0u, turned);
    let r1 = right_at(depth, part, SIDE, turned);
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

// From one of a thread's eights to its next one, in a narrow tile, a wide one, and a state's.
const NARROW: u32 = SIDE * NARROW_PITCH;
const WIDE: u32 = WIDE_STEP * WIDE_PITCH;
const STATE: u32 = select(WIDE, COLUMNS / 4 * TURNED_PITCH, STATE_TURNED);

// Whether q's terms take two steps, a half each.
fn two_steps() -> bool { return width_d() > ROWS; }

fn has_state(chunk: u32) -> bool { return EVERY_STATE || chunk > 0u; }

// Adds α β exp(−P_r) · q_r S.
fn add_state(
  results: ptr<function, Results>, held: ptr<function, Held>, at: Places, share: Share, part: Part, walk: Walk,
  first_row: u32,
) {
  let row = first_row % CHUNK + share.line;
  let chunk = first_row / CHUNK;
  let state = chunk * walk.state_size;
  let source = chunk * CHUNK + share.line;
  let column = 8u * share.eighth;
  let always = first_row < walk.rows;
  // What the state is a multiple of.
  let unit = scales[walk.scale + chunk * walk.scales];
  put_left(share.narrow, weighted((*held).left, row));
  put_right(share.state, STATE, (*held).even);
  workgroupBarrier();
  if (always) {
    if (two_steps()) { (*held).even = ask_state(at, state, 2u * DEPTH); } else { (*held).even = ask_k(at, source, column); }
  }
  add_results(results, part, 0u, true, true);
  workgroupBarrier();
  put_right(share.state, STATE, (*held).odd);
  workgroupBarrier();
  if (always && two_steps()) { (*held).odd = ask_state(at, state, 3u * DEPTH); }
  add_results(results, part, DEPTH, true, true);
  workgroupBarrier();
  if (two_steps()) {
    put_left(share.narrow, weighted((*held).later, row));
    put_right(share.state, STATE, (*held).even);
    workgroupBarrier();
    if (always) { (*held).even = ask_k(at, source, column); }
    add_results(results, part, 0u, true, true);
    workgroupBarrier();
    put_right(share.state, STATE, (*held).odd);
    workgroupBarrier();
    if (always) { (*held).odd = ask_k(at, source, ROWS + column); }
    add_results(results, part, DEPTH, true, true);
    workgroupBarrier();
  }
  scale_results(results, unit);
}

// Adds what ROWS sources give, which come so many rows before these; the last ones are these rows themselves.
fn add_sources(
  results: ptr<function, Results>, held: ptr<function, Held>, at: Places, share: Share, part: Part, walk: Walk,
  first_row: u32, before: u32, is_last: bool,
) {
  let always = first_row < walk.rows;
  let column = 8u * share.eighth;
  let source = first_row - before;
  // What comes after these rows, or the first ones again, for nothing.
  let next_row = select(0u, first_row + ROWS, first_row + ROWS < walk.rows);
  let next_chunk = next_row / CHUNK;
  let next_source = select(source + ROWS, next_chunk * CHUNK, is_last) + share.line;
  let state_is_next = is_last && has_state(walk.first_chunk + next_chunk);
  let next_state = next_chunk * walk.state_size;
  let terms = select(min(params.d, ROWS), ROWS, WHOLE_D);
  let later_terms = select(params.d - min(params.d, ROWS), ROWS, WHOLE_D);
  // Of the last sources, scores above the diagonal count for nothing.
  let counts = !is_last || part.low <= part.high;
  var scores = Scores();
  put_left(share.narrow, (*held).left);
  put_right(share.narrow, NARROW, (*held).even);
  workgroupBarrier();
  if (always) { (*held).even = ask_v(at, source, share.wide_line, 0u); }
  if (counts) { add_scores(&scores, part, terms); }
  workgroupBarrier();
  if (two_steps()) {
    put_left(share.narrow, (*held).later);
    put_right(share.narrow, NARROW, (*held).odd);
    workgroupBarrier();
    if (always) { (*held).odd = ask_v(at, source, share.wide_line, 1u); }
    if (counts) { add_scores(&scores, part, later_terms); }
    workgroupBarrier();
  } else if (always) {
    (*held).odd = ask_v(at, source, share.wide_line, 1u);
  }
  let to = part.low * 2u * NEXT_SUM;
  if (part.high == 0u) {
    subgroupMatrixStore<row_major>(&left[0], to, scores.a0, SUM_PITCH);
    subgroupMatrixStore<row_major>(&left[0], to + NEXT_SUM, scores.a1, SUM_PITCH);
    subgroupMatrixStore<row_major>(&left[1], to, scores.b0, SUM_PITCH);
    subgroupMatrixStore<row_major>(&left[1], to + NEXT_SUM, scores.b1, SUM_PITCH);
  } else {
    subgroupMatrixStore<row_major>(&right[0], to, scores.a0, SUM_PITCH);
    subgroupMatrixStore<row_major>(&right[0], to + NEXT_SUM, scores.a1, SUM_PITCH);
    subgroupMatrixStore<row_major>(&right[1], to, scores.b0, SUM_PITCH);
    subgroupMatrixStore<row_major>(&right[1], to + NEXT_SUM, scores.b1, SUM_PITCH);
  }
  workgroupBarrier();
  let of_sources = decayed_lines(share.line, share.eighth, first_row % CHUNK, first_row % CHUNK - before);
  workgroupBarrier();
  put_left(share.narrow, of_sources);
  put_right(share.wide, WIDE, (*held).even);
  workgroupBarrier();
  if (always) {
    if (state_is_next) { (*held).even = ask_state(at, next_state, 0u); } else { (*held).even = ask_k(at, next_source, column); }
    if (is_last) { (*held).left = ask_q(at, next_row + share.line, column); }
  }
  add_results(results, part, 0u, false, true);
  workgroupBarrier();
  put_right(share.wide, WIDE, (*held).odd);
  workgroupBarrier();
  if (always) {
    if (state_is_next) { (*held).odd = ask_state(at, next_state, DEPTH); } else { (*held).odd = ask_k(at, next_source, ROWS + column); }
    if (is_last) { (*held).later = ask_q(at, next_row + share.line, ROWS + column); }
  }
  // The upper rows come before the second half of the last sources.
  add_results(results, part, DEPTH, false, !is_last);
  workgroupBarrier();
}

// Makes ROWS rows from `first_row` of the walk on.
fn make_rows(
  held: ptr<function, Held>, at: Places, share: Share, part: Part, walk: Walk, first_row: u32,
) {
  let earlier = first_row % CHUNK;
  var results = Results();
  if (has_state(walk.first_chunk + first_row / CHUNK)) {
    add_state(&results, held, at, share, part, walk, first_row);
  }
  // Where there is one at most, no loop: it would move registers about, and wait for what is on its way to them.
  if (CHUNK == 2u * ROWS) {
    if (earlier > 0u) { add_sources(&results, held, at, share, part, walk, first_row, ROWS, false); }
  } else {
    for (var before = earlier; before > 0u; before -= ROWS) {
      add_sources(&results, held, at, share, part, walk, first_row, before, false);
    }
  }
  add_sources(&results, held, at, share, part, walk, first_row, 0u, true);

  // SIDE rows after the other, on the left and on the right by turns.
  let to = part.low * 2u * NEXT_SUM;
  subgroupMatrixStore<row_major>(&left[part.high], to, results.a0, SUM_PITCH);
  subgroupMatrixStore<row_major>(&left[part.high], to + NEXT_SUM, results.a1, SUM_PITCH);
  workgroupBarrier();
  store_rows(walk, at, share, first_row, false);
  subgroupMatrixStore<row_major>(&right[part.high], to, results.b0, SUM_PITCH);
  subgroupMatrixStore<row_major>(&right[part.high], to + NEXT_SUM, results.b1, SUM_PITCH);
  workgroupBarrier();
  store_rows(walk, at, share, first_row + SIDE, true);
  subgroupMatrixStore<row_major>(&left[part.high], to, results.c0, SUM_PITCH);
  subgroupMatrixStore<row_major>(&left[part.high], to + NEXT_SUM, results.c1, SUM_PITCH);
  workgroupBarrier();
  store_rows(walk, at, share, first_row + 2u * SIDE, false);
  subgroupMatrixStore<row_major>(&right[part.high], to, results.d0, SUM_PITCH);
  subgroupMatrixStore<row_major>(&right[part.high], to + NEXT_SUM, results.d1, SUM_PITCH);
  workgroupBarrier();
  store_rows(walk, at, share, first_row + 3u * SIDE, true);
  workgroupBarrier();
}

// Four results of those on the left or on the right.
fn four_results(on_right: bool, half: u32, place: u32) -> vec4f {
  if (on_right) { return bitcast<vec4f>(right[half][place]); }
  return bitcast<vec4f>(left[half][place]);
}

// The `eighth` eight neighbouring results of a line, rounded.
fn eight_of_line(on_right: bool, line: u32, eighth: u32) -> vec4u {
  const OF_HALF = COLUMNS / 16;
  let half = eighth / OF_HALF;
  let place = line * SUM_PITCH + (eighth & (OF_HALF - 1u)) * 2u;
  // Half of the lanes that read at once begin with the higher four, so that all read different banks.
  let turned = (eighth & 7u) >= 4u;
  let one = halved(four_results(on_right, half, place + select(0u, 1u, turned)));
  let other = halved(four_results(on_right, half, place + select(1u, 0u, turned)));
  return select(vec4u(one, other), vec4u(other, one), turned);
}

// Stores what a thread has of SIDE rows of results, from `first` on.
fn store_rows(walk: Walk, at: Places, share: Share, first: u32, on_right: bool) {
  for (var i = 0u; i < SIDE; i += WIDE_STEP) {
    let row = first + share.wide_line + i;
    let values = eight_of_line(on_right, share.wide_line + i, share.wide_eighth);
    if ((WHOLE_N || row < walk.rows) && (WHOLE_E || at.column_v < params.e)) {
      let to = walk.out + row * params.out_strides.w + at.column_v * params.out_column;
      store(to, params.out_column, params.e - at.column_v, values);
    }
  }
}

@compute @workgroup_size(SUBGROUPS * LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  // Masks, not remainders, here and below: see cores.wgsl on bounds.
  let thread = index & (THREADS - 1u);
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
  let part = Part(subgroup, subgroup / 2u, subgroup & 1u);
  var share = Share();
  share.line = thread / (ROWS / 8u);
  share.eighth = thread & (ROWS / 8u - 1u);
  share.narrow = share.line * NARROW_PITCH + share.eighth;
  share.wide_line = thread / (COLUMNS / 8u);
  share.wide_eighth = thread & (COLUMNS / 8u - 1u);
  share.wide = share.wide_line * WIDE_PITCH + share.wide_eighth;
  let turned_line = thread / (DEPTH / 8u);
  let turned_eighth = thread & (DEPTH / 8u - 1u);
  share.state = select(share.wide, turned_line * TURNED_PITCH + turned_eighth, STATE_TURNED);

  var at = Places();
  at.q = (params.q_offset + dot(entry_at, params.q_strides) + start * params.q_strides.w) / PER_q;
  at.k = (params.k_offset + dot(entry_at, params.k_strides) + start * params.k_strides.w) / PER_k;
  at.column_v = first_e + 8u * share.wide_eighth;
  at.v = (params.v_offset + dot(entry_at, params.v_strides) + start * params.v_strides.w) / PER_v +
    items(PER_v, params.v_column, column_of(WHOLE_E, at.column_v, params.e));
  at.last = rows - 1u;
  // The state is stored in tiles of ROWS × COLUMNS: so many one below the other and side by side.
  let down = (select(width_d(), width_e(), STATE_TURNED) + ROWS - 1u) / ROWS;
  let across = (select(width_e(), width_d(), STATE_TURNED) + COLUMNS - 1u) / COLUMNS;
  let entry = instance * params.chunks + first_chunk;
  let pitch = across * COLUMNS / 8u;
  let state_size = down * ROWS * pitch;
  at.pitch = pitch;
  at.state = entry * state_size + select(first_e / 8u + share.wide_eighth, turned_eighth, STATE_TURNED);
  at.line = select(share.wide_line, first_e + turned_line, STATE_TURNED);
  at.lines = down * ROWS - 1u;
  let to = params.out_offset + dot(entry_at, params.out_strides) + start * params.out_strides.w;
  let walk = Walk(rows, first_chunk, entry * across + tile_e, across, state_size, to);

  let column = 8u * share.eighth;
  var held = Held();
  held.left = ask_q(at, share.line, column);
  held.later = ask_q(at, share.line, ROWS + column);
  if (has_state(first_chunk)) {
    held.even = ask_state(at, 0u, 0u);
    held.odd = ask_state(at, 0u, DEPTH);
  } else {
    held.even = ask_k(at, share.line, column);
    held.odd = ask_k(at, share.line, ROWS + column);
  }

  for (var first_row = 0u; first_row < rows; first_row += ROWS) {
    if (first_row == 0u || (!STEADY && first_row % CHUNK == 0u)) {
      write_decays(instance, entry_at, start + first_row, at.last - first_row, thread);
      workgroupBarrier();
    }
    make_rows(&held, at, share, part, walk, first_row);
  }
}

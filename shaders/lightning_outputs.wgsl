// The outputs of 64 rows of one chunk, from the state S before the chunk and the rows up to them:
//   o_r = Σ_{t ≤ r} α · β · exp(P_t − P_r) · (q_r · k_t) · v_t + α · exp(−P_r) · q_r S
// P is what lightning_places.wgsl tells. S is what lightning_states.wgsl left before the chunk; where it began
// each segment anew (SEGMENTED), that and the state before the segment, by lightning_scan.wgsl, decayed up to
// the chunk.
// Goes on from blocks.wgsl, decays.wgsl, lightning_places.wgsl, tiles.wgsl, keys.wgsl and queries.wgsl.

// Of the states, and of those before segments: a scalar, or four neighbours in a row; and how four of them, or of v,
// wait in registers.
alias StateElement = f32;
alias BeforeElement = f32;
alias Held = vec4f;
// Whether states are float16, in tiles of 64 rows by 64 columns or 128 (HALVES_WIDE); then `totals` has the powers of
// two that they are stored over, after the totals of segments.
const HALVES: bool = false;
const HALVES_WIDE: bool = false;
// Whether chunks are of several segments, whose states began with 0.
const SEGMENTED: bool = false;
// Whether S is read turned over: the stored one is [e, d].
const STATE_TURNED: bool = false;
// Whether a chunk is one block of 64 sources; and then, whether the upper half of the rows leaves out the half of the
// sources that come after all of it. In float32 that would take more registers than it is worth.
const ONE_BLOCK: bool = false;
const SKIPS: bool = false;

struct Params {
  g_strides: vec4u,          // of batch, group, member of the group, row
  k_strides: vec4u,          // the same
  v_strides: vec4u,
  q_strides: vec4u,
  out_strides: vec4u,
  k_column: u32,
  v_column: u32,
  q_column: u32,
  out_column: u32,
  k_offset: u32,
  v_offset: u32,
  q_offset: u32,
  out_offset: u32,
  groups: u32,
  members: u32,
  n: u32,
  d: u32,
  e: u32,
  chunk: u32,
  chunks: u32,
  segment: u32,              // in chunks
  segments: u32,
  workgroups: u32,
  query_scale: f32,
  source_scale: f32,
  units: u32,                // where they begin in totals
  has_initial: u32,          // whether there is a state before the first segment
  g_offset: u32,
}

@group(0) @binding(3) var<storage, read> positions: array<u32>;
@group(0) @binding(4) var<storage, read> states: array<StateElement>;
@group(0) @binding(5) var<storage, read> totals: array<u32>;
@group(0) @binding(6) var<storage, read> before: array<BeforeElement>;
@group(0) @binding(7) var<storage, read_write> out: array<ResultElement>;
@group(0) @binding(8) var<uniform> params: Params;

// Of the rows, then of the sources: their places in the decay.
var<workgroup> places: array<vec2f, 128>;

fn four_states(at: u32) -> Held { return Held(states[at], states[at + 1u], states[at + 2u], states[at + 3u]); }

fn state_rows() -> u32 { return select(width_d(), width_e(), STATE_TURNED); }
fn state_columns() -> u32 { return select(width_e(), width_d(), STATE_TURNED); }

// Four neighbours of a row of the stored state.
fn load_state(base: u32, row: u32, column: u32) -> Held {
  let values = four_states(base + row * state_columns() + column);
  if (WHOLE_D && WHOLE_E) { return values; }
  return Held(first(vec4f(values), select(0, i32(state_columns()) - i32(column), row < state_rows())));
}

fn halves_width() -> u32 { return select(64u, 128u, HALVES_WIDE); }

fn tiles_of_a_state() -> u32 {
  return (state_rows() + ROWS - 1u) / ROWS * ((state_columns() + halves_width() - 1u) / halves_width());
}

fn four_before(at: u32) -> vec4f { return vec4f(before[at], before[at + 1u], before[at + 2u], before[at + 3u]); }

// The same of the state before a segment.
fn load_before(base: u32, row: u32, column: u32) -> vec4f {
  let values = four_before(base + row * state_columns() + column);
  if (WHOLE_D && WHOLE_E) { return values; }
  return first(values, select(0, i32(state_columns()) - i32(column), row < state_rows()));
}

// What four neighbours of a stored row are multiples of.
fn load_unit(units: u32, row: u32, column: u32) -> f32 {
  let tile = row / ROWS * ((state_columns() + halves_width() - 1u) / halves_width()) + column / halves_width();
  return bitcast<f32>(totals[units + 256u * tile + row % ROWS / 4u * 16u + column % 64u / 4u]);
}

fn total_at(at: u32) -> vec2u { return vec2u(totals[2u * at], totals[2u * at + 1u]); }

// Where a thread reads: the row of q that it loads, and the chunk's first row of k, of v and of positions.
struct Places {
  q: u32,
  k: u32,
  v: u32,
  position: u32,
  last: u32,                 // row of the chunk
  state: u32,
  units: u32,
  segment: u32,              // the state before it,
  fade: f32,                 // and its decay up to the chunk, 0 where there was nothing before
}

// What a thread has asked for: of q and of k four terms of a row; of the state four columns of a term, and those 64 to
// the right, or, of a state turned over, four terms of columns 64 apart; the same of the state before the segment; and
// the units of halves.
struct Asked {
  q: vec4f,
  k: vec4f,
  state: Held,
  state_right: Held,
  before: vec4f,
  before_right: vec4f,
  units: vec2f,
}

// Eight terms, from `term` on. With no state before the segment, one of zeros is read and fades to 0.
fn ask(at: Places, at_k: u32, term: u32, first_e: u32, thread: u32) -> Asked {
  let own = term + 4u * (thread % 2u);
  var asked = Asked();
  asked.q = load_q(at.q, own);
  asked.k = load_k(at_k, own);
  var row = term + thread / 16u;
  var column = first_e + 4u * (thread % 16u);
  var right = vec2u(row, column + 64u);
  if (STATE_TURNED) {
    row = first_e + thread / 2u;
    column = own;
    right = vec2u(row + 64u, column);
  }
  asked.state = load_state(at.state, row, column);
  if (WIDE) { asked.state_right = load_state(at.state, right.x, right.y); }
  if (SEGMENTED) {
    asked.before = load_before(at.segment, row, column);
    if (WIDE) { asked.before_right = load_before(at.segment, right.x, right.y); }
  }
  if (HALVES) {
    // Columns 64 to the right are the same thread's: where these tiles are wide, those of the states were.
    asked.units = vec2f(load_unit(at.units, row, column));
    if (STATE_TURNED && WIDE) { asked.units.y = load_unit(at.units, right.x, right.y); }
  }
  return asked;
}

// Puts them into the first half of the tiles' terms, and k into the second half of the right one's.
fn put(asked: Asked, fade: f32, thread: u32) {
  put_left_lanes(thread % 2u, thread / 8u, thread / 2u % 4u, asked.q);
  put_right_lanes(2u + thread % 2u, thread / 8u, thread / 2u % 4u, asked.k);
  var state = vec4f(asked.state);
  var state_right = vec4f(asked.state_right);
  if (HALVES) {
    state *= asked.units.x;
    state_right *= asked.units.y;
  }
  if (SEGMENTED) {
    state += fade * asked.before;
    state_right += fade * asked.before_right;
  }
  if (STATE_TURNED) {
    put_right_lanes(thread % 2u, thread / 8u, thread / 2u % 4u, state);
    if (WIDE) { put_right_lanes(thread % 2u, thread / 8u + 16u, thread / 2u % 4u, state_right); }
  } else {
    put_right(thread / 64u, thread / 16u % 4u, thread % 16u, state);
    if (WIDE) { put_right(thread / 64u, thread / 16u % 4u, thread % 16u + 16u, state_right); }
  }
}

// q · k, and q · S.
struct Products {
  scores: Scores,
  sums: Sums,
}

// One term of the scores, `i` of the four of a part. Where the upper rows skip sources, a thread has two of the first
// 32 for them, a column of four rows each; otherwise four, as for the lower rows.
fn add_key_term(scores: Scores, part: u32, i: u32, across: u32, along: u32) -> Scores {
  let a = left_at(part, i, across);
  let keys = right_at(2u + part, i, along);
  let lower = outer(scores.lower, left_at(part, i, across + 8u), keys);
  if (!SKIPS) { return Scores(outer(scores.upper, a, keys), lower); }
  var upper = scores.upper;
  upper[0] = fma(vec4f(right[along / 2u].terms[2u + part][i][along % 2u * 2u]), a, upper[0]);
  upper[1] = fma(vec4f(right[along / 2u].terms[2u + part][i][along % 2u * 2u + 1u]), a, upper[1]);
  return Scores(upper, lower);
}

// One term of both.
fn add_products_term(products: Products, part: u32, i: u32, across: u32, along: u32) -> Products {
  return Products(add_key_term(products.scores, part, i, across, along), add_term(products.sums, part, i, across, along));
}

fn add_products_part(products: Products, part: u32, across: u32, along: u32) -> Products {
  return add_products_term(add_products_term(add_products_term(add_products_term(products, part, 0u, across, along), part, 1u, across, along), part, 2u, across, along), part, 3u, across, along);
}

fn add_keys_part(scores: Scores, part: u32, across: u32, along: u32) -> Scores {
  return add_key_term(add_key_term(add_key_term(add_key_term(scores, part, 0u, across, along), part, 1u, across, along), part, 2u, across, along), part, 3u, across, along);
}

fn add_products(products: Products, of_state: bool, across: u32, along: u32) -> Products {
  if (ONE_BLOCK || of_state) {
    return add_products_part(add_products_part(products, 0u, across, along), 1u, across, along);
  }
  return Products(add_keys_part(add_keys_part(products.scores, 0u, across, along), 1u, across, along), products.sums);
}

// What a thread has asked for of v: four columns of a row and of the row 8 after it, and of those 64 to the right.
struct Values {
  here: Held,
  after: Held,
  right: Held,
  right_after: Held,
}

fn held_v(base: u32, column: u32) -> Held { return Held(load_v(base, column)); }

fn ask_values(at: Places, row: u32, e: u32) -> Values {
  let here = at.v + min(row, at.last) * params.v_strides.w;
  let after = at.v + min(row + 8u, at.last) * params.v_strides.w;
  var asked = Values();
  asked.here = held_v(here, e);
  asked.after = held_v(after, e);
  if (WIDE) {
    asked.right = held_v(here, e + 64u);
    asked.right_after = held_v(after, e + 64u);
  }
  return asked;
}

// A row's scores of four sources from `source` on by their decays and by the scale, 0 where a source comes after it.
// Selected, not multiplied by a mask: 0 · inf would be NaN.
fn decayed(scores: vec4f, own_row: u32, first_row: u32, source: u32, coarse: vec4f, fine: vec4f) -> vec4f {
  let place = places[own_row];
  let scale = params.query_scale * params.source_scale;
  let sources = vec4u(source, source + 1u, source + 2u, source + 3u);
  return select(vec4f(), scale * scores * exp((coarse - place.x) + (fine - place.y)), sources <= vec4u(first_row + own_row));
}

fn decayed_block(scores: mat4x4f, own_row: u32, first_row: u32, source: u32, coarse: vec4f, fine: vec4f) -> mat4x4f {
  return mat4x4f(
    decayed(scores[0], own_row, first_row, source, coarse, fine), decayed(scores[1], own_row + 1u, first_row, source, coarse, fine),
    decayed(scores[2], own_row + 2u, first_row, source, coarse, fine), decayed(scores[3], own_row + 3u, first_row, source, coarse, fine));
}

// The scores of four rows and a source of the block, likewise.
fn decayed_column(scores: vec4f, own_row: u32, source: u32) -> vec4f {
  let s = places[ROWS + source];
  let p0 = places[own_row];
  let p1 = places[own_row + 1u];
  let p2 = places[own_row + 2u];
  let p3 = places[own_row + 3u];
  let scale = params.query_scale * params.source_scale;
  let decays = exp((s.x - vec4f(p0.x, p1.x, p2.x, p3.x)) + (s.y - vec4f(p0.y, p1.y, p2.y, p3.y)));
  return select(vec4f(), scale * scores * decays, vec4u(source) <= vec4u(own_row, own_row + 1u, own_row + 2u, own_row + 3u));
}

// Makes the left tile of 16 sources, of turn `turn`.
fn hand_scores_over(scores: Scores, turn: u32, across: u32, along: u32) {
  if (!SKIPS) {
    hand_over(scores, turn, across, along);
    return;
  }
  if (along / 8u == turn) {
    put_left(along % 8u / 2u, along % 2u * 2u, across, scores.upper[0]);
    put_left(along % 8u / 2u, along % 2u * 2u + 1u, across, scores.upper[1]);
  }
  if (along / 4u == turn) { put_left_block(along % 4u, across + 8u, scores.lower); }
}

// What rows of q · S are multiplied by.
fn weight_of(own_row: u32) -> f32 { return params.query_scale * decay_between(vec2f(), places[own_row]); }
fn weights_of(own_row: u32) -> vec4f {
  return vec4f(weight_of(own_row), weight_of(own_row + 1u), weight_of(own_row + 2u), weight_of(own_row + 3u));
}

// Adds scores · v of 64 sources from `block` on; of_state, q · S too, to sums of 0. Without a branch on the way: it
// would keep the compiler from reading ahead.
fn add_block(sums: Sums, at: Places, first_row: u32, block: u32, of_state: bool, first_e: u32, thread: u32) -> Sums {
  let across = across_of(thread);
  let along = along_of(thread);
  let row = select(first_row, block, thread >= ROWS) + thread % ROWS;
  let found = found_at(at.position, row);
  let at_k = at.k + min(block + thread / 2u, at.last) * params.k_strides.w;
  var products = Products(Scores(), sums);
  var asked = ask(at, at_k, 0u, first_e, thread);
  // Later for a float32 state before the segment: the driver's compiler takes 168 registers then, not 185, and three
  // workgroups fit.
  const LATER = SEGMENTED && !HALVES;
  if (!LATER) { places[thread] = place_of(position_from(found, row)); }
  for (var term = 0u; term < width_d(); term += 8u) {
    put(asked, at.fade, thread);
    workgroupBarrier();
    asked = ask(at, at_k, min(term + 8u, (width_d() - 1u) / 8u * 8u), first_e, thread);
    products = add_products(products, of_state, across, along);
    workgroupBarrier();
  }

  let load_e = first_e + 4u * (thread % 16u);
  var values = ask_values(at, block + thread / 16u, load_e);
  if (LATER) {
    places[thread] = place_of(position_from(found, row));
    workgroupBarrier();
  }
  let s0 = places[ROWS + 4u * along];
  let s1 = places[ROWS + 4u * along + 1u];
  let s2 = places[ROWS + 4u * along + 2u];
  let s3 = places[ROWS + 4u * along + 3u];
  let coarse = vec4f(s0.x, s1.x, s2.x, s3.x);
  let fine = vec4f(s0.y, s1.y, s2.y, s3.y);
  var scores = Scores();
  if (SKIPS) {
    scores.upper[0] = decayed_column(products.scores.upper[0], 4u * across, 2u * along);
    scores.upper[1] = decayed_column(products.scores.upper[1], 4u * across, 2u * along + 1u);
  } else {
    scores.upper = decayed_block(products.scores.upper, 4u * across, first_row, block + 4u * along, coarse, fine);
  }
  scores.lower = decayed_block(products.scores.lower, 4u * across + 32u, first_row, block + 4u * along, coarse, fine);
  var next_sums = products.sums;
  if (ONE_BLOCK || of_state) { next_sums = weighted_sums(next_sums, weights_of(4u * across), weights_of(4u * across + 32u)); }

  for (var turn = 0u; turn < 4u; turn++) {
    hand_scores_over(scores, turn, across, along);
    put_right_terms(thread / 16u, thread % 16u, vec4f(values.here), vec4f(values.after));
    if (WIDE) { put_right_terms(thread / 16u, thread % 16u + 16u, vec4f(values.right), vec4f(values.right_after)); }
    workgroupBarrier();
    values = ask_values(at, block + min(turn + 1u, 3u) * DEPTH + thread / 16u, load_e);
    if (SKIPS && turn >= 2u) {
      next_sums = add_lower_tiles(next_sums, across, along);
    } else {
      next_sums = add_tiles(next_sums, across, along);
    }
    workgroupBarrier();
  }
  return next_sums;
}

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let number = group.y * groups.x + group.x;
  if (number >= params.workgroups) { return; }
  let width = select(64u, 128u, WIDE);
  let tiles_e = (width_e() + width - 1u) / width;
  let tiles_row = (params.chunk + ROWS - 1u) / ROWS;
  let first_e = number % tiles_e * width;
  let first_row = number / tiles_e % tiles_row * ROWS;
  // Last chunks come first: caches still hold their states.
  let heads = params.workgroups / (tiles_e * tiles_row * params.chunks);
  let instance = number / tiles_e / tiles_row % heads;
  let chunk = params.chunks - 1u - number / tiles_e / tiles_row / heads;
  let entry = entry_of(instance, params.groups, params.members, 0u);
  let start = chunk * params.chunk;
  let rows = min(params.chunk, params.n - start);
  if (first_row >= rows) { return; }

  let segment = chunk / params.segment;
  let area = width_d() * width_e();
  let state = (instance * params.segments + segment) * params.segment + chunk % params.segment;
  let base_q = params.q_offset + dot(entry, params.q_strides) + start * params.q_strides.w;
  var at = Places();
  at.position = positions_from(instance, entry, start);
  at.last = rows - 1u;
  at.q = base_q + min(first_row + thread / 2u, rows - 1u) * params.q_strides.w;
  at.k = params.k_offset + dot(entry, params.k_strides) + start * params.k_strides.w;
  at.v = params.v_offset + dot(entry, params.v_strides) + start * params.v_strides.w;
  at.state = state * area;
  at.units = params.units + state * tiles_of_a_state() * 256u;
  if (SEGMENTED) {
    at.segment = (instance * params.segments + segment) * area;
    if (segment + params.has_initial > 0u) { at.fade = decay_between(vec2f(), place_of(total_at(instance * (params.chunks + params.segments) + chunk))); }
  }

  var sums = Sums();
  if (ONE_BLOCK) {
    sums = add_block(sums, at, 0u, 0u, true, first_e, thread);
  } else {
    for (var back = 0u; back <= first_row; back += ROWS) {
      sums = add_block(sums, at, first_row, first_row - back, back == 0u, first_e, thread);
    }
  }

  let base_out = params.out_offset + dot(entry, params.out_strides) + start * params.out_strides.w;
  let to = Matrix(base_out, rows, width_e(), params.out_strides.w, params.out_column);
  store_sums(to, first_row + 4u * across_of(thread), first_e + 4u * along_of(thread), sums);
}

// The outputs of 64 rows of one chunk, from the state S before the chunk and the rows up to them:
//   o_r = Σ_{t ≤ r} α · β · exp(P_t − P_r) · (q_r · k_t) · v_t + α · exp(−P_r) · q_r S
// P is what lightning_positions.wgsl wrote. S is what lightning_states.wgsl left before the chunk; where it began
// each segment anew (SEGMENTED), that and the state before the segment, by lightning_scan.wgsl, decayed up to
// the chunk.
// Goes on from blocks.wgsl, decays.wgsl, tiles.wgsl, keys.wgsl, queries.wgsl and scores.wgsl.

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
// Whether the upper half of the rows leaves out the sources that come after all of it.
const SKIPS: bool = false;
// Whether a chunk is one block of 64 sources.
const ONE_BLOCK: bool = false;

struct Params {
  k_strides: vec4u,          // of batch, group, member of the group, row
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
  has_initial: u32,          // whether there is a state before the first chunk, so that it may not skip it
}

@group(0) @binding(3) var<storage, read> positions: array<vec2u>;
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

// Where a thread reads: the rows of q that it loads, and the chunk's first row of k, of v and of positions.
struct Places {
  q: u32,
  q_after: u32,
  k: u32,
  v: u32,
  position: u32,
  last: u32,                 // row of the chunk
  state: u32,
  units: u32,
  segment: u32,              // the state before it,
  fade: f32,                 // and its decay up to the chunk, 0 where there was nothing before
}

// What a thread has asked for: of v, or of the state, four columns of a term and of the term 8 after it, and of those
// 64 to the right; or, of a state turned over, four terms of columns 32 apart. And the units of halves.
struct Asked {
  added: Held,
  added_after: Held,
  added_right: Held,
  added_right_after: Held,
  units: vec4f,
}

// The state before the segment, likewise: what goes with each of the four.
fn ask_before(base: u32, first_term: u32, first_e: u32, thread: u32) -> mat4x4f {
  var asked = mat4x4f();
  if (STATE_TURNED) {
    let term = first_term + 4u * (thread % 4u);
    let column = first_e + thread / 4u;
    asked[0] = load_before(base, column, term);
    asked[1] = load_before(base, column + 32u, term);
    if (WIDE) {
      asked[2] = load_before(base, column + 64u, term);
      asked[3] = load_before(base, column + 96u, term);
    }
    return asked;
  }
  let term = first_term + thread / 16u;
  let e = first_e + 4u * (thread % 16u);
  asked[0] = load_before(base, term, e);
  asked[1] = load_before(base, term + 8u, e);
  if (WIDE) {
    asked[2] = load_before(base, term, e + 64u);
    asked[3] = load_before(base, term + 8u, e + 64u);
  }
  return asked;
}

fn held_v(base: u32, column: u32) -> Held { return Held(load_v(base, column)); }

fn ask_values(at: Places, row: u32, e: u32) -> Asked {
  let here = at.v + min(row, at.last) * params.v_strides.w;
  let after = at.v + min(row + 8u, at.last) * params.v_strides.w;
  var asked = Asked();
  asked.added = held_v(here, e);
  asked.added_after = held_v(after, e);
  if (WIDE) {
    asked.added_right = held_v(here, e + 64u);
    asked.added_right_after = held_v(after, e + 64u);
  }
  return asked;
}

fn ask_state(at: Places, first_term: u32, first_e: u32, thread: u32) -> Asked {
  var asked = Asked();
  if (STATE_TURNED) {
    let term = first_term + 4u * (thread % 4u);
    let column = first_e + thread / 4u;
    asked.added = load_state(at.state, column, term);
    asked.added_after = load_state(at.state, column + 32u, term);
    if (HALVES) { asked.units = vec4f(load_unit(at.units, column, term), load_unit(at.units, column + 32u, term), 0.0, 0.0); }
    if (WIDE) {
      asked.added_right = load_state(at.state, column + 64u, term);
      asked.added_right_after = load_state(at.state, column + 96u, term);
      if (HALVES) {
        asked.units.z = load_unit(at.units, column + 64u, term);
        asked.units.w = load_unit(at.units, column + 96u, term);
      }
    }
    return asked;
  }
  let term = first_term + thread / 16u;
  let e = first_e + 4u * (thread % 16u);
  asked.added = load_state(at.state, term, e);
  asked.added_after = load_state(at.state, term + 8u, e);
  if (WIDE) {
    asked.added_right = load_state(at.state, term, e + 64u);
    asked.added_right_after = load_state(at.state, term + 8u, e + 64u);
  }
  // Columns 64 to the right are the same thread's: where these tiles are wide, those of the states were.
  if (HALVES) { asked.units = vec4f(load_unit(at.units, term, e), load_unit(at.units, term + 8u, e), 0.0, 0.0).xyxy; }
  return asked;
}

// Puts what was asked for into the right tile.
fn put_asked(asked: Asked, before: mat4x4f, of_state: bool, fade: f32, thread: u32) {
  var here = vec4f(asked.added);
  var after = vec4f(asked.added_after);
  var right = vec4f(asked.added_right);
  var right_after = vec4f(asked.added_right_after);
  if (HALVES && of_state) {
    here *= asked.units.x;
    after *= asked.units.y;
    right *= asked.units.z;
    right_after *= asked.units.w;
  }
  if (SEGMENTED && of_state && fade > 0.0) {
    here += fade * before[0];
    after += fade * before[1];
    right += fade * before[2];
    right_after += fade * before[3];
  }
  if (STATE_TURNED && of_state) {
    put_right_rows(thread, 0u, here, after);
    if (WIDE) { put_right_rows(thread, 16u, right, right_after); }
  } else {
    put_right_terms(thread / 16u, thread % 16u, here, after);
    if (WIDE) { put_right_terms(thread / 16u, thread % 16u + 16u, right, right_after); }
  }
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

// Adds scores · v of 64 sources from `block` on, and then q · S in further steps of 16 terms.
fn add_block(sums: Sums, at: Places, first_row: u32, block: u32, steps: u32, first_e: u32, thread: u32) -> Sums {
  let across = across_of(thread);
  let along = along_of(thread);
  let load_row = thread / 4u;
  let load_term = 4u * (thread % 4u);
  let load_e = first_e + 4u * (thread % 16u);
  // Asked for now, used after the scores: memory answers late.
  let position = positions[at.position + select(first_row, block, thread >= ROWS) + thread % ROWS];
  let at_k = at.k + min(block + load_row, at.last) * params.k_strides.w;
  let at_k_after = at.k + min(block + load_row + 32u, at.last) * params.k_strides.w;
  var scores = scores_of(at.q, at.q_after, at_k, at_k_after, thread);

  var asked = ask_values(at, block + thread / 16u, load_e);
  var from_q = load_q(at.q, load_term);
  var from_q_after = load_q(at.q_after, load_term);
  places[thread] = place_of(position);
  workgroupBarrier();
  let s0 = places[ROWS + 4u * along];
  let s1 = places[ROWS + 4u * along + 1u];
  let s2 = places[ROWS + 4u * along + 2u];
  let s3 = places[ROWS + 4u * along + 3u];
  let coarse = vec4f(s0.x, s1.x, s2.x, s3.x);
  let fine = vec4f(s0.y, s1.y, s2.y, s3.y);
  scores = Scores(
    decayed_block(scores.upper, 4u * across, first_row, block + 4u * along, coarse, fine),
    decayed_block(scores.lower, 4u * across + 32u, first_row, block + 4u * along, coarse, fine));
  // Of the products with the state of the rows that this thread loads.
  let weight = params.query_scale * decay_between(vec2f(), places[load_row]);
  let weight_after = params.query_scale * decay_between(vec2f(), places[load_row + 32u]);

  // Now scores · v, or q · S, by the same instructions, so that they fit their cache.
  var next_sums = sums;
  for (var step = 0u; step < steps; step++) {
    let of_state = step >= 4u;
    put_asked(asked, scores.upper, of_state, at.fade, thread);
    if (of_state) {
      put_left_rows(thread, weight * from_q, weight_after * from_q_after);
    } else {
      hand_over(scores, step, across, along);
    }
    workgroupBarrier();
    let next = min(step + 1u, steps - 1u);
    if (next >= 4u) {
      let term = (next - 4u) * DEPTH;
      asked = ask_state(at, term, first_e, thread);
      // Into the registers of the scores, which are used up.
      if (SEGMENTED && at.fade > 0.0) { scores.upper = ask_before(at.segment, term, first_e, thread); }
      from_q = load_q(at.q, term + load_term);
      from_q_after = load_q(at.q_after, term + load_term);
    } else {
      asked = ask_values(at, block + next * DEPTH + thread / 16u, load_e);
    }
    if (SKIPS && block == first_row && (step == 2u || step == 3u)) {
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
  // First chunks come last: they have no state and take half as long, so that processors end more nearly together.
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
  let q_row = min(first_row + thread / 4u, rows - 1u);
  let q_after = min(first_row + thread / 4u + 32u, rows - 1u);
  var at = Places();
  at.position = instance * (params.n + params.chunks) + start;
  at.last = rows - 1u;
  at.q = base_q + q_row * params.q_strides.w;
  at.q_after = base_q + q_after * params.q_strides.w;
  at.k = params.k_offset + dot(entry, params.k_strides) + start * params.k_strides.w;
  at.v = params.v_offset + dot(entry, params.v_strides) + start * params.v_strides.w;
  at.state = state * area;
  at.units = params.units + state * tiles_of_a_state() * 256u;
  if (SEGMENTED) {
    at.segment = (instance * params.segments + segment) * area;
    if (segment + params.has_initial > 0u) { at.fade = decay_between(vec2f(), place_of(total_at(instance * (params.chunks + params.segments) + chunk))); }
  }

  let of_state = select(0u, (params.d + DEPTH - 1u) / DEPTH, chunk + params.has_initial > 0u);
  var sums = Sums();
  if (ONE_BLOCK) {
    sums = add_block(sums, at, 0u, 0u, 4u + of_state, first_e, thread);
  } else {
    for (var block = 0u; block <= first_row; block += ROWS) {
      let steps = 4u + select(0u, of_state, block == first_row);
      sums = add_block(sums, at, first_row, block, steps, first_e, thread);
    }
  }

  let base_out = params.out_offset + dot(entry, params.out_strides) + start * params.out_strides.w;
  let to = Matrix(base_out, rows, width_e(), params.out_strides.w, params.out_column);
  store_sums(to, first_row + 4u * across_of(thread), first_e + 4u * along_of(thread), sums);
}

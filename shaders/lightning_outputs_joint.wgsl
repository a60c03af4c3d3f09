// What lightning_outputs.wgsl computes, with both products of q in one pass over its tiles:
//   scores = q kᵀ, sums = q S over d;  then sums ← α · exp(−P_r) · sums_r + (decayed scores) v
// so that q is read once, and half as many barriers stand between as many multiplications. The block of sources
// that the rows themselves are in comes first, then those before it.
// Goes on from blocks.wgsl, decays.wgsl, tiles.wgsl, keys.wgsl and queries.wgsl.

// Of the states: a scalar, or four neighbours in a row; and how four wait in registers.
alias StateElement = f32;
alias Held = vec4f;
// Whether they are float16, in tiles of 64 rows by 64 columns or 128 (HALVES_WIDE); then `totals` are the powers of
// two that they are stored over, by blocks of 4 × 4 or pairs of them, of upper and of lower rows.
const HALVES: bool = false;
const HALVES_WIDE: bool = false;
// What waits in registers for its turn: as it is stored, where that is float16.
alias Loaded = vec4f;
// Whether there is a state before the first chunk of a sequence, so that no chunk may skip it.
const HAS_INITIAL: bool = false;
const SEGMENTED: bool = false;
// Whether S is read turned over: the stored one is [e, d].
const STATE_TURNED: bool = false;
// Whether q S comes first, so that fewer sums are under way at once.
const SPLIT: bool = false;
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
}

@group(0) @binding(3) var<storage, read> positions: array<vec2u>;
@group(0) @binding(4) var<storage, read> states: array<StateElement>;
@group(0) @binding(5) var<storage, read> totals: array<vec2u>;
@group(0) @binding(6) var<storage, read_write> out: array<ResultElement>;
@group(0) @binding(7) var<uniform> params: Params;

// The tile of keys, beside those of queries (left) and of states or values (right).
var<workgroup> source_keys: array<Block, 16>;

fn four_states(at: u32) -> Held { return Held(states[at], states[at + 1u], states[at + 2u], states[at + 3u]); }

fn ask_q(base: u32, column: u32) -> Loaded { return Loaded(load_q(base, column)); }
fn ask_k(base: u32, column: u32) -> Loaded { return Loaded(load_k(base, column)); }
fn ask_v(base: u32, column: u32) -> Loaded { return Loaded(load_v(base, column)); }

// Four terms of each of four rows, of q or of k.
struct Rows {
  first: Loaded,
  second: Loaded,
  third: Loaded,
  fourth: Loaded,
}

fn ask_rows(at: vec4u, term: u32, of_keys: bool) -> Rows {
  if (of_keys) { return Rows(ask_k(at.x, term), ask_k(at.y, term), ask_k(at.z, term), ask_k(at.w, term)); }
  return Rows(ask_q(at.x, term), ask_q(at.y, term), ask_q(at.z, term), ask_q(at.w, term));
}

fn put_rows(rows: Rows, part: u32, block: u32, of_keys: bool) {
  let terms = transpose(mat4x4f(vec4f(rows.first), vec4f(rows.second), vec4f(rows.third), vec4f(rows.fourth)));
  if (of_keys) {
    source_keys[block].terms[part][0] = terms[0];
    source_keys[block].terms[part][1] = terms[1];
    source_keys[block].terms[part][2] = terms[2];
    source_keys[block].terms[part][3] = terms[3];
  } else {
    put_left(part, 0u, block, terms[0]);
    put_left(part, 1u, block, terms[1]);
    put_left(part, 2u, block, terms[2]);
    put_left(part, 3u, block, terms[3]);
  }
}

// Of a state: four columns of a term and of the term 8 after it, and of those 64 to the right; or, of a state
// turned over, four terms of each of four columns. And what the first and the second are multiples of, if halves.
struct State {
  here: Held,
  after: Held,
  right: Held,
  right_after: Held,
  unit: f32,
  unit_after: f32,
}

// Where a state lies, and its units.
struct StatePlace {
  base: u32,
  units: u32,
}

// d and e, which are constants where no load goes beyond them.
fn width_d() -> u32 { return params.d; }
fn width_e() -> u32 { return params.e; }

fn state_columns() -> u32 { return select(width_e(), width_d(), STATE_TURNED); }

// Four neighbours of a stored state [d, e], or [e, d]: a row, and where in it.
fn load_state(base: u32, row: u32, column: u32) -> Held {
  let values = four_states(base + row * state_columns() + column);
  if (WHOLE_D && WHOLE_E) { return values; }
  let rows = select(width_d(), width_e(), STATE_TURNED);
  return Held(first(vec4f(values), select(0, i32(state_columns()) - i32(column), row < rows)));
}

fn tiles_of_a_state() -> u32 {
  let width = select(64u, 128u, HALVES_WIDE);
  let rows = select(width_d(), width_e(), STATE_TURNED);
  return (rows + ROWS - 1u) / ROWS * ((state_columns() + width - 1u) / width);
}

fn load_unit(units: u32, row: u32, column: u32) -> f32 {
  let width = select(64u, 128u, HALVES_WIDE);
  let tile = row / ROWS * ((state_columns() + width - 1u) / width) + column / width;
  let both = totals[units + tile * 128u + row % 32u / 4u * 16u + column % 64u / 4u];
  return bitcast<f32>(select(both.x, both.y, row % ROWS >= 32u));
}

fn ask_state(place: StatePlace, term: u32, first_e: u32, thread: u32, part: u32, block: u32) -> State {
  var asked = State();
  let base = place.base;
  if (STATE_TURNED) {
    let column = first_e + 4u * block;
    if (WIDE || block < 16u) {
      asked.here = load_state(base, column, term + 4u * part);
      asked.after = load_state(base, column + 1u, term + 4u * part);
      asked.right = load_state(base, column + 2u, term + 4u * part);
      asked.right_after = load_state(base, column + 3u, term + 4u * part);
      if (HALVES) { asked.unit = load_unit(place.units, column, term + 4u * part); }
    }
    return asked;
  }
  let row = term + thread / 16u;
  let column = first_e + 4u * (thread % 16u);
  asked.here = load_state(base, row, column);
  asked.after = load_state(base, row + 8u, column);
  if (WIDE) {
    asked.right = load_state(base, row, column + 64u);
    asked.right_after = load_state(base, row + 8u, column + 64u);
  }
  if (HALVES) {
    asked.unit = load_unit(place.units, row, column);
    asked.unit_after = load_unit(place.units, row + 8u, column);
  }
  return asked;
}

fn whole(held: Held, unit: f32) -> vec4f {
  if (HALVES) { return unit * vec4f(held); }
  return vec4f(held);
}

fn put_state(state: State, thread: u32, part: u32, block: u32) {
  if (STATE_TURNED) {
    if (WIDE || block < 16u) {
      let unit = state.unit;
      let terms = transpose(mat4x4f(
        whole(state.here, unit), whole(state.after, unit), whole(state.right, unit), whole(state.right_after, unit)));
      put_right(part, 0u, block, terms[0]);
      put_right(part, 1u, block, terms[1]);
      put_right(part, 2u, block, terms[2]);
      put_right(part, 3u, block, terms[3]);
    }
    return;
  }
  let four = thread % 16u;
  put_right_terms(thread, four, whole(state.here, state.unit), whole(state.after, state.unit_after));
  if (WIDE) {
    put_right_terms(thread, four + 16u, whole(state.right, state.unit), whole(state.right_after, state.unit_after));
  }
}

fn plus_faded(added: State, fade: f32, before: State) -> State {
  return State(
    faded_onto(added.here, fade, before.here), faded_onto(added.after, fade, before.after),
    faded_onto(added.right, fade, before.right), faded_onto(added.right_after, fade, before.right_after), 0.0, 0.0);
}

fn faded_onto(added: Held, fade: f32, before: Held) -> Held { return Held(vec4f(added) + fade * vec4f(before)); }

// Four columns of v in two rows 8 apart, and of those 64 to the right.
struct Values {
  here: Loaded,
  after: Loaded,
  right: Loaded,
  right_after: Loaded,
}

fn ask_values(base: u32, row: u32, last: u32, e: u32) -> Values {
  let at = base + min(row, last) * params.v_strides.w;
  let at_after = base + min(row + 8u, last) * params.v_strides.w;
  var asked = Values();
  asked.here = ask_v(at, e);
  asked.after = ask_v(at_after, e);
  if (WIDE) {
    asked.right = ask_v(at, e + 64u);
    asked.right_after = ask_v(at_after, e + 64u);
  }
  return asked;
}

fn key_at(part: u32, i: u32, block: u32) -> vec4f { return source_keys[block].terms[part][i]; }

// The products with keys alone: four rows of one source, as they go into the left tile.
fn add_key_term(scores: Scores, part: u32, i: u32, across: u32, along: u32) -> Scores {
  let c = key_at(part, i, along);
  return Scores(outer(scores.upper, c, left_at(part, i, across)), outer(scores.lower, c, left_at(part, i, across + 8u)));
}

fn add_key_part(scores: Scores, part: u32, across: u32, along: u32) -> Scores {
  return add_key_term(add_key_term(add_key_term(add_key_term(scores, part, 0u, across, along), part, 1u, across, along), part, 2u, across, along), part, 3u, across, along);
}

// The products of a thread's rows with the state and with keys.
struct Both {
  sums: Sums,
  scores: Scores,
}

fn add_both_term(both: Both, part: u32, i: u32, across: u32, along: u32) -> Both {
  return Both(add_term(both.sums, part, i, across, along), add_key_term(both.scores, part, i, across, along));
}

fn add_both_part(both: Both, part: u32, across: u32, along: u32) -> Both {
  return add_both_term(add_both_term(add_both_term(add_both_term(both, part, 0u, across, along), part, 1u, across, along), part, 2u, across, along), part, 3u, across, along);
}

fn add_both(both: Both, across: u32, along: u32) -> Both {
  if (UNROLLED) {
    return add_both_part(add_both_part(add_both_part(add_both_part(both, 0u, across, along), 1u, across, along), 2u, across, along), 3u, across, along);
  }
  var next = both;
  for (var part = 0u; part < 4u; part++) { next = add_both_part(next, part, across, along); }
  return next;
}

fn add_keys(scores: Scores, across: u32, along: u32) -> Scores {
  if (UNROLLED && SPLIT) {
    return add_key_part(add_key_part(add_key_part(add_key_part(scores, 0u, across, along), 1u, across, along), 2u, across, along), 3u, across, along);
  }
  var next = scores;
  for (var part = 0u; part < 4u; part++) { next = add_key_part(next, part, across, along); }
  return next;
}

// The places of four rows in the decay, as place_of gives them.
struct Places {
  coarse: vec4f,
  fine: vec4f,
}

fn places_of(base: u32, row: u32) -> Places {
  let a = place_of(positions[base + row]);
  let b = place_of(positions[base + row + 1u]);
  let c = place_of(positions[base + row + 2u]);
  let d = place_of(positions[base + row + 3u]);
  return Places(vec4f(a.x, b.x, c.x, d.x), vec4f(a.y, b.y, c.y, d.y));
}

// What q S is multiplied with in four rows: α · exp(−P_r).
fn fades(rows: Places) -> vec4f { return params.query_scale * exp(-rows.coarse - rows.fine); }

// The products of four rows with one source by their decays and by the scale, 0 where the source comes after the row.
// Selected, not multiplied by a mask: 0 · inf would be NaN.
fn decayed(products: vec4f, rows: Places, row: u32, place: vec2f, source: u32) -> vec4f {
  let scale = params.query_scale * params.source_scale;
  let values = scale * products * exp((place.x - rows.coarse) + (place.y - rows.fine));
  return select(vec4f(), values, vec4u(source) <= vec4u(row, row + 1u, row + 2u, row + 3u));
}

fn decayed_block(products: mat4x4f, rows: Places, row: u32, sources: Places, source: u32) -> mat4x4f {
  return mat4x4f(
    decayed(products[0], rows, row, vec2f(sources.coarse.x, sources.fine.x), source),
    decayed(products[1], rows, row, vec2f(sources.coarse.y, sources.fine.y), source + 1u),
    decayed(products[2], rows, row, vec2f(sources.coarse.z, sources.fine.z), source + 2u),
    decayed(products[3], rows, row, vec2f(sources.coarse.w, sources.fine.w), source + 3u));
}

// Makes the left tile of 16 sources, of turn `turn`, from the scores that four of the threads along have.
fn put_scores(scores: Scores, turn: u32, across: u32, along: u32) {
  if (along / 4u != turn) { return; }
  put_left(along % 4u, 0u, across, scores.upper[0]);
  put_left(along % 4u, 1u, across, scores.upper[1]);
  put_left(along % 4u, 2u, across, scores.upper[2]);
  put_left(along % 4u, 3u, across, scores.upper[3]);
  put_left(along % 4u, 0u, across + 8u, scores.lower[0]);
  put_left(along % 4u, 1u, across + 8u, scores.lower[1]);
  put_left(along % 4u, 2u, across + 8u, scores.lower[2]);
  put_left(along % 4u, 3u, across + 8u, scores.lower[3]);
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
  let tiles_e = (params.e + width - 1u) / width;
  let tiles_row = (params.chunk + ROWS - 1u) / ROWS;
  let first_e = number % tiles_e * width;
  let first_row = number / tiles_e % tiles_row * ROWS;
  let chunk = number / tiles_e / tiles_row % params.chunks;
  let instance = number / tiles_e / tiles_row / params.chunks;
  let at = entry_of(instance, params.groups, params.members, 0u);
  let start = chunk * params.chunk;
  let rows = min(params.chunk, params.n - start);
  if (first_row >= rows) { return; }
  let base_q = params.q_offset + dot(at, params.q_strides) + start * params.q_strides.w;
  let base_k = params.k_offset + dot(at, params.k_strides) + start * params.k_strides.w;
  let base_v = params.v_offset + dot(at, params.v_strides) + start * params.v_strides.w;
  let base_position = instance * (params.n + params.chunks) + start;

  let across = across_of(thread);
  let along = along_of(thread);
  let row = first_row + 4u * across;

  // What it loads: four terms of four rows, of q in one half of the threads and of k in the other; of a state
  // turned over four terms of four columns; of v four columns of two rows.
  let line = thread / 2u % 16u;
  let part = thread % 2u + thread / 32u % 2u * 2u;
  let of_keys = thread >= 64u;
  let state_block = line + select(0u, 16u, of_keys);
  let load_e = first_e + 4u * (thread % 16u);
  let load_source = thread / 16u;

  let segment = chunk / params.segment;
  let area = width_d() * width_e();
  let base_states = (instance * params.segments + segment) * (params.segment + select(0u, 1u, SEGMENTED)) * area;
  let units_of_a_state = 128u * tiles_of_a_state();
  let own = StatePlace(base_states + chunk % params.segment * area, (instance * params.segment + chunk) * units_of_a_state);
  let of_segment = StatePlace(base_states + params.segment * area, 0u);
  var fade = 0.0;
  if (SEGMENTED) { fade = decay_between(vec2f(), place_of(totals[instance * (params.chunks + params.segments) + chunk])); }
  let has_state = HAS_INITIAL || chunk > 0u;

  var sums = Sums();
  for (var back = 0u; back <= select(first_row, 0u, ONE_BLOCK); back += ROWS) {
    let is_own = back == 0u;
    let block = first_row - back;
    let with_state = has_state && is_own;
    let first_line = select(first_row, block, of_keys) + 4u * line;
    let lines = min(vec4u(first_line, first_line + 1u, first_line + 2u, first_line + 3u), vec4u(rows - 1u));
    let places = select(base_q + lines * params.q_strides.w, base_k + lines * params.k_strides.w, vec4<bool>(of_keys));
    var asked = ask_rows(places, 4u * part, of_keys);
    var state = State();
    var before = State();
    if (with_state) {
      state = ask_state(own, 0u, first_e, thread, part, state_block);
      if (SEGMENTED) { before = ask_state(of_segment, 0u, first_e, thread, part, state_block); }
    }
    var both = Both();
    if (!is_own) { both.sums = sums; }
    if (SPLIT && with_state) {
      for (var d = 0u; d < params.d; d += DEPTH) {
        if (!of_keys) { put_rows(asked, part, line, of_keys); }
        if (SEGMENTED) { state = plus_faded(state, fade, before); }
        put_state(state, thread, part, state_block);
        workgroupBarrier();
        let next = min(d + DEPTH, (params.d - 1u) / DEPTH * DEPTH);
        if (!of_keys) { asked = ask_rows(places, next + 4u * part, of_keys); }
        state = ask_state(own, next, first_e, thread, part, state_block);
        if (SEGMENTED) { before = ask_state(of_segment, next, first_e, thread, part, state_block); }
        both.sums = add_tiles(both.sums, across, along);
        workgroupBarrier();
      }
      asked = ask_rows(places, 4u * part, of_keys);
    }
    for (var d = 0u; d < params.d; d += DEPTH) {
      put_rows(asked, part, line, of_keys);
      if (!SPLIT && with_state) {
        if (SEGMENTED) { state = plus_faded(state, fade, before); }
        put_state(state, thread, part, state_block);
      }
      workgroupBarrier();
      let next = min(d + DEPTH, (params.d - 1u) / DEPTH * DEPTH);
      asked = ask_rows(places, next + 4u * part, of_keys);
      if (!SPLIT && with_state) {
        state = ask_state(own, next, first_e, thread, part, state_block);
        if (SEGMENTED) { before = ask_state(of_segment, next, first_e, thread, part, state_block); }
        both = add_both(both, across, along);
      } else {
        both.scores = add_keys(both.scores, across, along);
      }
      workgroupBarrier();
    }
    let upper = places_of(base_position, row);
    let lower = places_of(base_position, row + 32u);
    let source = block + 4u * along;
    let sources = places_of(base_position, source);
    let scores = Scores(
      decayed_block(both.scores.upper, upper, row, sources, source),
      decayed_block(both.scores.lower, lower, row + 32u, sources, source));
    sums = both.sums;
    if (with_state) { sums = weighted_sums(sums, fades(upper), fades(lower)); }

    var values = ask_values(base_v, block + load_source, rows - 1u, load_e);
    for (var turn = 0u; turn < 4u; turn++) {
      put_scores(scores, turn, across, along);
      put_right_terms(thread, thread % 16u, vec4f(values.here), vec4f(values.after));
      if (WIDE) { put_right_terms(thread, thread % 16u + 16u, vec4f(values.right), vec4f(values.right_after)); }
      workgroupBarrier();
      values = ask_values(base_v, block + load_source + 16u * min(turn + 1u, 3u), rows - 1u, load_e);
      sums = add_tiles(sums, across, along);
      workgroupBarrier();
    }
  }

  let base_out = params.out_offset + dot(at, params.out_strides) + start * params.out_strides.w;
  store_sums(Matrix(base_out, rows, params.e, params.out_strides.w, params.out_column), row, first_e + 4u * along, sums);
}

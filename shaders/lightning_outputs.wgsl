// The outputs of 64 rows of one chunk, from the state S before the chunk and the rows up to them:
//   o_r = Σ_{t ≤ r} α · β · exp(P_t − P_r) · (q_r · k_t) · v_t + α · exp(−P_r) · q_r S
// P is what lightning_positions.wgsl wrote. S is what lightning_states.wgsl left before the chunk; where it began
// each segment anew (SEGMENTED), that and the state before the segment, by lightning_scan.wgsl, decayed up to
// the chunk.
// Goes on from blocks.wgsl, decays.wgsl, tiles.wgsl, keys.wgsl, queries.wgsl and scores.wgsl.

// Of the states: a scalar, or four neighbours in a row.
alias StateElement = f32;
// Whether there is a state before the first chunk of a sequence, so that no chunk may skip it.
const HAS_INITIAL: bool = false;
const SEGMENTED: bool = false;
// Whether S is read turned over: the stored one is [e, d].
const STATE_TURNED: bool = false;
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

fn four_states(at: u32) -> vec4f { return vec4f(states[at], states[at + 1u], states[at + 2u], states[at + 3u]); }

fn load_state(base: u32, row: u32, column: u32) -> vec4f {
  let values = four_states(base + row * params.e + column);
  if (WHOLE_D && WHOLE_E) { return values; }
  return first(values, select(0, i32(params.e) - i32(column), row < params.d));
}

// Four neighbours along d of a stored state that is turned over.
fn load_turned(base: u32, term: u32, column: u32) -> vec4f {
  let values = four_states(base + column * params.d + term);
  if (WHOLE_D && WHOLE_E) { return values; }
  return first(values, select(0, i32(params.d) - i32(term), column < params.e));
}

// The decays from four sources to row `row`, 0 where a source comes after it. Selected, not multiplied by a
// mask: 0 · inf would be NaN.
fn decays(base: u32, row: u32, sources: vec4u, coarse: vec4f, fine: vec4f) -> vec4f {
  let place = place_of(positions[base + row]);
  return select(vec4f(), exp((coarse - place.x) + (fine - place.y)), sources <= vec4u(row));
}

// The decay of a segment up to a chunk.
fn fade_of(instance: u32, chunk: u32) -> f32 {
  if (!SEGMENTED) { return 0.0; }
  return decay_between(vec2f(), place_of(totals[instance * (params.chunks + params.segments) + chunk]));
}

// What a thread has asked for: of v, or of the state that the segment added so far and of the state before
// the segment, four columns of a term and of the term 8 after it, and of those 64 to the right; or, of a state
// turned over, four terms of columns 32 apart.
struct Asked {
  added: vec4f,
  added_after: vec4f,
  added_right: vec4f,
  added_right_after: vec4f,
  before: vec4f,
  before_after: vec4f,
  before_right: vec4f,
  before_right_after: vec4f,
}

fn ask_values(base_v: u32, row: u32, last: u32, e: u32) -> Asked {
  let at = base_v + min(row, last) * params.v_strides.w;
  let at_after = base_v + min(row + 8u, last) * params.v_strides.w;
  var asked = Asked();
  asked.added = load_v(at, e);
  asked.added_after = load_v(at_after, e);
  if (WIDE) {
    asked.added_right = load_v(at, e + 64u);
    asked.added_right_after = load_v(at_after, e + 64u);
  }
  return asked;
}

fn ask_state(base_state: u32, base_segment: u32, first_term: u32, first_e: u32, thread: u32) -> Asked {
  var asked = Asked();
  if (STATE_TURNED) {
    let term = first_term + 4u * (thread % 4u);
    let column = first_e + thread / 4u;
    asked.added = load_turned(base_state, term, column);
    asked.added_after = load_turned(base_state, term, column + 32u);
    if (WIDE) {
      asked.added_right = load_turned(base_state, term, column + 64u);
      asked.added_right_after = load_turned(base_state, term, column + 96u);
    }
    if (SEGMENTED) {
      asked.before = load_turned(base_segment, term, column);
      asked.before_after = load_turned(base_segment, term, column + 32u);
      if (WIDE) {
        asked.before_right = load_turned(base_segment, term, column + 64u);
        asked.before_right_after = load_turned(base_segment, term, column + 96u);
      }
    }
    return asked;
  }
  let term = first_term + thread / 16u;
  let e = first_e + 4u * (thread % 16u);
  asked.added = load_state(base_state, term, e);
  asked.added_after = load_state(base_state, term + 8u, e);
  if (WIDE) {
    asked.added_right = load_state(base_state, term, e + 64u);
    asked.added_right_after = load_state(base_state, term + 8u, e + 64u);
  }
  if (SEGMENTED) {
    asked.before = load_state(base_segment, term, e);
    asked.before_after = load_state(base_segment, term + 8u, e);
    if (WIDE) {
      asked.before_right = load_state(base_segment, term, e + 64u);
      asked.before_right_after = load_state(base_segment, term + 8u, e + 64u);
    }
  }
  return asked;
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

  // What a thread computes, and what it loads: of q and k, four terms of a row and of the row 32 after it;
  // of v and the state, four columns of a term and of the term 8 after it, and of those 64 to the right.
  let across = across_of(thread);
  let along = along_of(thread);
  let load_v_row = thread / 16u;
  let four = thread % 16u;
  let row = first_row + 4u * across;
  let e = first_e + 4u * along;
  let load_e = first_e + 4u * four;
  let load_row = thread / 4u;
  let load_term = 4u * (thread % 4u);
  let q_row = min(first_row + load_row, rows - 1u);
  let q_after = min(first_row + load_row + 32u, rows - 1u);
  let at_q = base_q + q_row * params.q_strides.w;
  let at_q_after = base_q + q_after * params.q_strides.w;

  // What the states before the chunk are read by: they stand after all blocks of sources.
  let segment = chunk / params.segment;
  let area = params.d * params.e;
  let base_states = (instance * params.segments + segment) * (params.segment + select(0u, 1u, SEGMENTED)) * area;
  let base_state = base_states + chunk % params.segment * area;
  let base_segment = base_states + params.segment * area;
  let state_block = select(first_row, 0u, ONE_BLOCK) + ROWS;
  let end_block = state_block + select(0u, ROWS, HAS_INITIAL || chunk > 0u);
  let fade = fade_of(instance, chunk);
  let weight = params.query_scale * decay_between(vec2f(), place_of(positions[base_position + q_row]));
  let weight_after = params.query_scale * decay_between(vec2f(), place_of(positions[base_position + q_after]));

  var sums = Sums();
  for (var block = 0u; block < end_block; block += ROWS) {
    let of_state = block == state_block;
    var scores = Scores();
    if (!of_state) {
      let at_k = base_k + min(block + load_row, rows - 1u) * params.k_strides.w;
      let at_k_after = base_k + min(block + load_row + 32u, rows - 1u) * params.k_strides.w;
      scores = scores_of(at_q, at_q_after, at_k, at_k_after, thread);

      let source = block + 4u * along;
      let sources = vec4u(source, source + 1u, source + 2u, source + 3u);
      let s0 = place_of(positions[base_position + source]);
      let s1 = place_of(positions[base_position + source + 1u]);
      let s2 = place_of(positions[base_position + source + 2u]);
      let s3 = place_of(positions[base_position + source + 3u]);
      let coarse = vec4f(s0.x, s1.x, s2.x, s3.x);
      let fine = vec4f(s0.y, s1.y, s2.y, s3.y);
      let scale = params.query_scale * params.source_scale;
      scores.upper = scale * mat4x4f(
        scores.upper[0] * decays(base_position, row, sources, coarse, fine),
        scores.upper[1] * decays(base_position, row + 1u, sources, coarse, fine),
        scores.upper[2] * decays(base_position, row + 2u, sources, coarse, fine),
        scores.upper[3] * decays(base_position, row + 3u, sources, coarse, fine));
      scores.lower = scale * mat4x4f(
        scores.lower[0] * decays(base_position, row + 32u, sources, coarse, fine),
        scores.lower[1] * decays(base_position, row + 33u, sources, coarse, fine),
        scores.lower[2] * decays(base_position, row + 34u, sources, coarse, fine),
        scores.lower[3] * decays(base_position, row + 35u, sources, coarse, fine));
    }

    // Now scores · v, or q · S, by the same instructions, so that they fit their cache.
    let end = select(ROWS, params.d, of_state);
    var from_q = load_q(at_q, load_term);
    var from_q_after = load_q(at_q_after, load_term);
    var here = Asked();
    if (of_state) {
      here = ask_state(base_state, base_segment, 0u, first_e, thread);
    } else {
      here = ask_values(base_v, block + load_v_row, rows - 1u, load_e);
    }
    for (var term = 0u; term < end; term += DEPTH) {
      if (of_state) {
        put_left_rows(thread, weight * from_q, weight_after * from_q_after);
      } else {
        hand_over(scores, term / DEPTH, across, along);
      }
      if (SEGMENTED) {
        here.added += fade * here.before;
        here.added_after += fade * here.before_after;
        here.added_right += fade * here.before_right;
        here.added_right_after += fade * here.before_right_after;
      }
      if (STATE_TURNED && of_state) {
        put_right_rows(thread, 0u, here.added, here.added_after);
        if (WIDE) { put_right_rows(thread, 16u, here.added_right, here.added_right_after); }
      } else {
        put_right_terms(thread, four, here.added, here.added_after);
        if (WIDE) { put_right_terms(thread, four + 16u, here.added_right, here.added_right_after); }
      }
      workgroupBarrier();
      let next = min(term + DEPTH, (end - 1u) / DEPTH * DEPTH);
      if (of_state) {
        here = ask_state(base_state, base_segment, next, first_e, thread);
        from_q = load_q(at_q, next + load_term);
        from_q_after = load_q(at_q_after, next + load_term);
      } else {
        here = ask_values(base_v, block + next + load_v_row, rows - 1u, load_e);
      }
      sums = add_tiles(sums, across, along);
      workgroupBarrier();
    }
  }

  let base_out = params.out_offset + dot(at, params.out_strides) + start * params.out_strides.w;
  store_sums(Matrix(base_out, rows, params.e, params.out_strides.w, params.out_column), row, e, sums);
}

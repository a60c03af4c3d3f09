// The outputs of 64 rows of one chunk, from the state S before the chunk and the rows up to them:
//   o_r = α · exp(−P_r) · q_r S + Σ_{t ≤ r} α · β · exp(P_t − P_r) · (q_r · k_t) · v_t
// P is what lightning_positions.wgsl wrote. A workgroup makes 64 columns of [rows, e], or 128 (WIDE); a
// thread, 4 × 4 of each quarter: of upper and lower rows, of left and right columns. Every product goes
// through the same two tiles, 16 terms of its sums at a time.
// Goes on from tiles.wgsl.

// Of q, k and v: a scalar, or four neighbours in a row of a dense matrix.
alias Element_q = f32;
alias Element_k = f32;
alias Element_v = f32;
// Of the states, likewise.
alias StateElement = f32;
// Whether there is a state before the first chunk of a sequence, so that no chunk may skip it.
const HAS_INITIAL: bool = false;
const WIDE: bool = false;

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
  query_scale: f32,
  source_scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<Element_q>;
@group(0) @binding(1) var<storage, read> k: array<Element_k>;
@group(0) @binding(2) var<storage, read> v: array<Element_v>;
@group(0) @binding(3) var<storage, read> positions: array<vec2u>;
@group(0) @binding(4) var<storage, read> states: array<StateElement>;
@group(0) @binding(5) var<storage, read_write> out: array<ResultElement>;
@group(0) @binding(6) var<uniform> params: Params;

fn four_q(at: u32) -> vec4f { return vec4f(f32(q[at]), f32(q[at + params.q_column]), f32(q[at + 2u * params.q_column]), f32(q[at + 3u * params.q_column])); }
fn four_k(at: u32) -> vec4f { return vec4f(f32(k[at]), f32(k[at + params.k_column]), f32(k[at + 2u * params.k_column]), f32(k[at + 3u * params.k_column])); }
fn four_v(at: u32) -> vec4f { return vec4f(f32(v[at]), f32(v[at + params.v_column]), f32(v[at + 2u * params.v_column]), f32(v[at + 3u * params.v_column])); }
fn four_states(at: u32) -> vec4f { return vec4f(states[at], states[at + 1u], states[at + 2u], states[at + 3u]); }

fn load_q(base: u32, row: u32, end: u32, column: u32) -> vec4f {
  let inside = row < end && column < params.d;
  return first(four_q(base + row * params.q_strides.w + column * params.q_column), select(0, i32(params.d - column), inside));
}

fn load_k(base: u32, row: u32, end: u32, column: u32) -> vec4f {
  let inside = row < end && column < params.d;
  return first(four_k(base + row * params.k_strides.w + column * params.k_column), select(0, i32(params.d - column), inside));
}

fn load_v(base: u32, row: u32, end: u32, column: u32) -> vec4f {
  let inside = row < end && column < params.e;
  return first(four_v(base + row * params.v_strides.w + column * params.v_column), select(0, i32(params.e - column), inside));
}

fn load_state(base: u32, row: u32, column: u32) -> vec4f {
  let inside = row < params.d && column < params.e;
  return first(four_states(base + row * params.e + column), select(0, i32(params.e - column), inside));
}

// The decays from four positions to four later ones; see lightning_positions.wgsl.
fn decays_between(from_high: vec4u, from_low: vec4u, to_high: vec4u, to_low: vec4u) -> vec4f {
  let high = to_high - from_high - select(vec4u(0u), vec4u(1u), to_low < from_low);
  return exp(-(vec4f(high) / 65536.0 + vec4f(to_low - from_low) / 281474976710656.0));
}

// The decay from rows `sources` to row `row`, 0 where a source comes after it. Selected, not multiplied
// by a mask: 0 · inf would be NaN.
fn decay(row: u32, position: vec2u, sources: vec4u, from_high: vec4u, from_low: vec4u) -> vec4f {
  let weights = decays_between(from_high, from_low, vec4u(position.x), vec4u(position.y));
  return select(vec4f(), weights, sources <= vec4u(row));
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

  // What a thread computes: four rows from `row`, four from `row` + 32; columns from `e` and `e` + 64.
  // What it loads: of q and k, four terms of a row and of the row 32 below; of the state and of v, four
  // columns of a term and of the term 8 after.
  let across = thread / 16u;
  let along = thread % 16u;
  let tile_row = 4u * across;
  let row = first_row + tile_row;
  let e = first_e + 4u * along;
  let load_row = thread / 4u;
  let load_group = thread % 4u;
  let left_place = load_group * LEFT_PITCH + load_row;
  let right_place = across * RIGHT_PITCH + along;

  let base_position = instance * (params.n + params.chunks) + start;
  let p0 = positions[base_position + row];
  let p1 = positions[base_position + row + 1u];
  let p2 = positions[base_position + row + 2u];
  let p3 = positions[base_position + row + 3u];
  let p4 = positions[base_position + row + 32u];
  let p5 = positions[base_position + row + 33u];
  let p6 = positions[base_position + row + 34u];
  let p7 = positions[base_position + row + 35u];
  var upper = mat4x4f();
  var upper_right = mat4x4f();
  var lower = mat4x4f();
  var lower_right = mat4x4f();

  if (HAS_INITIAL || chunk > 0u) {
    let base_state = (instance * params.chunks + chunk) * params.d * params.e;
    for (var d = 0u; d < params.d; d += DEPTH) {
      let column = d + 4u * load_group;
      left[left_place] = load_q(base_q, first_row + load_row, rows, column);
      left[left_place + 32u] = load_q(base_q, first_row + load_row + 32u, rows, column);
      right[right_place] = load_state(base_state, d + across, e);
      right[right_place + 8u * RIGHT_PITCH] = load_state(base_state, d + across + 8u, e);
      if (WIDE) {
        right[right_place + 16u] = load_state(base_state, d + across, e + 64u);
        right[right_place + 8u * RIGHT_PITCH + 16u] = load_state(base_state, d + across + 8u, e + 64u);
      }
      workgroupBarrier();
      for (var part = 0u; part < DEPTH / 4u; part++) {
        let a = rows_of_left(part, tile_row);
        let b = rows_of_left(part, tile_row + 32u);
        let terms = terms_of_right(part, along);
        upper = add_product(upper, a, terms);
        lower = add_product(lower, b, terms);
        if (WIDE) {
          let terms_right = terms_of_right(part, along + 16u);
          upper_right = add_product(upper_right, a, terms_right);
          lower_right = add_product(lower_right, b, terms_right);
        }
      }
      workgroupBarrier();
    }
    let weight = params.query_scale *
      decays_between(vec4u(), vec4u(), vec4u(p0.x, p1.x, p2.x, p3.x), vec4u(p0.y, p1.y, p2.y, p3.y));
    let weight_lower = params.query_scale *
      decays_between(vec4u(), vec4u(), vec4u(p4.x, p5.x, p6.x, p7.x), vec4u(p4.y, p5.y, p6.y, p7.y));
    upper = weighted(upper, weight);
    upper_right = weighted(upper_right, weight);
    lower = weighted(lower, weight_lower);
    lower_right = weighted(lower_right, weight_lower);
  }

  for (var source = 0u; source <= first_row; source += ROWS) {
    // Scores of this thread's rows and the sources along, along + 16, + 32 and + 48: then neighbouring
    // threads read neighbouring columns.
    var scores = mat4x4f();
    var scores_lower = mat4x4f();
    for (var d = 0u; d < params.d; d += DEPTH) {
      let column = d + 4u * load_group;
      left[left_place] = load_q(base_q, first_row + load_row, rows, column);
      left[left_place + 32u] = load_q(base_q, first_row + load_row + 32u, rows, column);
      right[left_place] = load_k(base_k, source + load_row, rows, column);
      right[left_place + 32u] = load_k(base_k, source + load_row + 32u, rows, column);
      workgroupBarrier();
      for (var part = 0u; part < DEPTH / 4u; part++) {
        let columns = columns_of_right(part, along);
        scores = add_dots(scores, rows_of_left(part, tile_row), columns);
        scores_lower = add_dots(scores_lower, rows_of_left(part, tile_row + 32u), columns);
      }
      workgroupBarrier();
    }
    let sources = vec4u(source + along) + vec4u(0u, 16u, 32u, 48u);
    let s0 = positions[base_position + sources.x];
    let s1 = positions[base_position + sources.y];
    let s2 = positions[base_position + sources.z];
    let s3 = positions[base_position + sources.w];
    let high = vec4u(s0.x, s1.x, s2.x, s3.x);
    let low = vec4u(s0.y, s1.y, s2.y, s3.y);
    let scale = params.query_scale * params.source_scale;
    scores = scale * mat4x4f(
      scores[0] * decay(row, p0, sources, high, low),
      scores[1] * decay(row + 1u, p1, sources, high, low),
      scores[2] * decay(row + 2u, p2, sources, high, low),
      scores[3] * decay(row + 3u, p3, sources, high, low));
    scores_lower = scale * mat4x4f(
      scores_lower[0] * decay(row + 32u, p4, sources, high, low),
      scores_lower[1] * decay(row + 33u, p5, sources, high, low),
      scores_lower[2] * decay(row + 34u, p6, sources, high, low),
      scores_lower[3] * decay(row + 35u, p7, sources, high, low));

    // Now scores · v, the sources of four threads at a time, which hand their scores over as groups of
    // four terms.
    for (var turn = 0u; turn < 4u; turn++) {
      if (along / 4u == turn) {
        let place = along % 4u * LEFT_PITCH + tile_row;
        left[place] = scores[0];
        left[place + 1u] = scores[1];
        left[place + 2u] = scores[2];
        left[place + 3u] = scores[3];
        left[place + 32u] = scores_lower[0];
        left[place + 33u] = scores_lower[1];
        left[place + 34u] = scores_lower[2];
        left[place + 35u] = scores_lower[3];
      }
      // Term 4 i + j of the tile is source 4 turn + i + 16 j.
      let v_row = source + 4u * turn + across / 4u + 16u * (across % 4u);
      right[right_place] = load_v(base_v, v_row, rows, e);
      right[right_place + 8u * RIGHT_PITCH] = load_v(base_v, v_row + 2u, rows, e);
      if (WIDE) {
        right[right_place + 16u] = load_v(base_v, v_row, rows, e + 64u);
        right[right_place + 8u * RIGHT_PITCH + 16u] = load_v(base_v, v_row + 2u, rows, e + 64u);
      }
      workgroupBarrier();
      for (var part = 0u; part < DEPTH / 4u; part++) {
        let a = rows_of_left(part, tile_row);
        let b = rows_of_left(part, tile_row + 32u);
        let terms = terms_of_right(part, along);
        upper = add_product(upper, a, terms);
        lower = add_product(lower, b, terms);
        if (WIDE) {
          let terms_right = terms_of_right(part, along + 16u);
          upper_right = add_product(upper_right, a, terms_right);
          lower_right = add_product(lower_right, b, terms_right);
        }
      }
      workgroupBarrier();
    }
  }

  let base_out = params.out_offset + dot(at, params.out_strides) + start * params.out_strides.w;
  let to = Matrix(base_out, rows, params.e, params.out_strides.w, params.out_column);
  store(to, row, e, upper);
  store(to, row + 32u, e, lower);
  if (WIDE) {
    store(to, row, e + 64u, upper_right);
    store(to, row + 32u, e + 64u, lower_right);
  }
}

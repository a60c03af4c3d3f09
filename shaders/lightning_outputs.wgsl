// The outputs of 64 rows of one chunk, from the state S before the chunk and the rows up to them:
//   o_r = α · exp(−P_r) · q_r S + Σ_{t ≤ r} α · β · exp(P_t − P_r) · (q_r · k_t) · v_t
// P is what lightning_positions.wgsl wrote. A workgroup makes 64 columns of [rows, e], or 128 (WIDE); a
// thread, 4 × 4 of each 64. Every product goes through the same two tiles, 16 terms of its sums at a time.

// Of q, k and v: a scalar, or four neighbours in a row of a dense matrix.
alias Element = f32;
// Of the states, likewise.
alias StateElement = f32;
// Of the outputs.
alias Result = f32;
// Whether there is a state before the first chunk of a sequence, so that no chunk may skip it.
const HAS_INITIAL: bool = false;
const WIDE: bool = false;
const ROWS: u32 = 64;
const DEPTH: u32 = 16;
// Rows of the left tile and one more, so that groups of terms start in different banks.
const LEFT_PITCH: u32 = 65;
const RIGHT_PITCH: u32 = 32;

struct Params {
  q_strides: vec4u,          // of batch, head, row, column
  k_strides: vec4u,
  v_strides: vec4u,
  out_strides: vec4u,
  q_offset: u32,
  k_offset: u32,
  v_offset: u32,
  out_offset: u32,
  heads: u32,
  n: u32,
  d: u32,
  e: u32,
  chunk: u32,
  chunks: u32,
  workgroups: u32,
  query_scale: f32,
  source_scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<Element>;
@group(0) @binding(1) var<storage, read> k: array<Element>;
@group(0) @binding(2) var<storage, read> v: array<Element>;
@group(0) @binding(3) var<storage, read> positions: array<vec2u>;
@group(0) @binding(4) var<storage, read> states: array<StateElement>;
@group(0) @binding(5) var<storage, read_write> out: array<Result>;
@group(0) @binding(6) var<uniform> params: Params;

// Four terms of a row, by group of terms and then by row.
var<workgroup> left: array<vec4f, DEPTH / 4u * LEFT_PITCH>;
// Either four terms of a column, by group and then by column; or four columns of a term, by term.
var<workgroup> right: array<vec4f, DEPTH * RIGHT_PITCH>;

fn four_q(at: u32) -> vec4f { return vec4f(f32(q[at]), f32(q[at + params.q_strides.w]), f32(q[at + 2u * params.q_strides.w]), f32(q[at + 3u * params.q_strides.w])); }
fn four_k(at: u32) -> vec4f { return vec4f(f32(k[at]), f32(k[at + params.k_strides.w]), f32(k[at + 2u * params.k_strides.w]), f32(k[at + 3u * params.k_strides.w])); }
fn four_v(at: u32) -> vec4f { return vec4f(f32(v[at]), f32(v[at + params.v_strides.w]), f32(v[at + 2u * params.v_strides.w]), f32(v[at + 3u * params.v_strides.w])); }
fn four_states(at: u32) -> vec4f { return vec4f(states[at], states[at + 1u], states[at + 2u], states[at + 3u]); }

// The first so many of four values, then zeros.
fn first(values: vec4f, count: i32) -> vec4f {
  return select(vec4f(), values, vec4i(0, 1, 2, 3) < vec4i(count));
}

fn load_q(base: u32, row: u32, end: u32, column: u32) -> vec4f {
  if (row >= end || column >= params.d) { return vec4f(); }
  return first(four_q(base + row * params.q_strides.z + column * params.q_strides.w), i32(params.d - column));
}

fn load_k(base: u32, row: u32, end: u32, column: u32) -> vec4f {
  if (row >= end || column >= params.d) { return vec4f(); }
  return first(four_k(base + row * params.k_strides.z + column * params.k_strides.w), i32(params.d - column));
}

fn load_v(base: u32, row: u32, end: u32, column: u32) -> vec4f {
  if (row >= end || column >= params.e) { return vec4f(); }
  return first(four_v(base + row * params.v_strides.z + column * params.v_strides.w), i32(params.e - column));
}

fn load_state(base: u32, row: u32, column: u32) -> vec4f {
  if (row >= params.d || column >= params.e) { return vec4f(); }
  return first(four_states(base + row * params.e + column), i32(params.e - column));
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

// row + terms · columns, for four terms whose four columns each lie at `right[at]`, a pitch apart.
fn multiply_row(row: vec4f, terms: vec4f, b0: vec4f, b1: vec4f, b2: vec4f, b3: vec4f) -> vec4f {
  return fma(terms.xxxx, b0, fma(terms.yyyy, b1, fma(terms.zzzz, b2, fma(terms.wwww, b3, row))));
}

fn store_row(base: u32, row: u32, end: u32, column: u32, values: vec4f) {
  if (row >= end) { return; }
  let at = base + row * params.out_strides.z + column * params.out_strides.w;
  let step = params.out_strides.w;
  if (column < params.e) { out[at] = Result(values.x); }
  if (column + 1u < params.e) { out[at + step] = Result(values.y); }
  if (column + 2u < params.e) { out[at + 2u * step] = Result(values.z); }
  if (column + 3u < params.e) { out[at + 3u * step] = Result(values.w); }
}

fn store(base: u32, row: u32, end: u32, column: u32, values: mat4x4f) {
  store_row(base, row, end, column, values[0]);
  store_row(base, row + 1u, end, column, values[1]);
  store_row(base, row + 2u, end, column, values[2]);
  store_row(base, row + 3u, end, column, values[3]);
}

@compute @workgroup_size(256)
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
  let at = vec2u(instance / params.heads, instance % params.heads);
  let start = chunk * params.chunk;
  let rows = min(params.chunk, params.n - start);
  if (first_row >= rows) { return; }
  let base_q = params.q_offset + dot(at, params.q_strides.xy) + start * params.q_strides.z;
  let base_k = params.k_offset + dot(at, params.k_strides.xy) + start * params.k_strides.z;
  let base_v = params.v_offset + dot(at, params.v_strides.xy) + start * params.v_strides.z;

  // What a thread computes: rows from `row`, columns from `e`. What it loads: of q and k, four terms of
  // one row; of the state and of v, four columns of one term.
  let across = thread / 16u;
  let along = thread % 16u;
  let row = first_row + 4u * across;
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
  var sum = mat4x4f();
  var sum_right = mat4x4f();

  if (HAS_INITIAL || chunk > 0u) {
    let base_state = (instance * params.chunks + chunk) * params.d * params.e;
    for (var d = 0u; d < params.d; d += DEPTH) {
      left[left_place] = load_q(base_q, first_row + load_row, rows, d + 4u * load_group);
      right[right_place] = load_state(base_state, d + across, e);
      if (WIDE) { right[right_place + 16u] = load_state(base_state, d + across, e + 64u); }
      workgroupBarrier();
      for (var part = 0u; part < DEPTH / 4u; part++) {
        let terms = part * LEFT_PITCH + 4u * across;
        let a0 = left[terms];
        let a1 = left[terms + 1u];
        let a2 = left[terms + 2u];
        let a3 = left[terms + 3u];
        var columns = 4u * part * RIGHT_PITCH + along;
        var b0 = right[columns];
        var b1 = right[columns + RIGHT_PITCH];
        var b2 = right[columns + 2u * RIGHT_PITCH];
        var b3 = right[columns + 3u * RIGHT_PITCH];
        sum[0] = multiply_row(sum[0], a0, b0, b1, b2, b3);
        sum[1] = multiply_row(sum[1], a1, b0, b1, b2, b3);
        sum[2] = multiply_row(sum[2], a2, b0, b1, b2, b3);
        sum[3] = multiply_row(sum[3], a3, b0, b1, b2, b3);
        if (WIDE) {
          columns += 16u;
          b0 = right[columns];
          b1 = right[columns + RIGHT_PITCH];
          b2 = right[columns + 2u * RIGHT_PITCH];
          b3 = right[columns + 3u * RIGHT_PITCH];
          sum_right[0] = multiply_row(sum_right[0], a0, b0, b1, b2, b3);
          sum_right[1] = multiply_row(sum_right[1], a1, b0, b1, b2, b3);
          sum_right[2] = multiply_row(sum_right[2], a2, b0, b1, b2, b3);
          sum_right[3] = multiply_row(sum_right[3], a3, b0, b1, b2, b3);
        }
      }
      workgroupBarrier();
    }
    let to_high = vec4u(p0.x, p1.x, p2.x, p3.x);
    let to_low = vec4u(p0.y, p1.y, p2.y, p3.y);
    let weight = params.query_scale * decays_between(vec4u(), vec4u(), to_high, to_low);
    sum = mat4x4f(sum[0] * weight.x, sum[1] * weight.y, sum[2] * weight.z, sum[3] * weight.w);
    sum_right = mat4x4f(
      sum_right[0] * weight.x, sum_right[1] * weight.y, sum_right[2] * weight.z, sum_right[3] * weight.w);
  }

  for (var source = 0u; source <= first_row; source += ROWS) {
    // Scores of this thread's four rows and the sources along, along + 16, + 32 and + 48: then
    // neighbouring threads read neighbouring columns.
    var scores = mat4x4f();
    for (var d = 0u; d < params.d; d += DEPTH) {
      left[left_place] = load_q(base_q, first_row + load_row, rows, d + 4u * load_group);
      right[left_place] = load_k(base_k, source + load_row, rows, d + 4u * load_group);
      workgroupBarrier();
      for (var part = 0u; part < DEPTH / 4u; part++) {
        let terms = part * LEFT_PITCH + 4u * across;
        let columns = part * LEFT_PITCH + along;
        let a0 = left[terms];
        let a1 = left[terms + 1u];
        let a2 = left[terms + 2u];
        let a3 = left[terms + 3u];
        let b0 = right[columns];
        let b1 = right[columns + 16u];
        let b2 = right[columns + 32u];
        let b3 = right[columns + 48u];
        scores[0] += vec4f(dot(a0, b0), dot(a0, b1), dot(a0, b2), dot(a0, b3));
        scores[1] += vec4f(dot(a1, b0), dot(a1, b1), dot(a1, b2), dot(a1, b3));
        scores[2] += vec4f(dot(a2, b0), dot(a2, b1), dot(a2, b2), dot(a2, b3));
        scores[3] += vec4f(dot(a3, b0), dot(a3, b1), dot(a3, b2), dot(a3, b3));
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

    // Now scores · v, the sources of four threads at a time, which hand their scores over as groups of
    // four terms.
    for (var turn = 0u; turn < 4u; turn++) {
      if (along / 4u == turn) {
        let to = along % 4u * LEFT_PITCH + 4u * across;
        left[to] = scores[0];
        left[to + 1u] = scores[1];
        left[to + 2u] = scores[2];
        left[to + 3u] = scores[3];
      }
      let v_row = source + 4u * turn + across / 4u + 16u * (across % 4u);
      right[right_place] = load_v(base_v, v_row, rows, e);
      if (WIDE) { right[right_place + 16u] = load_v(base_v, v_row, rows, e + 64u); }
      workgroupBarrier();
      for (var part = 0u; part < DEPTH / 4u; part++) {
        let terms = part * LEFT_PITCH + 4u * across;
        let a0 = left[terms];
        let a1 = left[terms + 1u];
        let a2 = left[terms + 2u];
        let a3 = left[terms + 3u];
        var columns = 4u * part * RIGHT_PITCH + along;
        var b0 = right[columns];
        var b1 = right[columns + RIGHT_PITCH];
        var b2 = right[columns + 2u * RIGHT_PITCH];
        var b3 = right[columns + 3u * RIGHT_PITCH];
        sum[0] = multiply_row(sum[0], a0, b0, b1, b2, b3);
        sum[1] = multiply_row(sum[1], a1, b0, b1, b2, b3);
        sum[2] = multiply_row(sum[2], a2, b0, b1, b2, b3);
        sum[3] = multiply_row(sum[3], a3, b0, b1, b2, b3);
        if (WIDE) {
          columns += 16u;
          b0 = right[columns];
          b1 = right[columns + RIGHT_PITCH];
          b2 = right[columns + 2u * RIGHT_PITCH];
          b3 = right[columns + 3u * RIGHT_PITCH];
          sum_right[0] = multiply_row(sum_right[0], a0, b0, b1, b2, b3);
          sum_right[1] = multiply_row(sum_right[1], a1, b0, b1, b2, b3);
          sum_right[2] = multiply_row(sum_right[2], a2, b0, b1, b2, b3);
          sum_right[3] = multiply_row(sum_right[3], a3, b0, b1, b2, b3);
        }
      }
      workgroupBarrier();
    }
  }

  let base_out = params.out_offset + dot(at, params.out_strides.xy) + start * params.out_strides.z;
  store(base_out, row, rows, e, sum);
  if (WIDE) { store(base_out, row, rows, e + 64u, sum_right); }
}

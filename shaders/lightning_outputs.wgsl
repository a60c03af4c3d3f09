// The outputs of 64 rows of one chunk, from the state S before the chunk and the rows up to them:
//   o_r = α · exp(−P_r) · q_r S + Σ_{t ≤ r} α · β · exp(P_t − P_r) · (q_r · k_t) · v_t
// P is what lightning_positions.wgsl wrote. A workgroup makes 64 columns of [rows, e]; a thread, 4 × 4
// of them. Every product is 64 × 16 by 16 × 64 through the same two tiles.

alias Stored = f32;
// Of the outputs: Stored, or f32 where they must not be rounded.
alias Result = f32;
// Whether there is a state before the first chunk of a sequence, so that no chunk may skip it.
const HAS_INITIAL: bool = false;
const TILE: u32 = 64;
const DEPTH: u32 = 16;
const PITCH: u32 = 17;

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

@group(0) @binding(0) var<storage, read> q: array<Stored>;
@group(0) @binding(1) var<storage, read> k: array<Stored>;
@group(0) @binding(2) var<storage, read> v: array<Stored>;
@group(0) @binding(3) var<storage, read> positions: array<vec2u>;
@group(0) @binding(4) var<storage, read> states: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<Result>;
@group(0) @binding(6) var<uniform> params: Params;

// By depth, then by groups of four rows, and of four columns.
var<workgroup> left: array<vec4f, DEPTH * PITCH>;
var<workgroup> right: array<vec4f, DEPTH * PITCH>;

fn load_q(base: u32, row: u32, end: u32, column: u32) -> f32 {
  if (row >= end || column >= params.d) { return 0.0; }
  return f32(q[base + row * params.q_strides.z + column * params.q_strides.w]);
}

fn load_k(base: u32, row: u32, end: u32, column: u32) -> f32 {
  if (row >= end || column >= params.d) { return 0.0; }
  return f32(k[base + row * params.k_strides.z + column * params.k_strides.w]);
}

fn load_v(base: u32, row: u32, end: u32, column: u32) -> f32 {
  if (row >= end || column >= params.e) { return 0.0; }
  return f32(v[base + row * params.v_strides.z + column * params.v_strides.w]);
}

fn load_state(base: u32, row: u32, column: u32) -> f32 {
  if (row >= params.d || column >= params.e) { return 0.0; }
  return states[base + row * params.e + column];
}

// sum + left · right, for this thread's rows and columns.
fn multiply(thread: u32, before: mat4x4f) -> mat4x4f {
  var sum = before;
  for (var depth = 0u; depth < DEPTH; depth++) {
    let a = left[depth * PITCH + thread / 16u];
    let b = right[depth * PITCH + thread % 16u];
    sum[0] = fma(vec4f(a.x), b, sum[0]);
    sum[1] = fma(vec4f(a.y), b, sum[1]);
    sum[2] = fma(vec4f(a.z), b, sum[2]);
    sum[3] = fma(vec4f(a.w), b, sum[3]);
  }
  return sum;
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

fn store(base: u32, row: u32, end: u32, column: u32, values: vec4f) {
  if (row >= end) { return; }
  let at = base + row * params.out_strides.z + column * params.out_strides.w;
  let step = params.out_strides.w;
  if (column < params.e) { out[at] = Result(values.x); }
  if (column + 1u < params.e) { out[at + step] = Result(values.y); }
  if (column + 2u < params.e) { out[at + 2u * step] = Result(values.z); }
  if (column + 3u < params.e) { out[at + 3u * step] = Result(values.w); }
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let number = group.y * groups.x + group.x;
  if (number >= params.workgroups) { return; }
  let tiles_e = (params.e + TILE - 1u) / TILE;
  let tiles_row = (params.chunk + TILE - 1u) / TILE;
  let first_e = number % tiles_e * TILE;
  let first_row = number / tiles_e % tiles_row * TILE;
  let chunk = number / tiles_e / tiles_row % params.chunks;
  let instance = number / tiles_e / tiles_row / params.chunks;
  let at = vec2u(instance / params.heads, instance % params.heads);
  let start = chunk * params.chunk;
  let rows = min(params.chunk, params.n - start);
  if (first_row >= rows) { return; }
  let base_q = params.q_offset + dot(at, params.q_strides.xy) + start * params.q_strides.z;
  let base_k = params.k_offset + dot(at, params.k_strides.xy) + start * params.k_strides.z;
  let base_v = params.v_offset + dot(at, params.v_strides.xy) + start * params.v_strides.z;

  // A thread loads four rows or columns of one depth: of q and k along their columns, of the state and
  // of v along theirs, so that neighbours read neighbours.
  let across = thread / 16u;
  let along = thread % 16u;
  let q_row = first_row + 4u * across;
  let e = first_e + 4u * along;
  let row = first_row + 4u * (thread / 16u);
  let base_position = instance * (params.n + params.chunks) + start;
  let p0 = positions[base_position + row];
  let p1 = positions[base_position + row + 1u];
  let p2 = positions[base_position + row + 2u];
  let p3 = positions[base_position + row + 3u];
  var sum = mat4x4f();

  if (HAS_INITIAL || chunk > 0u) {
    let base_state = (instance * params.chunks + chunk) * params.d * params.e;
    for (var d = 0u; d < params.d; d += DEPTH) {
      let c = d + along;
      left[along * PITCH + across] = vec4f(
        load_q(base_q, q_row, rows, c), load_q(base_q, q_row + 1u, rows, c),
        load_q(base_q, q_row + 2u, rows, c), load_q(base_q, q_row + 3u, rows, c));
      let r = d + across;
      right[across * PITCH + along] = vec4f(
        load_state(base_state, r, e), load_state(base_state, r, e + 1u),
        load_state(base_state, r, e + 2u), load_state(base_state, r, e + 3u));
      workgroupBarrier();
      sum = multiply(thread, sum);
      workgroupBarrier();
    }
    let to_high = vec4u(p0.x, p1.x, p2.x, p3.x);
    let to_low = vec4u(p0.y, p1.y, p2.y, p3.y);
    let weight = params.query_scale * decays_between(vec4u(), vec4u(), to_high, to_low);
    sum = mat4x4f(sum[0] * weight.x, sum[1] * weight.y, sum[2] * weight.z, sum[3] * weight.w);
  }

  for (var source = 0u; source <= first_row; source += TILE) {
    var scores = mat4x4f();
    let k_row = source + 4u * across;
    for (var d = 0u; d < params.d; d += DEPTH) {
      let c = d + along;
      left[along * PITCH + across] = vec4f(
        load_q(base_q, q_row, rows, c), load_q(base_q, q_row + 1u, rows, c),
        load_q(base_q, q_row + 2u, rows, c), load_q(base_q, q_row + 3u, rows, c));
      right[along * PITCH + across] = vec4f(
        load_k(base_k, k_row, rows, c), load_k(base_k, k_row + 1u, rows, c),
        load_k(base_k, k_row + 2u, rows, c), load_k(base_k, k_row + 3u, rows, c));
      workgroupBarrier();
      scores = multiply(thread, scores);
      workgroupBarrier();
    }
    let sources = vec4u(source + 4u * along) + vec4u(0u, 1u, 2u, 3u);
    let s0 = positions[base_position + sources.x];
    let s1 = positions[base_position + sources.y];
    let s2 = positions[base_position + sources.z];
    let s3 = positions[base_position + sources.w];
    let high = vec4u(s0.x, s1.x, s2.x, s3.x);
    let low = vec4u(s0.y, s1.y, s2.y, s3.y);
    let scale = params.query_scale * params.source_scale;
    scores = scale * transpose(mat4x4f(
      scores[0] * decay(row, p0, sources, high, low),
      scores[1] * decay(row + 1u, p1, sources, high, low),
      scores[2] * decay(row + 2u, p2, sources, high, low),
      scores[3] * decay(row + 3u, p3, sources, high, low)));

    // Now scores · v, sixteen sources at a time: the threads that hold their scores hand them over.
    for (var part = 0u; part < TILE / DEPTH; part++) {
      if (along / 4u == part) {
        let depth = 4u * (along % 4u);
        left[depth * PITCH + across] = scores[0];
        left[(depth + 1u) * PITCH + across] = scores[1];
        left[(depth + 2u) * PITCH + across] = scores[2];
        left[(depth + 3u) * PITCH + across] = scores[3];
      }
      let v_row = source + part * DEPTH + across;
      right[across * PITCH + along] = vec4f(
        load_v(base_v, v_row, rows, e), load_v(base_v, v_row, rows, e + 1u),
        load_v(base_v, v_row, rows, e + 2u), load_v(base_v, v_row, rows, e + 3u));
      workgroupBarrier();
      sum = multiply(thread, sum);
      workgroupBarrier();
    }
  }

  let base_out = params.out_offset + dot(at, params.out_strides.xy) + start * params.out_strides.z;
  store(base_out, row, rows, e, sum[0]);
  store(base_out, row + 1u, rows, e, sum[1]);
  store(base_out, row + 2u, rows, e, sum[2]);
  store(base_out, row + 3u, rows, e, sum[3]);
}

// What each chunk adds to the state, for all chunks at once:
//   states[batch, head, chunk] = Σ_r β · exp(P_r − P_m) · k_rᵀ v_r        [d, e]
// over the m rows of the chunk; P is what lightning_positions.wgsl wrote.
// A workgroup makes a 64 × 64 tile of one chunk's [d, e].

alias Stored = f32;
const TILE: u32 = 64;
const DEPTH: u32 = 16;
const PITCH: u32 = 17;

struct Params {
  k_strides: vec4u,          // of batch, head, row, column
  v_strides: vec4u,
  k_offset: u32,
  v_offset: u32,
  heads: u32,
  n: u32,
  d: u32,
  e: u32,
  chunk: u32,
  chunks: u32,
  workgroups: u32,
  source_scale: f32,
}

@group(0) @binding(0) var<storage, read> k: array<Stored>;
@group(0) @binding(1) var<storage, read> v: array<Stored>;
@group(0) @binding(2) var<storage, read> positions: array<vec2u>;
@group(0) @binding(3) var<storage, read_write> states: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

// By row of the chunk, then by groups of four columns.
var<workgroup> tile_k: array<vec4f, DEPTH * PITCH>;
var<workgroup> tile_v: array<vec4f, DEPTH * PITCH>;

// The decay from one position to a later one; see lightning_positions.wgsl.
fn decay_between(earlier: vec2u, later: vec2u) -> f32 {
  let high = later.x - earlier.x - select(0u, 1u, later.y < earlier.y);
  return exp(-(f32(high) / 65536.0 + f32(later.y - earlier.y) / 281474976710656.0));
}

fn load_k(base: u32, column: u32) -> f32 {
  if (column >= params.d) { return 0.0; }
  return f32(k[base + column * params.k_strides.w]);
}

fn load_v(base: u32, column: u32) -> f32 {
  if (column >= params.e) { return 0.0; }
  return f32(v[base + column * params.v_strides.w]);
}

fn store(base: u32, row: u32, column: u32, values: vec4f) {
  if (row >= params.d) { return; }
  let at = base + row * params.e + column;
  if (column < params.e) { states[at] = values.x; }
  if (column + 1u < params.e) { states[at + 1u] = values.y; }
  if (column + 2u < params.e) { states[at + 2u] = values.z; }
  if (column + 3u < params.e) { states[at + 3u] = values.w; }
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
  let tiles = tiles_e * ((params.d + TILE - 1u) / TILE);
  let first_e = number % tiles_e * TILE;
  let first_d = number % tiles / tiles_e * TILE;
  let chunk = number / tiles % params.chunks;
  let instance = number / tiles / params.chunks;
  let at = vec2u(instance / params.heads, instance % params.heads);
  let start = chunk * params.chunk;
  let rows = min(params.chunk, params.n - start);
  let base_k = params.k_offset + dot(at, params.k_strides.xy) + start * params.k_strides.z;
  let base_position = instance * (params.n + params.chunks);
  let whole = positions[base_position + params.n + chunk];
  let base_v = params.v_offset + dot(at, params.v_strides.xy) + start * params.v_strides.z;

  let load_row = thread / 16u;
  let load_column = 4u * (thread % 16u);
  var sum = mat4x4f();
  for (var first = 0u; first < rows; first += DEPTH) {
    let row = first + load_row;
    var from_k = vec4f();
    var from_v = vec4f();
    if (row < rows) {
      let weight = params.source_scale * decay_between(positions[base_position + start + row], whole);
      let at_k = base_k + row * params.k_strides.z;
      let at_v = base_v + row * params.v_strides.z;
      let d = first_d + load_column;
      let e = first_e + load_column;
      from_k = weight * vec4f(load_k(at_k, d), load_k(at_k, d + 1u), load_k(at_k, d + 2u), load_k(at_k, d + 3u));
      from_v = vec4f(load_v(at_v, e), load_v(at_v, e + 1u), load_v(at_v, e + 2u), load_v(at_v, e + 3u));
    }
    tile_k[load_row * PITCH + thread % 16u] = from_k;
    tile_v[load_row * PITCH + thread % 16u] = from_v;
    workgroupBarrier();
    for (var depth = 0u; depth < DEPTH; depth++) {
      let a = tile_k[depth * PITCH + thread / 16u];
      let b = tile_v[depth * PITCH + thread % 16u];
      sum[0] = fma(vec4f(a.x), b, sum[0]);
      sum[1] = fma(vec4f(a.y), b, sum[1]);
      sum[2] = fma(vec4f(a.z), b, sum[2]);
      sum[3] = fma(vec4f(a.w), b, sum[3]);
    }
    workgroupBarrier();
  }

  let base = (instance * params.chunks + chunk) * params.d * params.e;
  let row = first_d + 4u * (thread / 16u);
  let column = first_e + load_column;
  store(base, row, column, sum[0]);
  store(base, row + 1u, column, sum[1]);
  store(base, row + 2u, column, sum[2]);
  store(base, row + 3u, column, sum[3]);
}

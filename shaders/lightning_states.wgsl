// What each chunk adds to the state, for all chunks at once:
//   states[batch, head, chunk] = Σ_r β · exp(P_r − P_m) · k_rᵀ v_r        [d, e]
// over the m rows of the chunk; P is what lightning_positions.wgsl wrote. A workgroup makes a tile of one
// chunk's [d, e], 64 wide or 128 (WIDE); a thread, 4 × 4 elements of each quarter of it.
// Goes on from blocks.wgsl.

// Of k and v: a scalar, or four neighbours in a row of a dense matrix.
alias Element_k = f32;
alias Element_v = f32;
// Of the states: a scalar, or four neighbours (IN_FOURS).
alias StateElement = f32;
const IN_FOURS: bool = false;
const WIDE_D: bool = false;
const WIDE_E: bool = false;
const DEPTH: u32 = 16;
// Vectors of a row of the tiles in workgroup memory.
const PITCH: u32 = 32;

struct Params {
  k_strides: vec4u,          // of batch, group, member of the group, row
  v_strides: vec4u,
  k_column: u32,
  v_column: u32,
  k_offset: u32,
  v_offset: u32,
  groups: u32,
  members: u32,
  n: u32,
  d: u32,
  e: u32,
  chunk: u32,
  chunks: u32,
  workgroups: u32,
  source_scale: f32,
}

@group(0) @binding(0) var<storage, read> k: array<Element_k>;
@group(0) @binding(1) var<storage, read> v: array<Element_v>;
@group(0) @binding(2) var<storage, read> positions: array<vec2u>;
@group(0) @binding(3) var<storage, read_write> states: array<StateElement>;
@group(0) @binding(4) var<uniform> params: Params;

// By row of the chunk, then by groups of four columns.
var<workgroup> tile_k: array<vec4f, DEPTH * PITCH>;
var<workgroup> tile_v: array<vec4f, DEPTH * PITCH>;

fn four_k(at: u32) -> vec4f { return vec4f(f32(k[at]), f32(k[at + params.k_column]), f32(k[at + 2u * params.k_column]), f32(k[at + 3u * params.k_column])); }
fn four_v(at: u32) -> vec4f { return vec4f(f32(v[at]), f32(v[at + params.v_column]), f32(v[at + 2u * params.v_column]), f32(v[at + 3u * params.v_column])); }

fn load_k(base: u32, column: u32) -> vec4f {
  let inside = column < params.d;
  return first(four_k(base + column * params.k_column), select(0, i32(params.d - column), inside));
}

fn load_v(base: u32, column: u32) -> vec4f {
  let inside = column < params.e;
  return first(four_v(base + column * params.v_column), select(0, i32(params.e - column), inside));
}

// The decay from one position to a later one; see lightning_positions.wgsl.
fn decay_between(earlier: vec2u, later: vec2u) -> f32 {
  let high = later.x - earlier.x - select(0u, 1u, later.y < earlier.y);
  return exp(-(f32(high) / 65536.0 + f32(later.y - earlier.y) / 281474976710656.0));
}

fn four_states(values: vec4f) -> StateElement { return values.x; }

fn store_row(base: u32, row: u32, column: u32, values: vec4f) {
  if (row >= params.d || column >= params.e) { return; }
  let at = base + row * params.e + column;
  if (IN_FOURS) {
    states[at / 4u] = four_states(values);
  } else {
    states[at] = StateElement(values.x);
    if (column + 1u < params.e) { states[at + 1u] = StateElement(values.y); }
    if (column + 2u < params.e) { states[at + 2u] = StateElement(values.z); }
    if (column + 3u < params.e) { states[at + 3u] = StateElement(values.w); }
  }
}

fn store(base: u32, row: u32, column: u32, values: mat4x4f) {
  store_row(base, row, column, values[0]);
  store_row(base, row + 1u, column, values[1]);
  store_row(base, row + 2u, column, values[2]);
  store_row(base, row + 3u, column, values[3]);
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let number = group.y * groups.x + group.x;
  if (number >= params.workgroups) { return; }
  let height = select(64u, 128u, WIDE_D);
  let width = select(64u, 128u, WIDE_E);
  let tiles_e = (params.e + width - 1u) / width;
  let tiles = tiles_e * ((params.d + height - 1u) / height);
  let first_e = number % tiles_e * width;
  let first_d = number % tiles / tiles_e * height;
  let chunk = number / tiles % params.chunks;
  let instance = number / tiles / params.chunks;
  let at = entry_of(instance, params.groups, params.members, 0u);
  let start = chunk * params.chunk;
  let rows = min(params.chunk, params.n - start);
  let base_k = params.k_offset + dot(at, params.k_strides) + start * params.k_strides.w;
  let base_v = params.v_offset + dot(at, params.v_strides) + start * params.v_strides.w;
  let base_position = instance * (params.n + params.chunks);
  let whole = positions[base_position + params.n + chunk];

  let across = thread / 16u;
  let along = thread % 16u;
  let d = first_d + 4u * along;
  let e = first_e + 4u * along;
  var sum = mat4x4f();
  var sum_right = mat4x4f();
  var sum_below = mat4x4f();
  var sum_corner = mat4x4f();
  for (var depth = 0u; depth < rows; depth += DEPTH) {
    let row = depth + across;
    let place = across * PITCH + along;
    let inside = row < rows;
    var weight = 0.0;
    if (inside) {
      weight = params.source_scale * decay_between(positions[base_position + start + row], whole);
    }
    let at_k = base_k + row * params.k_strides.w;
    let at_v = base_v + row * params.v_strides.w;
    var from_k = vec4f();
    var from_v = vec4f();
    if (inside) { from_k = weight * load_k(at_k, d); }
    if (inside) { from_v = load_v(at_v, e); }
    tile_k[place] = from_k;
    tile_v[place] = from_v;
    if (WIDE_D) {
      if (inside) { from_k = weight * load_k(at_k, d + 64u); }
      tile_k[place + 16u] = from_k;
    }
    if (WIDE_E) {
      if (inside) { from_v = load_v(at_v, e + 64u); }
      tile_v[place + 16u] = from_v;
    }
    workgroupBarrier();
    for (var r = 0u; r < DEPTH; r++) {
      let a = tile_k[r * PITCH + across];
      let b = tile_v[r * PITCH + along];
      sum = outer(sum, a, b);
      if (WIDE_E) { sum_right = outer(sum_right, a, tile_v[r * PITCH + along + 16u]); }
      if (WIDE_D) { sum_below = outer(sum_below, tile_k[r * PITCH + across + 16u], b); }
      if (WIDE_D && WIDE_E) {
        sum_corner = outer(sum_corner, tile_k[r * PITCH + across + 16u], tile_v[r * PITCH + along + 16u]);
      }
    }
    workgroupBarrier();
  }

  let base = (instance * params.chunks + chunk) * params.d * params.e;
  let row = first_d + 4u * across;
  store(base, row, e, sum);
  if (WIDE_E) { store(base, row, e + 64u, sum_right); }
  if (WIDE_D) { store(base, row + 64u, e, sum_below); }
  if (WIDE_D && WIDE_E) { store(base, row + 64u, e + 64u, sum_corner); }
}

// From what each chunk adds to the state before each chunk, in place, and the state after the last:
//   S ← initial;  for every chunk: (states[chunk], S) ← (S, exp(−P_m) · S + states[chunk])
// P_m is what lightning_positions.wgsl wrote of each chunk.
// A thread owns one element of one head's [d, e].

const HAS_INITIAL: bool = false;

struct Params {
  initial_strides: vec4u,    // of sequence, head, row, column
  final_strides: vec4u,
  initial_offset: u32,
  final_offset: u32,
  heads: u32,
  n: u32,
  d: u32,
  e: u32,
  chunks: u32,
  size: u32,
}

@group(0) @binding(0) var<storage, read_write> states: array<f32>;
@group(0) @binding(1) var<storage, read> positions: array<vec2u>;
@group(0) @binding(2) var<storage, read> initial: array<f32>;
@group(0) @binding(3) var<storage, read_write> last: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

// The decay from one position to a later one; see lightning_positions.wgsl.
fn decay_between(earlier: vec2u, later: vec2u) -> f32 {
  let high = later.x - earlier.x - select(0u, 1u, later.y < earlier.y);
  return exp(-(f32(high) / 65536.0 + f32(later.y - earlier.y) / 281474976710656.0));
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let number = id.y * groups.x * 256u + id.x;
  if (number >= params.size) { return; }
  let area = params.d * params.e;
  let element = number % area;
  let instance = number / area;
  let at = vec4u(instance / params.heads, instance % params.heads, element / params.e, element % params.e);
  let base_position = instance * (params.n + params.chunks) + params.n;

  var state = 0.0;
  if (HAS_INITIAL) { state = initial[params.initial_offset + dot(at, params.initial_strides)]; }
  var place = instance * params.chunks * area + element;
  for (var chunk = 0u; chunk < params.chunks; chunk++) {
    let added = states[place];
    states[place] = state;
    state = fma(decay_between(vec2u(), positions[base_position + chunk]), state, added);
    place += area;
  }
  last[params.final_offset + dot(at, params.final_strides)] = state;
}

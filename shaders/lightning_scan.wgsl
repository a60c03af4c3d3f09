// From what each chunk adds to the state before each chunk, in place, and the state after the last:
//   S ← initial;  for every chunk of m rows: (states[chunk], S) ← (S, exp(−s · m) · S + states[chunk])
// A thread owns one element of one head's [d, e].

const HAS_INITIAL: bool = false;

struct Params {
  initial_strides: vec4u,    // of sequence, head, row, column
  final_strides: vec4u,
  initial_offset: u32,
  final_offset: u32,
  slopes_offset: u32,
  slopes_stride: u32,
  heads: u32,
  n: u32,
  d: u32,
  e: u32,
  chunk: u32,
  chunks: u32,
  size: u32,
}

@group(0) @binding(0) var<storage, read_write> states: array<f32>;
@group(0) @binding(1) var<storage, read> slopes: array<f32>;
@group(0) @binding(2) var<storage, read> initial: array<f32>;
@group(0) @binding(3) var<storage, read_write> last: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let number = id.y * groups.x * 256u + id.x;
  if (number >= params.size) { return; }
  let area = params.d * params.e;
  let element = number % area;
  let instance = number / area;
  let at = vec4u(instance / params.heads, instance % params.heads, element / params.e, element % params.e);
  let slope = slopes[params.slopes_offset + at.y * params.slopes_stride];
  let whole = exp(-slope * f32(params.chunk));
  let partial = exp(-slope * f32(params.n - (max(params.chunks, 1u) - 1u) * params.chunk));

  var state = 0.0;
  if (HAS_INITIAL) { state = initial[params.initial_offset + dot(at, params.initial_strides)]; }
  var place = instance * params.chunks * area + element;
  for (var chunk = 0u; chunk < params.chunks; chunk++) {
    let added = states[place];
    states[place] = state;
    state = fma(select(whole, partial, chunk + 1u == params.chunks), state, added);
    place += area;
  }
  last[params.final_offset + dot(at, params.final_strides)] = state;
}

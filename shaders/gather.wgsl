// out[o, j, i] = x[o, indices[j] − first, i], x being the entries from `first` on of a longer axis.
// The first window writes NaN, or 0 for integers, where the index is not its own; the others do not.

alias Stored = f32;
const FLOAT: bool = true;

struct Params {
  shape: vec3u,            // outer, count, inner of the output
  length: u32,             // of the gathered axis
  x_strides: vec3u,
  x_offset: u32,
  out_strides: vec3u,
  out_offset: u32,
  indices_stride: u32,
  indices_offset: u32,
  first: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<Stored>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let at = id.y * groups.x * 256u + id.x;
  let entry = vec3u(at / params.shape.z / params.shape.y, at / params.shape.z % params.shape.y, at % params.shape.z);
  if (entry.x >= params.shape.x) { return; }
  // A negative i32 is, as u32, far out of range; so is an index below `first`.
  let index = indices[params.indices_offset + entry.y * params.indices_stride] - params.first;
  if (index >= params.length && params.first > 0u) { return; }
  var value = Stored(0);
  if (index < params.length) {
    value = x[params.x_offset + dot(vec3u(entry.x, index, entry.z), params.x_strides)];
  } else if (FLOAT) {
    // NaN, through a variable because WGSL refuses a constant one.
    value = Stored(bitcast<f32>(params.length | 0x7fc00000u));
  }
  out[params.out_offset + dot(entry, params.out_strides)] = value;
}

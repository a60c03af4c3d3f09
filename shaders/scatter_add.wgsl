// out[o, e, i] = Σ { g[o, j, i] : indices[j] = first + e }, in the order of j; with ADD, added to out.
// A workgroup owns 64 columns i of one entry (o, e). It looks through the indices 64 at a time and adds
// the rows that name its entry; nobody else writes there, so nothing is atomic.

alias Stored = f32;
const ADD: bool = false;

struct Params {
  shape: vec3u,            // outer, count, inner of g
  length: u32,             // of the axis scattered to
  g_strides: vec3u,
  g_offset: u32,
  out_strides: vec3u,
  out_offset: u32,
  indices_stride: u32,
  indices_offset: u32,
  first: u32,
}

@group(0) @binding(0) var<storage, read> g: array<Stored>;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<Stored>;
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> window: array<u32, 64>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let slabs = (params.shape.z + 63u) / 64u;
  let number = group.y * groups.x + group.x;
  let i = number % slabs * 64u + thread;
  let entry = number / slabs % params.length;
  let wanted = params.first + entry;
  let o = number / slabs / params.length;
  let mine = i < params.shape.z && o < params.shape.x;

  let to = params.out_offset + dot(vec3u(o, entry, i), params.out_strides);
  var sum = 0.0;
  if (ADD && mine) { sum = f32(out[to]); }
  for (var first = 0u; first < params.shape.y; first += 64u) {
    workgroupBarrier();
    let j = first + thread;
    window[thread] = 0xffffffffu;
    if (j < params.shape.y) { window[thread] = indices[params.indices_offset + j * params.indices_stride]; }
    workgroupBarrier();
    if (mine) {
      for (var k = 0u; k < 64u; k++) {
        if (first + k < params.shape.y && window[k] == wanted) {
          sum += f32(g[params.g_offset + dot(vec3u(o, first + k, i), params.g_strides)]);
        }
      }
    }
  }
  if (mine) { out[to] = Stored(sum); }
}

// out[o, e, i] = Σ { g[o, j, i] : indices[j] = first + e }, in the order of j; with ADD, added to out.
// A workgroup owns 64 columns i of one entry (o, e). It looks through the indices 2048 at a time, each thread
// through 32 of them, and then all threads add the rows that name its entry; nobody else writes there, so
// nothing is atomic.

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

// Bit b of word w: whether index 32 w + b of the window names the entry.
var<workgroup> hits: array<u32, 64>;

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
  for (var first = 0u; first < params.shape.y; first += 2048u) {
    let own = first + thread * 32u;
    var found = 0u;
    for (var b = 0u; b < 32u && own + b < params.shape.y; b++) {
      if (indices[params.indices_offset + (own + b) * params.indices_stride] == wanted) { found |= 1u << b; }
    }
    workgroupBarrier();
    hits[thread] = found;
    workgroupBarrier();
    let words = min(64u, (params.shape.y - first + 31u) / 32u);
    for (var w = 0u; w < words; w++) {
      for (var left = hits[w]; left != 0u; left &= left - 1u) {
        let j = first + w * 32u + firstTrailingBit(left);
        if (mine) { sum += f32(g[params.g_offset + dot(vec3u(o, j, i), params.g_strides)]); }
      }
    }
  }
  if (mine) { out[to] = Stored(sum); }
}

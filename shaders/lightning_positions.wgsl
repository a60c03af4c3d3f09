// Where each row stands in the decay of its chunk: P_r = Σ −g over the tokens of the chunk up to row r,
// or before it when the decay comes after the sum (EXCLUSIVE), and P_m, the sum over the whole chunk.
//   positions[batch, head] = P of n rows, then P_m of every chunk
//   remains[batch, head] = exp(P_r − P_m) of n rows, what is left at the end of their chunk: after all heads' positions,
//   where it is wanted (REMAINS)
// A workgroup owns a chunk, a thread some neighbouring rows of it. Where all tokens of a head decay alike, kernels do
// without: see lightning_places.wgsl.
// Goes on from blocks.wgsl and decays.wgsl.

const EXCLUSIVE: bool = false;
const REMAINS: bool = false;

struct Params {
  g_strides: vec4u,          // of batch, group, member of the group, row
  g_offset: u32,
  groups: u32,
  members: u32,
  n: u32,
  chunk: u32,
  chunks: u32,
  workgroups: u32,
  remains: u32,              // where they begin
}

@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read_write> positions: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

// What the rows of every thread up to some thread add up to.
var<workgroup> sums: array<vec2u, 64>;

fn put(at: u32, position: vec2u) {
  positions[2u * at] = position.x;
  positions[2u * at + 1u] = position.y;
}

fn put_remains(at: u32, position: vec2u, whole: vec2u) {
  if (REMAINS) { positions[params.remains + at] = bitcast<u32>(decay_between(place_of(position), place_of(whole))); }
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let number = group.y * groups.x + group.x;
  if (number >= params.workgroups) { return; }
  let instance = number / params.chunks;
  let chunk = number % params.chunks;
  let start = chunk * params.chunk;
  let entry = entry_of(instance, params.groups, params.members, start);
  let at = params.g_offset + dot(entry, params.g_strides);
  let base = instance * (params.n + params.chunks);

  let rows = min(params.chunk, params.n - start);
  let each = (rows + 63u) / 64u;
  let from_row = min(thread * each, rows);
  let to_row = min(from_row + each, rows);
  var sum = vec2u();
  for (var row = from_row; row < to_row; row++) { sum = plus(sum, share_of(g[at + row * params.g_strides.w])); }
  sums[thread] = sum;
  workgroupBarrier();
  for (var step = 1u; step < 64u; step *= 2u) {
    var before = vec2u();
    if (thread >= step) { before = sums[thread - step]; }
    workgroupBarrier();
    sums[thread] = plus(before, sums[thread]);
    workgroupBarrier();
  }

  let whole = sums[63];
  var position = vec2u();
  if (thread > 0u) { position = sums[thread - 1u]; }
  for (var row = from_row; row < to_row; row++) {
    let next = plus(position, share_of(g[at + row * params.g_strides.w]));
    let here = select(next, position, EXCLUSIVE);
    put(base + start + row, here);
    put_remains(instance * params.n + start + row, here, whole);
    position = next;
  }
  if (thread == 63u) { put(base + params.n + chunk, whole); }
}

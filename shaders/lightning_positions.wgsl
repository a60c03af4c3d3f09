// Where each row stands in the decay of its chunk: P_r = Σ −g over the tokens of the chunk up to row r,
// or before it when the decay comes after the sum (EXCLUSIVE), and P_m, the sum over the whole chunk.
//   positions[batch, head] = P of n rows, then P_m of every chunk
// The decay between two rows is the exponential of a difference of such sums, which may be large where
// their difference is small. So they are integers of 64 bits, high word and low word, that count 2⁻⁴⁸:
// exact to add and to subtract, whatever a compiler does with floats. A thread owns one chunk.
// Goes on from blocks.wgsl.

const EXCLUSIVE: bool = false;
// Beyond this a decay is 0 in float32; 512 tokens of it, the most of a chunk, still fit 16 bits.
const MOST: f32 = 127.0;
const WORD: f32 = 4294967296.0;

struct Params {
  g_strides: vec4u,          // of batch, group, member of the group, row
  g_offset: u32,
  groups: u32,
  members: u32,
  n: u32,
  chunk: u32,
  chunks: u32,
  size: u32,
}

@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read_write> positions: array<vec2u>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let number = id.y * groups.x * 64u + id.x;
  if (number >= params.size) { return; }
  let instance = number / params.chunks;
  let chunk = number % params.chunks;
  let start = chunk * params.chunk;
  let rows = min(params.chunk, params.n - start);
  let base = instance * (params.n + params.chunks);
  let entry = entry_of(instance, params.groups, params.members, start);
  var at = params.g_offset + dot(entry, params.g_strides);
  var sum = vec2u();
  for (var row = 0u; row < rows; row++) {
    let scaled = clamp(-g[at], 0.0, MOST) * 65536.0;
    let high = floor(scaled);
    let low = u32((scaled - high) * WORD);
    let next = vec2u(sum.x + u32(high) + select(0u, 1u, sum.y > 0xffffffffu - low), sum.y + low);
    positions[base + start + row] = select(next, sum, EXCLUSIVE);
    sum = next;
    at += params.g_strides.w;
  }
  positions[base + params.n + chunk] = sum;
}

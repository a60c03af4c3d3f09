// What the gradients of softmax attention need of every query: L, and D_i = Σ_c g_ic · o_ic, the mean of
// g_i · v_j under P. A workgroup takes 16 rows; 16 threads share a row, and the first adds up.
// Goes on from blocks.wgsl.

alias Stored_out = f32;
alias Stored_g = f32;

struct Params {
  out_strides: vec4u,        // of batch, group, member of the group, row
  g_strides: vec4u,
  logsum_strides: vec4u,
  out_column: u32,
  g_column: u32,
  out_offset: u32,
  g_offset: u32,
  logsum_offset: u32,
  groups: u32,
  members: u32,
  n: u32,
  e: u32,
  count: u32,                // of rows, of all batches and heads
}

@group(0) @binding(0) var<storage, read> out: array<Stored_out>;
@group(0) @binding(1) var<storage, read> g: array<Stored_g>;
@group(0) @binding(2) var<storage, read> logsum: array<f32>;
@group(0) @binding(3) var<storage, read_write> rows: array<vec2f>;
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> parts: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let number = (group.y * groups.x + group.x) * 16u + thread / 16u;
  let head = number / params.n;
  let at = entry_of(head, params.groups, params.members, number % params.n);
  let base_out = params.out_offset + dot(at, params.out_strides);
  let base_g = params.g_offset + dot(at, params.g_strides);
  var part = 0.0;
  if (number < params.count) {
    for (var column = thread % 16u; column < params.e; column += 16u) {
      part = fma(f32(out[base_out + column * params.out_column]), f32(g[base_g + column * params.g_column]), part);
    }
  }
  parts[thread] = part;
  workgroupBarrier();
  if (thread % 16u == 0u && number < params.count) {
    var sum = 0.0;
    for (var other = thread; other < thread + 16u; other++) { sum += parts[other]; }
    rows[number] = vec2f(logsum[params.logsum_offset + dot(at, params.logsum_strides)], sum);
  }
}

// A few tokens at a time, the state updated in place:
//   S ← exp(g_t) S + k_tᵀ v_t        o_t = α q_t S
// A thread owns one column of one head's state [d, e].

alias Stored = f32;
const THREADS: u32 = 64;

struct Params {
  q_strides: vec4u,          // of batch, head, row, column
  k_strides: vec4u,
  v_strides: vec4u,
  out_strides: vec4u,
  state_strides: vec4u,
  g_strides: vec3u,          // of batch, head, row
  q_offset: u32,
  k_offset: u32,
  v_offset: u32,
  g_offset: u32,
  out_offset: u32,
  state_offset: u32,
  heads: u32,
  key_heads: u32,            // dividing heads
  n: u32,
  d: u32,
  e: u32,
  workgroups: u32,
  query_scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<Stored>;
@group(0) @binding(1) var<storage, read> k: array<Stored>;
@group(0) @binding(2) var<storage, read> v: array<Stored>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<Stored>;
@group(0) @binding(5) var<storage, read_write> state: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let number = group.y * groups.x + group.x;
  let tiles = (params.e + THREADS - 1u) / THREADS;
  let column = number % tiles * THREADS + thread;
  if (number >= params.workgroups || column >= params.e) { return; }
  let instance = number / tiles;
  let at = vec2u(instance / params.heads, instance % params.heads);
  let own = vec2u(at.x, at.y * params.key_heads / params.heads);
  let base_q = params.q_offset + dot(at, params.q_strides.xy);
  let base_k = params.k_offset + dot(own, params.k_strides.xy);
  let base_v = params.v_offset + dot(own, params.v_strides.xy) + column * params.v_strides.w;
  let base_g = params.g_offset + dot(at, params.g_strides.xy);
  let base_out = params.out_offset + dot(at, params.out_strides.xy) + column * params.out_strides.w;
  let base_state = params.state_offset + dot(at, params.state_strides.xy) + column * params.state_strides.w;
  for (var t = 0u; t < params.n; t++) {
    let decay = exp(g[base_g + t * params.g_strides.z]);
    let value = f32(v[base_v + t * params.v_strides.z]);
    var sum = 0.0;
    for (var row = 0u; row < params.d; row++) {
      let place = base_state + row * params.state_strides.z;
      let key = f32(k[base_k + t * params.k_strides.z + row * params.k_strides.w]);
      let entry = fma(key, value, decay * state[place]);
      state[place] = entry;
      sum = fma(f32(q[base_q + t * params.q_strides.z + row * params.q_strides.w]), entry, sum);
    }
    out[base_out + t * params.out_strides.z] = Stored(params.query_scale * sum);
  }
}

// out = factor · g for three tensors at once: thread i has element i of the three laid end to end.

struct Params {
  sizes: vec3u,
  factor_offset: u32,
  g_offsets: vec3u,
  padding: u32,
  out_offsets: vec3u,
}

@group(0) @binding(0) var<storage, read> factor: array<f32>;
@group(0) @binding(1) var<storage, read> g0: array<f32>;
@group(0) @binding(2) var<storage, read> g1: array<f32>;
@group(0) @binding(3) var<storage, read> g2: array<f32>;
@group(0) @binding(4) var<storage, read_write> out0: array<f32>;
@group(0) @binding(5) var<storage, read_write> out1: array<f32>;
@group(0) @binding(6) var<storage, read_write> out2: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  var i = id.y * groups.x * 256u + id.x;
  let scale = factor[params.factor_offset];
  if (i < params.sizes.x) {
    out0[params.out_offsets.x + i] = scale * g0[params.g_offsets.x + i];
    return;
  }
  i -= params.sizes.x;
  if (i < params.sizes.y) {
    out1[params.out_offsets.y + i] = scale * g1[params.g_offsets.y + i];
    return;
  }
  i -= params.sizes.y;
  if (i < params.sizes.z) { out2[params.out_offsets.z + i] = scale * g2[params.g_offsets.z + i]; }
}

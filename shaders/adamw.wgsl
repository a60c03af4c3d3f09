// One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) on one parameter, in place:
//   m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
//   p ← p − η · (m̂ / (√v̂ + ε) + λ p),   m̂ = m / (1 − β₁ᵗ),   v̂ = v / (1 − β₂ᵗ)
// where g is the gradient times a factor; a factor of 0 skips the step.

struct Params {
  size: u32,
  g_offset: u32,
  p_offset: u32,
  m_offset: u32,
  v_offset: u32,
  rate: f32,
  beta1: f32,
  beta2: f32,
  epsilon: f32,
  decay: f32,
  factor_offset: u32,
  c_offset: u32,
}

@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> factor: array<f32>;
@group(0) @binding(2) var<storage, read> c: array<f32>;          // 1 − β₁ᵗ and 1 − β₂ᵗ
@group(0) @binding(3) var<storage, read_write> p: array<f32>;
@group(0) @binding(4) var<storage, read_write> m: array<f32>;
@group(0) @binding(5) var<storage, read_write> v: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 256u + id.x;
  let by = factor[params.factor_offset];
  if (i >= params.size || by == 0.0) { return; }
  let gradient = g[params.g_offset + i] * by;
  let mean = mix(gradient, m[params.m_offset + i], params.beta1);
  let variance = mix(gradient * gradient, v[params.v_offset + i], params.beta2);
  let before = p[params.p_offset + i];
  let mean_hat = mean / c[params.c_offset];
  let variance_hat = variance / c[params.c_offset + 1u];
  let step = mean_hat / (sqrt(variance_hat) + params.epsilon);
  m[params.m_offset + i] = mean;
  v[params.v_offset + i] = variance;
  p[params.p_offset + i] = before - params.rate * (step + params.decay * before);
}

// One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) on up to three parameters, in place:
//   m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
//   p ← p − η · (m̂ / (√v̂ + ε) + λ p),   m̂ = m / (1 − β₁ᵗ),   v̂ = v / (1 − β₂ᵗ)
// where g is the gradient times a factor; a factor of 0 skips the step. Thread i has element i of the parameters
// laid end to end.

struct Params {
  sizes: vec3u,
  scalars_offset: u32,
  g_offsets: vec3u,
  p_offsets: vec3u,
  moments_offsets: vec3u,
  decays: vec3f,
  rate: f32,
  beta1: f32,
  beta2: f32,
  epsilon: f32,
}

@group(0) @binding(0) var<storage, read> scalars: array<f32>;    // 1 − β₁ᵗ, 1 − β₂ᵗ, factor
@group(0) @binding(1) var<storage, read> g0: array<f32>;
@group(0) @binding(2) var<storage, read> g1: array<f32>;
@group(0) @binding(3) var<storage, read> g2: array<f32>;
@group(0) @binding(4) var<storage, read_write> p0: array<f32>;
@group(0) @binding(5) var<storage, read_write> p1: array<f32>;
@group(0) @binding(6) var<storage, read_write> p2: array<f32>;
@group(0) @binding(7) var<storage, read_write> moments: array<vec2f>;    // m and v
@group(0) @binding(8) var<uniform> params: Params;

// Updates m and v at `at` by the gradient `g`; the new parameter in place of `before`.
fn stepped(before: f32, g: f32, at: u32, decay: f32) -> f32 {
  let betas = vec2f(params.beta1, params.beta2);
  let s = params.scalars_offset;
  let gradient = g * scalars[s + 2u];
  // Not by mix, which SwiftShader computes as a + t (b − a): that loses digits of what is small beside g.
  let moment = betas * moments[at] + (1.0 - betas) * vec2f(gradient, gradient * gradient);
  let hat = moment / vec2f(scalars[s], scalars[s + 1u]);
  moments[at] = moment;
  return before - params.rate * (hat.x / (sqrt(hat.y) + params.epsilon) + decay * before);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  var i = id.y * groups.x * 256u + id.x;
  if (scalars[params.scalars_offset + 2u] == 0.0) { return; }
  if (i < params.sizes.x) {
    let at = params.p_offsets.x + i;
    p0[at] = stepped(p0[at], g0[params.g_offsets.x + i], params.moments_offsets.x + i, params.decays.x);
    return;
  }
  i -= params.sizes.x;
  if (i < params.sizes.y) {
    let at = params.p_offsets.y + i;
    p1[at] = stepped(p1[at], g1[params.g_offsets.y + i], params.moments_offsets.y + i, params.decays.y);
    return;
  }
  i -= params.sizes.y;
  if (i < params.sizes.z) {
    let at = params.p_offsets.z + i;
    p2[at] = stepped(p2[at], g2[params.g_offsets.z + i], params.moments_offsets.z + i, params.decays.z);
  }
}

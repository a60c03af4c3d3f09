// Counts a step of AdamW that a factor of 0 does not skip:
//   cᵢ ← cᵢ βᵢ + (1 − βᵢ), which after t steps is 1 − βᵢᵗ
// A recurrence, because 1 − pow(β, t) would lose the digits of its first values.

struct Params {
  factor_offset: u32,
  c_offset: u32,
  beta1: f32,
  beta2: f32,
}

@group(0) @binding(0) var<storage, read> factor: array<f32>;
@group(0) @binding(1) var<storage, read_write> c: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(1)
fn main() {
  if (factor[params.factor_offset] == 0.0) { return; }
  let at = params.c_offset;
  c[at] = c[at] * params.beta1 + (1.0 - params.beta1);
  c[at + 1u] = c[at + 1u] * params.beta2 + (1.0 - params.beta2);
}

// Notes the factor of a step of AdamW, and counts the step unless that is 0, which skips it:
//   cᵢ ← cᵢ βᵢ + (1 − βᵢ), which after t steps is 1 − βᵢᵗ
// A recurrence, because 1 − pow(β, t) would lose the digits of its first values.

struct Params {
  factor_offset: u32,
  scalars_offset: u32,
  beta1: f32,
  beta2: f32,
}

@group(0) @binding(0) var<storage, read> factor: array<f32>;
@group(0) @binding(1) var<storage, read_write> scalars: array<f32>;    // c₁, c₂, factor
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(1)
fn main() {
  let at = params.scalars_offset;
  let by = factor[params.factor_offset];
  scalars[at + 2u] = by;
  if (by == 0.0) { return; }
  scalars[at] = scalars[at] * params.beta1 + (1.0 - params.beta1);
  scalars[at + 1u] = scalars[at + 1u] * params.beta2 + (1.0 - params.beta2);
}

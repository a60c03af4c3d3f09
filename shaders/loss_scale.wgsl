// What follows from the norm of gradients of a scaled loss, all on the device:
//   not finite: the factor is 0, so that the step is skipped, and the scale shrinks;
//   finite:     factor = min(1, max_norm · scale / norm) / scale, and after `interval` such steps in a row
//               the scale grows.
// state = [scale, finite steps in a row, skipped steps in all]

struct Params {
  norm_offset: u32,
  factor_offset: u32,
  true_norm_offset: u32,
  state_offset: u32,
  max_norm: f32,
  growth: f32,
  backoff: f32,
  interval: f32,
  largest: f32,
}

@group(0) @binding(0) var<storage, read> norm: array<f32>;
@group(0) @binding(1) var<storage, read_write> factor: array<f32>;
@group(0) @binding(2) var<storage, read_write> true_norm: array<f32>;
@group(0) @binding(3) var<storage, read_write> state: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

// By its bits: WGSL need not know infinities.
fn is_finite(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

@compute @workgroup_size(1)
fn main() {
  let at = params.state_offset;
  let scale = state[at];
  let found = norm[params.norm_offset];
  true_norm[params.true_norm_offset] = found / scale;
  if (!is_finite(found)) {
    factor[params.factor_offset] = 0.0;
    state[at] = max(scale * params.backoff, 1.0);
    state[at + 1u] = 0.0;
    state[at + 2u] += 1.0;
    return;
  }
  var clip = 1.0;
  if (found > params.max_norm * scale) { clip = params.max_norm * scale / found; }
  factor[params.factor_offset] = clip / scale;
  let row = state[at + 1u] + 1.0;
  let grows = row >= params.interval;
  state[at] = select(scale, min(scale * params.growth, params.largest), grows);
  state[at + 1u] = select(row, 0.0, grows);
}

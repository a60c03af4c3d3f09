// What kernels on matrix units share; this text comes after theirs. A matrix unit multiplies fragments of
// SIDE × SIDE float16, spread over a subgroup of LANES threads, and adds to a fragment of float32. Float16
// travels in eights: 16 bytes, a vec4u, so that side² = 8 · lanes and a lane moves one eight a fragment.

alias Left = subgroup_matrix_left<f16, SIDE, SIDE>;
alias Right = subgroup_matrix_right<f16, SIDE, SIDE>;
alias Sum = subgroup_matrix_result<f32, SIDE, SIDE>;

fn two(low: f16, high: f16) -> u32 { return bitcast<u32>(vec2<f16>(low, high)); }

// The first so many of eight values, then zeros.
fn first_eight(values: vec4u, count: i32) -> vec4u {
  let low = select(vec4u(), vec4u(0xffffu), vec4i(0, 2, 4, 6) < vec4i(count));
  return values & select(low, vec4u(0xffffffffu), vec4i(1, 3, 5, 7) < vec4i(count));
}

// Two groups of four float32 values as an eight.
fn rounded(low: vec4f, high: vec4f) -> vec4u {
  return vec4u(
    bitcast<u32>(vec2<f16>(low.xy)), bitcast<u32>(vec2<f16>(low.zw)),
    bitcast<u32>(vec2<f16>(high.xy)), bitcast<u32>(vec2<f16>(high.zw)));
}

// The eight values times a weight, rounded once.
fn times(values: vec4u, weight: f32) -> vec4u {
  let low = vec4f(vec2f(bitcast<vec2<f16>>(values.x)), vec2f(bitcast<vec2<f16>>(values.y)));
  let high = vec4f(vec2f(bitcast<vec2<f16>>(values.z)), vec2f(bitcast<vec2<f16>>(values.w)));
  return rounded(weight * low, weight * high);
}

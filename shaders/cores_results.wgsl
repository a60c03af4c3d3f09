// `out` of kernels on matrix units.

// A scalar, or eight neighbours in a row (OUT_IN_EIGHTS).
alias Element_out = f16;
const OUT_IN_EIGHTS: bool = false;
fn eight_results(values: vec4u) -> Element_out { return Element_out(); }
fn one_result(values: vec4<f16>, lane: u32) -> Element_out { return Element_out(values[lane]); }

// Stores eight neighbours a step apart, or the first `count` of them.
fn store(at: u32, step: u32, count: u32, values: vec4u) {
  if (OUT_IN_EIGHTS) {
    out[at / 8u] = eight_results(values);
  } else {
    let low = bitcast<vec4<f16>>(values.xy);
    let high = bitcast<vec4<f16>>(values.zw);
    for (var i = 0u; i < min(4u, count); i++) { out[at + i * step] = one_result(low, i); }
    for (var i = 4u; i < min(8u, count); i++) { out[at + i * step] = one_result(high, i - 4u); }
  }
}

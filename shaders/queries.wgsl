// q of attention kernels, beside keys.wgsl.

// A scalar, or four neighbours in a row of a dense matrix.
alias Element_q = f32;

@group(0) @binding(2) var<storage, read> q: array<Element_q>;

fn four_q(at: u32) -> vec4f { return vec4f(f32(q[at]), f32(q[at + params.q_column]), f32(q[at + 2u * params.q_column]), f32(q[at + 3u * params.q_column])); }

fn load_q(base: u32, column: u32) -> vec4f {
  let values = four_q(base + column * params.q_column);
  if (WHOLE_D) { return values; }
  return first(values, i32(params.d) - i32(column));
}

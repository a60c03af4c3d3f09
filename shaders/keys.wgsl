// k and v of attention kernels, whose Params have their strides, columns' steps, d and e. A load gives four
// neighbours of a row from column `column` on, zeros beyond the last column; `base` is the row's place.

// Of k and v: a scalar, or four neighbours in a row of a dense matrix.
alias Element_k = f32;
alias Element_v = f32;
// Whether d is a multiple of what a tile takes of it, and e likewise, so that no load goes beyond.
const WHOLE_D: bool = false;
const WHOLE_E: bool = false;

@group(0) @binding(0) var<storage, read> k: array<Element_k>;
@group(0) @binding(1) var<storage, read> v: array<Element_v>;

// d and e, which are constants where no load goes beyond them.
fn width_d() -> u32 { return params.d; }
fn width_e() -> u32 { return params.e; }

fn four_k(at: u32) -> vec4f { return vec4f(f32(k[at]), f32(k[at + params.k_column]), f32(k[at + 2u * params.k_column]), f32(k[at + 3u * params.k_column])); }
fn four_v(at: u32) -> vec4f { return vec4f(f32(v[at]), f32(v[at + params.v_column]), f32(v[at + 2u * params.v_column]), f32(v[at + 3u * params.v_column])); }

fn load_k(base: u32, column: u32) -> vec4f {
  let values = four_k(base + column * params.k_column);
  if (WHOLE_D) { return values; }
  return first(values, i32(params.d) - i32(column));
}

fn load_v(base: u32, column: u32) -> vec4f {
  let values = four_v(base + column * params.v_column);
  if (WHOLE_E) { return values; }
  return first(values, i32(params.e) - i32(column));
}

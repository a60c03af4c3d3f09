// Positions in the decay, as lightning_positions.wgsl writes them: integers of 64 bits that count 2⁻⁴⁸.

fn plus(a: vec2u, b: vec2u) -> vec2u {
  let low = a.y + b.y;
  return vec2u(a.x + b.x + select(0u, 1u, low < a.y), low);
}

// A position as a multiple of 2⁻⁸ below 2¹⁶, which float32 holds exactly, and a rest below 2⁻⁸, which it holds
// to 2⁻³²: differences of both lose nothing that an exponential could show.
fn place_of(position: vec2u) -> vec2f {
  let rest = f32(position.x & 255u) / 65536.0 + f32(position.y) / 281474976710656.0;
  return vec2f(f32(position.x >> 8u) / 256.0, rest);
}

// The decay from one place to a later one.
fn decay_between(earlier: vec2f, later: vec2f) -> f32 {
  return exp((earlier.x - later.x) + (earlier.y - later.y));
}

// Positions in the decay: integers of 64 bits, high word and low word, that count 2⁻⁴⁸. The decay between two rows is the
// exponential of a difference of sums, which may be large where their difference is small; integers are exact to add and to
// subtract, whatever a compiler does with floats.

// Beyond this a decay is 0 in float32; 512 tokens of it, the most of a chunk, still fit 16 bits.
const MOST: f32 = 127.0;

// What one token adds whose decay is exp(g): −g.
fn share_of(g: f32) -> vec2u {
  let scaled = clamp(-g, 0.0, MOST) * 65536.0;
  let high = floor(scaled);
  return vec2u(u32(high), u32((scaled - high) * 4294967296.0));
}

// What so many tokens add up to, at most 512.
fn multiple(share: vec2u, count: u32) -> vec2u {
  let low = (share.y & 65535u) * count;
  let middle = (share.y >> 16u) * count + (low >> 16u);
  return vec2u(share.x * count + (middle >> 16u), (middle << 16u) | (low & 65535u));
}

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

// A decay over 256 or more is 0 in float32; so sums over any number of chunks fit.
fn capped(position: vec2u) -> vec2u { return vec2u(min(position.x, 1u << 24u), position.y); }

// The exponent of the decay from the beginning to a position.
fn exponent_of(position: vec2u) -> f32 {
  return -(f32(position.x) * (1.0 / 65536.0) + f32(position.y) * (1.0 / 281474976710656.0));
}

// What a state is multiplied with on its way past a decay of exp(x): S ← a S + (b S + added). A decay next to 1
// rounded to float32 would err the same way in every chunk, and over thousands of them the errors would add up;
// its difference from 1 has all its digits.
fn fade_over(x: f32) -> vec2f {
  let less_one = x * (1.0 + x * (0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x / 120.0))));
  return select(vec2f(1.0, less_one), vec2f(0.0, exp(x)), x < -0.1);
}

// What kernels on matrix units share; this text comes after theirs. A matrix unit multiplies fragments of SIDE × SIDE
// float16, spread over a subgroup of LANES threads, and adds to a fragment of float32. Float16 travels in eights: 16 bytes, a
// vec4u, so that side² = 8 · lanes and a lane moves one eight a fragment.
// Where compilers do not see that a fragment lies inside an array, bounds checks make its stride vary, and it is read by
// twos of bytes. They see which bits of a place may be set. So kernels take thread indices apart by masks, not remainders,
// whose size is lost, and halves of tiles are arrays of their own, with places that are constants but for a few bits.

const SIDE: u32 = 16;
const LANES: u32 = 32;

alias Left = subgroup_matrix_left<f16, SIDE, SIDE>;
alias Right = subgroup_matrix_right<f16, SIDE, SIDE>;
alias Sum = subgroup_matrix_result<f32, SIDE, SIDE>;

// What a thread has of a tile: eights of lines that lie the same number of lines apart.
struct Four { a: vec4u, b: vec4u, c: vec4u, d: vec4u }

// Where eight elements lie.
struct Eight { low: vec4u, high: vec4u }

// The eight elements of a line of `items` from `item` on, the first of them at `at`, the others a step apart; those
// past the line's end lie where its last one does. Where an array has eight of them in one, `per` is 8.
fn eight_of(per: u32, at: u32, step: u32, item: u32, items: u32) -> Eight {
  if (per == 8u) { return Eight(vec4u(at), vec4u(at)); }
  let rest = vec4u(items - 1u - min(item, items - 1u));
  return Eight(at + step * min(vec4u(0, 1, 2, 3), rest), at + step * min(vec4u(4, 5, 6, 7), rest));
}

// How far an element of a line lies from its first one, in an array that has `per` of them in one.
fn items(per: u32, step: u32, item: u32) -> u32 {
  if (per == 8u) { return item / 8u; }
  return item * step;
}

// The values of such an eight, zeros past the line's end.
fn inside(values: vec4u, item: u32, items: u32) -> vec4u {
  let rest = vec4i(i32(items) - i32(item));
  let low = select(vec4u(), vec4u(0xffffu), vec4i(0, 2, 4, 6) < rest);
  return values & select(low, vec4u(0xffffffffu), vec4i(1, 3, 5, 7) < rest);
}

fn together(low: vec4<f16>, high: vec4<f16>) -> vec4u { return vec4u(bitcast<vec2u>(low), bitcast<vec2u>(high)); }

// Four float32 values as half of an eight, and two groups of four as an eight.
fn halved(values: vec4f) -> vec2u { return bitcast<vec2u>(vec4<f16>(values)); }
fn rounded(low: vec4f, high: vec4f) -> vec4u { return vec4u(halved(low), halved(high)); }

// The eight values times a weight, rounded once.
fn times(values: vec4u, weight: f32) -> vec4u {
  return rounded(weight * vec4f(bitcast<vec4<f16>>(values.xy)), weight * vec4f(bitcast<vec4<f16>>(values.zw)));
}

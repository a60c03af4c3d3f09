// From what each segment adds to the state before each segment, in place, and the state after the last:
//   S ← initial;  for every segment: (states[segment], S) ← (S, exp(−total) · S + states[segment])
// with the totals that lightning_states.wgsl wrote. A thread owns one element of one head's [d, e], or four
// neighbours; it asks for eight segments at once, because memory answers late.
// Goes on from blocks.wgsl and decays.wgsl.

alias Element = f32;
const LANES: u32 = 1;
const HAS_INITIAL: bool = false;

struct Params {
  initial_strides: vec4u,    // of batch, group, member of the group, row
  final_strides: vec4u,
  initial_column: u32,
  final_column: u32,
  initial_offset: u32,
  final_offset: u32,
  groups: u32,
  members: u32,
  d: u32,
  e: u32,
  segments: u32,
  segments_offset: u32,      // of the segments' states, in Elements
  size: u32,                 // in Elements
}

@group(0) @binding(0) var<storage, read_write> states: array<Element>;
@group(0) @binding(1) var<storage, read> totals: array<vec2u>;
@group(0) @binding(2) var<storage, read> initial: array<f32>;
@group(0) @binding(3) var<storage, read_write> last: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

fn initial_at(at: u32, step: u32) -> Element { return initial[at]; }
fn lane_of(values: Element, lane: u32) -> f32 { return values; }

// exp(−total) · state + added. A decay next to 1 rounded to float32 would err the same way in every segment,
// and over thousands of them the errors would add up; its difference from 1 has all its digits.
fn advance(state: Element, at: u32, added: Element) -> Element {
  let position = totals[at];
  let x = -(f32(position.x) / 65536.0 + f32(position.y) / 281474976710656.0);
  if (x < -0.1) { return exp(x) * state + added; }
  let less_one = x * (1.0 + x * (0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x / 120.0))));
  return state + (less_one * state + added);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let number = id.y * groups.x * 256u + id.x;
  if (number >= params.size) { return; }
  let area = params.d * params.e / LANES;
  let element = number % area;
  let instance = number / area;
  let at = entry_of(instance, params.groups, params.members, element * LANES / params.e);
  let column = element * LANES % params.e;
  var total = instance * params.segments;

  var state = Element();
  if (HAS_INITIAL) {
    state = initial_at(
      params.initial_offset + dot(at, params.initial_strides) + column * params.initial_column,
      params.initial_column);
  }
  var place = params.segments_offset + instance * params.segments * area + element;
  var segment = 0u;
  for (; segment + 8u <= params.segments; segment += 8u) {
    let a0 = states[place];
    let a1 = states[place + area];
    let a2 = states[place + 2u * area];
    let a3 = states[place + 3u * area];
    let a4 = states[place + 4u * area];
    let a5 = states[place + 5u * area];
    let a6 = states[place + 6u * area];
    let a7 = states[place + 7u * area];
    states[place] = state;
    state = advance(state, total, a0);
    states[place + area] = state;
    state = advance(state, total + 1u, a1);
    states[place + 2u * area] = state;
    state = advance(state, total + 2u, a2);
    states[place + 3u * area] = state;
    state = advance(state, total + 3u, a3);
    states[place + 4u * area] = state;
    state = advance(state, total + 4u, a4);
    states[place + 5u * area] = state;
    state = advance(state, total + 5u, a5);
    states[place + 6u * area] = state;
    state = advance(state, total + 6u, a6);
    states[place + 7u * area] = state;
    state = advance(state, total + 7u, a7);
    place += 8u * area;
    total += 8u;
  }
  for (; segment < params.segments; segment++) {
    let added = states[place];
    states[place] = state;
    state = advance(state, total, added);
    place += area;
    total++;
  }
  let end = params.final_offset + dot(at, params.final_strides) + column * params.final_column;
  for (var lane = 0u; lane < LANES; lane++) {
    last[end + lane * params.final_column] = lane_of(state, lane);
  }
}

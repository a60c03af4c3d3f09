// From what each segment adds to the state before each segment, in place, and the state after the last:
//   S ← initial;  for every segment: (states[segment], S) ← (S, exp(−total) · S + states[segment])
// with the totals that lightning_states.wgsl wrote. A thread owns one element of one head's [d, e], or four
// neighbours; it asks for eight segments at once, because memory answers late.
// Goes on from blocks.wgsl and decays.wgsl.

// One element, or four neighbours (IN_FOURS).
alias Element = f32;
const IN_FOURS: bool = false;
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
  chunks: u32,
  segments: u32,
  size: u32,                 // in Elements
}

@group(0) @binding(0) var<storage, read_write> states: array<Element>;
@group(0) @binding(1) var<storage, read> totals: array<vec2u>;
@group(0) @binding(2) var<storage, read> initial: array<f32>;
@group(0) @binding(3) var<storage, read_write> last: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

fn initial_at(at: u32, step: u32) -> Element { return initial[at]; }
fn four_of(values: Element) -> vec4f { return vec4f(values); }

// The exponent of the decay over a segment; beyond the last one, any.
fn exponent(total: u32) -> f32 { return exponent_of(totals[min(total, arrayLength(&totals) - 1u)]); }

// Writes the state before a segment over what the segment adds, and goes past it, if there is the segment.
fn go_past(state: Element, x: f32, added: Element, place: u32, inside: bool) -> Element {
  if (!inside) { return state; }
  states[place] = state;
  let fade = fade_over(x);
  return fade.x * state + (fade.y * state + added);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let number = id.y * groups.x * 256u + id.x;
  if (number >= params.size) { return; }
  let lanes = select(1u, 4u, IN_FOURS);
  let area = params.d * params.e / lanes;
  let element = number % area;
  let instance = number / area;
  let at = entry_of(instance, params.groups, params.members, element * lanes / params.e);
  let column = element * lanes % params.e;

  var state = Element();
  if (HAS_INITIAL) {
    state = initial_at(
      params.initial_offset + dot(at, params.initial_strides) + column * params.initial_column,
      params.initial_column);
  }
  let base = instance * params.segments * area + element;
  // The segments' totals come after all chunks'.
  let total = instance * (params.chunks + params.segments) + params.chunks;
  let end = params.segments - 1u;
  for (var first = 0u; first < params.segments; first += 8u) {
    let place = base + first * area;
    let rest = end - first;
    let a0 = states[place];
    let a1 = states[place + min(1u, rest) * area];
    let a2 = states[place + min(2u, rest) * area];
    let a3 = states[place + min(3u, rest) * area];
    let a4 = states[place + min(4u, rest) * area];
    let a5 = states[place + min(5u, rest) * area];
    let a6 = states[place + min(6u, rest) * area];
    let a7 = states[place + min(7u, rest) * area];
    let x0 = exponent(total + first);
    let x1 = exponent(total + first + 1u);
    let x2 = exponent(total + first + 2u);
    let x3 = exponent(total + first + 3u);
    let x4 = exponent(total + first + 4u);
    let x5 = exponent(total + first + 5u);
    let x6 = exponent(total + first + 6u);
    let x7 = exponent(total + first + 7u);
    state = go_past(state, x0, a0, place, true);
    state = go_past(state, x1, a1, place + area, rest >= 1u);
    state = go_past(state, x2, a2, place + 2u * area, rest >= 2u);
    state = go_past(state, x3, a3, place + 3u * area, rest >= 3u);
    state = go_past(state, x4, a4, place + 4u * area, rest >= 4u);
    state = go_past(state, x5, a5, place + 5u * area, rest >= 5u);
    state = go_past(state, x6, a6, place + 6u * area, rest >= 6u);
    state = go_past(state, x7, a7, place + 7u * area, rest >= 7u);
  }
  let to = params.final_offset + dot(at, params.final_strides) + column * params.final_column;
  let values = four_of(state);
  last[to] = values.x;
  if (IN_FOURS) {
    last[to + params.final_column] = values.y;
    last[to + 2u * params.final_column] = values.z;
    last[to + 3u * params.final_column] = values.w;
  }
}

// Σ g² of up to six tensors in one dispatch, for the global norm of a gradient: workgroup x of PARTS adds up
// its share of tensor y, in float32, and leaves a partial sum in out[y, x]. They are read by units: elements, or, where
// all tensors begin and end at multiples of four, four neighbours; sizes and offsets count them. Goes on from one of the
// reductions.

alias Value = f32;
alias Unit = f32;
const PARTS: u32 = 64;
const THREADS: u32 = 256;

struct Params {
  sizes: array<vec4u, 2>,
  offsets: array<vec4u, 2>,
  out_offset: u32,
}

@group(0) @binding(0) var<storage, read> g0: array<Unit>;
@group(0) @binding(1) var<storage, read> g1: array<Unit>;
@group(0) @binding(2) var<storage, read> g2: array<Unit>;
@group(0) @binding(3) var<storage, read> g3: array<Unit>;
@group(0) @binding(4) var<storage, read> g4: array<Unit>;
@group(0) @binding(5) var<storage, read> g5: array<Unit>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;

fn square_of(unit: Unit) -> f32 { return unit * unit; }

// Four units, asked for together.
struct Turn { a: Unit, b: Unit, c: Unit, d: Unit }

fn turn_at(which: u32, at: vec4u) -> Turn {
  switch which {
    case 0u: { return Turn(g0[at.x], g0[at.y], g0[at.z], g0[at.w]); }
    case 1u: { return Turn(g1[at.x], g1[at.y], g1[at.z], g1[at.w]); }
    case 2u: { return Turn(g2[at.x], g2[at.y], g2[at.z], g2[at.w]); }
    case 3u: { return Turn(g3[at.x], g3[at.y], g3[at.z], g3[at.w]); }
    case 4u: { return Turn(g4[at.x], g4[at.y], g4[at.z], g4[at.w]); }
    default: { return Turn(g5[at.x], g5[at.y], g5[at.z], g5[at.w]); }
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, t: Thread) {
  let thread = t.index;
  let which = group.y;
  let size = params.sizes[which / 4u][which % 4u];
  let offset = params.offsets[which / 4u][which % 4u];
  var sum = 0.0;
  let step = PARTS * THREADS;
  for (var i = group.x * THREADS + thread; i < size; i += 4u * step) {
    let places = i + step * vec4u(0u, 1u, 2u, 3u);
    let g = turn_at(which, offset + min(places, vec4u(size - 1u)));
    let squares = vec4f(square_of(g.a), square_of(g.b), square_of(g.c), square_of(g.d));
    sum += dot(select(vec4f(), squares, places < vec4u(size)), vec4f(1.0));
  }
  sum = workgroup_sum(t, sum);
  if (thread == 0u) { out[params.out_offset + which * PARTS + group.x] = sum; }
}

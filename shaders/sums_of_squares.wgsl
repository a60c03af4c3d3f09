// Σ g² of up to six tensors in one dispatch, for the global norm of a gradient: workgroup x of PARTS adds up
// its share of tensor y, in float32, and leaves a partial sum in out[y, x]. Goes on from one of the reductions.

alias Value = f32;
const PARTS: u32 = 64;
const THREADS: u32 = 256;

struct Params {
  sizes: array<vec4u, 2>,
  offsets: array<vec4u, 2>,
  out_offset: u32,
}

@group(0) @binding(0) var<storage, read> g0: array<f32>;
@group(0) @binding(1) var<storage, read> g1: array<f32>;
@group(0) @binding(2) var<storage, read> g2: array<f32>;
@group(0) @binding(3) var<storage, read> g3: array<f32>;
@group(0) @binding(4) var<storage, read> g4: array<f32>;
@group(0) @binding(5) var<storage, read> g5: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;

fn load(which: u32, i: u32) -> f32 {
  switch which {
    case 0u: { return g0[i]; }
    case 1u: { return g1[i]; }
    case 2u: { return g2[i]; }
    case 3u: { return g3[i]; }
    case 4u: { return g4[i]; }
    default: { return g5[i]; }
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, t: Thread) {
  let thread = t.index;
  let which = group.y;
  let size = params.sizes[which / 4u][which % 4u];
  let offset = params.offsets[which / 4u][which % 4u];
  var sum = 0.0;
  for (var i = group.x * THREADS + thread; i < size; i += PARTS * THREADS) {
    let g = load(which, offset + i);
    sum += g * g;
  }
  sum = workgroup_sum(t, sum);
  if (thread == 0u) { out[params.out_offset + which * PARTS + group.x] = sum; }
}

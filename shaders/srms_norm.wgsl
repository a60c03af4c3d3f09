// Rows of `length` elements, one workgroup each:  out = x · r, r = 1 / √(mean x² + ε),
// or, with GRADIENT, the gradient of that:          out = r · (g − y · mean(g · y)), y = x · r; with ADD, plus b.
// Goes on from one of the reductions.

alias Stored = f32;
alias Value = vec2f;
const GRADIENT: bool = false;
const ADD: bool = false;
const THREADS: u32 = 128;

struct Params {
  rows: u32,
  length: u32,
  x_offset: u32,
  g_offset: u32,
  b_offset: u32,
  out_offset: u32,
  epsilon: f32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> g: array<Stored>;
@group(0) @binding(2) var<storage, read> b: array<Stored>;
@group(0) @binding(3) var<storage, read_write> out: array<Stored>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  t: Thread,
) {
  let thread = t.index;
  let row = group.y * groups.x + group.x;
  if (row >= params.rows) { return; }
  let first_x = params.x_offset + row * params.length;
  let first_g = params.g_offset + row * params.length;
  let first_b = params.b_offset + row * params.length;
  let first_out = params.out_offset + row * params.length;

  // Σ x² and Σ g · x in one pass.
  var sums = vec2f();
  for (var i = thread; i < params.length; i += THREADS) {
    let value = f32(x[first_x + i]);
    sums.x += value * value;
    if (GRADIENT) { sums.y += value * f32(g[first_g + i]); }
  }
  let means = workgroup_sum(t, sums) / f32(params.length);
  let r = 1.0 / sqrt(means.x + params.epsilon);

  for (var i = thread; i < params.length; i += THREADS) {
    let value = f32(x[first_x + i]);
    if (GRADIENT) {
      // mean(g · y) = r · mean(g · x).
      var gradient = r * (f32(g[first_g + i]) - value * r * r * means.y);
      if (ADD) { gradient += f32(b[first_b + i]); }
      out[first_out + i] = Stored(gradient);
    } else {
      out[first_out + i] = Stored(value * r);
    }
  }
}

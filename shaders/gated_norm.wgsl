// Rows of `length` elements, one workgroup each:  y = u · n, n = x · r, r = 1 / √(mean x² + ε);
// or, with GRADIENT, from g, the gradient of y:  dx = r · (g u − n · mean(g u n)),  du = g · n.
// Goes on from one of the reductions.

alias Stored = f32;
alias Value = vec2f;
const GRADIENT: bool = false;
const THREADS: u32 = 128;

struct Params {
  rows: u32,
  length: u32,
  epsilon: f32,
  padding: u32,
  // Of x, u and g: elements from one row to the next, and to the first one.
  steps: vec4u,
  offsets: vec4u,
  // Of y or dx, and of du.
  first_offset: u32,
  second_offset: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> u: array<Stored>;
@group(0) @binding(2) var<storage, read> g: array<Stored>;
@group(0) @binding(3) var<storage, read_write> first: array<Stored>;
@group(0) @binding(4) var<storage, read_write> second: array<Stored>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  t: Thread,
) {
  let thread = t.index;
  let row = group.y * groups.x + group.x;
  if (row >= params.rows) { return; }
  let at = params.offsets + row * params.steps;
  let at_first = params.first_offset + row * params.length;
  let at_second = params.second_offset + row * params.length;

  // Σ x² and Σ g u x in one pass.
  var sums = vec2f();
  for (var i = thread; i < params.length; i += THREADS) {
    let value = f32(x[at.x + i]);
    sums.x += value * value;
    if (GRADIENT) { sums.y += value * (f32(g[at.z + i]) * f32(u[at.y + i])); }
  }
  let means = workgroup_sum(t, sums) / f32(params.length);
  let r = 1.0 / sqrt(means.x + params.epsilon);

  for (var i = thread; i < params.length; i += THREADS) {
    let value = f32(x[at.x + i]);
    let gate = f32(u[at.y + i]);
    if (GRADIENT) {
      let gradient = f32(g[at.z + i]);
      // mean(g u n) = r · mean(g u x).
      first[at_first + i] = Stored(r * (gradient * gate - value * r * r * means.y));
      second[at_second + i] = Stored(gradient * (value * r));
    } else {
      first[at_first + i] = Stored(gate * (value * r));
    }
  }
}

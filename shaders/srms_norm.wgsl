// Rows of `length` units, one workgroup each:  out = x · r, r = 1 / √(mean x² + ε),
// or, with GRADIENT, the gradient of that:     out = r · (g − y · mean(g · y)), y = x · r; with ADD, plus b.
// Goes on from rows.wgsl.

alias Value = vec2f;
const GRADIENT: bool = false;
const ADD: bool = false;

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

// Units of a row, 0 past its end.
fn x_at(first: u32, i: u32) -> Unit { return select(Unit(), Unit(x[first + min(i, params.length - 1u)]), i < params.length); }
fn g_at(first: u32, i: u32) -> Unit { return select(Unit(), Unit(g[first + min(i, params.length - 1u)]), i < params.length); }
fn b_at(first: u32, i: u32) -> Unit { return select(Unit(), Unit(b[first + min(i, params.length - 1u)]), i < params.length); }

fn x_turn(first: u32, i: u32) -> Turn {
  return Turn(x_at(first, i), x_at(first, i + THREADS), x_at(first, i + 2u * THREADS), x_at(first, i + 3u * THREADS));
}

fn g_turn(first: u32, i: u32) -> Turn {
  return Turn(g_at(first, i), g_at(first, i + THREADS), g_at(first, i + 2u * THREADS), g_at(first, i + 3u * THREADS));
}

fn b_turn(first: u32, i: u32) -> Turn {
  return Turn(b_at(first, i), b_at(first, i + THREADS), b_at(first, i + 2u * THREADS), b_at(first, i + 3u * THREADS));
}

fn store(first: u32, i: u32, value: Unit) {
  if (i < params.length) { out[first + i] = Stored(value); }
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  t: Thread,
) {
  let row = group.y * groups.x + group.x;
  if (row >= params.rows) { return; }
  let first_x = params.x_offset + row * params.length;
  let first_g = params.g_offset + row * params.length;
  let first_b = params.b_offset + row * params.length;
  let first_out = params.out_offset + row * params.length;

  // Σ x² and Σ g · x in one pass.
  var values = Turn();
  var gradients = Turn();
  var sums = vec2f();
  for (var i = t.index; i < params.length; i += 4u * THREADS) {
    values = x_turn(first_x, i);
    if (GRADIENT) {
      gradients = g_turn(first_g, i);
      sums.y += dot_of(values, gradients);
    }
    sums.x += dot_of(values, values);
  }
  let means = workgroup_sum(t, sums) / f32(params.length * WIDTH);
  let r = 1.0 / sqrt(means.x + params.epsilon);
  // mean(g · y) = r · mean(g · x).
  let pull = r * r * means.y;

  for (var i = t.index; i < params.length; i += 4u * THREADS) {
    if (!ONCE) { values = x_turn(first_x, i); }
    if (GRADIENT) {
      if (!ONCE) { gradients = g_turn(first_g, i); }
      var added = Turn();
      if (ADD) { added = b_turn(first_b, i); }
      store(first_out, i, r * (gradients.a - values.a * pull) + added.a);
      store(first_out, i + THREADS, r * (gradients.b - values.b * pull) + added.b);
      store(first_out, i + 2u * THREADS, r * (gradients.c - values.c * pull) + added.c);
      store(first_out, i + 3u * THREADS, r * (gradients.d - values.d * pull) + added.d);
    } else {
      store(first_out, i, values.a * r);
      store(first_out, i + THREADS, values.b * r);
      store(first_out, i + 2u * THREADS, values.c * r);
      store(first_out, i + 3u * THREADS, values.d * r);
    }
  }
}

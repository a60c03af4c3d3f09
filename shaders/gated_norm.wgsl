// Rows of `length` units, one workgroup each:  y = u · n, n = x · r, r = 1 / √(mean x² + ε);
// or, with GRADIENT, from g, the gradient of y:  dx = r · (g u − n · mean(g u n)),  du = g · n.
// Goes on from rows.wgsl.

alias Value = vec2f;
const GRADIENT: bool = false;

struct Params {
  rows: u32,
  length: u32,
  epsilon: f32,
  padding: u32,
  // Of x, u and g: units from one row to the next, and to the first one.
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

// Units of a row, 0 past its end.
fn x_at(at: u32, i: u32) -> Unit { return select(Unit(), Unit(x[at + min(i, params.length - 1u)]), i < params.length); }
fn u_at(at: u32, i: u32) -> Unit { return select(Unit(), Unit(u[at + min(i, params.length - 1u)]), i < params.length); }
fn g_at(at: u32, i: u32) -> Unit { return select(Unit(), Unit(g[at + min(i, params.length - 1u)]), i < params.length); }

fn x_turn(at: u32, i: u32) -> Turn {
  return Turn(x_at(at, i), x_at(at, i + THREADS), x_at(at, i + 2u * THREADS), x_at(at, i + 3u * THREADS));
}

fn u_turn(at: u32, i: u32) -> Turn {
  return Turn(u_at(at, i), u_at(at, i + THREADS), u_at(at, i + 2u * THREADS), u_at(at, i + 3u * THREADS));
}

fn g_turn(at: u32, i: u32) -> Turn {
  return Turn(g_at(at, i), g_at(at, i + THREADS), g_at(at, i + 2u * THREADS), g_at(at, i + 3u * THREADS));
}

fn product(a: Turn, b: Turn) -> Turn { return Turn(a.a * b.a, a.b * b.b, a.c * b.c, a.d * b.d); }

fn scaled(a: Turn, by: f32) -> Turn { return Turn(a.a * by, a.b * by, a.c * by, a.d * by); }

fn store_first(at: u32, i: u32, value: Unit) {
  if (i < params.length) { first[at + i] = Stored(value); }
}

fn store_second(at: u32, i: u32, value: Unit) {
  if (i < params.length) { second[at + i] = Stored(value); }
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  t: Thread,
) {
  let row = group.y * groups.x + group.x;
  if (row >= params.rows) { return; }
  let at = params.offsets + row * params.steps;
  let at_first = params.first_offset + row * params.length;
  let at_second = params.second_offset + row * params.length;

  // Σ x² and Σ g u x in one pass.
  var values = Turn();
  var gates = Turn();
  var gradients = Turn();
  var sums = vec2f();
  for (var i = t.index; i < params.length; i += 4u * THREADS) {
    values = x_turn(at.x, i);
    // Asked for early: it is wanted as soon as the sums are there.
    if (ONCE || GRADIENT) { gates = u_turn(at.y, i); }
    if (GRADIENT) {
      gradients = g_turn(at.z, i);
      sums.y += dot_of(values, product(gradients, gates));
    }
    sums.x += dot_of(values, values);
  }
  let means = workgroup_sum(t, sums) / f32(params.length * WIDTH);
  let r = 1.0 / sqrt(means.x + params.epsilon);
  // mean(g u n) = r · mean(g u x).
  let pull = r * r * means.y;

  for (var i = t.index; i < params.length; i += 4u * THREADS) {
    if (!ONCE) {
      values = x_turn(at.x, i);
      gates = u_turn(at.y, i);
      if (GRADIENT) { gradients = g_turn(at.z, i); }
    }
    let normed = scaled(values, r);
    if (GRADIENT) {
      let gated = product(gradients, gates);
      store_first(at_first, i, r * (gated.a - values.a * pull));
      store_first(at_first, i + THREADS, r * (gated.b - values.b * pull));
      store_first(at_first, i + 2u * THREADS, r * (gated.c - values.c * pull));
      store_first(at_first, i + 3u * THREADS, r * (gated.d - values.d * pull));
      store_second(at_second, i, gradients.a * normed.a);
      store_second(at_second, i + THREADS, gradients.b * normed.b);
      store_second(at_second, i + 2u * THREADS, gradients.c * normed.c);
      store_second(at_second, i + 3u * THREADS, gradients.d * normed.d);
    } else {
      store_first(at_first, i, gates.a * normed.a);
      store_first(at_first, i + THREADS, gates.b * normed.b);
      store_first(at_first, i + 2u * THREADS, gates.c * normed.c);
      store_first(at_first, i + 3u * THREADS, gates.d * normed.d);
    }
  }
}

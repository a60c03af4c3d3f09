// Rows of logits x [length units] with an integer target each, one workgroup a row, in one pass:
//   z = log Σ exp x,  loss = z − x[target];  a target out of range gives NaN, and so do logits of −Infinity alone.
// Goes on from rows.wgsl.

alias Value = f32;

struct Params {
  rows: u32,
  length: u32,
  x_offset: u32,
  targets_offset: u32,
  losses_offset: u32,
  z_offset: u32,
  infinity: f32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;
@group(0) @binding(3) var<storage, read_write> z: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

fn x_at(first: u32, i: u32) -> Unit {
  return select(Unit(-params.infinity), Unit(x[first + min(i, params.length - 1u)]), i < params.length);
}

// Element `i` of the row whose first unit is `first`.
fn element_at(first: u32, i: u32) -> f32 { return f32(x[first + i]); }

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  t: Thread,
) {
  let row = group.y * groups.x + group.x;
  if (row >= params.rows) { return; }
  let first = params.x_offset + row * params.length;
  var seen = vec2f(LEAST, 0.0);
  for (var i = t.index; i < params.length; i += 4u * THREADS) {
    let turn = Turn(x_at(first, i), x_at(first, i + THREADS), x_at(first, i + 2u * THREADS), x_at(first, i + 3u * THREADS));
    seen = join(seen, logsum_of(turn));
  }
  seen = workgroup_logsum(t, seen);
  if (t.index > 0u) { return; }

  let wanted = targets[params.targets_offset + row];
  let none = bitcast<f32>(params.length | 0x7fc00000u);
  // Of a row of −Infinity alone; not every device has log(0) = −Infinity.
  let empty = seen.y == 0.0;
  z[params.z_offset + row] = select(seen.x + log(seen.y), none, empty);
  var loss = none;
  if (wanted < params.length * WIDTH && !empty) { loss = log(seen.y) + (seen.x - element_at(first, wanted)); }
  losses[params.losses_offset + row] = loss;
}

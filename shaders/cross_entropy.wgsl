// Rows of logits x [length] with an integer target each, one workgroup a row, in one pass:
//   z = log Σ exp x,  loss = z − x[target];  a target out of range gives NaN, and so do logits of −Infinity alone.
// Goes on from one of the reductions.

alias Stored = f32;
alias Value = f32;
const THREADS: u32 = 128;

struct Params {
  rows: u32,
  length: u32,
  x_offset: u32,
  targets_offset: u32,
  losses_offset: u32,
  z_offset: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;
@group(0) @binding(3) var<storage, read_write> z: array<f32>;
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
  let first = params.x_offset + row * params.length;
  // A maximum m and Σ exp(x − m) of what has been seen.
  var seen = vec2f(-3.0e38, 0.0);
  for (var i = thread; i < params.length; i += THREADS) {
    seen = join(seen, vec2f(f32(x[first + i]), 1.0));
  }
  seen = workgroup_logsum(t, seen);
  if (thread > 0u) { return; }

  let wanted = targets[params.targets_offset + row];
  z[params.z_offset + row] = seen.x + log(seen.y);
  var loss = bitcast<f32>(params.length | 0x7fc00000u);
  // Not every device has log(0) = −Infinity.
  if (wanted < params.length && seen.y != 0.0) { loss = log(seen.y) + (seen.x - f32(x[first + wanted])); }
  losses[params.losses_offset + row] = loss;
}

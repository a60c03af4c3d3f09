// q = silu(x₀), k = silu(x₁): the first two of the four parts of every row of x. One thread a unit: an element,
// or, where all counts in Params are multiples of four, four neighbours.

// A unit as it is stored, and as it is computed in.
alias Stored = f32;
alias Unit = f32;

// In units.
struct Params {
  // Of each part, and of q and k together.
  width: u32,
  size: u32,
  x_step: u32,
  x_offset: u32,
  q_offset: u32,
  k_offset: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> q: array<Stored>;
@group(0) @binding(2) var<storage, read_write> k: array<Stored>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 256u + id.x;
  if (i >= params.size) { return; }
  let width = params.width;
  let row = i / (2u * width);
  let column = i % (2u * width);
  let value = Unit(x[params.x_offset + row * params.x_step + column]);
  let result = Stored(value / (1.0 + exp(-value)));
  if (column < width) {
    q[params.q_offset + row * width + column] = result;
  } else {
    k[params.k_offset + row * width + column - width] = result;
  }
}

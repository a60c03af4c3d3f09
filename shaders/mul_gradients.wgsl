// Both gradients of x · y from g, dense:  dx = g · y,  dy = g · x.  One thread a unit: an element, or, where offsets and
// size are multiples of four, four neighbours.

// A unit as it is stored, and as it is computed in.
alias Stored = f32;
alias Unit = f32;

struct Params {
  offsets: vec3u,
  size: u32,
  dx_offset: u32,
  dy_offset: u32,
}

@group(0) @binding(0) var<storage, read> g: array<Stored>;
@group(0) @binding(1) var<storage, read> x: array<Stored>;
@group(0) @binding(2) var<storage, read> y: array<Stored>;
@group(0) @binding(3) var<storage, read_write> dx: array<Stored>;
@group(0) @binding(4) var<storage, read_write> dy: array<Stored>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 256u + id.x;
  if (i >= params.size) { return; }
  let at = params.offsets + i;
  let gradient = Unit(g[at.x]);
  dx[params.dx_offset + i] = Stored(gradient * Unit(y[at.z]));
  dy[params.dy_offset + i] = Stored(gradient * Unit(x[at.y]));
}

// dx = (dq · silu′(x₀), dk · silu′(x₁), dv, du): the four parts of every row of dx. One thread a unit: an
// element, or, where all counts in Params are multiples of four, four neighbours.

// A unit as it is stored, and as it is computed in.
alias Stored = f32;
alias Unit = f32;

// In units.
struct Params {
  // Of each part, and of dx.
  width: u32,
  size: u32,
  x_step: u32,
  x_offset: u32,
  // Of dq, dk, dv and du: elements from one row to the next, and to the first one.
  steps: vec4u,
  offsets: vec4u,
  dx_offset: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> dq: array<Stored>;
@group(0) @binding(2) var<storage, read> dk: array<Stored>;
@group(0) @binding(3) var<storage, read> dv: array<Stored>;
@group(0) @binding(4) var<storage, read> du: array<Stored>;
@group(0) @binding(5) var<storage, read_write> dx: array<Stored>;
@group(0) @binding(6) var<uniform> params: Params;

// d silu / dx at a column of a row of x.
fn slope(row: u32, column: u32) -> Unit {
  let value = Unit(x[params.x_offset + row * params.x_step + column]);
  let s = 1.0 / (1.0 + exp(-value));
  return s * (1.0 + value * (1.0 - s));
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 256u + id.x;
  if (i >= params.size) { return; }
  let width = params.width;
  let row = i / (4u * width);
  let column = i % (4u * width);
  let at = params.offsets + row * params.steps + column % width;
  var result: Stored;
  switch column / width {
    case 0u: { result = Stored(Unit(dq[at.x]) * slope(row, column)); }
    case 1u: { result = Stored(Unit(dk[at.y]) * slope(row, column)); }
    case 2u: { result = dv[at.z]; }
    default: { result = du[at.w]; }
  }
  dx[params.dx_offset + i] = result;
}

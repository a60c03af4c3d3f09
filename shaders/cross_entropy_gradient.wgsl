// dx[row, i] = g[row] · (exp(x[row, i] − z[row]) − [i = target[row]]): the gradient of the cross-entropy,
// without a tensor of probabilities. One thread a unit: an element, or, where all rows begin and end at multiples of four,
// four neighbours. Lengths and offsets of x and out count units.

alias Stored = f32;
alias Unit = f32;
alias Columns = u32;

struct Params {
  rows: u32,
  length: u32,
  x_offset: u32,
  targets_offset: u32,
  z_offset: u32,
  g_offset: u32,
  out_offset: u32,
}

@group(0) @binding(0) var<storage, read> g: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<Stored>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read> z: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<Stored>;
@group(0) @binding(5) var<uniform> params: Params;

fn columns_of(unit: u32) -> Columns { return unit; }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let at = id.y * groups.x * 256u + id.x;
  let row = at / params.length;
  if (row >= params.rows) { return; }
  let probability = exp(Unit(x[params.x_offset + at]) - z[params.z_offset + row]);
  let hit = Unit(columns_of(at % params.length) == Columns(targets[params.targets_offset + row]));
  out[params.out_offset + at] = Stored(g[params.g_offset + row] * (probability - hit));
}

// Along rows of `length` elements: out = exp(x − m) / Σ exp(x − m), m = max x,
// or, with LOG, out = x − m − log Σ exp(x − m). One workgroup a row. Goes on from one of the reductions.

alias Stored = f32;
alias Value = f32;
const LOG: bool = false;
const THREADS: u32 = 128;

struct Params {
  rows: u32,
  length: u32,
  x_offset: u32,
  out_offset: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> out: array<Stored>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  t: Thread,
) {
  let thread = t.index;
  let row = group.y * groups.x + group.x;
  if (row >= params.rows) { return; }
  let source = params.x_offset + row * params.length;
  let destination = params.out_offset + row * params.length;

  var largest = f32(x[source]);
  for (var i = thread; i < params.length; i += THREADS) { largest = max(largest, f32(x[source + i])); }
  largest = workgroup_max(t, largest);

  var sum = 0.0;
  for (var i = thread; i < params.length; i += THREADS) { sum += exp(f32(x[source + i]) - largest); }
  sum = workgroup_sum(t, sum);

  for (var i = thread; i < params.length; i += THREADS) {
    let shifted = f32(x[source + i]) - largest;
    out[destination + i] = Stored(select(exp(shifted) / sum, shifted - log(sum), LOG));
  }
}

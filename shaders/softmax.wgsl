// Along rows of `length` units: out = exp(x − m) / Σ exp(x − m), m = max x,
// or, with LOG, out = x − m − log Σ exp(x − m). One workgroup a row. Goes on from rows.wgsl.

alias Value = f32;
const LOG: bool = false;

struct Params {
  rows: u32,
  length: u32,
  x_offset: u32,
  out_offset: u32,
  infinity: f32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> out: array<Stored>;
@group(0) @binding(2) var<uniform> params: Params;

fn x_at(first: u32, i: u32) -> Unit {
  return select(Unit(-params.infinity), Unit(x[first + min(i, params.length - 1u)]), i < params.length);
}

fn turn_at(first: u32, i: u32) -> Turn {
  return Turn(x_at(first, i), x_at(first, i + THREADS), x_at(first, i + 2u * THREADS), x_at(first, i + 3u * THREADS));
}

// `whole` is the row's sum, or its logarithm.
fn store(first: u32, i: u32, value: Unit, m: f32, whole: f32) {
  if (i >= params.length) { return; }
  let shifted = value - m;
  if (LOG) { out[first + i] = Stored(shifted - whole); } else { out[first + i] = Stored(exp(shifted) / whole); }
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  t: Thread,
) {
  let row = group.y * groups.x + group.x;
  if (row >= params.rows) { return; }
  let source = params.x_offset + row * params.length;
  let destination = params.out_offset + row * params.length;

  var turn = Turn();
  var seen = vec2f(LEAST, 0.0);
  for (var i = t.index; i < params.length; i += 4u * THREADS) {
    turn = turn_at(source, i);
    seen = join(seen, logsum_of(turn));
  }
  seen = workgroup_logsum(t, seen);
  // A row of −Infinity alone: not every device has 0 / 0 = NaN, or log NaN.
  var whole = seen.y;
  if (LOG) { whole = log(seen.y); }
  if (seen.y == 0.0) { whole = bitcast<f32>(params.length | 0x7fc00000u); }

  for (var i = t.index; i < params.length; i += 4u * THREADS) {
    if (!ONCE) { turn = turn_at(source, i); }
    store(destination, i, turn.a, seen.x, whole);
    store(destination, i + THREADS, turn.b, seen.x, whole);
    store(destination, i + 2u * THREADS, turn.c, seen.x, whole);
    store(destination, i + 3u * THREADS, turn.d, seen.x, whole);
  }
}

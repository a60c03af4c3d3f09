// out[row] = x[row, 0] ∘ x[row, 1] ∘ …, where ∘ is `combine` and rows are the axes that are kept.
// LANES threads share a row and then combine their parts: a whole workgroup by one of the reductions that this text
// goes on from, fewer lanes as a tree, since nothing promises that neighbouring threads are of one subgroup. A long
// row is cut into segments; each leaves a partial result for a second pass. Rows are read by units: elements, or, where
// they lie densely and begin and end at multiples of four, four neighbours. A lane asks for four units in a turn before it
// combines any.

// A unit as x has it, and as it is computed in.
alias Stored = f32;
alias Unit = f32;
alias StoredOut = f32;
alias Value = f32;
const LANES: u32 = 64;
// Whether neighbouring threads are lanes of one row, because a row lies densely in memory.
const LANES_ADJACENT: bool = true;
const KEPT_RANK: u32 = 1;
const REDUCED_RANK: u32 = 1;
const THREADS: u32 = 256;
const ROWS: u32 = THREADS / LANES;

struct Params {
  kept_shape: array<vec4u, 2>,
  kept_strides: array<vec4u, 2>,
  reduced_shape: array<vec4u, 2>,
  reduced_strides: array<vec4u, 2>,
  offset: u32,
  offset_out: u32,
  rows: u32,
  length: u32,
  segments: u32,
  segment_length: u32,
  identity: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> out: array<StoredOut>;
@group(0) @binding(2) var<uniform> params: Params;

fn combine(a: Value, b: Value) -> Value { return a + b; }

fn combine_units(a: Unit, b: Unit) -> Unit { return a + b; }

// The elements of a unit combined.
fn within(unit: Unit) -> Value { return unit; }

fn combine_all(t: Thread, value: Value) -> Value { return workgroup_sum(t, value); }

fn kept_offset(row: u32) -> u32 {
  var rest = row;
  var at = params.offset;
  for (var axis = KEPT_RANK; axis > 1u; axis--) {
    let k = (axis - 1u) / 4u;
    let c = (axis - 1u) % 4u;
    at += rest % params.kept_shape[k][c] * params.kept_strides[k][c];
    rest /= params.kept_shape[k][c];
  }
  return at + rest * params.kept_strides[0][0];
}

fn reduced_offset(entry: u32) -> u32 {
  var rest = entry;
  var at = 0u;
  for (var axis = REDUCED_RANK; axis > 1u; axis--) {
    let k = (axis - 1u) / 4u;
    let c = (axis - 1u) % 4u;
    at += rest % params.reduced_shape[k][c] * params.reduced_strides[k][c];
    rest /= params.reduced_shape[k][c];
  }
  return at + rest * params.reduced_strides[0][0];
}

fn unit_at(base: u32, i: u32, end: u32) -> Unit {
  return select(Unit(bitcast<Value>(params.identity)), Unit(x[base + reduced_offset(min(i, end - 1u))]), i < end);
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  t: Thread,
) {
  let thread = t.index;
  let lane = select(thread / ROWS, thread % LANES, LANES_ADJACENT);
  let row_in_group = select(thread % ROWS, thread / LANES, LANES_ADJACENT);
  let slot = (group.y * groups.x + group.x) * ROWS + row_in_group;
  let row = slot / params.segments;
  let segment = slot % params.segments;

  var units = Unit(bitcast<Value>(params.identity));
  if (row < params.rows) {
    let base = kept_offset(row);
    let end = min(params.length, (segment + 1u) * params.segment_length);
    for (var i = segment * params.segment_length + lane; i < end; i += 4u * LANES) {
      let a = unit_at(base, i, end);
      let b = unit_at(base, i + LANES, end);
      let c = unit_at(base, i + 2u * LANES, end);
      let d = unit_at(base, i + 3u * LANES, end);
      units = combine_units(units, combine_units(combine_units(a, b), combine_units(c, d)));
    }
  }
  var sum = within(units);
  if (LANES == THREADS) {
    sum = combine_all(t, sum);
  } else {
    let place = row_in_group * LANES + lane;
    parts[place] = sum;
    for (var distance = LANES / 2u; distance > 0u; distance /= 2u) {
      workgroupBarrier();
      if (lane < distance) { parts[place] = combine(parts[place], parts[place + distance]); }
    }
    sum = parts[place];
  }
  if (lane == 0u && row < params.rows) { out[params.offset_out + slot] = StoredOut(sum); }
}

// The states before each chunk, had its segment begun with a state of zeros, for all segments at once; and
// what each segment adds to the state:
//   S ← 0;  for every chunk of the segment:  states[chunk] ← S,  S ← exp(−P_m) S + Σ_r β exp(P_r − P_m) k_rᵀ v_r
//   segment's state ← S,  segment's total ← Σ P_m
// over the m rows of each chunk; P is what lightning_positions.wgsl wrote. A workgroup makes 64 rows of one
// segment's [d, e], whose columns stay in its registers from chunk to chunk.
// Goes on from blocks.wgsl, decays.wgsl, tiles.wgsl and keys.wgsl.

struct Params {
  k_strides: vec4u,          // of batch, group, member of the group, row
  v_strides: vec4u,
  k_column: u32,
  v_column: u32,
  k_offset: u32,
  v_offset: u32,
  groups: u32,
  members: u32,
  n: u32,
  d: u32,
  e: u32,
  chunk: u32,
  chunks: u32,
  segment: u32,              // in chunks
  segments: u32,
  segments_offset: u32,      // of the segments' states, which follow those of the chunks
  workgroups: u32,
  source_scale: f32,
}

@group(0) @binding(2) var<storage, read> positions: array<vec2u>;
@group(0) @binding(3) var<storage, read_write> out: array<ResultElement>;
@group(0) @binding(4) var<storage, read_write> totals: array<vec2u>;
@group(0) @binding(5) var<uniform> params: Params;

// What a thread has asked for: four columns of k and of v in two rows, 8 apart, and the rows' positions.
struct Asked {
  k: vec4f,
  k_after: vec4f,
  v: vec4f,
  v_after: vec4f,
  v_right: vec4f,
  v_right_after: vec4f,
  position: vec2u,
  position_after: vec2u,
}

// Where a thread asks: the places of its columns' first row, and that of the rows' positions.
struct Places {
  k: u32,
  v: u32,
  d: u32,
  e: u32,
  position: u32,
}

fn ask(at: Places, row: u32) -> Asked {
  let here = min(row, params.n - 1u);
  let after = min(row + 8u, params.n - 1u);
  let v_here = at.v + here * params.v_strides.w;
  let v_after = at.v + after * params.v_strides.w;
  var asked = Asked();
  asked.k = load_k(at.k + here * params.k_strides.w, at.d);
  asked.k_after = load_k(at.k + after * params.k_strides.w, at.d);
  asked.v = load_v(v_here, at.e);
  asked.v_after = load_v(v_after, at.e);
  if (WIDE) {
    asked.v_right = load_v(v_here, at.e + 64u);
    asked.v_right_after = load_v(v_after, at.e + 64u);
  }
  asked.position = positions[at.position + here];
  asked.position_after = positions[at.position + after];
  return asked;
}

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let number = group.y * groups.x + group.x;
  if (number >= params.workgroups) { return; }
  let width = select(64u, 128u, WIDE);
  let tiles_e = (params.e + width - 1u) / width;
  let tiles = tiles_e * ((params.d + ROWS - 1u) / ROWS);
  let first_e = number % tiles_e * width;
  let first_d = number % tiles / tiles_e * ROWS;
  let segment = number / tiles % params.segments;
  let instance = number / tiles / params.segments;
  let at = entry_of(instance, params.groups, params.members, 0u);
  let first_chunk = segment * params.segment;
  let end_chunk = min(first_chunk + params.segment, params.chunks);

  let across = thread / 16u;
  let along = thread % 16u;
  let row = first_d + 4u * across;
  let column = first_e + 4u * along;
  let base_position = instance * (params.n + params.chunks);
  let places = Places(
    params.k_offset + dot(at, params.k_strides),
    params.v_offset + dot(at, params.v_strides),
    first_d + 4u * along,
    column,
    base_position);
  let area = params.d * params.e;
  var to = Matrix((instance * params.chunks + first_chunk) * area, params.d, params.e, params.e, 1u);
  var sums = Sums();
  var total = vec2u();
  var asked = ask(places, first_chunk * params.chunk + across);
  for (var chunk = first_chunk; chunk < end_chunk; chunk++) {
    store_sums(to, row, column, sums);
    to.base += area;
    let start = chunk * params.chunk;
    let rows = min(params.chunk, params.n - start);
    let whole = positions[base_position + params.n + chunk];
    let end = place_of(whole);
    let decay = decay_between(vec2f(), end);
    sums = Sums(decay * sums.upper, decay * sums.upper_right, decay * sums.lower, decay * sums.lower_right);
    total = plus(total, whole);
    for (var depth = 0u; depth < rows; depth += DEPTH) {
      let weight = select(0.0, params.source_scale, depth + across < rows) * decay_between(place_of(asked.position), end);
      let weight_after = select(0.0, params.source_scale, depth + across + 8u < rows) *
        decay_between(place_of(asked.position_after), end);
      put_left_terms(thread, along, weight * asked.k, weight_after * asked.k_after);
      put_right_terms(thread, along, asked.v, asked.v_after);
      if (WIDE) { put_right_terms(thread, along + 16u, asked.v_right, asked.v_right_after); }
      workgroupBarrier();
      asked = ask(places, start + min(depth + DEPTH, rows) + across);
      sums = add_tiles(sums, across, along);
      workgroupBarrier();
    }
  }
  to.base = params.segments_offset + (instance * params.segments + segment) * area;
  store_sums(to, row, column, sums);
  if (thread == 0u && number % tiles == 0u) { totals[instance * params.segments + segment] = total; }
}

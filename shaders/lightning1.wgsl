// 64 rows of linear attention with decay in its quadratic form, 64 sources at a time:
//   o_i = scale · Σ_{j ≤ i} exp(−slope · (i − j)) · (q_i · k_j) · v_j
// The first row is so far behind the first source as `distance` says.
// Goes on from blocks.wgsl, tiles.wgsl, keys.wgsl, queries.wgsl and scores.wgsl.

struct Params {
  k_strides: vec4u,          // of batch, group, member of the group, row
  v_strides: vec4u,
  q_strides: vec4u,
  out_strides: vec4u,
  k_column: u32,
  v_column: u32,
  q_column: u32,
  out_column: u32,
  k_offset: u32,
  v_offset: u32,
  q_offset: u32,
  out_offset: u32,
  slopes_group: u32,
  slopes_member: u32,
  slopes_offset: u32,
  groups: u32,
  members: u32,
  n: u32,                    // rows
  m: u32,                    // sources
  distance: u32,
  d: u32,
  e: u32,
  workgroups: u32,
  scale: f32,
}

@group(0) @binding(3) var<storage, read> slopes: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<ResultElement>;
@group(0) @binding(5) var<uniform> params: Params;

// Products of row `row` with rows `sources`, decayed, and 0 where a source comes after it. The exponent is
// never positive: e^(slope · distance) the other way overflows, and 0 · ∞ would be NaN.
fn decayed(row: u32, sources: vec4u, products: vec4f, slope: f32) -> vec4f {
  let at = row + params.distance;
  let seen = sources < vec4u(min(params.m, at + 1u));
  let distance = vec4f(select(vec4u(), at - sources, seen));
  return select(vec4f(), params.scale * exp(-slope * distance) * products, seen);
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
  let tiles_row = (params.n + ROWS - 1u) / ROWS;
  let first_column = number % tiles_e * width;
  // The last rows, which see most, first.
  let first_row = (tiles_row - 1u - number / tiles_e % tiles_row) * ROWS;
  let instance = number / tiles_e / tiles_row;
  let at = entry_of(instance, params.groups, params.members, 0u);
  let base_q = params.q_offset + dot(at, params.q_strides);
  let base_k = params.k_offset + dot(at, params.k_strides);
  let base_v = params.v_offset + dot(at, params.v_strides);
  // Beyond 127 a decay is 0 in float32; ∞ · 0 would be NaN.
  let slope = clamp(slopes[params.slopes_offset + at.y * params.slopes_group + at.z * params.slopes_member], 0.0, 127.0);

  let across = across_of(thread);
  let along = along_of(thread);
  let row = first_row + 4u * across;
  let column = first_column + 4u * along;
  let load_row = thread / 4u;
  let last = params.m - 1u;
  let at_q = base_q + min(first_row + load_row, params.n - 1u) * params.q_strides.w;
  let at_q_after = base_q + min(first_row + load_row + 32u, params.n - 1u) * params.q_strides.w;
  var sums = Sums();
  let end = min(params.m, first_row + ROWS + params.distance);
  for (var block = 0u; block < end; block += ROWS) {
    let at_k = base_k + min(block + load_row, last) * params.k_strides.w;
    let at_k_after = base_k + min(block + load_row + 32u, last) * params.k_strides.w;
    let scores = scores_of(at_q, at_q_after, at_k, at_k_after, thread);
    let sources = vec4u(block + 4u * along) + vec4u(0u, 1u, 2u, 3u);
    let weights = Scores(
      mat4x4f(
        decayed(row, sources, scores.upper[0], slope), decayed(row + 1u, sources, scores.upper[1], slope),
        decayed(row + 2u, sources, scores.upper[2], slope), decayed(row + 3u, sources, scores.upper[3], slope)),
      mat4x4f(
        decayed(row + 32u, sources, scores.lower[0], slope), decayed(row + 33u, sources, scores.lower[1], slope),
        decayed(row + 34u, sources, scores.lower[2], slope), decayed(row + 35u, sources, scores.lower[3], slope)));
    sums = add_weighted_values(sums, weights, base_v, block, last, first_column, thread);
  }

  let base_out = params.out_offset + dot(at, params.out_strides);
  let to = Matrix(base_out, params.n, params.e, params.out_strides.w, params.out_column);
  store_sums(to, row, column, sums);
}

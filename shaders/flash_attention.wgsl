// Softmax attention of 64 queries, over the keys that they see, 64 at a time:
//   o_i = Σ_j p_ij v_j / l_i,   p_ij = exp(s_ij − m_i),   s_ij = scale · q_i · k_j,   l_i = Σ_j p_ij
// m_i is the largest score so far; when it grows, the sums so far shrink by exp(old − new). The first columns'
// workgroup also writes L_i = m_i + log l_i.
// Goes on from blocks.wgsl, tiles.wgsl, keys.wgsl, queries.wgsl and scores.wgsl.

// The score of a key that is not seen: its exponential is 0 beside any other score.
const HIDDEN: f32 = -3.0e38;

struct Params {
  k_strides: vec4u,          // of batch, group, member of the group, row
  v_strides: vec4u,
  q_strides: vec4u,
  out_strides: vec4u,
  logsum_strides: vec4u,
  k_column: u32,
  v_column: u32,
  q_column: u32,
  out_column: u32,
  k_offset: u32,
  v_offset: u32,
  q_offset: u32,
  out_offset: u32,
  logsum_offset: u32,
  groups: u32,
  members: u32,
  n: u32,
  m: u32,
  shift: u32,                // query i sees keys up to i + shift
  d: u32,
  e: u32,
  workgroups: u32,
  scale: f32,
}

@group(0) @binding(3) var<storage, read_write> out: array<ResultElement>;
@group(0) @binding(4) var<storage, read_write> logsum: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

// The scores of a row, hidden where its query does not see the key.
fn seen(row: u32, keys: vec4u, products: vec4f) -> vec4f {
  let end = min(params.m, row + 1u + params.shift);
  return select(vec4f(HIDDEN), params.scale * products, keys < vec4u(end));
}

fn largest(values: vec4f) -> f32 {
  return max(max(values.x, values.y), max(values.z, values.w));
}

// exp(score − maximum) of each row's own maximum, and the sum of each row.
fn exponentials(scores: mat4x4f, maximum: vec4f) -> mat4x4f {
  return mat4x4f(
    exp(scores[0] - maximum.x), exp(scores[1] - maximum.y),
    exp(scores[2] - maximum.z), exp(scores[3] - maximum.w));
}

fn row_sums(values: mat4x4f) -> vec4f {
  return vec4f(1.0) * values;
}

fn store_logsums(base: u32, row: u32, values: vec4f) {
  let step = params.logsum_strides.w;
  let at = base + row * step;
  if (row < params.n) { logsum[at] = values.x; }
  if (row + 1u < params.n) { logsum[at + step] = values.y; }
  if (row + 2u < params.n) { logsum[at + 2u * step] = values.z; }
  if (row + 3u < params.n) { logsum[at + 3u * step] = values.w; }
}

// Two vectors of each thread, by 16 · across + along, where the right tile is between two of them.
fn aside(slot: u32, i: u32) -> vec4f { return right_at(slot % 8u / 2u, slot % 2u * 2u + i, slot / 8u); }
fn put_aside(slot: u32, i: u32, values: vec4f) { put_right(slot % 8u / 2u, slot % 2u * 2u + i, slot / 8u, values); }

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

  let across = across_of(thread);
  let along = along_of(thread);
  let slot = 16u * across + along;
  let row = first_row + 4u * across;
  let column = first_column + 4u * along;
  let load_row = thread / 4u;
  let last = params.m - 1u;
  let at_q = base_q + min(first_row + load_row, params.n - 1u) * params.q_strides.w;
  let at_q_after = base_q + min(first_row + load_row + 32u, params.n - 1u) * params.q_strides.w;
  var sums = Sums();

  // Of the upper and the lower four rows: the largest score, and this thread's part of the sum.
  var maximum = vec4f(HIDDEN);
  var maximum_lower = vec4f(HIDDEN);
  var sum = vec4f();
  var sum_lower = vec4f();

  let end = min(params.m, first_row + ROWS + params.shift);
  for (var block = 0u; block < end; block += ROWS) {
    let at_k = base_k + min(block + load_row, last) * params.k_strides.w;
    let at_k_after = base_k + min(block + load_row + 32u, last) * params.k_strides.w;
    var scores = scores_of(at_q, at_q_after, at_k, at_k_after, thread);
    let keys = vec4u(block + 4u * along) + vec4u(0u, 1u, 2u, 3u);
    scores.upper = mat4x4f(
      seen(row, keys, scores.upper[0]), seen(row + 1u, keys, scores.upper[1]),
      seen(row + 2u, keys, scores.upper[2]), seen(row + 3u, keys, scores.upper[3]));
    scores.lower = mat4x4f(
      seen(row + 32u, keys, scores.lower[0]), seen(row + 33u, keys, scores.lower[1]),
      seen(row + 34u, keys, scores.lower[2]), seen(row + 35u, keys, scores.lower[3]));

    // The largest of the 16 threads that share these rows.
    put_aside(slot, 0u, vec4f(
      largest(scores.upper[0]), largest(scores.upper[1]), largest(scores.upper[2]), largest(scores.upper[3])));
    put_aside(slot, 1u, vec4f(
      largest(scores.lower[0]), largest(scores.lower[1]), largest(scores.lower[2]), largest(scores.lower[3])));
    workgroupBarrier();
    var grown = maximum;
    var grown_lower = maximum_lower;
    for (var other = 16u * across; other < 16u * across + 16u; other++) {
      grown = max(grown, aside(other, 0u));
      grown_lower = max(grown_lower, aside(other, 1u));
    }
    workgroupBarrier();
    let shrink = exp(maximum - grown);
    let shrink_lower = exp(maximum_lower - grown_lower);
    maximum = grown;
    maximum_lower = grown_lower;
    scores = Scores(exponentials(scores.upper, maximum), exponentials(scores.lower, maximum_lower));
    sum = sum * shrink + row_sums(scores.upper);
    sum_lower = sum_lower * shrink_lower + row_sums(scores.lower);
    sums = weighted_sums(sums, shrink, shrink_lower);
    sums = add_weighted_values(sums, scores, base_v, block, last, first_column, thread);
  }

  // The whole sums of the rows, and the outputs. Without a key there is nothing to divide.
  put_aside(slot, 0u, sum);
  put_aside(slot, 1u, sum_lower);
  workgroupBarrier();
  var whole = vec4f();
  var whole_lower = vec4f();
  for (var other = 16u * across; other < 16u * across + 16u; other++) {
    whole += aside(other, 0u);
    whole_lower += aside(other, 1u);
  }
  let share = select(vec4f(), 1.0 / whole, whole > vec4f());
  let share_lower = select(vec4f(), 1.0 / whole_lower, whole_lower > vec4f());
  let base_out = params.out_offset + dot(at, params.out_strides);
  let to = Matrix(base_out, params.n, params.e, params.out_strides.w, params.out_column);
  store_sums(to, row, column, weighted_sums(sums, share, share_lower));
  if (first_column == 0u && along == 0u) {
    let base_logsum = params.logsum_offset + dot(at, vec4u(params.logsum_strides.xyz, 0u));
    store_logsums(base_logsum, row, maximum + log(whole));
    store_logsums(base_logsum, row + 32u, maximum_lower + log(whole_lower));
  }
}

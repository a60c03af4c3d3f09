// Softmax attention of 64 queries, over the keys that they see, 64 at a time:
//   o_i = Σ_j p_ij v_j / l_i,   p_ij = exp(s_ij − m_i),   s_ij = scale · q_i · k_j,   l_i = Σ_j p_ij
// m_i is the largest score so far; when it grows, the sums so far shrink by exp(old − new). A workgroup
// makes 64 columns of [rows, e], or 128 (WIDE); a thread, 4 × 4 of each quarter: of upper and lower
// rows, of left and right columns. The first columns' workgroup also writes L_i = m_i + log l_i. Every
// product goes through the same two tiles, 16 terms of its sums at a time.
// Goes on from tiles.wgsl.

// Of each operand: a scalar, or four neighbours in a row of a dense matrix.
alias Element_q = f32;
alias Element_k = f32;
alias Element_v = f32;
const WIDE: bool = false;
// The score of a key that is not seen: its exponential is 0 beside any other score.
const HIDDEN: f32 = -3.0e38;

struct Params {
  q_strides: vec4u,          // of batch, group, member of the group, row
  k_strides: vec4u,
  v_strides: vec4u,
  out_strides: vec4u,
  logsum_strides: vec4u,
  q_column: u32,
  k_column: u32,
  v_column: u32,
  out_column: u32,
  q_offset: u32,
  k_offset: u32,
  v_offset: u32,
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

@group(0) @binding(0) var<storage, read> q: array<Element_q>;
@group(0) @binding(1) var<storage, read> k: array<Element_k>;
@group(0) @binding(2) var<storage, read> v: array<Element_v>;
@group(0) @binding(3) var<storage, read_write> out: array<ResultElement>;
@group(0) @binding(4) var<storage, read_write> logsum: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

fn four_q(at: u32) -> vec4f { return vec4f(f32(q[at]), f32(q[at + params.q_column]), f32(q[at + 2u * params.q_column]), f32(q[at + 3u * params.q_column])); }
fn four_k(at: u32) -> vec4f { return vec4f(f32(k[at]), f32(k[at + params.k_column]), f32(k[at + 2u * params.k_column]), f32(k[at + 3u * params.k_column])); }
fn four_v(at: u32) -> vec4f { return vec4f(f32(v[at]), f32(v[at + params.v_column]), f32(v[at + 2u * params.v_column]), f32(v[at + 3u * params.v_column])); }

fn load_q(base: u32, row: u32, column: u32) -> vec4f {
  if (row >= params.n || column >= params.d) { return vec4f(); }
  return first(four_q(base + row * params.q_strides.w + column * params.q_column), i32(params.d - column));
}

fn load_k(base: u32, row: u32, column: u32) -> vec4f {
  if (row >= params.m || column >= params.d) { return vec4f(); }
  return first(four_k(base + row * params.k_strides.w + column * params.k_column), i32(params.d - column));
}

fn load_v(base: u32, row: u32, column: u32) -> vec4f {
  if (row >= params.m || column >= params.e) { return vec4f(); }
  return first(four_v(base + row * params.v_strides.w + column * params.v_column), i32(params.e - column));
}

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

  // What a thread computes: four rows from `row`, four from `row` + 32; columns from `column` and
  // `column` + 64. What it loads: of rows, four terms of one and of the one 32 below; of terms, four
  // columns of one and of the one 8 after.
  let across = thread / 16u;
  let along = thread % 16u;
  let tile_row = 4u * across;
  let row = first_row + tile_row;
  let column = first_column + 4u * along;
  let load_row = thread / 4u;
  let load_group = thread % 4u;
  let left_place = load_group * LEFT_PITCH + load_row;
  let right_place = across * RIGHT_PITCH + along;
  var upper = mat4x4f();
  var upper_right = mat4x4f();
  var lower = mat4x4f();
  var lower_right = mat4x4f();

  // Of the upper and the lower four rows: the largest score, and this thread's part of the sum.
  var maximum = vec4f(HIDDEN);
  var maximum_lower = vec4f(HIDDEN);
  var sum = vec4f();
  var sum_lower = vec4f();

  let end = min(params.m, first_row + ROWS + params.shift);
  for (var source = 0u; source < end; source += ROWS) {
    // Scores of this thread's rows and the keys along, along + 16, + 32 and + 48: then neighbouring
    // threads read neighbouring columns.
    var scores = mat4x4f();
    var scores_lower = mat4x4f();
    for (var term = 0u; term < params.d; term += DEPTH) {
      let from_term = term + 4u * load_group;
      left[left_place] = load_q(base_q, first_row + load_row, from_term);
      left[left_place + 32u] = load_q(base_q, first_row + load_row + 32u, from_term);
      right[left_place] = load_k(base_k, source + load_row, from_term);
      right[left_place + 32u] = load_k(base_k, source + load_row + 32u, from_term);
      workgroupBarrier();
      for (var part = 0u; part < DEPTH / 4u; part++) {
        let columns = columns_of_right(part, along);
        scores = add_dots(scores, rows_of_left(part, tile_row), columns);
        scores_lower = add_dots(scores_lower, rows_of_left(part, tile_row + 32u), columns);
      }
      workgroupBarrier();
    }
    let keys = vec4u(source + along) + vec4u(0u, 16u, 32u, 48u);
    scores = mat4x4f(
      seen(row, keys, scores[0]), seen(row + 1u, keys, scores[1]),
      seen(row + 2u, keys, scores[2]), seen(row + 3u, keys, scores[3]));
    scores_lower = mat4x4f(
      seen(row + 32u, keys, scores_lower[0]), seen(row + 33u, keys, scores_lower[1]),
      seen(row + 34u, keys, scores_lower[2]), seen(row + 35u, keys, scores_lower[3]));

    // The largest of the 16 threads that share these rows.
    right[thread] = vec4f(largest(scores[0]), largest(scores[1]), largest(scores[2]), largest(scores[3]));
    right[thread + 128u] = vec4f(
      largest(scores_lower[0]), largest(scores_lower[1]), largest(scores_lower[2]), largest(scores_lower[3]));
    workgroupBarrier();
    var grown = maximum;
    var grown_lower = maximum_lower;
    for (var other = 16u * across; other < 16u * across + 16u; other++) {
      grown = max(grown, right[other]);
      grown_lower = max(grown_lower, right[other + 128u]);
    }
    workgroupBarrier();
    let shrink = exp(maximum - grown);
    let shrink_lower = exp(maximum_lower - grown_lower);
    maximum = grown;
    maximum_lower = grown_lower;
    scores = exponentials(scores, maximum);
    scores_lower = exponentials(scores_lower, maximum_lower);
    sum = sum * shrink + row_sums(scores);
    sum_lower = sum_lower * shrink_lower + row_sums(scores_lower);
    upper = weighted(upper, shrink);
    lower = weighted(lower, shrink_lower);
    if (WIDE) {
      upper_right = weighted(upper_right, shrink);
      lower_right = weighted(lower_right, shrink_lower);
    }

    // Now exponentials · v, the sources of four threads at a time, which hand their scores over as groups of
    // four terms.
    for (var turn = 0u; turn < 4u; turn++) {
      if (along / 4u == turn) {
        let place = along % 4u * LEFT_PITCH + tile_row;
        left[place] = scores[0];
        left[place + 1u] = scores[1];
        left[place + 2u] = scores[2];
        left[place + 3u] = scores[3];
        left[place + 32u] = scores_lower[0];
        left[place + 33u] = scores_lower[1];
        left[place + 34u] = scores_lower[2];
        left[place + 35u] = scores_lower[3];
      }
      // Term 4 i + j of the tile is source 4 turn + i + 16 j.
      let from_row = source + 4u * turn + across / 4u + 16u * (across % 4u);
      right[right_place] = load_v(base_v, from_row, column);
      right[right_place + 8u * RIGHT_PITCH] = load_v(base_v, from_row + 2u, column);
      if (WIDE) {
        right[right_place + 16u] = load_v(base_v, from_row, column + 64u);
        right[right_place + 8u * RIGHT_PITCH + 16u] = load_v(base_v, from_row + 2u, column + 64u);
      }
      workgroupBarrier();
      for (var part = 0u; part < DEPTH / 4u; part++) {
        let a = rows_of_left(part, tile_row);
        let b = rows_of_left(part, tile_row + 32u);
        let terms = terms_of_right(part, along);
        upper = add_product(upper, a, terms);
        lower = add_product(lower, b, terms);
        if (WIDE) {
          let terms_right = terms_of_right(part, along + 16u);
          upper_right = add_product(upper_right, a, terms_right);
          lower_right = add_product(lower_right, b, terms_right);
        }
      }
      workgroupBarrier();
    }
  }

  // The whole sums of the rows, and the outputs. Without a key there is nothing to divide.
  right[thread] = sum;
  right[thread + 128u] = sum_lower;
  workgroupBarrier();
  var whole = vec4f();
  var whole_lower = vec4f();
  for (var other = 16u * across; other < 16u * across + 16u; other++) {
    whole += right[other];
    whole_lower += right[other + 128u];
  }
  let share = select(vec4f(), 1.0 / whole, whole > vec4f());
  let share_lower = select(vec4f(), 1.0 / whole_lower, whole_lower > vec4f());
  let base_out = params.out_offset + dot(at, params.out_strides);
  let to = Matrix(base_out, params.n, params.e, params.out_strides.w, params.out_column);
  store(to, row, column, weighted(upper, share));
  store(to, row + 32u, column, weighted(lower, share_lower));
  if (WIDE) {
    store(to, row, column + 64u, weighted(upper_right, share));
    store(to, row + 32u, column + 64u, weighted(lower_right, share_lower));
  }
  if (first_column == 0u && along == 0u) {
    let base_logsum = params.logsum_offset + dot(at, vec4u(params.logsum_strides.xyz, 0u));
    store_logsums(base_logsum, row, maximum + log(whole));
    store_logsums(base_logsum, row + 32u, maximum_lower + log(whole_lower));
  }
}

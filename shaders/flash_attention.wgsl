// Softmax attention of 64 queries, over the keys that they see, 64 at a time:
//   o_i = Σ_j p_ij v_j / l_i,   p_ij = exp(s_ij − m_i),   s_ij = scale · q_i · k_j,   l_i = Σ_j p_ij
// m_i is the largest score so far; when it grows, the sums so far shrink by exp(old − new). A workgroup
// makes 64 columns of [rows, e], or 128 (WIDE); a thread, 4 × 4 of each quarter: of upper and lower
// rows, of left and right columns. The first columns' workgroup also writes L_i = m_i + log l_i. Every
// product goes through the same two tiles, 16 terms of its sums at a time.

// Of each operand: a scalar, or four neighbours in a row of a dense matrix.
alias Element_q = f32;
alias Element_k = f32;
alias Element_v = f32;
// Of the outputs, and what they are stored as: one of them, or four neighbours (IN_FOURS).
alias Result = f32;
alias ResultElement = f32;
const IN_FOURS: bool = false;
const WIDE: bool = false;
const ROWS: u32 = 64;
const DEPTH: u32 = 16;
// Rows of the left tile and one more, so that groups of terms start in different banks.
const LEFT_PITCH: u32 = 65;
const RIGHT_PITCH: u32 = 32;
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

// Four terms of a row, by group of terms and then by row.
var<workgroup> left: array<vec4f, DEPTH / 4u * LEFT_PITCH>;
// Either four terms of a column, by group and then by column; or four columns of a term, by term;
// or what threads tell each other of their rows.
var<workgroup> right: array<vec4f, DEPTH * RIGHT_PITCH>;

fn four_q(at: u32) -> vec4f { return vec4f(f32(q[at]), f32(q[at + params.q_column]), f32(q[at + 2u * params.q_column]), f32(q[at + 3u * params.q_column])); }
fn four_k(at: u32) -> vec4f { return vec4f(f32(k[at]), f32(k[at + params.k_column]), f32(k[at + 2u * params.k_column]), f32(k[at + 3u * params.k_column])); }
fn four_v(at: u32) -> vec4f { return vec4f(f32(v[at]), f32(v[at + params.v_column]), f32(v[at + 2u * params.v_column]), f32(v[at + 3u * params.v_column])); }

// The first so many of four values, then zeros.
fn first(values: vec4f, count: i32) -> vec4f {
  return select(vec4f(), values, vec4i(0, 1, 2, 3) < vec4i(count));
}

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

fn add_row(row: vec4f, terms: vec4f, columns: mat4x4f) -> vec4f {
  return fma(terms.xxxx, columns[0], fma(terms.yyyy, columns[1], fma(terms.zzzz, columns[2], fma(terms.wwww, columns[3], row))));
}

// sum + rows · columns: four terms of each of four rows, four columns of each of the four terms.
fn add_product(sum: mat4x4f, rows: mat4x4f, columns: mat4x4f) -> mat4x4f {
  return mat4x4f(
    add_row(sum[0], rows[0], columns), add_row(sum[1], rows[1], columns),
    add_row(sum[2], rows[2], columns), add_row(sum[3], rows[3], columns));
}

// sum + rows · columns, where columns holds four terms of each column instead.
fn add_dots(sum: mat4x4f, rows: mat4x4f, columns: mat4x4f) -> mat4x4f {
  return mat4x4f(
    sum[0] + rows[0] * columns, sum[1] + rows[1] * columns,
    sum[2] + rows[2] * columns, sum[3] + rows[3] * columns);
}

// Four rows of the left tile; four terms of the right one; four of its columns, sixteen apart.
fn rows_of_left(part: u32, row: u32) -> mat4x4f {
  let at = part * LEFT_PITCH + row;
  return mat4x4f(left[at], left[at + 1u], left[at + 2u], left[at + 3u]);
}

fn terms_of_right(part: u32, column: u32) -> mat4x4f {
  let at = 4u * part * RIGHT_PITCH + column;
  return mat4x4f(right[at], right[at + RIGHT_PITCH], right[at + 2u * RIGHT_PITCH], right[at + 3u * RIGHT_PITCH]);
}

fn columns_of_right(part: u32, column: u32) -> mat4x4f {
  let at = part * LEFT_PITCH + column;
  return mat4x4f(right[at], right[at + 16u], right[at + 32u], right[at + 48u]);
}

// The scores of a row, hidden where its query does not see the key.
fn seen(row: u32, keys: vec4u, products: vec4f) -> vec4f {
  let end = min(params.m, row + 1u + params.shift);
  return select(vec4f(HIDDEN), params.scale * products, keys < vec4u(end));
}

fn largest(values: vec4f) -> f32 {
  return max(max(values.x, values.y), max(values.z, values.w));
}

// Each row by its own weight.
fn weighted(sum: mat4x4f, weight: vec4f) -> mat4x4f {
  return mat4x4f(sum[0] * weight.x, sum[1] * weight.y, sum[2] * weight.z, sum[3] * weight.w);
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

fn four_results(values: vec4f) -> ResultElement { return ResultElement(values.x); }

fn store_row(base: u32, row: u32, column: u32, values: vec4f) {
  if (row >= params.n || column >= params.e) { return; }
  let step = params.out_column;
  let at = base + row * params.out_strides.w + column * step;
  if (IN_FOURS) {
    out[at / 4u] = four_results(values);
  } else {
    out[at] = ResultElement(Result(values.x));
    if (column + 1u < params.e) { out[at + step] = ResultElement(Result(values.y)); }
    if (column + 2u < params.e) { out[at + 2u * step] = ResultElement(Result(values.z)); }
    if (column + 3u < params.e) { out[at + 3u * step] = ResultElement(Result(values.w)); }
  }
}

fn store(base: u32, row: u32, column: u32, values: mat4x4f) {
  store_row(base, row, column, values[0]);
  store_row(base, row + 1u, column, values[1]);
  store_row(base, row + 2u, column, values[2]);
  store_row(base, row + 3u, column, values[3]);
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
  let in_batch = instance % (params.groups * params.members);
  let at = vec4u(instance / (params.groups * params.members), in_batch / params.members, in_batch % params.members, 0u);
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
  store(base_out, row, column, weighted(upper, share));
  store(base_out, row + 32u, column, weighted(lower, share_lower));
  if (WIDE) {
    store(base_out, row, column + 64u, weighted(upper_right, share));
    store(base_out, row + 32u, column + 64u, weighted(lower_right, share_lower));
  }
  if (first_column == 0u && along == 0u) {
    let base_logsum = params.logsum_offset + dot(at, vec4u(params.logsum_strides.xyz, 0u));
    store_logsums(base_logsum, row, maximum + log(whole));
    store_logsums(base_logsum, row + 32u, maximum_lower + log(whole_lower));
  }
}

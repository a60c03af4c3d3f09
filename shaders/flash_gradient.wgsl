// 64 rows of one gradient of softmax attention, from L of flash_attention.wgsl:
//   dq_i = scale · Σ_j dS_ij k_j      dk_j = scale · Σ_i dS_ij q_i      dv_j = Σ_i P_ij g_i
//   P_ij = exp(scale · q_i · k_j − L_i)      dS_ij = P_ij (g_i · v_j − D_i)
// All three are the same sum over pairs of rows: `own`, whose gradient it is, and `other`. The x of a row
// is its query or key, of size d; its y, its gradient of the output or its value, of size e. For keys and
// values the other rows are the queries of every head that reads them, one head after the other, so that
// nothing is added by two workgroups.
// Goes on from blocks.wgsl and tiles.wgsl.

// Of each operand: a scalar, or four neighbours in a row of a dense matrix.
alias Element_own_x = f32;
alias Element_own_y = f32;
alias Element_other_x = f32;
alias Element_other_y = f32;
// Whether own rows are queries; if not, whether the gradient is that of values or of keys.
const OF_QUERIES: bool = true;
const OF_VALUES: bool = false;
// Whether d and e are whole tiles, so that no load goes beyond.
const WHOLE_D: bool = false;
const WHOLE_E: bool = false;
// The exponent of a pair that is not seen: its exponential is 0.
const HIDDEN: f32 = -3.0e38;

struct Params {
  own_x_strides: vec4u,      // of batch, group, member of the group, row
  own_y_strides: vec4u,
  other_x_strides: vec4u,
  other_y_strides: vec4u,
  out_strides: vec4u,
  own_x_column: u32,
  own_y_column: u32,
  other_x_column: u32,
  other_y_column: u32,
  out_column: u32,
  own_x_offset: u32,
  own_y_offset: u32,
  other_x_offset: u32,
  other_y_offset: u32,
  out_offset: u32,
  groups: u32,
  members: u32,
  own_count: u32,
  other_count: u32,
  shift: u32,                // query i sees keys up to i + shift
  d: u32,
  e: u32,
  workgroups: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> own_x: array<Element_own_x>;
@group(0) @binding(1) var<storage, read> own_y: array<Element_own_y>;
@group(0) @binding(2) var<storage, read> other_x: array<Element_other_x>;
@group(0) @binding(3) var<storage, read> other_y: array<Element_other_y>;
// L and D of every query.
@group(0) @binding(4) var<storage, read> rows: array<vec2f>;
@group(0) @binding(5) var<storage, read_write> out: array<ResultElement>;
@group(0) @binding(6) var<uniform> params: Params;

fn four_own_x(at: u32) -> vec4f { return vec4f(f32(own_x[at]), f32(own_x[at + params.own_x_column]), f32(own_x[at + 2u * params.own_x_column]), f32(own_x[at + 3u * params.own_x_column])); }
fn four_own_y(at: u32) -> vec4f { return vec4f(f32(own_y[at]), f32(own_y[at + params.own_y_column]), f32(own_y[at + 2u * params.own_y_column]), f32(own_y[at + 3u * params.own_y_column])); }
fn four_other_x(at: u32) -> vec4f { return vec4f(f32(other_x[at]), f32(other_x[at + params.other_x_column]), f32(other_x[at + 2u * params.other_x_column]), f32(other_x[at + 3u * params.other_x_column])); }
fn four_other_y(at: u32) -> vec4f { return vec4f(f32(other_y[at]), f32(other_y[at + params.other_y_column]), f32(other_y[at + 2u * params.other_y_column]), f32(other_y[at + 3u * params.other_y_column])); }

fn load_own_x(row: u32, column: u32) -> vec4f {
  let values = four_own_x(row + column * params.own_x_column);
  if (WHOLE_D) { return values; }
  return first(values, i32(params.d) - i32(column));
}

fn load_own_y(row: u32, column: u32) -> vec4f {
  let values = four_own_y(row + column * params.own_y_column);
  if (WHOLE_E) { return values; }
  return first(values, i32(params.e) - i32(column));
}

fn load_other_x(row: u32, column: u32) -> vec4f {
  let values = four_other_x(row + column * params.other_x_column);
  if (WHOLE_D) { return values; }
  return first(values, i32(params.d) - i32(column));
}

fn load_other_y(row: u32, column: u32) -> vec4f {
  let values = four_other_y(row + column * params.other_y_column);
  if (WHOLE_E) { return values; }
  return first(values, i32(params.e) - i32(column));
}

// The terms of the sum: P · g for values, scale · dS · k or q for the others.
fn load_term(base_x: u32, base_y: u32, row: u32, column: u32) -> vec4f {
  if (OF_VALUES) { return load_other_y(base_y + row * params.other_y_strides.w, column); }
  return load_other_x(base_x + row * params.other_x_strides.w, column);
}

// Products of a thread's eight own rows with the four others from 4 · along on: x · x, or y · y.
fn products_of(of_y: bool, own: vec2u, other: vec2u, thread: u32) -> Scores {
  let terms = select(params.d, params.e, of_y);
  let first_term = 4u * (thread % 4u);
  var products = Scores();
  for (var term = 0u; term < terms; term += DEPTH) {
    let at = term + first_term;
    if (of_y) {
      put_left_rows(thread, load_own_y(own.x, at), load_own_y(own.y, at));
      put_right_rows(thread, 0u, load_other_y(other.x, at), load_other_y(other.y, at));
    } else {
      put_left_rows(thread, load_own_x(own.x, at), load_own_x(own.y, at));
      put_right_rows(thread, 0u, load_other_x(other.x, at), load_other_x(other.y, at));
    }
    workgroupBarrier();
    products = add_scores(products, across_of(thread), along_of(thread));
    workgroupBarrier();
  }
  return products;
}

fn load_stats(base: u32, row: u32, count: u32) -> vec2f {
  if (row >= count) { return vec2f(); }
  return rows[base + row];
}

fn seen(row: u32, others: vec4u) -> vec4<bool> {
  let inside = others < vec4u(params.other_count);
  if (OF_QUERIES) { return inside & (others <= vec4u(row + params.shift)); }
  return inside & (vec4u(row) <= others + params.shift);
}

// P or dS of one own row and four others. The exponent is masked, not its exponential, which may be ∞.
fn weights(row: u32, others: vec4u, scores: vec4f, products: vec4f, logsum: vec4f, mean: vec4f) -> vec4f {
  let exponent = params.scale * scores - logsum;
  let p = exp(select(vec4f(HIDDEN), exponent, seen(row, others)));
  if (OF_VALUES) { return p; }
  return params.scale * p * (products - mean);
}

fn width_of_out() -> u32 {
  return select(params.d, params.e, OF_VALUES);
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
  let tiles_column = (width_of_out() + width - 1u) / width;
  let tiles_row = (params.own_count + ROWS - 1u) / ROWS;
  let first_column = number % tiles_column * width;
  // The rows with most to sum, the last queries or the first keys, first.
  let tile = number / tiles_column % tiles_row;
  let first_row = select(tile, tiles_row - 1u - tile, OF_QUERIES) * ROWS;
  let instance = number / tiles_column / tiles_row;
  let own_members = select(1u, params.members, OF_QUERIES);
  let at = entry_of(instance, params.groups, own_members, 0u);
  let base_own_x = params.own_x_offset + dot(at, params.own_x_strides);
  let base_own_y = params.own_y_offset + dot(at, params.own_y_strides);
  let queries = select(params.other_count, params.own_count, OF_QUERIES);

  let across = across_of(thread);
  let along = along_of(thread);
  let row = first_row + 4u * across;
  let column = first_column + 4u * along;
  let four = thread % 16u;
  let load_column = first_column + 4u * four;
  let load_row = thread / 4u;
  let own_rows = min(vec2u(first_row + load_row) + vec2u(0u, 32u), vec2u(params.own_count - 1u));
  let own_x_rows = base_own_x + own_rows * params.own_x_strides.w;
  let own_y_rows = base_own_y + own_rows * params.own_y_strides.w;
  let last = params.other_count - 1u;
  var sums = Sums();

  // The others that any own row sees, or is seen by.
  var begin = 0u;
  var end = params.other_count;
  if (OF_QUERIES) { end = min(end, first_row + ROWS + params.shift); } else {
    begin = max(first_row, params.shift) - params.shift;
  }
  let last_member = select(params.members, at.z + 1u, OF_QUERIES);
  for (var member = at.z; member < last_member; member++) {
    let other_at = vec4u(at.xy, member, 0u);
    let base_other_x = params.other_x_offset + dot(other_at, params.other_x_strides);
    let base_other_y = params.other_y_offset + dot(other_at, params.other_y_strides);
    let base_rows = ((at.x * params.groups + at.y) * params.members + member) * queries;
    for (var source = begin; source < end; source += ROWS) {
      let other_rows = min(vec2u(source + load_row) + vec2u(0u, 32u), vec2u(last));
      var scores = products_of(false, own_x_rows, base_other_x + other_rows * params.other_x_strides.w, thread);
      var products = Scores();
      if (!OF_VALUES) {
        products = products_of(true, own_y_rows, base_other_y + other_rows * params.other_y_strides.w, thread);
      }
      let others = vec4u(source + 4u * along) + vec4u(0u, 1u, 2u, 3u);
      if (OF_QUERIES) {
        let s0 = load_stats(base_rows, row, queries);
        let s1 = load_stats(base_rows, row + 1u, queries);
        let s2 = load_stats(base_rows, row + 2u, queries);
        let s3 = load_stats(base_rows, row + 3u, queries);
        let s4 = load_stats(base_rows, row + 32u, queries);
        let s5 = load_stats(base_rows, row + 33u, queries);
        let s6 = load_stats(base_rows, row + 34u, queries);
        let s7 = load_stats(base_rows, row + 35u, queries);
        scores.upper = mat4x4f(
          weights(row, others, scores.upper[0], products.upper[0], s0.xxxx, s0.yyyy),
          weights(row + 1u, others, scores.upper[1], products.upper[1], s1.xxxx, s1.yyyy),
          weights(row + 2u, others, scores.upper[2], products.upper[2], s2.xxxx, s2.yyyy),
          weights(row + 3u, others, scores.upper[3], products.upper[3], s3.xxxx, s3.yyyy));
        scores.lower = mat4x4f(
          weights(row + 32u, others, scores.lower[0], products.lower[0], s4.xxxx, s4.yyyy),
          weights(row + 33u, others, scores.lower[1], products.lower[1], s5.xxxx, s5.yyyy),
          weights(row + 34u, others, scores.lower[2], products.lower[2], s6.xxxx, s6.yyyy),
          weights(row + 35u, others, scores.lower[3], products.lower[3], s7.xxxx, s7.yyyy));
      } else {
        let s0 = load_stats(base_rows, others.x, queries);
        let s1 = load_stats(base_rows, others.y, queries);
        let s2 = load_stats(base_rows, others.z, queries);
        let s3 = load_stats(base_rows, others.w, queries);
        let logsum = vec4f(s0.x, s1.x, s2.x, s3.x);
        let mean = vec4f(s0.y, s1.y, s2.y, s3.y);
        scores.upper = mat4x4f(
          weights(row, others, scores.upper[0], products.upper[0], logsum, mean),
          weights(row + 1u, others, scores.upper[1], products.upper[1], logsum, mean),
          weights(row + 2u, others, scores.upper[2], products.upper[2], logsum, mean),
          weights(row + 3u, others, scores.upper[3], products.upper[3], logsum, mean));
        scores.lower = mat4x4f(
          weights(row + 32u, others, scores.lower[0], products.lower[0], logsum, mean),
          weights(row + 33u, others, scores.lower[1], products.lower[1], logsum, mean),
          weights(row + 34u, others, scores.lower[2], products.lower[2], logsum, mean),
          weights(row + 35u, others, scores.lower[3], products.lower[3], logsum, mean));
      }

      // Now weights · terms, 16 others at a time.
      for (var turn = 0u; turn < 4u; turn++) {
        hand_over(scores, turn, across, along);
        let term_row = min(source + 16u * turn + thread / 16u, last);
        let term_row_after = min(source + 16u * turn + thread / 16u + 8u, last);
        put_right_terms(
          thread / 16u, four,
          load_term(base_other_x, base_other_y, term_row, load_column),
          load_term(base_other_x, base_other_y, term_row_after, load_column));
        if (WIDE) {
          put_right_terms(
            thread / 16u, four + 16u,
            load_term(base_other_x, base_other_y, term_row, load_column + 64u),
            load_term(base_other_x, base_other_y, term_row_after, load_column + 64u));
        }
        workgroupBarrier();
        sums = add_tiles(sums, across, along);
        workgroupBarrier();
      }
    }
  }

  let base_out = params.out_offset + dot(at, params.out_strides);
  let to = Matrix(base_out, params.own_count, width_of_out(), params.out_strides.w, params.out_column);
  store_sums(to, row, column, sums);
}

// out[b] = x[b] · y[b], with ADD + plus[b]:  [m, k] · [k, n] → [m, n], for products large enough to fill a GPU. A workgroup
// computes 64 × 128 of them.
// Goes on from blocks.wgsl, tiles.wgsl and matmul_params.wgsl.

// A scalar, or four neighbours along whichever axis of the matrix is dense.
alias Element_x = f32;
alias Element_y = f32;
alias Element_plus = f32;
const ADD: bool = false;
// The axis along which loads take four neighbours: k, or m of x and n of y.
const X_ALONG_K: bool = true;
const Y_ALONG_K: bool = false;
// Whether m, n and k are whole tiles, so that no load goes beyond.
const WHOLE: bool = false;

@group(0) @binding(0) var<storage, read> x: array<Element_x>;
@group(0) @binding(1) var<storage, read> y: array<Element_y>;
@group(0) @binding(2) var<storage, read_write> out: array<ResultElement>;
@group(0) @binding(3) var<storage, read> plus: array<Element_plus>;
@group(0) @binding(4) var<uniform> params: Params;

fn four_x(at: u32, step: u32) -> vec4f { return vec4f(f32(x[at]), f32(x[at + step]), f32(x[at + 2u * step]), f32(x[at + 3u * step])); }
fn four_y(at: u32, step: u32) -> vec4f { return vec4f(f32(y[at]), f32(y[at + step]), f32(y[at + 2u * step]), f32(y[at + 3u * step])); }

// Four elements of x from (row, k) on, along k or along rows; zeros beyond the matrix.
fn load_x(base: u32, row: u32, k: u32) -> vec4f {
  let step = select(params.x_m, params.x_k, X_ALONG_K);
  let values = four_x(base + row * params.x_m + k * params.x_k, step);
  if (WHOLE) { return values; }
  let left = select(params.m - row, params.k - k, X_ALONG_K);
  return first(values, select(0, i32(left), row < params.m && k < params.k));
}

fn load_y(base: u32, k: u32, column: u32) -> vec4f {
  let step = select(params.y_n, params.y_k, Y_ALONG_K);
  let values = four_y(base + k * params.y_k + column * params.y_n, step);
  if (WHOLE) { return values; }
  let left = select(params.n - column, params.k - k, Y_ALONG_K);
  return first(values, select(0, i32(left), column < params.n && k < params.k));
}

fn four_plus(at: u32, step: u32) -> vec4f { return vec4f(f32(plus[at]), f32(plus[at + step]), f32(plus[at + 2u * step]), f32(plus[at + 3u * step])); }

// A block of sums, and what they are added to; rows and columns beyond the matrix are not stored.
fn total(base: u32, row: u32, column: u32, sum: mat4x4f) -> mat4x4f {
  let at = base + row * params.out_m + column * params.out_n;
  return sum + mat4x4f(
    four_plus(at, params.out_n),
    four_plus(at + params.out_m, params.out_n),
    four_plus(at + 2u * params.out_m, params.out_n),
    four_plus(at + 3u * params.out_m, params.out_n));
}

// What a thread asks for: two rows of x 32 apart, or two terms 8 apart; and of y two terms 8 apart, here and
// 64 columns to the right, or four columns 32 apart.
struct Asked {
  x: vec4f,
  x_after: vec4f,
  y: vec4f,
  y_after: vec4f,
  y_right: vec4f,
  y_right_after: vec4f,
}

fn ask(base_x: u32, base_y: u32, first_row: u32, first_column: u32, k: u32, thread: u32) -> Asked {
  var asked = Asked();
  let line = thread / 4u;
  let terms = k + 4u * (thread % 4u);
  let term = k + thread / 16u;
  let four = 4u * (thread % 16u);
  if (X_ALONG_K) {
    asked.x = load_x(base_x, first_row + line, terms);
    asked.x_after = load_x(base_x, first_row + line + 32u, terms);
  } else {
    asked.x = load_x(base_x, first_row + four, term);
    asked.x_after = load_x(base_x, first_row + four, term + 8u);
  }
  if (Y_ALONG_K) {
    asked.y = load_y(base_y, terms, first_column + line);
    asked.y_after = load_y(base_y, terms, first_column + line + 32u);
    asked.y_right = load_y(base_y, terms, first_column + line + 64u);
    asked.y_right_after = load_y(base_y, terms, first_column + line + 96u);
  } else {
    asked.y = load_y(base_y, term, first_column + four);
    asked.y_after = load_y(base_y, term + 8u, first_column + four);
    asked.y_right = load_y(base_y, term, first_column + four + 64u);
    asked.y_right_after = load_y(base_y, term + 8u, first_column + four + 64u);
  }
  return asked;
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let first_column = group.x * 128u;
  let first_row = group.y * ROWS;
  let batch = batch_of(group.z);
  let base_x = params.x_offset + dot(batch, params.batch_x);
  let base_y = params.y_offset + dot(batch, params.batch_y);
  let across = across_of(thread);
  let along = along_of(thread);
  let four = thread % 16u;
  let last = (params.k - 1u) / DEPTH * DEPTH;
  var sums = Sums();
  var asked = ask(base_x, base_y, first_row, first_column, 0u, thread);
  for (var k = 0u; k < params.k; k += DEPTH) {
    if (X_ALONG_K) {
      put_left_rows(thread, asked.x, asked.x_after);
    } else {
      put_left_terms(thread / 16u, four, asked.x, asked.x_after);
    }
    if (Y_ALONG_K) {
      put_right_rows(thread, 0u, asked.y, asked.y_after);
      put_right_rows(thread, 16u, asked.y_right, asked.y_right_after);
    } else {
      put_right_terms(thread / 16u, four, asked.y, asked.y_after);
      put_right_terms(thread / 16u, four + 16u, asked.y_right, asked.y_right_after);
    }
    workgroupBarrier();
    asked = ask(base_x, base_y, first_row, first_column, min(k + DEPTH, last), thread);
    sums = add_tiles(sums, across, along);
    workgroupBarrier();
  }
  let row = first_row + 4u * across;
  let column = first_column + 4u * along;
  let base = dot(batch, params.batch_out);
  if (ADD) {
    let base_plus = params.plus_offset + base;
    sums.upper = total(base_plus, row, column, sums.upper);
    sums.lower = total(base_plus, row + 32u, column, sums.lower);
    sums.upper_right = total(base_plus, row, column + 64u, sums.upper_right);
    sums.lower_right = total(base_plus, row + 32u, column + 64u, sums.lower_right);
  }
  let to = Matrix(params.out_offset + base, params.m, params.n, params.out_m, params.out_n);
  store_sums(to, row, column, sums);
}

// out[b] = x[b] · y[b]:  [m, k] · [k, n] → [m, n], for products large enough to fill a GPU.
// A workgroup computes a 128 × 128 tile; a thread, 8 × 8 of it, as four 4 × 4 corners 64 apart. Half of
// the threads load x and half load y, each a block of 4 × 4 that is turned over on the way if need be.
// Goes on from blocks.wgsl.

// A scalar, or four neighbours along whichever axis of the matrix is dense.
alias Element_x = f32;
alias Element_y = f32;
alias StoredOut = f32;
const X_ALONG_K: bool = true;
const Y_ALONG_K: bool = false;
const TILE: u32 = 128;
const DEPTH: u32 = 16;
// Terms of the sums between two checks of their loop: 1 or 4.
const STEPS: u32 = 4;
const PITCH: u32 = 32;

struct Params {
  batch_shape: vec4u,
  batch_x: vec4u,
  batch_y: vec4u,
  batch_out: vec4u,
  m: u32,
  n: u32,
  k: u32,
  x_offset: u32,
  x_m: u32,
  x_k: u32,
  y_offset: u32,
  y_k: u32,
  y_n: u32,
  out_offset: u32,
  out_m: u32,
  out_n: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Element_x>;
@group(0) @binding(1) var<storage, read> y: array<Element_y>;
@group(0) @binding(2) var<storage, read_write> out: array<StoredOut>;
@group(0) @binding(3) var<uniform> params: Params;

// Tiles by depth, then by groups of four rows of x or columns of y.
var<workgroup> tile_x: array<vec4f, DEPTH * PITCH>;
var<workgroup> tile_y: array<vec4f, DEPTH * PITCH>;

fn four_x(at: u32, step: u32) -> vec4f { return vec4f(f32(x[at]), f32(x[at + step]), f32(x[at + 2u * step]), f32(x[at + 3u * step])); }
fn four_y(at: u32, step: u32) -> vec4f { return vec4f(f32(y[at]), f32(y[at + step]), f32(y[at + 2u * step]), f32(y[at + 3u * step])); }

// Four elements from (along, across) on, along an axis of length `length`.
fn line_x(base: u32, along: u32, length: u32, step: u32, across: u32, end: u32, stride: u32) -> vec4f {
  let inside = along < length && across < end;
  return first(four_x(base + along * step + across * stride, step), select(0, i32(length - along), inside));
}

fn line_y(base: u32, along: u32, length: u32, step: u32, across: u32, end: u32, stride: u32) -> vec4f {
  let inside = along < length && across < end;
  return first(four_y(base + along * step + across * stride, step), select(0, i32(length - along), inside));
}

// Four depths from `k` on, each of four rows from `row` on.
fn block_x(base: u32, row: u32, k: u32) -> mat4x4f {
  let p = &params;
  if (X_ALONG_K) {
    return transpose(mat4x4f(
      line_x(base, k, (*p).k, (*p).x_k, row, (*p).m, (*p).x_m),
      line_x(base, k, (*p).k, (*p).x_k, row + 1u, (*p).m, (*p).x_m),
      line_x(base, k, (*p).k, (*p).x_k, row + 2u, (*p).m, (*p).x_m),
      line_x(base, k, (*p).k, (*p).x_k, row + 3u, (*p).m, (*p).x_m)));
  }
  return mat4x4f(
    line_x(base, row, (*p).m, (*p).x_m, k, (*p).k, (*p).x_k),
    line_x(base, row, (*p).m, (*p).x_m, k + 1u, (*p).k, (*p).x_k),
    line_x(base, row, (*p).m, (*p).x_m, k + 2u, (*p).k, (*p).x_k),
    line_x(base, row, (*p).m, (*p).x_m, k + 3u, (*p).k, (*p).x_k));
}

// Four depths from `k` on, each of four columns from `column` on.
fn block_y(base: u32, column: u32, k: u32) -> mat4x4f {
  let p = &params;
  if (Y_ALONG_K) {
    return transpose(mat4x4f(
      line_y(base, k, (*p).k, (*p).y_k, column, (*p).n, (*p).y_n),
      line_y(base, k, (*p).k, (*p).y_k, column + 1u, (*p).n, (*p).y_n),
      line_y(base, k, (*p).k, (*p).y_k, column + 2u, (*p).n, (*p).y_n),
      line_y(base, k, (*p).k, (*p).y_k, column + 3u, (*p).n, (*p).y_n)));
  }
  return mat4x4f(
    line_y(base, column, (*p).n, (*p).y_n, k, (*p).k, (*p).y_k),
    line_y(base, column, (*p).n, (*p).y_n, k + 1u, (*p).k, (*p).y_k),
    line_y(base, column, (*p).n, (*p).y_n, k + 2u, (*p).k, (*p).y_k),
    line_y(base, column, (*p).n, (*p).y_n, k + 3u, (*p).k, (*p).y_k));
}

fn store_row(base: u32, row: u32, column: u32, values: vec4f) {
  if (row >= params.m) { return; }
  let at = base + row * params.out_m + column * params.out_n;
  if (column < params.n) { out[at] = StoredOut(values.x); }
  if (column + 1u < params.n) { out[at + params.out_n] = StoredOut(values.y); }
  if (column + 2u < params.n) { out[at + 2u * params.out_n] = StoredOut(values.z); }
  if (column + 3u < params.n) { out[at + 3u * params.out_n] = StoredOut(values.w); }
}

fn store(base: u32, row: u32, column: u32, values: mat4x4f) {
  store_row(base, row, column, values[0]);
  store_row(base, row + 1u, column, values[1]);
  store_row(base, row + 2u, column, values[2]);
  store_row(base, row + 3u, column, values[3]);
}

// A thread's sums, by corner of the tile.
struct Corners {
  here: mat4x4f,
  right: mat4x4f,
  below: mat4x4f,
  opposite: mat4x4f,
}

// Adds one term to every sum.
fn add_term(sums: Corners, depth: u32, across: u32, along: u32) -> Corners {
  let a = tile_x[depth * PITCH + across];
  let a_below = tile_x[depth * PITCH + across + 16u];
  let b = tile_y[depth * PITCH + along];
  let b_right = tile_y[depth * PITCH + along + 16u];
  return Corners(
    outer(sums.here, a, b), outer(sums.right, a, b_right),
    outer(sums.below, a_below, b), outer(sums.opposite, a_below, b_right));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let first_column = group.x * TILE;
  let first_row = group.y * TILE;
  var batch = vec4u(0u, 0u, 0u, group.z);
  for (var axis = 3u; axis > 0u; axis--) {
    batch[axis - 1u] = batch[axis] / params.batch_shape[axis];
    batch[axis] = batch[axis] % params.batch_shape[axis];
  }
  let base_x = params.x_offset + dot(batch, params.batch_x);
  let base_y = params.y_offset + dot(batch, params.batch_y);

  // The block this thread loads. Neighbours along the dense axis, so that they read neighbours.
  let item = thread % 128u;
  let loads_x = thread < 128u;
  let along_k = select(Y_ALONG_K, X_ALONG_K, loads_x);
  let load_depth = 4u * select(item / 32u, item % 4u, along_k);
  let load_group = select(item % 32u, item / 4u, along_k);
  let place = load_depth * PITCH + load_group;

  let across = thread / 16u;
  let along = thread % 16u;
  var sums = Corners();
  for (var k = 0u; k < params.k; k += DEPTH) {
    if (loads_x) {
      let block = block_x(base_x, first_row + 4u * load_group, k + load_depth);
      tile_x[place] = block[0];
      tile_x[place + PITCH] = block[1];
      tile_x[place + 2u * PITCH] = block[2];
      tile_x[place + 3u * PITCH] = block[3];
    } else {
      let block = block_y(base_y, first_column + 4u * load_group, k + load_depth);
      tile_y[place] = block[0];
      tile_y[place + PITCH] = block[1];
      tile_y[place + 2u * PITCH] = block[2];
      tile_y[place + 3u * PITCH] = block[3];
    }
    workgroupBarrier();
    for (var depth = 0u; depth < DEPTH; depth += STEPS) {
      sums = add_term(sums, depth, across, along);
      if (STEPS == 4u) {
        sums = add_term(sums, depth + 1u, across, along);
        sums = add_term(sums, depth + 2u, across, along);
        sums = add_term(sums, depth + 3u, across, along);
      }
    }
    workgroupBarrier();
  }

  let base = params.out_offset + dot(batch, params.batch_out);
  let row = first_row + 4u * across;
  let column = first_column + 4u * along;
  store(base, row, column, sums.here);
  store(base, row, column + 64u, sums.right);
  store(base, row + 64u, column, sums.below);
  store(base, row + 64u, column + 64u, sums.opposite);
}

// out[b] = x[b] · y[b]:  [m, k] · [k, n] → [m, n] in float16, on matrix units. A workgroup of eight
// subgroups computes a tile of TILE × TILE; a subgroup, a quarter of its rows and half of its columns, as
// 2 × 4 fragments. While it multiplies one slice of DEPTH terms, the next is on its way to registers.
// Goes on in cores.wgsl.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

const SIDE: u32 = 16;
const LANES: u32 = 32;
// A scalar, or eight neighbours along whichever axis of the matrix is dense.
alias Element_x = f16;
alias Element_y = f16;
alias Element_out = f16;
const OUT_IN_EIGHTS: bool = false;
const X_ALONG_K: bool = true;
const Y_ALONG_K: bool = false;
// Whether m and n are whole numbers of tiles, and k of slices.
const WHOLE: bool = false;
const THREADS: u32 = 8 * LANES;
const TILE: u32 = 8 * SIDE;
const DEPTH: u32 = 4 * SIDE;
// Slices in workgroup memory, in eights: a line runs along k or across it, and has one eight more than it
// holds, so that neighbouring lines start in different banks.
const TILE_EIGHTS: u32 = 8 * SIDE * (SIDE / 2 + 1);
const X_LINE: u32 = select(TILE, DEPTH, X_ALONG_K) / 8;
const Y_LINE: u32 = select(TILE, DEPTH, Y_ALONG_K) / 8;
const X_PITCH: u32 = X_LINE + 1;
const Y_PITCH: u32 = Y_LINE + 1;
// A thread moves four eights of a slice: lines from one to the next.
const X_STEP: u32 = THREADS / X_LINE;
const Y_STEP: u32 = THREADS / Y_LINE;
const SUM_PITCH: u32 = SIDE + 1;

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
@group(0) @binding(2) var<storage, read_write> out: array<Element_out>;
@group(0) @binding(3) var<uniform> params: Params;

// A slice of x, then one of y; in the end, fragments of the result in float32.
var<workgroup> tiles: array<vec4u, 2 * TILE_EIGHTS>;
const OF_Y: u32 = TILE_EIGHTS;

// Eight elements a step apart, the last of them repeated after the first count + 1.
fn one_x(at: u32) -> f16 { return x[at]; }
fn eight_x(at: u32, step: u32, count: u32) -> vec4u { return gathered_x(at, step, count); }
fn gathered_x(at: u32, step: u32, count: u32) -> vec4u {
  var values = vec4u();
  for (var i = 0u; i < 4u; i++) {
    values[i] = two(one_x(at + min(2u * i, count) * step), one_x(at + min(2u * i + 1u, count) * step));
  }
  return values;
}
fn one_y(at: u32) -> f16 { return y[at]; }
fn eight_y(at: u32, step: u32, count: u32) -> vec4u { return gathered_y(at, step, count); }
fn gathered_y(at: u32, step: u32, count: u32) -> vec4u {
  var values = vec4u();
  for (var i = 0u; i < 4u; i++) {
    values[i] = two(one_y(at + min(2u * i, count) * step), one_y(at + min(2u * i + 1u, count) * step));
  }
  return values;
}

// What a thread has of a slice.
struct Four { a: vec4u, b: vec4u, c: vec4u, d: vec4u }

// An eight of a line; zeros outside, and what is read instead lies inside.
fn load_x(base: u32, line: u32, item: u32, lines: u32, items: u32) -> vec4u {
  let step = select(params.x_m, params.x_k, X_ALONG_K);
  let stride = select(params.x_k, params.x_m, X_ALONG_K);
  if (WHOLE) { return eight_x(base + line * stride + item * step, step, 7u); }
  let start = min(item, items - 1u);
  let values = eight_x(base + min(line, lines - 1u) * stride + start * step, step, items - 1u - start);
  return first_eight(values, select(0, i32(items) - i32(item), line < lines));
}

// What thread `thread` has of the slice from `first` of m and from k on.
fn slice_x(base: u32, first: u32, k: u32, thread: u32) -> Four {
  let from_there = base + first * params.x_m + k * params.x_k;
  let lines = select(params.k - k, params.m - first, X_ALONG_K);
  let items = select(params.m - first, params.k - k, X_ALONG_K);
  let line = thread / X_LINE;
  let item = thread % X_LINE * 8u;
  return Four(
    load_x(from_there, line, item, lines, items), load_x(from_there, line + X_STEP, item, lines, items),
    load_x(from_there, line + 2u * X_STEP, item, lines, items), load_x(from_there, line + 3u * X_STEP, item, lines, items));
}

fn load_y(base: u32, line: u32, item: u32, lines: u32, items: u32) -> vec4u {
  let step = select(params.y_n, params.y_k, Y_ALONG_K);
  let stride = select(params.y_k, params.y_n, Y_ALONG_K);
  if (WHOLE) { return eight_y(base + line * stride + item * step, step, 7u); }
  let start = min(item, items - 1u);
  let values = eight_y(base + min(line, lines - 1u) * stride + start * step, step, items - 1u - start);
  return first_eight(values, select(0, i32(items) - i32(item), line < lines));
}

// What thread `thread` has of the slice from `first` of n and from k on.
fn slice_y(base: u32, first: u32, k: u32, thread: u32) -> Four {
  let from_there = base + first * params.y_n + k * params.y_k;
  let lines = select(params.k - k, params.n - first, Y_ALONG_K);
  let items = select(params.n - first, params.k - k, Y_ALONG_K);
  let line = thread / Y_LINE;
  let item = thread % Y_LINE * 8u;
  return Four(
    load_y(from_there, line, item, lines, items), load_y(from_there, line + Y_STEP, item, lines, items),
    load_y(from_there, line + 2u * Y_STEP, item, lines, items), load_y(from_there, line + 3u * Y_STEP, item, lines, items));
}

fn put(place: u32, step: u32, values: Four) {
  tiles[place] = values.a;
  tiles[place + step] = values.b;
  tiles[place + 2u * step] = values.c;
  tiles[place + 3u * step] = values.d;
}

fn left(row: u32, k: u32) -> Left {
  if (X_ALONG_K) { return subgroupMatrixLoad<Left, row_major>(&tiles, row * X_PITCH + k / 8u, X_PITCH); }
  return subgroupMatrixLoad<Left, col_major>(&tiles, k * X_PITCH + row / 8u, X_PITCH);
}

fn right(column: u32, k: u32) -> Right {
  if (Y_ALONG_K) { return subgroupMatrixLoad<Right, col_major>(&tiles, OF_Y + column * Y_PITCH + k / 8u, Y_PITCH); }
  return subgroupMatrixLoad<Right, row_major>(&tiles, OF_Y + k * Y_PITCH + column / 8u, Y_PITCH);
}

fn eight_results(values: vec4u) -> Element_out { return Element_out(); }
fn one_result(values: vec4f, lane: u32) -> Element_out { return Element_out(values[lane]); }

// Rounds and stores the fragments of a subgroup's row of fragments: a lane, one eight of each.
fn store_row(base: u32, row: u32, column: u32, strip: u32, lane: u32) {
  workgroupBarrier();
  let at_row = row + lane / (SIDE / 8u);
  for (var fragment = 0u; fragment < 4u; fragment++) {
    let within = fragment * SIDE + lane % (SIDE / 8u) * 8u;
    let start = strip + lane / (SIDE / 8u) * SUM_PITCH + within / 4u;
    let low = bitcast<vec4f>(tiles[start]);
    let high = bitcast<vec4f>(tiles[start + 1u]);
    let at_column = column + within;
    if (at_row < params.m && at_column < params.n) {
      let at = base + at_row * params.out_m + at_column * params.out_n;
      if (OUT_IN_EIGHTS) {
        out[at / 8u] = eight_results(rounded(low, high));
      } else {
        for (var i = 0u; i < min(4u, params.n - at_column); i++) { out[at + i * params.out_n] = one_result(low, i); }
        for (var i = 4u; i < min(8u, params.n - at_column); i++) { out[at + i * params.out_n] = one_result(high, i - 4u); }
      }
    }
  }
  workgroupBarrier();
}

@compute @workgroup_size(8 * LANES)
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
  let subgroup = thread / LANES;
  let row = subgroup / 2u * 2u * SIDE;
  let column = subgroup % 2u * 4u * SIDE;
  let place_x = thread / X_LINE * X_PITCH + thread % X_LINE;
  let place_y = OF_Y + thread / Y_LINE * Y_PITCH + thread % Y_LINE;

  var next_x = slice_x(base_x, first_row, 0u, thread);
  var next_y = slice_y(base_y, first_column, 0u, thread);
  var a0 = Sum(); var a1 = Sum(); var a2 = Sum(); var a3 = Sum();
  var b0 = Sum(); var b1 = Sum(); var b2 = Sum(); var b3 = Sum();
  for (var k = 0u; k < params.k; k += DEPTH) {
    put(place_x, X_STEP * X_PITCH, next_x);
    put(place_y, Y_STEP * Y_PITCH, next_y);
    workgroupBarrier();
    // After the last slice the first one again, for nothing.
    let next = select(0u, k + DEPTH, k + DEPTH < params.k);
    next_x = slice_x(base_x, first_row, next, thread);
    next_y = slice_y(base_y, first_column, next, thread);
    for (var depth = 0u; depth < DEPTH; depth += SIDE) {
      let a = left(row, depth);
      let b = left(row + SIDE, depth);
      let y0 = right(column, depth);
      a0 = subgroupMatrixMultiplyAccumulate(a, y0, a0);
      b0 = subgroupMatrixMultiplyAccumulate(b, y0, b0);
      let y1 = right(column + SIDE, depth);
      a1 = subgroupMatrixMultiplyAccumulate(a, y1, a1);
      b1 = subgroupMatrixMultiplyAccumulate(b, y1, b1);
      let y2 = right(column + 2u * SIDE, depth);
      a2 = subgroupMatrixMultiplyAccumulate(a, y2, a2);
      b2 = subgroupMatrixMultiplyAccumulate(b, y2, b2);
      let y3 = right(column + 3u * SIDE, depth);
      a3 = subgroupMatrixMultiplyAccumulate(a, y3, a3);
      b3 = subgroupMatrixMultiplyAccumulate(b, y3, b3);
    }
    workgroupBarrier();
  }

  let base = params.out_offset + dot(batch, params.batch_out);
  let to_row = first_row + row;
  let to_column = first_column + column;
  let lane = thread % LANES;
  // A strip of workgroup memory for each subgroup: SIDE rows of 4 · SIDE float32 columns.
  let strip = subgroup * SIDE * SUM_PITCH;
  let step = SIDE / 4u;
  subgroupMatrixStore<row_major>(&tiles, strip, a0, SUM_PITCH);
  subgroupMatrixStore<row_major>(&tiles, strip + step, a1, SUM_PITCH);
  subgroupMatrixStore<row_major>(&tiles, strip + 2u * step, a2, SUM_PITCH);
  subgroupMatrixStore<row_major>(&tiles, strip + 3u * step, a3, SUM_PITCH);
  store_row(base, to_row, to_column, strip, lane);
  subgroupMatrixStore<row_major>(&tiles, strip, b0, SUM_PITCH);
  subgroupMatrixStore<row_major>(&tiles, strip + step, b1, SUM_PITCH);
  subgroupMatrixStore<row_major>(&tiles, strip + 2u * step, b2, SUM_PITCH);
  subgroupMatrixStore<row_major>(&tiles, strip + 3u * step, b3, SUM_PITCH);
  store_row(base, to_row + SIDE, to_column, strip, lane);
}

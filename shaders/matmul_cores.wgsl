// out[b] = x[b] · y[b]:  [m, k] · [k, n] → [m, n] in float16, on matrix units. A workgroup of eight
// subgroups computes a tile of TILE × TILE; a subgroup, a quarter of its rows and half of its columns, as
// 2 × 4 fragments. While it multiplies one slice of DEPTH terms, the next is on its way to registers.
// Goes on in matmul_params.wgsl, cores.wgsl and cores_results.wgsl.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

// A scalar, or eight neighbours along whichever axis of the matrix is dense.
alias Element_x = f16;
alias Element_y = f16;
const PER_x: u32 = 1;
const PER_y: u32 = 1;
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

@group(0) @binding(0) var<storage, read> x: array<Element_x>;
@group(0) @binding(1) var<storage, read> y: array<Element_y>;
@group(0) @binding(2) var<storage, read_write> out: array<Element_out>;
@group(0) @binding(3) var<uniform> params: Params;

// A slice of x, then one of y; in the end, fragments of the result in float32.
var<workgroup> tiles: array<vec4u, 2 * TILE_EIGHTS>;
const OF_Y: u32 = TILE_EIGHTS;

fn eight_x(at: Eight) -> vec4u { return together(vec4<f16>(x[at.low.x], x[at.low.y], x[at.low.z], x[at.low.w]), vec4<f16>(x[at.high.x], x[at.high.y], x[at.high.z], x[at.high.w])); }
fn eight_y(at: Eight) -> vec4u { return together(vec4<f16>(y[at.low.x], y[at.low.y], y[at.low.z], y[at.low.w]), vec4<f16>(y[at.high.x], y[at.high.y], y[at.high.z], y[at.high.w])); }

// A slice, or what is left of it at the matrix's end: where it begins, how many lines and items of a line it has, from
// one to the next of them, and how many items the array has in one.
struct Slice { base: u32, lines: u32, items: u32, line_step: u32, item_step: u32, per: u32 }

// The slice of x from `first` of m and from k on, and of y from `first` of n.
fn slice_of_x(base: u32, first: u32, k: u32) -> Slice {
  let start = (base + first * params.x_m + k * params.x_k) / PER_x;
  if (X_ALONG_K) { return Slice(start, params.m - first, params.k - k, params.x_m / PER_x, params.x_k, PER_x); }
  return Slice(start, params.k - k, params.m - first, params.x_k / PER_x, params.x_m, PER_x);
}
fn slice_of_y(base: u32, first: u32, k: u32) -> Slice {
  let start = (base + first * params.y_n + k * params.y_k) / PER_y;
  if (Y_ALONG_K) { return Slice(start, params.n - first, params.k - k, params.y_n / PER_y, params.y_k, PER_y); }
  return Slice(start, params.k - k, params.n - first, params.y_k / PER_y, params.y_n, PER_y);
}

// Where an eight of a line lies; those outside, where there is some inside.
fn place_in(slice: Slice, line: u32, item: u32) -> Eight {
  if (WHOLE) {
    let at = slice.base + line * slice.line_step + items(slice.per, slice.item_step, item);
    return eight_of(slice.per, at, slice.item_step, 0u, 8u);
  }
  let at = slice.base + min(line, slice.lines - 1u) * slice.line_step +
    items(slice.per, slice.item_step, min(item, slice.items - 1u));
  return eight_of(slice.per, at, slice.item_step, item, slice.items);
}

// Its values, zeros outside.
fn within(values: vec4u, slice: Slice, line: u32, item: u32) -> vec4u {
  if (WHOLE) { return values; }
  return inside(values, item, select(0u, slice.items, line < slice.lines));
}

fn load_x(slice: Slice, line: u32, item: u32) -> vec4u { return within(eight_x(place_in(slice, line, item)), slice, line, item); }
fn load_y(slice: Slice, line: u32, item: u32) -> vec4u { return within(eight_y(place_in(slice, line, item)), slice, line, item); }

// What a thread has of a slice.
fn four_of_x(slice: Slice, thread: u32) -> Four {
  let line = thread / X_LINE;
  let item = thread % X_LINE * 8u;
  return Four(load_x(slice, line, item), load_x(slice, line + X_STEP, item), load_x(slice, line + 2u * X_STEP, item), load_x(slice, line + 3u * X_STEP, item));
}
fn four_of_y(slice: Slice, thread: u32) -> Four {
  let line = thread / Y_LINE;
  let item = thread % Y_LINE * 8u;
  return Four(load_y(slice, line, item), load_y(slice, line + Y_STEP, item), load_y(slice, line + 2u * Y_STEP, item), load_y(slice, line + 3u * Y_STEP, item));
}

fn left(row: u32, k: u32) -> Left {
  if (X_ALONG_K) { return subgroupMatrixLoad<Left, row_major>(&tiles, row * X_PITCH + k / 8u, X_PITCH); }
  return subgroupMatrixLoad<Left, col_major>(&tiles, k * X_PITCH + row / 8u, X_PITCH);
}

fn right(column: u32, k: u32) -> Right {
  if (Y_ALONG_K) { return subgroupMatrixLoad<Right, col_major>(&tiles, OF_Y + column * Y_PITCH + k / 8u, Y_PITCH); }
  return subgroupMatrixLoad<Right, row_major>(&tiles, OF_Y + k * Y_PITCH + column / 8u, Y_PITCH);
}

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
      store(at, params.out_n, params.n - at_column, low, high);
    }
  }
  workgroupBarrier();
}

@compute @workgroup_size(8 * LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let first_column = group.x * TILE;
  let first_row = group.y * TILE;
  let batch = batch_of(group.z);
  let base_x = params.x_offset + dot(batch, params.batch_x);
  let base_y = params.y_offset + dot(batch, params.batch_y);
  let subgroup = thread / LANES;
  let row = subgroup / 2u * 2u * SIDE;
  let column = subgroup % 2u * 4u * SIDE;
  let place_x = thread / X_LINE * X_PITCH + thread % X_LINE;
  let place_y = OF_Y + thread / Y_LINE * Y_PITCH + thread % Y_LINE;

  var next_x = four_of_x(slice_of_x(base_x, first_row, 0u), thread);
  var next_y = four_of_y(slice_of_y(base_y, first_column, 0u), thread);
  var a0 = Sum(); var a1 = Sum(); var a2 = Sum(); var a3 = Sum();
  var b0 = Sum(); var b1 = Sum(); var b2 = Sum(); var b3 = Sum();
  for (var k = 0u; k < params.k; k += DEPTH) {
    put(place_x, X_STEP * X_PITCH, next_x);
    put(place_y, Y_STEP * Y_PITCH, next_y);
    workgroupBarrier();
    // After the last slice the first one again, for nothing.
    let next = select(0u, k + DEPTH, k + DEPTH < params.k);
    next_x = four_of_x(slice_of_x(base_x, first_row, next), thread);
    next_y = four_of_y(slice_of_y(base_y, first_column, next), thread);
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

// out[b] = x[b] · y[b]:  [m, k] · [k, n] → [m, n] in float16, on matrix units. A workgroup of four subgroups
// computes a tile of ROWS × COLUMNS; a subgroup, a quarter of it, as 4 × 4 fragments, so that little goes through workgroup
// memory for what is multiplied, or, where that gives few tiles, as 2 × 4. While it multiplies one slice of DEPTH terms,
// the next is on its way to registers; a slice takes less than 24 KB of workgroup memory, so that two workgroups fit a
// processor and hide each other's waits.
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
const THREADS: u32 = 4 * LANES;
// Rows of fragments that a subgroup has: 4, or 2.
const HEIGHT: u32 = 4;
const TALL: bool = HEIGHT == 4;
const ROWS: u32 = 2 * HEIGHT * SIDE;
const COLUMNS: u32 = 8 * SIDE;
const DEPTH: u32 = 2 * SIDE;
// Slices in workgroup memory, in eights: a line runs along k or across it, and has one eight more than it
// holds, so that neighbouring lines start in different banks. Half of a slice's lines is an array of its own:
// see cores.wgsl on bounds.
const HALF_EIGHTS: u32 = COLUMNS / 2 * (DEPTH / 8 + 1);
const X_LINE: u32 = select(ROWS, DEPTH, X_ALONG_K) / 8;
const Y_LINE: u32 = select(COLUMNS, DEPTH, Y_ALONG_K) / 8;
const X_PITCH: u32 = X_LINE + 1;
const Y_PITCH: u32 = Y_LINE + 1;
// A thread moves four eights of a slice, or two of a lower one: lines from one to the next.
const X_STEP: u32 = THREADS / X_LINE;
const Y_STEP: u32 = THREADS / Y_LINE;
const SUM_PITCH: u32 = SIDE + 2;

@group(0) @binding(0) var<storage, read> x: array<Element_x>;
@group(0) @binding(1) var<storage, read> y: array<Element_y>;
@group(0) @binding(2) var<storage, read_write> out: array<Element_out>;
@group(0) @binding(3) var<uniform> params: Params;

// A slice of x, then one of y; in the end, of every subgroup fragments of the result in float32.
var<workgroup> tiles: array<array<vec4u, HALF_EIGHTS>, 4>;
const OF_Y: u32 = 2;

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

// The line of a slice in which a thread has its first eight. Short lines are shared out so that what eight threads put at
// once, two lines, goes to different banks: every other line is four lines further on.
fn line_of(thread: u32, length: u32) -> u32 {
  let line = thread / length;
  if (length > DEPTH / 8u) { return line; }
  return line / 8u * 8u + (line & 1u) * 4u + (line & 7u) / 2u;
}

// What a thread has of a slice.
fn four_of_x(slice: Slice, thread: u32) -> Four {
  let line = line_of(thread, X_LINE);
  let item = (thread & (X_LINE - 1u)) * 8u;
  if (!TALL) { return Four(load_x(slice, line, item), load_x(slice, line + X_STEP, item), vec4u(), vec4u()); }
  return Four(load_x(slice, line, item), load_x(slice, line + X_STEP, item), load_x(slice, line + 2u * X_STEP, item), load_x(slice, line + 3u * X_STEP, item));
}
fn four_of_y(slice: Slice, thread: u32) -> Four {
  let line = line_of(thread, Y_LINE);
  let item = (thread & (Y_LINE - 1u)) * 8u;
  return Four(load_y(slice, line, item), load_y(slice, line + Y_STEP, item), load_y(slice, line + 2u * Y_STEP, item), load_y(slice, line + 3u * Y_STEP, item));
}

// Puts what a thread has of a slice in its places, of both halves the same.
fn put_x(place: u32, values: Four) {
  const STEP = X_STEP * X_PITCH;
  tiles[0][place] = values.a;
  if (TALL) {
    tiles[0][place + STEP] = values.b;
    tiles[1][place] = values.c;
    tiles[1][place + STEP] = values.d;
  } else {
    tiles[1][place] = values.b;
  }
}

fn put_y(place: u32, values: Four) {
  const STEP = Y_STEP * Y_PITCH;
  tiles[OF_Y][place] = values.a;
  tiles[OF_Y][place + STEP] = values.b;
  tiles[OF_Y + 1u][place] = values.c;
  tiles[OF_Y + 1u][place + STEP] = values.d;
}

// Fragments of SIDE terms, from `k` on: `row` and `column` of those in the half that a subgroup has.
fn left(half: u32, row: u32, k: u32) -> Left {
  if (X_ALONG_K) { return subgroupMatrixLoad<Left, row_major>(&tiles[half], row * X_PITCH + k / 8u, X_PITCH); }
  return subgroupMatrixLoad<Left, col_major>(&tiles[k / SIDE], half * (ROWS / 16u) + row / 8u, X_PITCH);
}

fn right(half: u32, column: u32, k: u32) -> Right {
  if (Y_ALONG_K) { return subgroupMatrixLoad<Right, col_major>(&tiles[OF_Y + half], column * Y_PITCH + k / 8u, Y_PITCH); }
  return subgroupMatrixLoad<Right, row_major>(&tiles[OF_Y + k / SIDE], half * (COLUMNS / 16u) + column / 8u, Y_PITCH);
}

// A row of a subgroup's fragments of the result, and all of them.
struct Products { p0: Sum, p1: Sum, p2: Sum, p3: Sum }
struct Sums { a: Products, b: Products, c: Products, d: Products }

fn plus_products(sums: Products, x: Left, y0: Right, y1: Right, y2: Right, y3: Right) -> Products {
  return Products(
    subgroupMatrixMultiplyAccumulate(x, y0, sums.p0), subgroupMatrixMultiplyAccumulate(x, y1, sums.p1),
    subgroupMatrixMultiplyAccumulate(x, y2, sums.p2), subgroupMatrixMultiplyAccumulate(x, y3, sums.p3),
  );
}

// Adds SIDE terms of the slice, from `k` on.
fn add_terms(sums: ptr<function, Sums>, lower: u32, later: u32, k: u32) {
  let y0 = right(later, 0u, k);
  let y1 = right(later, SIDE, k);
  let y2 = right(later, 2u * SIDE, k);
  let y3 = right(later, 3u * SIDE, k);
  (*sums).a = plus_products((*sums).a, left(lower, 0u, k), y0, y1, y2, y3);
  (*sums).b = plus_products((*sums).b, left(lower, SIDE, k), y0, y1, y2, y3);
  if (!TALL) { return; }
  (*sums).c = plus_products((*sums).c, left(lower, 2u * SIDE, k), y0, y1, y2, y3);
  (*sums).d = plus_products((*sums).d, left(lower, 3u * SIDE, k), y0, y1, y2, y3);
}

// Rounds and stores such a row by way of a subgroup's strip of workgroup memory, SIDE rows of float32.
fn store_products(sums: Products, base: u32, row: u32, column: u32, subgroup: u32, lane: u32) {
  const STEP = SIDE / 4;
  subgroupMatrixStore<row_major>(&tiles[subgroup], 0u, sums.p0, SUM_PITCH);
  subgroupMatrixStore<row_major>(&tiles[subgroup], STEP, sums.p1, SUM_PITCH);
  subgroupMatrixStore<row_major>(&tiles[subgroup], 2u * STEP, sums.p2, SUM_PITCH);
  subgroupMatrixStore<row_major>(&tiles[subgroup], 3u * STEP, sums.p3, SUM_PITCH);
  workgroupBarrier();
  // A lane has one eight of each fragment.
  let line = lane / (SIDE / 8u);
  for (var fragment = 0u; fragment < 4u; fragment++) {
    let within = fragment * SIDE + (lane & (SIDE / 8u - 1u)) * 8u;
    let start = line * SUM_PITCH + within / 4u;
    let low = bitcast<vec4f>(tiles[subgroup][start]);
    let high = bitcast<vec4f>(tiles[subgroup][start + 1u]);
    if (WHOLE || (row + line < params.m && column + within < params.n)) {
      let at = base + (row + line) * params.out_m + (column + within) * params.out_n;
      store(at, params.out_n, params.n - (column + within), rounded(low, high));
    }
  }
  workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  // Masks, not remainders, here and below: see cores.wgsl on bounds.
  let thread = index & (THREADS - 1u);
  let first_column = group.x * COLUMNS;
  let first_row = group.y * ROWS;
  let batch = batch_of(group.z);
  let base_x = params.x_offset + dot(batch, params.batch_x);
  let base_y = params.y_offset + dot(batch, params.batch_y);
  let subgroup = thread / LANES;
  let lower = subgroup / 2u;
  let later = subgroup & 1u;
  let place_x = line_of(thread, X_LINE) * X_PITCH + (thread & (X_LINE - 1u));
  let place_y = line_of(thread, Y_LINE) * Y_PITCH + (thread & (Y_LINE - 1u));

  var next_x = four_of_x(slice_of_x(base_x, first_row, 0u), thread);
  var next_y = four_of_y(slice_of_y(base_y, first_column, 0u), thread);
  var sums = Sums();
  for (var k = 0u; k < params.k; k += DEPTH) {
    put_x(place_x, next_x);
    put_y(place_y, next_y);
    workgroupBarrier();
    if (k + DEPTH < params.k) {
      next_x = four_of_x(slice_of_x(base_x, first_row, k + DEPTH), thread);
      next_y = four_of_y(slice_of_y(base_y, first_column, k + DEPTH), thread);
    }
    add_terms(&sums, lower, later, 0u);
    add_terms(&sums, lower, later, SIDE);
    workgroupBarrier();
  }

  let base = params.out_offset + dot(batch, params.batch_out);
  let to_row = first_row + lower * (ROWS / 2u);
  let to_column = first_column + later * (COLUMNS / 2u);
  let lane = thread & (LANES - 1u);
  store_products(sums.a, base, to_row, to_column, subgroup, lane);
  store_products(sums.b, base, to_row + SIDE, to_column, subgroup, lane);
  if (!TALL) { return; }
  store_products(sums.c, base, to_row + 2u * SIDE, to_column, subgroup, lane);
  store_products(sums.d, base, to_row + 3u * SIDE, to_column, subgroup, lane);
}

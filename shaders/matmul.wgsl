// out[b] = x[b] · y[b], with ADD + plus[b]:  [m, k] · [k, n] → [m, n], over any strides.
// A workgroup computes a 64 × 64 tile; a thread, 4 × 4 of it, in four named vectors, because an array
// indexed by a loop variable would leave the registers.
// Goes on from matmul_params.wgsl.

alias StoredX = f32;
alias StoredY = f32;
alias StoredOut = f32;
alias StoredPlus = f32;
const ADD: bool = false;
// Which way threads walk while loading, so that neighbours read neighbours.
const X_ALONG_K: bool = true;
const Y_ALONG_K: bool = false;
const TILE: u32 = 64;
const DEPTH: u32 = 16;
// One vector more than needed: rows then start in different banks.
const PITCH: u32 = 17;

@group(0) @binding(0) var<storage, read> x: array<StoredX>;
@group(0) @binding(1) var<storage, read> y: array<StoredY>;
@group(0) @binding(2) var<storage, read_write> out: array<StoredOut>;
@group(0) @binding(3) var<storage, read> plus: array<StoredPlus>;
@group(0) @binding(4) var<uniform> params: Params;

// Tiles by depth, then by groups of four rows of x or columns of y.
var<workgroup> tile_x: array<vec4f, DEPTH * PITCH>;
var<workgroup> tile_y: array<vec4f, DEPTH * PITCH>;

fn load_x(base: u32, row: u32, k: u32) -> f32 {
  if (row >= params.m || k >= params.k) { return 0.0; }
  return f32(x[base + row * params.x_m + k * params.x_k]);
}

fn load_y(base: u32, k: u32, column: u32) -> f32 {
  if (column >= params.n || k >= params.k) { return 0.0; }
  return f32(y[base + k * params.y_k + column * params.y_n]);
}

// A sum, and what it is added to, as they are stored.
fn total(at: u32, sum: f32) -> StoredOut {
  if (ADD) { return StoredOut(sum + f32(plus[params.plus_offset + at])); }
  return StoredOut(sum);
}

fn store(base: u32, row: u32, column: u32, values: vec4f) {
  if (row >= params.m) { return; }
  let at = base + row * params.out_m + column * params.out_n;
  let first = params.out_offset + at;
  if (column < params.n) { out[first] = total(at, values.x); }
  if (column + 1u < params.n) { out[first + params.out_n] = total(at + params.out_n, values.y); }
  if (column + 2u < params.n) { out[first + 2u * params.out_n] = total(at + 2u * params.out_n, values.z); }
  if (column + 3u < params.n) { out[first + 3u * params.out_n] = total(at + 3u * params.out_n, values.w); }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let first_column = group.x * TILE;
  let first_row = group.y * TILE;
  let batch = batch_of(group.z);
  let base_x = params.x_offset + dot(batch, params.batch_x);
  let base_y = params.y_offset + dot(batch, params.batch_y);

  // What this thread loads of each tile: one depth, four rows or columns.
  let load_x_k = select(thread / 16u, thread % 16u, X_ALONG_K);
  let load_x_row = select(thread % 16u, thread / 16u, X_ALONG_K);
  let load_y_k = select(thread / 16u, thread % 16u, Y_ALONG_K);
  let load_y_column = select(thread % 16u, thread / 16u, Y_ALONG_K);
  let row = first_row + 4u * load_x_row;
  let column = first_column + 4u * load_y_column;

  // What it computes.
  let tile_column = thread % 16u;
  let tile_row = thread / 16u;
  var row0 = vec4f();
  var row1 = vec4f();
  var row2 = vec4f();
  var row3 = vec4f();

  for (var k = 0u; k < params.k; k += DEPTH) {
    let kx = k + load_x_k;
    let ky = k + load_y_k;
    tile_x[load_x_k * PITCH + load_x_row] = vec4f(
      load_x(base_x, row, kx), load_x(base_x, row + 1u, kx), load_x(base_x, row + 2u, kx), load_x(base_x, row + 3u, kx));
    tile_y[load_y_k * PITCH + load_y_column] = vec4f(
      load_y(base_y, ky, column), load_y(base_y, ky, column + 1u), load_y(base_y, ky, column + 2u), load_y(base_y, ky, column + 3u));
    workgroupBarrier();
    for (var depth = 0u; depth < DEPTH; depth++) {
      let a = tile_x[depth * PITCH + tile_row];
      let b = tile_y[depth * PITCH + tile_column];
      row0 = fma(vec4f(a.x), b, row0);
      row1 = fma(vec4f(a.y), b, row1);
      row2 = fma(vec4f(a.z), b, row2);
      row3 = fma(vec4f(a.w), b, row3);
    }
    workgroupBarrier();
  }

  let base_out = dot(batch, params.batch_out);
  let out_row = first_row + 4u * tile_row;
  let out_column = first_column + 4u * tile_column;
  store(base_out, out_row, out_column, row0);
  store(base_out, out_row + 1u, out_column, row1);
  store(base_out, out_row + 2u, out_column, row2);
  store(base_out, out_row + 3u, out_column, row3);
}

// Products of tiles, 64 rows by 64 columns or 128, for shaders that declare `out` and go on from here: the
// text of this file comes before theirs, and that of blocks.wgsl before this one. A workgroup of 128 threads shares a left tile of rows and a right
// one of columns, 16 terms of their products at a time; a thread works on blocks of 4 × 4.

// What outputs are, and what they are stored as: one of them, or four neighbours (IN_FOURS).
alias Result = f32;
alias ResultElement = f32;
const IN_FOURS: bool = false;
const ROWS: u32 = 64;
const DEPTH: u32 = 16;
// Rows of the left tile and one more, so that groups of terms start in different banks.
const LEFT_PITCH: u32 = 65;
const RIGHT_PITCH: u32 = 32;

// Four terms of a row, by group of terms and then by row.
var<workgroup> left: array<vec4f, DEPTH / 4u * LEFT_PITCH>;
// Either four terms of a column, by group and then by column; or four columns of a term, by term.
var<workgroup> right: array<vec4f, DEPTH * RIGHT_PITCH>;

// Where an output lies: its first element, its size, and the steps from row to row and column to column.
struct Matrix {
  base: u32,
  rows: u32,
  columns: u32,
  row_step: u32,
  column_step: u32,
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

// Each row by its own weight.
fn weighted(sum: mat4x4f, weight: vec4f) -> mat4x4f {
  return mat4x4f(sum[0] * weight.x, sum[1] * weight.y, sum[2] * weight.z, sum[3] * weight.w);
}

fn four_results(values: vec4f) -> ResultElement { return ResultElement(values.x); }

fn store_row(to: Matrix, row: u32, column: u32, values: vec4f) {
  if (row >= to.rows || column >= to.columns) { return; }
  let step = to.column_step;
  let at = to.base + row * to.row_step + column * step;
  if (IN_FOURS) {
    out[at / 4u] = four_results(values);
  } else {
    out[at] = ResultElement(Result(values.x));
    if (column + 1u < to.columns) { out[at + step] = ResultElement(Result(values.y)); }
    if (column + 2u < to.columns) { out[at + 2u * step] = ResultElement(Result(values.z)); }
    if (column + 3u < to.columns) { out[at + 3u * step] = ResultElement(Result(values.w)); }
  }
}

// Stores a block of 4 × 4 at a row and a column.
fn store(to: Matrix, row: u32, column: u32, values: mat4x4f) {
  store_row(to, row, column, values[0]);
  store_row(to, row + 1u, column, values[1]);
  store_row(to, row + 2u, column, values[2]);
  store_row(to, row + 3u, column, values[3]);
}

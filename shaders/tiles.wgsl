// Products of tiles, 64 rows by 64 columns or 128, for shaders that declare `out` and go on from here: the
// text of this file comes before theirs, and that of blocks.wgsl before this one. A workgroup of 128 threads
// shares a left tile of rows and a right one of columns, 16 terms of their products at a time. A thread works
// on blocks of 4 × 4: of four rows from 4 · across and four from there + 32, and of four columns from
// 4 · along and four from there + 64 (WIDE). While it works on one pair of tiles it has already asked for the
// next.

// What outputs are, and what they are stored as: one of them, or four neighbours (IN_FOURS).
alias Result = f32;
alias ResultElement = f32;
const IN_FOURS: bool = false;
// Whether tiles end where the outputs' columns end, and where their rows end.
const WHOLE_COLUMNS: bool = false;
const WHOLE_ROWS: bool = false;
const WIDE: bool = false;
// Whether loops over a tile's terms are written out: compilers for GPUs do not, and check each index.
const UNROLLED: bool = false;
const ROWS: u32 = 64;
const DEPTH: u32 = 16;

// The block of rows of a thread, and that of columns: a subgroup of 32 computes 4 blocks of rows by 8 of columns. Threads
// next to each other, or two apart, want the same vector of a tile: NVIDIA's workgroup memory then takes two turns for
// a subgroup instead of four.
fn across_of(thread: u32) -> u32 { return thread / 64u * 4u + thread / 16u % 2u * 2u + thread % 2u; }
fn along_of(thread: u32) -> u32 { return thread / 32u % 2u * 8u + thread / 2u % 8u; }

// Tiles lie by blocks of four rows or columns, so that a thread's index into them stands for a whole tile and
// what is left of addresses are constants.

// Sixteen terms of four rows or columns, and a space that puts the next block in other banks.
struct Block {
  terms: array<array<vec4f, 4>, 4>,   // by parts of four
  space: vec4f,
}

// Of a tile on the left, and one on the right; twice as many where there are more of them.
const LEFT_BLOCKS: u32 = 16;
const RIGHT_BLOCKS: u32 = 32;
var<workgroup> left: array<Block, LEFT_BLOCKS>;
var<workgroup> right: array<Block, RIGHT_BLOCKS>;

// Term `i` of a part, of a block of rows or columns: read, written, and one lane of all four terms written.
fn left_at(part: u32, i: u32, block: u32) -> vec4f { return left[block].terms[part][i]; }
fn right_at(part: u32, i: u32, block: u32) -> vec4f { return right[block].terms[part][i]; }
fn put_left(part: u32, i: u32, block: u32, values: vec4f) { left[block].terms[part][i] = values; }
fn put_right(part: u32, i: u32, block: u32, values: vec4f) { right[block].terms[part][i] = values; }

fn put_left_lanes(part: u32, block: u32, lane: u32, terms: vec4f) {
  left[block].terms[part][0][lane] = terms.x;
  left[block].terms[part][1][lane] = terms.y;
  left[block].terms[part][2][lane] = terms.z;
  left[block].terms[part][3][lane] = terms.w;
}

fn put_right_lanes(part: u32, block: u32, lane: u32, terms: vec4f) {
  right[block].terms[part][0][lane] = terms.x;
  right[block].terms[part][1][lane] = terms.y;
  right[block].terms[part][2][lane] = terms.z;
  right[block].terms[part][3][lane] = terms.w;
}

// What a thread sums.
struct Sums {
  upper: mat4x4f,
  upper_right: mat4x4f,
  lower: mat4x4f,
  lower_right: mat4x4f,
}

// One term, `i` of the four of a part.
fn add_term(sums: Sums, part: u32, i: u32, across: u32, along: u32) -> Sums {
  let a = left_at(part, i, across);
  let b = left_at(part, i, across + 8u);
  let c = right_at(part, i, along);
  var next = sums;
  next.upper = outer(sums.upper, a, c);
  next.lower = outer(sums.lower, b, c);
  if (WIDE) {
    let c_right = right_at(part, i, along + 16u);
    next.upper_right = outer(sums.upper_right, a, c_right);
    next.lower_right = outer(sums.lower_right, b, c_right);
  }
  return next;
}

// Four terms, `part` of the tiles.
fn add_part(sums: Sums, part: u32, across: u32, along: u32) -> Sums {
  return add_term(add_term(add_term(add_term(sums, part, 0u, across, along), part, 1u, across, along), part, 2u, across, along), part, 3u, across, along);
}

// All 16 terms of the tiles.
fn add_tiles(sums: Sums, across: u32, along: u32) -> Sums {
  if (UNROLLED) {
    return add_part(add_part(add_part(add_part(sums, 0u, across, along), 1u, across, along), 2u, across, along), 3u, across, along);
  }
  var next = sums;
  for (var part = 0u; part < 4u; part++) { next = add_part(next, part, across, along); }
  return next;
}

// The same of the lower rows alone.
fn add_lower_term(sums: Sums, part: u32, i: u32, across: u32, along: u32) -> Sums {
  let b = left_at(part, i, across + 8u);
  var next = sums;
  next.lower = outer(sums.lower, b, right_at(part, i, along));
  if (WIDE) { next.lower_right = outer(sums.lower_right, b, right_at(part, i, along + 16u)); }
  return next;
}

fn add_lower_part(sums: Sums, part: u32, across: u32, along: u32) -> Sums {
  return add_lower_term(add_lower_term(add_lower_term(add_lower_term(sums, part, 0u, across, along), part, 1u, across, along), part, 2u, across, along), part, 3u, across, along);
}

fn add_lower_tiles(sums: Sums, across: u32, along: u32) -> Sums {
  var next = sums;
  for (var part = 0u; part < 4u; part++) { next = add_lower_part(next, part, across, along); }
  return next;
}

// Products of a thread's rows with the four columns from 4 · along on.
struct Scores {
  upper: mat4x4f,
  lower: mat4x4f,
}

fn add_score_term(scores: Scores, part: u32, i: u32, across: u32, along: u32) -> Scores {
  let c = right_at(part, i, along);
  return Scores(outer(scores.upper, left_at(part, i, across), c), outer(scores.lower, left_at(part, i, across + 8u), c));
}

fn add_scores_part(scores: Scores, part: u32, across: u32, along: u32) -> Scores {
  return add_score_term(add_score_term(add_score_term(add_score_term(scores, part, 0u, across, along), part, 1u, across, along), part, 2u, across, along), part, 3u, across, along);
}

fn add_scores(scores: Scores, across: u32, along: u32) -> Scores {
  if (UNROLLED) {
    return add_scores_part(add_scores_part(add_scores_part(add_scores_part(scores, 0u, across, along), 1u, across, along), 2u, across, along), 3u, across, along);
  }
  var next = scores;
  for (var part = 0u; part < 4u; part++) { next = add_scores_part(next, part, across, along); }
  return next;
}

// Puts into the left tile, or into the right one from block `first` on, four terms of a row and of the row 32
// after it, as a thread loads them: row thread / 4, terms from 4 · (thread % 4) on.
fn put_left_rows(thread: u32, row: vec4f, row_after: vec4f) {
  put_left_lanes(thread % 4u, thread / 16u, thread / 4u % 4u, row);
  put_left_lanes(thread % 4u, thread / 16u + 8u, thread / 4u % 4u, row_after);
}

fn put_right_rows(thread: u32, first: u32, row: vec4f, row_after: vec4f) {
  put_right_lanes(thread % 4u, first + thread / 16u, thread / 4u % 4u, row);
  put_right_lanes(thread % 4u, first + thread / 16u + 8u, thread / 4u % 4u, row_after);
}

// Puts into the left tile, or the right one, at a block, four columns of a term and of the term 8 after it.
fn put_left_terms(term: u32, block: u32, values: vec4f, values_after: vec4f) {
  put_left(term / 4u, term % 4u, block, values);
  put_left(term / 4u + 2u, term % 4u, block, values_after);
}

fn put_right_terms(term: u32, block: u32, values: vec4f, values_after: vec4f) {
  put_right(term / 4u, term % 4u, block, values);
  put_right(term / 4u + 2u, term % 4u, block, values_after);
}

// Puts a block of four rows and four terms, given by rows, into the left tile.
fn put_left_block(part: u32, block: u32, rows: mat4x4f) {
  let terms = transpose(rows);
  put_left(part, 0u, block, terms[0]);
  put_left(part, 1u, block, terms[1]);
  put_left(part, 2u, block, terms[2]);
  put_left(part, 3u, block, terms[3]);
}

// Makes the left tile of 16 columns, of turn `turn`, from the scores that four of the threads along have.
fn hand_over(scores: Scores, turn: u32, across: u32, along: u32) {
  if (along / 4u != turn) { return; }
  put_left_block(along % 4u, across, scores.upper);
  put_left_block(along % 4u, across + 8u, scores.lower);
}

// Each row by its own weight.
fn weighted(sum: mat4x4f, weight: vec4f) -> mat4x4f {
  return mat4x4f(sum[0] * weight.x, sum[1] * weight.y, sum[2] * weight.z, sum[3] * weight.w);
}

fn weighted_sums(sums: Sums, upper: vec4f, lower: vec4f) -> Sums {
  return Sums(
    weighted(sums.upper, upper), weighted(sums.upper_right, upper),
    weighted(sums.lower, lower), weighted(sums.lower_right, lower));
}

// Where an output lies: its first element, its size, and the steps from row to row and column to column.
struct Matrix {
  base: u32,
  rows: u32,
  columns: u32,
  row_step: u32,
  column_step: u32,
}

fn four_results(values: vec4f) -> ResultElement { return ResultElement(values.x); }

fn store_row(to: Matrix, row: u32, column: u32, values: vec4f) {
  if ((row >= to.rows && !WHOLE_ROWS) || (column >= to.columns && !WHOLE_COLUMNS)) { return; }
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

// Stores what a thread summed: its rows from `row` on, its columns from `column` on.
fn store_sums(to: Matrix, row: u32, column: u32, sums: Sums) {
  store(to, row, column, sums.upper);
  store(to, row + 32u, column, sums.lower);
  if (WIDE) {
    store(to, row, column + 64u, sums.upper_right);
    store(to, row + 32u, column + 64u, sums.lower_right);
  }
}

// Where the tiles of tiles.wgsl lie: by blocks of four rows or columns, so that a thread's index into them stands
// for a whole tile and what is left of addresses are constants.

// Sixteen terms of four rows or columns, and a space that puts the next block in other banks.
struct Block {
  terms: array<array<vec4f, 4>, 4>,   // by parts of four
  space: vec4f,
}

// So many blocks of columns: half of them, where tiles are 64 wide and memory is short.
const RIGHT_BLOCKS: u32 = 32;

var<workgroup> left: array<Block, 16>;
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

// Where the tiles of tiles.wgsl lie: by parts of four terms, then by blocks of four rows or columns.

// Blocks in a part of the tiles, and one more, so that the next part starts in other banks.
const LEFT_PITCH: u32 = 17;
const RIGHT_PITCH: u32 = 33;

// Four terms of four rows or columns, a vector a term, and a space that puts the next block in other banks.
alias Block = array<vec4f, 5>;

var<workgroup> left: array<Block, 4u * LEFT_PITCH>;
var<workgroup> right: array<Block, 4u * RIGHT_PITCH>;

// Term `i` of a part, of a block of rows or columns: read, written, and one lane of all four terms written.
fn left_at(part: u32, i: u32, block: u32) -> vec4f { return left[part * LEFT_PITCH + block][i]; }
fn right_at(part: u32, i: u32, block: u32) -> vec4f { return right[part * RIGHT_PITCH + block][i]; }
fn put_left(part: u32, i: u32, block: u32, values: vec4f) { left[part * LEFT_PITCH + block][i] = values; }
fn put_right(part: u32, i: u32, block: u32, values: vec4f) { right[part * RIGHT_PITCH + block][i] = values; }

fn put_left_lanes(part: u32, block: u32, lane: u32, terms: vec4f) {
  let at = part * LEFT_PITCH + block;
  left[at][0][lane] = terms.x;
  left[at][1][lane] = terms.y;
  left[at][2][lane] = terms.z;
  left[at][3][lane] = terms.w;
}

fn put_right_lanes(part: u32, block: u32, lane: u32, terms: vec4f) {
  let at = part * RIGHT_PITCH + block;
  right[at][0][lane] = terms.x;
  right[at][1][lane] = terms.y;
  right[at][2][lane] = terms.z;
  right[at][3][lane] = terms.w;
}

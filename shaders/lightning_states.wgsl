// The states before each chunk, and after the last:
//   S ← the initial state, or 0
//   for every chunk:  states[chunk] ← S,  S ← exp(−P_m) S + Σ_r β exp(P_r − P_m) k_rᵀ v_r
//   last ← S
// over the m rows of each chunk; P is what lightning_places.wgsl tells, exp(P_r − P_m) what lightning_positions.wgsl
// wrote, or, where tokens decay alike, what is left of a row so many rows before its chunk's end. Several segments of a
// head side by side (SEGMENTED) begin with 0 each, and what each adds is its last; lightning_scan.wgsl finds what was
// before it.
//   totals[batch, head] = Σ P_m before each chunk in its segment, then over each segment
// A workgroup makes 64 rows of one segment's [d, e] by 128 threads, or 128 by 256, which share a right tile. Where
// there is room for two pairs of tiles (BUFFERS), one is put in its place while the other is multiplied.
// Goes on from blocks.wgsl, decays.wgsl, lightning_places.wgsl, tiles.wgsl and keys.wgsl.

// How four columns of k or of v wait in registers.
alias Held = vec4f;
const HAS_INITIAL: bool = false;
const SEGMENTED: bool = false;
// Whether states are stored in float16, over powers of two that come after the totals: one for each of a thread's fours
// of rows.
const HALVES: bool = false;
// Sixty-fours of rows that a workgroup makes; two only of columns that are WIDE.
const SIDES: u32 = 1;
const BUFFERS: u32 = 1;
// Where tokens decay alike (STEADY), one more than a chunk has rows.
const KEPT: u32 = 1;

struct Params {
  g_strides: vec4u,          // of batch, group, member of the group, row
  k_strides: vec4u,          // the same
  v_strides: vec4u,
  k_column: u32,
  v_column: u32,
  k_offset: u32,
  v_offset: u32,
  groups: u32,
  members: u32,
  n: u32,
  d: u32,
  e: u32,
  chunk: u32,
  chunks: u32,
  segment: u32,              // in chunks
  segments: u32,
  workgroups: u32,
  source_scale: f32,
  initial_column: u32,
  initial_offset: u32,
  last_offset: u32,
  remains: u32,              // where they begin in positions
  units: u32,                // where they begin in totals
  last_step: u32,            // from segment to segment
  initial_strides: vec4u,    // the same
  last_strides: vec4u,       // the same; its columns are neighbours
  g_offset: u32,
}

@group(0) @binding(2) var<storage, read> positions: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<ResultElement>;
@group(0) @binding(4) var<storage, read_write> totals: array<u32>;
@group(0) @binding(5) var<storage, read> initial: array<f32>;
@group(0) @binding(6) var<storage, read_write> last: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;

// What is left of a token after so many of a chunk.
var<workgroup> kept_after: array<f32, KEPT>;

// Four columns of a row of the initial state. Zeros outside: what lies there would count in the units of halves.
fn initial_row(base: u32, row: u32, column: u32) -> vec4f {
  let step = params.initial_column;
  let at = base + row * params.initial_strides.w + column * step;
  let values = vec4f(initial[at], initial[at + step], initial[at + 2u * step], initial[at + 3u * step]);
  return first(values, select(0, i32(width_e()) - i32(column), row < width_d()));
}

fn initial_block(base: u32, row: u32, column: u32) -> mat4x4f {
  return mat4x4f(
    initial_row(base, row, column), initial_row(base, row + 1u, column),
    initial_row(base, row + 2u, column), initial_row(base, row + 3u, column));
}

fn initial_sums(base: u32, row: u32, column: u32) -> Sums {
  var sums = Sums();
  sums.upper = initial_block(base, row, column);
  sums.lower = initial_block(base, row + 32u, column);
  if (WIDE) {
    sums.upper_right = initial_block(base, row, column + 64u);
    sums.lower_right = initial_block(base, row + 32u, column + 64u);
  }
  return sums;
}

fn write_last(base: u32, row: u32, column: u32, values: vec4f) {
  if (row >= params.d || column >= params.e) { return; }
  let at = base + row * params.last_strides.w + column;
  last[at] = values.x;
  if (column + 1u < params.e) { last[at + 1u] = values.y; }
  if (column + 2u < params.e) { last[at + 2u] = values.z; }
  if (column + 3u < params.e) { last[at + 3u] = values.w; }
}

fn write_last_block(base: u32, row: u32, column: u32, values: mat4x4f) {
  write_last(base, row, column, values[0]);
  write_last(base, row + 1u, column, values[1]);
  write_last(base, row + 2u, column, values[2]);
  write_last(base, row + 3u, column, values[3]);
}

fn write_last_sums(base: u32, row: u32, column: u32, sums: Sums) {
  write_last_block(base, row, column, sums.upper);
  write_last_block(base, row + 32u, column, sums.lower);
  if (WIDE) {
    write_last_block(base, row, column + 64u, sums.upper_right);
    write_last_block(base, row + 32u, column + 64u, sums.lower_right);
  }
}

fn past(fade: vec2f, before: mat4x4f, added: mat4x4f) -> mat4x4f {
  return fade.x * before + (fade.y * before + added);
}

fn sums_past(fade: vec2f, before: Sums, added: Sums) -> Sums {
  return Sums(
    past(fade, before.upper, added.upper), past(fade, before.upper_right, added.upper_right),
    past(fade, before.lower, added.lower), past(fade, before.lower_right, added.lower_right));
}

fn largest(a: mat4x4f, b: mat4x4f) -> f32 {
  let four = max(
    max(max(abs(a[0]), abs(a[1])), max(abs(a[2]), abs(a[3]))),
    max(max(abs(b[0]), abs(b[1])), max(abs(b[2]), abs(b[3]))));
  return max(max(four.x, four.y), max(four.z, four.w));
}

// The power of two that brings values up to `most` near the top of what float16 holds, as bits of a float32.
fn unit_of(most: f32) -> u32 { return max(bitcast<u32>(most) & 0x7f800000u, 27u << 23u) - (13u << 23u); }
fn over(unit: u32) -> f32 { return bitcast<f32>((254u << 23u) - unit); }

fn whole_of_chunk(base: u32, chunk: u32) -> vec2u {
  return whole_of(base, chunk, min(params.chunk, params.n - chunk * params.chunk));
}

fn put_total(at: u32, total: vec2u) {
  totals[2u * at] = total.x;
  totals[2u * at + 1u] = total.y;
}

// What a thread has asked for: four columns of k and of v in two rows, 8 apart; and what remains of the rows.
struct Asked {
  k: Held,
  k_after: Held,
  v: Held,
  v_after: Held,
  v_right: Held,
  v_right_after: Held,
  remains: vec2f,
}

// Where a thread asks: the places of its columns' first row, and that of the rows' remains.
struct Places {
  k: u32,
  v: u32,
  d: u32,
  e: u32,
  remains: u32,
}

// Sixteen rows from `row` on, of the chunk that ends at `end`; and those after them.
struct Step {
  row: u32,
  end: u32,
}

fn step_after(step: Step) -> Step {
  if (step.row + DEPTH < step.end) { return Step(step.row + DEPTH, step.end); }
  return Step(step.end, min(step.end + params.chunk, params.n));
}

fn held_k(base: u32, column: u32) -> Held { return Held(load_k(base, column)); }
fn held_v(base: u32, column: u32) -> Held { return Held(load_v(base, column)); }

fn ask(at: Places, step: Step, term: u32) -> Asked {
  let row = step.row + term;
  let here = min(row, params.n - 1u);
  let after = min(row + 8u, params.n - 1u);
  let v_here = at.v + here * params.v_strides.w;
  let v_after = at.v + after * params.v_strides.w;
  var asked = Asked();
  asked.k = held_k(at.k + here * params.k_strides.w, at.d);
  asked.k_after = held_k(at.k + after * params.k_strides.w, at.d);
  asked.v = held_v(v_here, at.e);
  asked.v_after = held_v(v_after, at.e);
  if (WIDE && SIDES == 1u) {
    asked.v_right = held_v(v_here, at.e + 64u);
    asked.v_right_after = held_v(v_after, at.e + 64u);
  }
  if (!STEADY) { asked.remains = vec2f(bitcast<f32>(positions[at.remains + here]), bitcast<f32>(positions[at.remains + after])); }
  return asked;
}

// What k is multiplied by: 0 past the end of a chunk.
fn weights_of(asked: Asked, step: Step, term: u32) -> vec2f {
  let rows = vec2u(step.row + term, step.row + term + 8u);
  var remains = asked.remains;
  if (STEADY) {
    let after = min(vec2u(step.end) - rows - select(1u, 0u, EXCLUSIVE), vec2u(params.chunk));
    remains = vec2f(kept_after[after.x], kept_after[after.y]);
  }
  return select(vec2f(), params.source_scale * remains, rows < vec2u(step.end));
}

// Puts it into the tiles of a buffer: a term, four columns of k and of v.
fn put(asked: Asked, step: Step, buffer: u32, term: u32, four: u32) {
  let weight = weights_of(asked, step, term);
  let first_right = buffer * RIGHT_BLOCKS / BUFFERS + four;
  put_left_terms(term, buffer * LEFT_BLOCKS / BUFFERS + four, weight.x * vec4f(asked.k), weight.y * vec4f(asked.k_after));
  put_right_terms(term, first_right, vec4f(asked.v), vec4f(asked.v_after));
  if (WIDE && SIDES == 1u) { put_right_terms(term, first_right + 16u, vec4f(asked.v_right), vec4f(asked.v_right_after)); }
}

@compute @workgroup_size(SIDES * 128)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let number = group.y * groups.x + group.x;
  if (number >= params.workgroups) { return; }
  let width = select(64u, 128u, WIDE);
  let tiles_e = (width_e() + width - 1u) / width;
  let sixty_fours = (width_d() + ROWS - 1u) / ROWS;
  let workgroups = tiles_e * ((sixty_fours + SIDES - 1u) / SIDES);
  // The first tile of ROWS of the workgroup, and the one that this half of it makes.
  let first_side = number % workgroups / tiles_e * SIDES;
  let side = first_side + thread / 128u;
  let first_e = number % tiles_e * width;
  let segment = number / workgroups % params.segments;
  let instance = number / workgroups / params.segments;
  let at = entry_of(instance, params.groups, params.members, 0u);
  let first_chunk = segment * params.segment;
  let end_chunk = min(first_chunk + params.segment, params.chunks);

  let across = across_of(thread % 128u);
  let along = along_of(thread % 128u);
  let left_block = thread / 128u * 16u + across;
  // What a thread loads: four columns of a term and of the term 8 after it.
  let term = thread / (16u * SIDES);
  let four = thread % (16u * SIDES);
  let row = side * ROWS + 4u * across;
  let column = first_e + 4u * along;
  let base_position = positions_from(instance, at, 0u);
  let places = Places(
    params.k_offset + dot(at, params.k_strides),
    params.v_offset + dot(at, params.v_strides),
    first_side * ROWS + 4u * four,
    first_e + 4u * four,
    params.remains + instance * params.n);
  let area = width_d() * width_e();
  let first_state = (instance * params.segments + segment) * params.segment;
  var to = Matrix(0u, width_d(), width_e(), width_e(), 1u);
  let base_total = instance * (params.chunks + params.segments);
  let is_first = thread == 0u && number % workgroups == 0u;
  let tiles = tiles_e * sixty_fours;
  let base_unit = params.units + (side * tiles_e + number % tiles_e) * 256u + 16u * across + along;
  var state = Sums();
  if (HAS_INITIAL) { state = initial_sums(params.initial_offset + dot(at, params.initial_strides), row, column); }
  var total = vec2u();
  if (STEADY) {
    for (var rows = thread; rows <= params.chunk; rows += SIDES * 128u) {
      kept_after[rows] = decay_between(vec2f(), place_of(whole_of(base_position, 0u, rows)));
    }
    workgroupBarrier();
  }
  // Asked for ahead, since memory answers late.
  var next_whole = whole_of_chunk(base_position, first_chunk);
  let start = first_chunk * params.chunk;
  var ahead = Step(start, min(start + params.chunk, params.n));
  put(ask(places, ahead, term), ahead, 0u, term, four);
  ahead = step_after(ahead);
  var asked = ask(places, ahead, term);
  var buffer = 0u;
  workgroupBarrier();
  for (var chunk = first_chunk; chunk < end_chunk; chunk++) {
    let number_of_state = first_state + chunk - first_chunk;
    to.base = number_of_state * area;
    if (HALVES) {
      let upper = unit_of(largest(state.upper, state.upper_right));
      let lower = unit_of(largest(state.lower, state.lower_right));
      if (side < sixty_fours) {
        totals[base_unit + number_of_state * tiles * 256u] = upper;
        totals[base_unit + number_of_state * tiles * 256u + 128u] = lower;
      }
      store_sums(to, row, column, weighted_sums(state, vec4f(over(upper)), vec4f(over(lower))));
    } else {
      store_sums(to, row, column, state);
    }
    let rows = min(params.chunk, params.n - chunk * params.chunk);
    let whole = next_whole;
    next_whole = whole_of_chunk(base_position, min(chunk + 1u, end_chunk - 1u));
    if (SEGMENTED) {
      if (is_first) { put_total(base_total + chunk, total); }
      total = capped(plus(total, whole));
    }
    var sums = Sums();
    for (var depth = 0u; depth < rows; depth += DEPTH) {
      sums = add_tiles(sums, buffer * LEFT_BLOCKS / BUFFERS + left_block, buffer * RIGHT_BLOCKS / BUFFERS + along);
      if (BUFFERS == 1u) { workgroupBarrier(); }
      buffer = (buffer + 1u) % BUFFERS;
      put(asked, ahead, buffer, term, four);
      ahead = step_after(ahead);
      asked = ask(places, ahead, term);
      workgroupBarrier();
    }
    state = sums_past(fade_over(exponent_of(whole)), state, sums);
  }
  if (SEGMENTED && is_first) { put_total(base_total + params.chunks + segment, total); }
  let base_last = params.last_offset + dot(at, params.last_strides) + segment * params.last_step;
  write_last_sums(base_last, row, column, state);
}

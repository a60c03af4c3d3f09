// The state before every chunk, in float16, and the state after the last, on matrix units:
//   S ← initial / β;  for every chunk: states[chunk] ← S;  S ← exp(−P_m) · S + Σ_r exp(P_r − P_m) · k_rᵀ v_r
//   last ← β · S
// P is what lightning_places.wgsl tells. A workgroup walks along one sequence, or a segment of its chunks, with a tile of
// the state, TILE_D of d by COLUMNS of e, in float32. One half of ROWS tokens is put in its place while the other is
// multiplied, and four more are on their way. What it writes is rounded relative to the largest entry of its tile: every
// tile has a power of two of its own.
// Goes on in lightning_cores.wgsl, cores.wgsl, decays.wgsl and lightning_places.wgsl.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

// ROWS by eight subgroups, or COLUMNS by sixteen, so that k and v are read once.
const TILE_D: u32 = SUBGROUPS / 2 * SIDE;
const HAS_INITIAL: bool = false;
// Which it writes: the states before the chunks and their scales; the last state, of every segment, and with it
// how much decay lies in each.
const WRITES_STATES: bool = true;
const WRITES_LAST: bool = true;
const WRITES_TOTALS: bool = false;

struct Params {
  g_strides: vec4u,          // of batch, group, member of the group, row
  k_strides: vec4u,          // the same
  v_strides: vec4u,
  initial_strides: vec4u,
  last_strides: vec4u,
  k_column: u32,
  v_column: u32,
  initial_column: u32,
  last_column: u32,
  k_offset: u32,
  v_offset: u32,
  initial_offset: u32,
  last_offset: u32,
  groups: u32,
  members: u32,
  n: u32,
  d: u32,
  e: u32,
  chunks: u32,
  workgroups: u32,
  source_scale: f32,
  segment: u32,              // in chunks
  segments: u32,
  initial_segment: u32,      // from one segment to the next
  last_segment: u32,
  g_offset: u32,
  first_state: u32,          // the row from which on states are written
}

@group(0) @binding(3) var<storage, read> initial: array<f32>;
@group(0) @binding(4) var<storage, read_write> states: array<vec2u>;
@group(0) @binding(5) var<storage, read_write> scales: array<f32>;
@group(0) @binding(6) var<storage, read_write> last: array<f32>;
@group(0) @binding(7) var<storage, read_write> totals: array<vec2u>;
@group(0) @binding(8) var<uniform> params: Params;

// Two halves, each of HALF tokens, weighted k and then v, or of a quarter of the sums in float32.
var<workgroup> tiles: array<vec4u, 2 * SUM_TILE>;
const OTHER: u32 = SUM_TILE;
const HALF: u32 = ROWS / 2;
const K_LINE: u32 = TILE_D / 8;
const K_PITCH: u32 = K_LINE + 1;
const OF_V: u32 = HALF * K_PITCH;
// A turn is four times HALF tokens, so that memory has that long to answer, or two in shorter chunks.
const TURN: u32 = select(ROWS, 2 * ROWS, CHUNK % (2 * ROWS) == 0);
var<workgroup> largest: atomic<u32>;
// Where tokens decay alike (STEADY), what is left of one after so many of a chunk.
var<workgroup> kept_after: array<f32, CHUNK + 1>;

// Where this thread's share of tokens lies: an eight of k, and one or two of v.
struct From { k: u32, v: u32, positions: u32, line: u32, wide_line: u32, column_k: u32, column_v: u32 }

// Its share of HALF tokens, where its row of k stands, and the end of that row's chunk.
struct Half { k: vec4u, v: vec4u, later_v: vec4u, stand: vec2u, whole: vec2u }

// From `next` on, or, past the end, tokens that are there, for nothing.
fn ask(there: From, next: u32) -> Half {
  let row = select(next, 0u, next >= params.n);
  let end = select(params.n - 1u, 0xffffffffu, WHOLE_N);
  var half = Half();
  let pitch_v = params.v_strides.w / PER_v;
  half.k = load_k(there.k + min(row + there.line, end) * (params.k_strides.w / PER_k), there.column_k);
  half.v = load_v(there.v + min(row + there.wide_line, end) * pitch_v, there.column_v);
  if (SUBGROUPS == 8) {
    half.later_v = load_v(there.v + min(row + there.wide_line + WIDE_STEP, end) * pitch_v, there.column_v);
  }
  if (!STEADY) {
    half.stand = found_at(there.positions, min(row + there.line, end));
    half.whole = found_at(there.positions, params.n + row / CHUNK);
  }
  return half;
}

// Puts it in its places.
fn put_half(of_k: u32, of_v: u32, row: u32, half: Half) {
  tiles[of_k] = times(half.k, weight(row, half.stand, half.whole));
  tiles[of_v] = half.v;
  if (SUBGROUPS == 8) { tiles[of_v + WIDE_STEP * WIDE_PITCH] = half.later_v; }
}

struct Products { a0: Sum, a1: Sum, b0: Sum, b1: Sum }

// Adds kᵀ v over HALF tokens, k's from `left` on and v's from `right` on.
fn add_products(sums: ptr<function, Products>, left: u32, right: u32) {
  for (var token = 0u; token < HALF; token += SIDE) {
    let of_k = left + token * K_PITCH;
    let of_v = right + token * WIDE_PITCH;
    let a = subgroupMatrixLoad<Left, col_major>(&tiles, of_k, K_PITCH);
    let b = subgroupMatrixLoad<Left, col_major>(&tiles, of_k + NEXT, K_PITCH);
    let r0 = subgroupMatrixLoad<Right, row_major>(&tiles, of_v, WIDE_PITCH);
    (*sums).a0 = subgroupMatrixMultiplyAccumulate(a, r0, (*sums).a0);
    (*sums).b0 = subgroupMatrixMultiplyAccumulate(b, r0, (*sums).b0);
    let r1 = subgroupMatrixLoad<Right, row_major>(&tiles, of_v + NEXT, WIDE_PITCH);
    (*sums).a1 = subgroupMatrixMultiplyAccumulate(a, r1, (*sums).a1);
    (*sums).b1 = subgroupMatrixMultiplyAccumulate(b, r1, (*sums).b1);
  }
}

// The decay of a row until the end of its chunk; 0 of rows past the end.
fn weight(row: u32, position: vec2u, whole: vec2u) -> f32 {
  if (STEADY && WHOLE_N) { return kept_after[CHUNK - row % CHUNK - select(1u, 0u, EXCLUSIVE)]; }
  if (STEADY) {
    let end = min((row / CHUNK + 1u) * CHUNK, params.n);
    return select(0.0, kept_after[min(end - row - select(1u, 0u, EXCLUSIVE), CHUNK)], row < params.n);
  }
  return select(0.0, exp(-between(position, whole)), row < params.n);
}

// Four columns of a row of the initial state, over β; zeros outside.
fn load_initial(base: u32, row: u32, column: u32) -> vec4u {
  var values = vec4f();
  for (var i = 0u; row < params.d && column + i < params.e && i < 4u; i++) {
    values[i] = initial[base + row * params.initial_strides.w + (column + i) * params.initial_column];
  }
  return bitcast<vec4u>(values / params.source_scale);
}

// Stores four columns of a row of the last state.
fn store_last(base: u32, row: u32, column: u32, values: vec4f) {
  let to = base + row * params.last_strides.w + column * params.last_column;
  for (var i = 0u; row < params.d && column + i < params.e && i < 4u; i++) {
    last[to + i * params.last_column] = params.source_scale * values[i];
  }
}

// A thread's share of a quarter of the sums: four columns of two lines.
struct Share { a: vec4f, b: vec4f }
const SHARE_STEP: u32 = THREADS / (ROWS / 4);

fn share_at(place: u32) -> Share {
  return Share(bitcast<vec4f>(tiles[place]), bitcast<vec4f>(tiles[place + SHARE_STEP * SUM_PITCH]));
}

fn highest(share: Share) -> f32 {
  let most = max(abs(share.a), abs(share.b));
  return max(max(most.x, most.y), max(most.z, most.w));
}

@compute @workgroup_size(SUBGROUPS * LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  // Masks, not remainders, here and below: see cores.wgsl on bounds.
  let thread = index & (THREADS - 1u);
  let number = group.y * groups.x + group.x;
  if (number >= params.workgroups) { return; }
  let down = (width_d() + TILE_D - 1u) / TILE_D;
  let across = (width_e() + COLUMNS - 1u) / COLUMNS;
  let tile_e = number % across;
  let first_d = number / across % down * TILE_D;
  let segment = number / across / down % params.segments;
  let instance = number / across / down / params.segments;
  let first_e = tile_e * COLUMNS;
  let start = segment * params.segment * CHUNK;
  let end = min(start + params.segment * CHUNK, params.n);
  let at = entry_of(instance, params.groups, params.members, 0u);
  let base_position = positions_from(instance, at, 0u);
  let subgroup = thread / LANES;
  let band = subgroup / 4u * 2u * SIDE;
  let quarter = subgroup & 3u;
  // What this thread has of tiles of k and of v.
  let line = thread / K_LINE;
  let eighth = thread & (K_LINE - 1u);
  let of_k = line * K_PITCH + eighth;
  let wide_line = thread / (COLUMNS / 8u);
  let wide_eighth = thread & (COLUMNS / 8u - 1u);
  let of_v = OF_V + wide_line * WIDE_PITCH + wide_eighth;
  let column_k = first_d + 8u * eighth;
  let column_v = first_e + 8u * wide_eighth;
  let base_k = (params.k_offset + dot(at, params.k_strides)) / PER_k +
    items(PER_k, params.k_column, column_of(WHOLE_D, column_k, params.d));
  let base_v = (params.v_offset + dot(at, params.v_strides)) / PER_v +
    items(PER_v, params.v_column, column_of(WHOLE_E, column_v, params.e));
  // Sums are put down as float32 by quarters, a fragment of every subgroup: where this one's goes, and where this thread
  // finds its share, four columns of two rows. Quarters lie in one half of the tiles and in the other by turns.
  let own_sums = band / 2u * SUM_PITCH + quarter * NEXT_SUM;
  let share_line = thread / (ROWS / 4u);
  let share_four = thread & (ROWS / 4u - 1u);
  let share = share_line * SUM_PITCH + share_four;
  // Of two neighbouring fragments' lines a quarter has those of one.
  const LATER = 2 * SHARE_STEP;
  let own_row = first_d + share_line / SIDE * 2u * SIDE + share_line % SIDE;
  let own_four = share_four / NEXT_SUM * 2u * NEXT_SUM + share_four % NEXT_SUM;
  let own_column = first_e + 4u * own_four;

  var sums = Products();
  if (HAS_INITIAL) {
    let base = params.initial_offset + dot(at, params.initial_strides) + segment * params.initial_segment;
    for (var half = 0u; half < 2u; half++) {
      let row = own_row + half * SIDE;
      for (var i = 0u; i < 2u; i++) {
        let place = share + i * SHARE_STEP * SUM_PITCH;
        tiles[place] = load_initial(base, row + i * LATER, own_column);
        tiles[place + OTHER] = load_initial(base, row + i * LATER, own_column + SIDE);
      }
      workgroupBarrier();
      if (half == 0u) {
        sums.a0 = subgroupMatrixLoad<Sum, row_major>(&tiles, own_sums, SUM_PITCH);
        sums.a1 = subgroupMatrixLoad<Sum, row_major>(&tiles, own_sums + OTHER, SUM_PITCH);
      } else {
        sums.b0 = subgroupMatrixLoad<Sum, row_major>(&tiles, own_sums, SUM_PITCH);
        sums.b1 = subgroupMatrixLoad<Sum, row_major>(&tiles, own_sums + OTHER, SUM_PITCH);
      }
      workgroupBarrier();
    }
  }

  if (STEADY) {
    for (var rows = thread; rows <= CHUNK; rows += THREADS) {
      kept_after[rows] = exp(-between(vec2u(), whole_of(base_position, 0u, rows)));
    }
    workgroupBarrier();
  }
  var total = vec2u();
  let there = From(base_k, base_v, base_position, line, wide_line, column_k, column_v);
  var h0 = ask(there, start);
  var h1 = ask(there, start + HALF);
  var h2 = ask(there, start + 2u * HALF);
  var h3 = ask(there, start + 3u * HALF);
  for (var row = start; ; row += TURN) {
    let chunk = row / CHUNK;
    let ended = row >= end;
    // No constant even where states are written before all chunks: without a branch compilers put off what was asked for.
    let begins = row % CHUNK == 0u && WRITES_STATES && row >= params.first_state;
    if (ended || begins) {
      // All have multiplied what was in this half, though not in the other.
      if (thread == 0u) { atomicStore(&largest, 0u); }
      subgroupMatrixStore<row_major>(&tiles, own_sums, sums.a0, SUM_PITCH);
      workgroupBarrier();
      let s0 = share_at(share);
      subgroupMatrixStore<row_major>(&tiles, own_sums + OTHER, sums.a1, SUM_PITCH);
      workgroupBarrier();
      let s1 = share_at(share + OTHER);
      subgroupMatrixStore<row_major>(&tiles, own_sums, sums.b0, SUM_PITCH);
      workgroupBarrier();
      let s2 = share_at(share);
      subgroupMatrixStore<row_major>(&tiles, own_sums + OTHER, sums.b1, SUM_PITCH);
      workgroupBarrier();
      let s3 = share_at(share + OTHER);
      if (ended) {
        if (WRITES_LAST) {
          let base = params.last_offset + dot(at, params.last_strides) + segment * params.last_segment;
          store_last(base, own_row, own_column, s0.a);
          store_last(base, own_row + LATER, own_column, s0.b);
          store_last(base, own_row, own_column + SIDE, s1.a);
          store_last(base, own_row + LATER, own_column + SIDE, s1.b);
          store_last(base, own_row + SIDE, own_column, s2.a);
          store_last(base, own_row + SIDE + LATER, own_column, s2.b);
          store_last(base, own_row + SIDE, own_column + SIDE, s3.a);
          store_last(base, own_row + SIDE + LATER, own_column + SIDE, s3.b);
        }
        if (WRITES_TOTALS && thread == 0u && first_d == 0u && tile_e == 0u) {
          totals[instance * params.segments + segment] = total;
        }
        break;
      }
      // Not negative, so that their bits are in the order of the values.
      let most = bitcast<u32>(max(max(highest(s0), highest(s1)), max(highest(s2), highest(s3))));
      // Compilers make one of a subgroup's. Not subgroupMax: of unsigned integers, driver 580.159 of NVIDIA's ran its
      // REDUX.MAX in the first thread only, where d was in two tiles, and all states became zeros.
      atomicMax(&largest, most);
      workgroupBarrier();
      // Scaled so that the largest entry lies in [2¹⁴, 2¹⁵): a power of two, made from its exponent.
      let exponent = clamp(atomicLoad(&largest) >> 23u, 15u, 253u);
      let up = bitcast<f32>((268u - exponent) << 23u);
      let entry = instance * params.chunks + chunk;
      if (thread == 0u) { scales[entry * across + tile_e] = bitcast<f32>((exponent - 14u) << 23u); }
      let pitch = across * COLUMNS / 4u;
      let to = (entry * down * TILE_D + own_row) * pitch + first_e / 4u + own_four;
      let lower = to + SIDE * pitch;
      const NEXT_FOUR = SIDE / 4;
      states[to] = halved(up * s0.a);
      states[to + NEXT_FOUR] = halved(up * s1.a);
      states[to + LATER * pitch] = halved(up * s0.b);
      states[to + LATER * pitch + NEXT_FOUR] = halved(up * s1.b);
      states[lower] = halved(up * s2.a);
      states[lower + NEXT_FOUR] = halved(up * s3.a);
      states[lower + LATER * pitch] = halved(up * s2.b);
      states[lower + LATER * pitch + NEXT_FOUR] = halved(up * s3.b);
    }
    if (row % CHUNK == 0u) {
      let rows = min(CHUNK, params.n - row);
      var decay = kept_after[rows];
      if (WRITES_TOTALS || !STEADY) {
        let whole = whole_of(base_position, chunk, rows);
        if (WRITES_TOTALS) { total = capped(plus(total, whole)); }
        if (!STEADY) { decay = exp(-between(vec2u(), whole)); }
      }
      sums.a0 = subgroupMatrixScalarMultiply(sums.a0, decay); sums.a1 = subgroupMatrixScalarMultiply(sums.a1, decay);
      sums.b0 = subgroupMatrixScalarMultiply(sums.b0, decay); sums.b1 = subgroupMatrixScalarMultiply(sums.b1, decay);
    }

    let left = band / 8u;
    let right = OF_V + quarter * 2u * NEXT;
    // Multiplied before the next are put in their place: a compiler cannot tell that neither waits for the other.
    put_half(of_k, of_v, row + line, h0);
    h0 = ask(there, row + TURN);
    workgroupBarrier();
    add_products(&sums, left, right);
    put_half(of_k + OTHER, of_v + OTHER, row + HALF + line, h1);
    h1 = ask(there, row + HALF + TURN);
    workgroupBarrier();
    add_products(&sums, left + OTHER, right + OTHER);
    if (TURN > ROWS) {
      put_half(of_k, of_v, row + 2u * HALF + line, h2);
      h2 = ask(there, row + 2u * HALF + TURN);
      workgroupBarrier();
      add_products(&sums, left, right);
      put_half(of_k + OTHER, of_v + OTHER, row + 3u * HALF + line, h3);
      h3 = ask(there, row + 3u * HALF + TURN);
      workgroupBarrier();
      add_products(&sums, left + OTHER, right + OTHER);
    }
  }
}

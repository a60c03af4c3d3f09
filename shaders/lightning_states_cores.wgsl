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
}

@group(0) @binding(3) var<storage, read> initial: array<f32>;
@group(0) @binding(4) var<storage, read_write> states: array<vec4u>;
@group(0) @binding(5) var<storage, read_write> scales: array<f32>;
@group(0) @binding(6) var<storage, read_write> last: array<f32>;
@group(0) @binding(7) var<storage, read_write> totals: array<vec2u>;
@group(0) @binding(8) var<uniform> params: Params;

// A tile of weighted k and one of v. Or ROWS of the sums in float32: those of the left half of the columns, then
// those of the right half.
var<workgroup> tiles: array<vec4u, 2 * SUM_TILE>;
const K_LINE: u32 = TILE_D / 8;
const K_PITCH: u32 = K_LINE + 1;
const OF_V: u32 = ROWS * K_PITCH;
// Tokens go in halves of ROWS; where the other of two lies. A turn is four of them, so that memory has that long to answer,
// or two in shorter chunks.
const HALF: u32 = ROWS / 2;
const OTHER_K: u32 = HALF * K_PITCH;
const OTHER_V: u32 = HALF * WIDE_PITCH;
const TURN: u32 = select(ROWS, 2 * ROWS, CHUNK % (2 * ROWS) == 0);
var<workgroup> largest: atomic<u32>;
// Where tokens decay alike (STEADY), what is left of one after so many of a chunk.
var<workgroup> kept_after: array<f32, CHUNK + 1>;

// Where this thread's share of tokens lies: an eight of k, and one or two of v.
struct From { k: u32, v: u32, positions: u32, line: u32, wide_line: u32, column_k: u32, column_v: u32 }

// Its share of ROWS / 2 tokens, where its row of k stands, and the end of that row's chunk.
struct Half { k: vec4u, v: vec4u, later_v: vec4u, stand: vec2u, whole: vec2u }

fn ask(there: From, row: u32) -> Half {
  let end = params.n - 1u;
  var half = Half();
  half.k = load_k(there.k, min(row + there.line, end), there.column_k);
  half.v = load_v(there.v, min(row + there.wide_line, end), there.column_v);
  if (SUBGROUPS == 8) { half.later_v = load_v(there.v, min(row + there.wide_line + WIDE_STEP, end), there.column_v); }
  if (!STEADY) {
    half.stand = found_at(there.positions, min(row + there.line, end));
    half.whole = found_at(there.positions, params.n + min(row / CHUNK, params.chunks - 1u));
  }
  return half;
}

// Puts it in its places.
fn put_half(of_k: u32, of_v: u32, row: u32, half: Half) {
  tiles[of_k] = times(half.k, weight(row, half.stand, half.whole));
  tiles[of_v] = half.v;
  if (SUBGROUPS == 8) { tiles[of_v + WIDE_STEP * WIDE_PITCH] = half.later_v; }
}

// The decay of a row until the end of its chunk; 0 of rows past the end.
fn weight(row: u32, position: vec2u, whole: vec2u) -> f32 {
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

fn highest(sums: Sums) -> f32 {
  let most = max(abs(sums.low), abs(sums.high));
  return max(max(most.x, most.y), max(most.z, most.w));
}

@compute @workgroup_size(SUBGROUPS * LANES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
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
  let quarter = subgroup % 4u;
  // What this thread has of tiles of k and of v.
  let line = thread / K_LINE;
  let eighth = thread % K_LINE;
  let of_k = line * K_PITCH + eighth;
  let wide_line = thread / (COLUMNS / 8u);
  let wide_eighth = thread % (COLUMNS / 8u);
  let of_v = OF_V + wide_line * WIDE_PITCH + wide_eighth;
  let column_k = first_d + 8u * eighth;
  let column_v = first_e + 8u * wide_eighth;
  let base_k = params.k_offset + dot(at, params.k_strides) + min(column_k, width_d() - 1u) * params.k_column;
  let base_v = params.v_offset + dot(at, params.v_strides) + min(column_v, width_e() - 1u) * params.v_column;
  // Where this subgroup's sums go as float32 when ROWS of the state are, and where this thread finds its share.
  let sums = quarter / 2u * SUM_TILE + band % ROWS * SUM_PITCH + quarter % 2u * 2u * NEXT_SUM;
  let below = sums + SIDE * SUM_PITCH;
  let share = wide_eighth / (ROWS / 8u) * SUM_TILE + wide_line * SUM_PITCH + wide_eighth % (ROWS / 8u) * 2u;
  const STEP = WIDE_STEP * SUM_PITCH;
  const LATER = select(2u * STEP, 0u, TILE_D > ROWS);

  var a0 = Sum(); var a1 = Sum();
  var b0 = Sum(); var b1 = Sum();
  if (HAS_INITIAL) {
    let base = params.initial_offset + dot(at, params.initial_strides) + segment * params.initial_segment;
    for (var part = 0u; part < TILE_D; part += ROWS) {
      for (var i = 0u; i < ROWS; i += WIDE_STEP) {
        let row = first_d + part + wide_line + i;
        tiles[share + i * SUM_PITCH] = load_initial(base, row, column_v);
        tiles[share + i * SUM_PITCH + 1u] = load_initial(base, row, column_v + 4u);
      }
      workgroupBarrier();
      if (band / ROWS * ROWS == part) {
        a0 = subgroupMatrixLoad<Sum, row_major>(&tiles, sums, SUM_PITCH);
        a1 = subgroupMatrixLoad<Sum, row_major>(&tiles, sums + NEXT_SUM, SUM_PITCH);
        b0 = subgroupMatrixLoad<Sum, row_major>(&tiles, below, SUM_PITCH);
        b1 = subgroupMatrixLoad<Sum, row_major>(&tiles, below + NEXT_SUM, SUM_PITCH);
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
    let begins = row % CHUNK == 0u && WRITES_STATES && (HAS_INITIAL || row > 0u);
    if (ended || begins) {
      // The sums to this thread's share of them: two eights of each half of its rows.
      var s0 = Sums(); var s1 = Sums(); var s2 = Sums(); var s3 = Sums();
      workgroupBarrier();
      if (thread == 0u) { atomicStore(&largest, 0u); }
      for (var part = 0u; part < TILE_D; part += ROWS) {
        if (part > 0u) { workgroupBarrier(); }
        if (band / ROWS * ROWS == part) {
          subgroupMatrixStore<row_major>(&tiles, sums, a0, SUM_PITCH);
          subgroupMatrixStore<row_major>(&tiles, sums + NEXT_SUM, a1, SUM_PITCH);
          subgroupMatrixStore<row_major>(&tiles, below, b0, SUM_PITCH);
          subgroupMatrixStore<row_major>(&tiles, below + NEXT_SUM, b1, SUM_PITCH);
        }
        workgroupBarrier();
        if (part == 0u) {
          s0 = sums_at(share, wide_eighth);
          s1 = sums_at(share + STEP, wide_eighth);
        }
        if (part + ROWS == TILE_D) {
          s2 = sums_at(share + LATER, wide_eighth);
          s3 = sums_at(share + LATER + STEP, wide_eighth);
        }
      }
      let own_row = first_d + wide_line;
      if (ended) {
        if (WRITES_LAST) {
          let base = params.last_offset + dot(at, params.last_strides) + segment * params.last_segment;
          store_last(base, own_row, column_v, s0.low); store_last(base, own_row, column_v + 4u, s0.high);
          store_last(base, own_row + WIDE_STEP, column_v, s1.low); store_last(base, own_row + WIDE_STEP, column_v + 4u, s1.high);
          store_last(base, own_row + 2u * WIDE_STEP, column_v, s2.low); store_last(base, own_row + 2u * WIDE_STEP, column_v + 4u, s2.high);
          store_last(base, own_row + 3u * WIDE_STEP, column_v, s3.low); store_last(base, own_row + 3u * WIDE_STEP, column_v + 4u, s3.high);
        }
        if (WRITES_TOTALS && thread == 0u) { totals[instance * params.segments + segment] = total; }
        break;
      }
      let most = subgroupMax(max(max(highest(s0), highest(s1)), max(highest(s2), highest(s3))));
      if (thread % LANES == 0u) { atomicMax(&largest, bitcast<u32>(most)); }
      workgroupBarrier();
      // Scaled so that the largest entry lies in [2¹⁴, 2¹⁵): a power of two, made from its exponent.
      let exponent = clamp(atomicLoad(&largest) >> 23u, 15u, 253u);
      let up = bitcast<f32>((268u - exponent) << 23u);
      // The reader's tiles have ROWS.
      let entry = (instance * params.chunks + chunk) * ((width_d() + ROWS - 1u) / ROWS);
      if (thread < TILE_D / ROWS) {
        scales[(entry + first_d / ROWS + thread) * across + tile_e] = bitcast<f32>((exponent - 14u) << 23u);
      }
      let pitch = across * COLUMNS / 8u;
      let to = (entry * ROWS + own_row) * pitch + first_e / 8u + wide_eighth;
      states[to] = rounded(up * s0.low, up * s0.high);
      states[to + WIDE_STEP * pitch] = rounded(up * s1.low, up * s1.high);
      states[to + 2u * WIDE_STEP * pitch] = rounded(up * s2.low, up * s2.high);
      states[to + 3u * WIDE_STEP * pitch] = rounded(up * s3.low, up * s3.high);
    }
    if (row % CHUNK == 0u) {
      let whole = whole_of(base_position, chunk, min(CHUNK, params.n - row));
      if (WRITES_TOTALS) { total = capped(plus(total, whole)); }
      let decay = exp(-between(vec2u(), whole));
      a0 = subgroupMatrixScalarMultiply(a0, decay); a1 = subgroupMatrixScalarMultiply(a1, decay);
      b0 = subgroupMatrixScalarMultiply(b0, decay); b1 = subgroupMatrixScalarMultiply(b1, decay);
    }

    put_half(of_k, of_v, row + line, h0);
    h0 = ask(there, row + TURN);
    workgroupBarrier();
    for (var r = 0u; r < TURN; r += SIDE) {
      if (r == HALF) {
        put_half(of_k + OTHER_K, of_v + OTHER_V, row + r + line, h1);
        h1 = ask(there, row + r + TURN);
        workgroupBarrier();
      }
      if (TURN > ROWS && r == 2u * HALF) {
        put_half(of_k, of_v, row + r + line, h2);
        h2 = ask(there, row + r + TURN);
        workgroupBarrier();
      }
      if (TURN > ROWS && r == 3u * HALF) {
        put_half(of_k + OTHER_K, of_v + OTHER_V, row + r + line, h3);
        h3 = ask(there, row + r + TURN);
        workgroupBarrier();
      }
      let left = r % ROWS * K_PITCH + band / 8u;
      let right = OF_V + r % ROWS * WIDE_PITCH + quarter * 2u * NEXT;
      let a = subgroupMatrixLoad<Left, col_major>(&tiles, left, K_PITCH);
      let b = subgroupMatrixLoad<Left, col_major>(&tiles, left + NEXT, K_PITCH);
      let r0 = subgroupMatrixLoad<Right, row_major>(&tiles, right, WIDE_PITCH);
      a0 = subgroupMatrixMultiplyAccumulate(a, r0, a0);
      b0 = subgroupMatrixMultiplyAccumulate(b, r0, b0);
      let r1 = subgroupMatrixLoad<Right, row_major>(&tiles, right + NEXT, WIDE_PITCH);
      a1 = subgroupMatrixMultiplyAccumulate(a, r1, a1);
      b1 = subgroupMatrixMultiplyAccumulate(b, r1, b1);
    }
  }
}

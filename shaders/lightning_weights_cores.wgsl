// The weights of scores, exp(P_t − P_r) αβ, and of what a state holds, exp(−P_r) αβ, for lightning_outputs_cores.wgsl: written
// once for a chunk, or, where tokens decay alike (STEADY), for all.

// The weights of four neighbouring sources for a row, αβ included: at [(d + ROWS) % 4][(d + ROWS) / 4], for a row that comes d
// after the first of them, −ROWS < d < 2 · ROWS, 0 of sources after it. And, where tokens do not decay alike, instead the
// places of all rows: their multiples of 2⁻⁸, by fours, and then the rests.
const DISTANCES: u32 = 3 * ROWS / 4 + 1;
const OF_PLACES: u32 = 4 * DISTANCES;
const PLACES: u32 = CHUNK / 2;
var<workgroup> decays: array<vec4f, OF_PLACES + PLACES>;
// What is left after so many times ROWS tokens, where they decay alike.
var<workgroup> kept_after_tiles: array<f32, CHUNK / ROWS>;
// The weights of what a state holds, αβ included.
var<workgroup> weights: array<f32, CHUNK>;

// What the weights of a chunk are made of: writes `decays` and `weights`.
fn write_decays(instance: u32, entry: vec4u, start: u32, last: u32, thread: u32) {
  let base = positions_from(instance, entry, start);
  for (var row = thread; row < CHUNK; row += THREADS) {
    let place = place_of(position_from(found_at(base, min(row, last)), row));
    weights[row] = params.scale * decay_between(vec2f(), place);
    if (!STEADY) {
      decays[OF_PLACES + row / 4u][row % 4u] = place.x;
      decays[OF_PLACES + CHUNK / 4u + row / 4u][row % 4u] = place.y;
    }
  }
  if (STEADY) {
    let share = share_of(bitcast<f32>(found_at(base, 0u).x));
    if (thread < CHUNK / ROWS) { kept_after_tiles[thread] = exp(exponent_of(multiple(share, thread * ROWS))); }
    // A distance, ROWS less than `i`, is in four groups of four: the first of its sources, or the next, …
    for (var i = thread; i < 3u * ROWS + 1u; i += THREADS) {
      let kept = exp(exponent_of(multiple(share, max(i, ROWS) - ROWS)));
      let weight = select(0.0, params.scale * kept, i >= ROWS);
      for (var j = 0u; j < 4u; j++) { decays[(i + j) % 4u * DISTANCES + (i + j) / 4u][j] = weight; }
    }
  }
}

// The decays from four sources on to a row, 0 where a source comes after it. Selected, not multiplied by a mask:
// 0 · inf would be NaN.
fn decay(row: u32, source: u32) -> vec4f {
  let at = OF_PLACES + row / 4u;
  let place = vec2f(decays[at][row % 4u], decays[at + CHUNK / 4u][row % 4u]);
  let x = (decays[OF_PLACES + source / 4u] - place.x) + (decays[OF_PLACES + CHUNK / 4u + source / 4u] - place.y);
  return select(vec4f(), params.scale * exp(min(vec4f(), x)), vec4u(source, source + 1u, source + 2u, source + 3u) <= vec4u(row));
}

// Their weights where tokens decay alike, of a row that comes so many tokens, less ROWS, after the first.
fn weights_at(distance: u32, line: u32) -> vec4f { return decays[line % 4u * DISTANCES + distance / 4u]; }

// Four scores of a line of a quarter of the rows.
fn four_scores(quarter: u32, line: u32, four: u32) -> vec4f {
  let place = line * SUM_PITCH + four;
  if (quarter < 2u) { return bitcast<vec4f>(left[quarter][place]); }
  return bitcast<vec4f>(right[quarter - 2u][place]);
}

// A thread's decayed scores of such a line: an eight of sources in their order.
fn decayed(quarter: u32, line_of_quarter: u32, eighth: u32, first_row: u32, first_source: u32) -> vec4u {
  let line = quarter * SIDE + line_of_quarter;
  // Its first four and its other four.
  let half = eighth / (SIDE / 4u);
  let first = eighth % (SIDE / 4u) * 4u + 3u * SIDE * half;
  let other = eighth % (SIDE / 4u) * 4u + SIDE + SIDE * half;
  var low = vec4f(); var high = vec4f();
  if (STEADY) {
    let apart = min(first_row - first_source, ROWS);
    low = weights_at(ROWS + line + apart - first, line);
    high = weights_at(ROWS + line + apart - other, line);
    // What lies further apart is nearer by whole tiles, and decays for those.
    if (CHUNK > 2 * ROWS) {
      let kept = kept_after_tiles[(first_row - first_source - apart) / ROWS];
      low *= kept; high *= kept;
    }
  } else {
    low = decay(first_row + line, first_source + first);
    high = decay(first_row + line, first_source + other);
  }
  return rounded(
    low * four_scores(quarter, line_of_quarter, first / 4u),
    high * four_scores(quarter, line_of_quarter, other / 4u),
  );
}

// Those of four lines, SIDE apart.
fn decayed_lines(line: u32, eighth: u32, first_row: u32, first_source: u32) -> Four {
  return Four(
    decayed(0u, line, eighth, first_row, first_source), decayed(1u, line, eighth, first_row, first_source),
    decayed(2u, line, eighth, first_row, first_source), decayed(3u, line, eighth, first_row, first_source),
  );
}

// Eights of four lines, each times its weight.
fn weighted(values: Four, row: u32) -> Four {
  return Four(
    times(values.a, weights[row]), times(values.b, weights[row + SIDE]),
    times(values.c, weights[row + 2u * SIDE]), times(values.d, weights[row + 3u * SIDE]),
  );
}

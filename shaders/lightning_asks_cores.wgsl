// What a thread of lightning_outputs_cores.wgsl asks memory for, its share of rows of q, of k and of v, and of a state, and
// how it puts that in workgroup memory.

fn eight_q(at: Eight) -> vec4u { return together(vec4<f16>(q[at.low.x], q[at.low.y], q[at.low.z], q[at.low.w]), vec4<f16>(q[at.high.x], q[at.high.y], q[at.high.z], q[at.high.w])); }

fn load_q(at: u32, column: u32) -> vec4u {
  let values = eight_q(eight_of(PER_q, at, params.q_column, column, params.d));
  if (WHOLE_D) { return values; }
  return inside(values, column, params.d);
}

// Where a thread reads: the walk's first row of q, of k and of v, and its column of v; the walk's last row; its first state.
struct Places { q: u32, k: u32, v: u32, column_v: u32, last: u32, state: u32, pitch: u32, line: u32, lines: u32 }

// Where four rows begin, so many apart, the first of which is `row`, in a matrix that begins at `base`; those past `last` are
// that one.
fn rows_from(base: u32, pitch: u32, row: u32, apart: u32, last: u32) -> vec4u {
  if (WHOLE_N) { return base + row * pitch + apart * pitch * vec4u(0, 1, 2, 3); }
  return base + min(row + apart * vec4u(0, 1, 2, 3), vec4u(last)) * pitch;
}

// What a thread has of ROWS rows of q or of k: lines SIDE apart.
fn ask_q(at: Places, row: u32, column: u32) -> Four {
  let base = at.q + items(PER_q, params.q_column, column_of(WHOLE_D, column, params.d));
  let lines = rows_from(base, params.q_strides.w / PER_q, row, SIDE, at.last);
  return Four(load_q(lines.x, column), load_q(lines.y, column), load_q(lines.z, column), load_q(lines.w, column));
}
fn ask_k(at: Places, row: u32, column: u32) -> Four {
  let base = at.k + items(PER_k, params.k_column, column_of(WHOLE_D, column, params.d));
  let lines = rows_from(base, params.k_strides.w / PER_k, row, SIDE, at.last);
  return Four(load_k(lines.x, column), load_k(lines.y, column), load_k(lines.z, column), load_k(lines.w, column));
}

// Sources are multiplied in the order in which threads have decayed scores: of an eight, four that lie in one SIDE of a half
// of them, and four that lie in the other; of the second half the later ones come first, so that neither read of eight
// threads has two in one bank. Which source has the place `place` of a half.
fn source_of(place: u32, half: u32) -> u32 {
  let later = place % 8u / 4u;
  return place / 8u * 4u + place % 4u + SIDE * select(later, 3u - later, half == 1u);
}

fn four_of_v(at: vec4u, column: u32) -> Four {
  return Four(load_v(at.x, column), load_v(at.y, column), load_v(at.z, column), load_v(at.w, column));
}

// What a thread has of one half of ROWS sources' v, `line` being its first line.
fn ask_v(at: Places, source: u32, line: u32, half: u32) -> Four {
  // It is one of the first WIDE_STEP; said for compilers.
  let place = line % WIDE_STEP;
  let row = source + source_of(place, half);
  let pitch = params.v_strides.w / PER_v;
  // From one eight to the next it is four sources.
  if (WIDE_STEP == 8u) { return four_of_v(rows_from(at.v, pitch, row, 4u, at.last), at.column_v); }
  let rows = vec4u(
    row, source + source_of(place + WIDE_STEP, half),
    source + source_of(place + 2u * WIDE_STEP, half), source + source_of(place + 3u * WIDE_STEP, half),
  );
  return four_of_v(at.v + min(rows, vec4u(at.last)) * pitch, at.column_v);
}

// DEPTH terms of the state from `term` on.
fn ask_state(at: Places, state: u32, term: u32) -> Four {
  if (STATE_TURNED) {
    let column = at.state + state + term / 8u;
    let lines = min(at.line + COLUMNS / 4u * vec4u(0, 1, 2, 3), vec4u(at.lines)) * at.pitch;
    return Four(states[column + lines.x], states[column + lines.y], states[column + lines.z], states[column + lines.w]);
  }
  let row = at.state + state + (term + at.line) * at.pitch;
  let step = WIDE_STEP * at.pitch;
  return Four(states[row], states[row + step], states[row + 2u * step], states[row + 3u * step]);
}

// Puts what a thread has of a tile in its places: `step` apart, of both halves the same.
fn put_left(place: u32, values: Four) {
  left[0][place] = values.a;
  left[0][place + NARROW] = values.b;
  left[1][place] = values.c;
  left[1][place + NARROW] = values.d;
}
fn put_right(place: u32, step: u32, values: Four) {
  right[0][place] = values.a;
  right[0][place + step] = values.b;
  right[1][place] = values.c;
  right[1][place + step] = values.d;
}

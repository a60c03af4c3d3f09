// Scores of 64 queries and 64 keys, and what they weigh of 64 values, for kernels of attention.
// Goes on from tiles.wgsl, keys.wgsl and queries.wgsl.

// Products q · k of a thread's eight rows with the four keys from 4 · along on. The places are those of the rows
// that the thread loads: query and key thread / 4 of their blocks, and those 32 after.
fn scores_of(at_q: u32, at_q_after: u32, at_k: u32, at_k_after: u32, thread: u32) -> Scores {
  let first = 4u * (thread % 4u);
  var scores = Scores();
  var from_q = load_q(at_q, first);
  var from_q_after = load_q(at_q_after, first);
  var from_k = load_k(at_k, first);
  var from_k_after = load_k(at_k_after, first);
  for (var d = 0u; d < params.d; d += DEPTH) {
    put_left_rows(thread, from_q, from_q_after);
    put_right_rows(thread, 0u, from_k, from_k_after);
    workgroupBarrier();
    let next = min(d + DEPTH, (params.d - 1u) / DEPTH * DEPTH) + first;
    from_q = load_q(at_q, next);
    from_q_after = load_q(at_q_after, next);
    from_k = load_k(at_k, next);
    from_k_after = load_k(at_k_after, next);
    scores = add_scores(scores, across_of(thread), along_of(thread));
    workgroupBarrier();
  }
  return scores;
}

// Adds weights · v, from column `first_e` on, of the 64 keys from `block` on, of which the last is `last`, 16 at a time.
fn add_weighted_values(sums: Sums, weights: Scores, base_v: u32, block: u32, last: u32, first_e: u32, thread: u32) -> Sums {
  let across = across_of(thread);
  let along = along_of(thread);
  let four = thread % 16u;
  let e = first_e + 4u * four;
  let step = params.v_strides.w;
  let from_row = block + thread / 16u;
  var next_sums = sums;
  var from_v = load_v(base_v + min(from_row, last) * step, e);
  var from_v_after = load_v(base_v + min(from_row + 8u, last) * step, e);
  var from_v_right = vec4f();
  var from_v_right_after = vec4f();
  if (WIDE) {
    from_v_right = load_v(base_v + min(from_row, last) * step, e + 64u);
    from_v_right_after = load_v(base_v + min(from_row + 8u, last) * step, e + 64u);
  }
  for (var turn = 0u; turn < 4u; turn++) {
    hand_over(weights, turn, across, along);
    put_right_terms(thread / 16u, four, from_v, from_v_after);
    if (WIDE) { put_right_terms(thread / 16u, four + 16u, from_v_right, from_v_right_after); }
    workgroupBarrier();
    let row = from_row + 16u * min(turn + 1u, 3u);
    let at = base_v + min(row, last) * step;
    let at_after = base_v + min(row + 8u, last) * step;
    from_v = load_v(at, e);
    from_v_after = load_v(at_after, e);
    if (WIDE) {
      from_v_right = load_v(at, e + 64u);
      from_v_right_after = load_v(at_after, e + 64u);
    }
    next_sums = add_tiles(next_sums, across, along);
    workgroupBarrier();
  }
  return next_sums;
}

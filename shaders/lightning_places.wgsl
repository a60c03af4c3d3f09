// Where rows stand in the decay of their chunk, for kernels that bind `positions` and whose Params have g's strides and
// offset, n and chunks: what lightning_positions.wgsl wrote, or, where g is the same for all tokens of a head (STEADY),
// multiples of one token's share, and then `positions` is g itself.
// Goes with decays.wgsl.

const STEADY: bool = false;
// Whether a token's decay comes after it.
const EXCLUSIVE: bool = false;

// Where those of a head's rows begin, from row `start` on; `entry` is what strides go with.
fn positions_from(instance: u32, entry: vec4u, start: u32) -> u32 {
  if (STEADY) { return params.g_offset + dot(entry, params.g_strides); }
  return instance * (params.n + params.chunks) + start;
}

// What is to be read for a row of a chunk whose positions begin at `base`, and what it says.
fn found_at(base: u32, row: u32) -> vec2u {
  if (STEADY) { return vec2u(positions[base], 0u); }
  return vec2u(positions[2u * (base + row)], positions[2u * (base + row) + 1u]);
}

fn position_from(found: vec2u, row: u32) -> vec2u {
  if (STEADY) { return multiple(share_of(bitcast<f32>(found.x)), select(row + 1u, row, EXCLUSIVE)); }
  return found;
}

// P_m of a chunk of so many rows; `base` is where the head's positions begin.
fn whole_of(base: u32, chunk: u32, rows: u32) -> vec2u {
  let found = found_at(base, params.n + chunk);
  if (STEADY) { return multiple(share_of(bitcast<f32>(found.x)), rows); }
  return found;
}

// y = x with elements j and j + half of each row turned, as a pair, by the angle of its position:
//   y[j] = x[j] cos − x[j + half] sin,  y[j + half] = x[j + half] cos + x[j] sin,  j < half;
// elements from 2 · half on are copied. x [b, h, n, d] is read by strides, y is dense, one thread an element.

alias Stored = f32;
// Turn by the opposite angle.
const BACK: bool = false;

struct Params {
  // Along b, h, n and d.
  x_steps: vec4u,
  // Along b, n and the cosines, which the sines follow.
  batch_step: u32,
  row_step: u32,
  angle_step: u32,
  x_offset: u32,
  rotations_offset: u32,
  y_offset: u32,
  heads: u32,
  rows: u32,
  d: u32,
  half: u32,
  size: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> rotations: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<Stored>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 256u + id.x;
  if (i >= params.size) { return; }
  let j = i % params.d;
  let row = i / params.d % params.rows;
  let head = i / (params.d * params.rows) % params.heads;
  let batch = i / (params.d * params.rows * params.heads);
  let start = params.x_offset + dot(vec4u(batch, head, row, 0u), params.x_steps);
  let own = f32(x[start + j * params.x_steps.w]);
  if (j >= 2u * params.half) {
    y[params.y_offset + i] = Stored(own);
    return;
  }
  let is_first = j < params.half;
  let angle = select(j - params.half, j, is_first);
  let at = params.rotations_offset + batch * params.batch_step + row * params.row_step;
  let cosine = rotations[at + angle * params.angle_step];
  let sine = rotations[at + (angle + params.half) * params.angle_step];
  let partner = f32(x[start + select(angle, angle + params.half, is_first) * params.x_steps.w]);
  y[params.y_offset + i] = Stored(own * cosine + select(partner, -partner, is_first != BACK) * sine);
}

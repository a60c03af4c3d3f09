// What matmul's kernels are given, whichever of them runs.

struct Params {
  batch_shape: vec4u,
  batch_x: vec4u,            // strides over the batch
  batch_y: vec4u,
  batch_out: vec4u,
  m: u32,
  n: u32,
  k: u32,
  x_offset: u32,
  x_m: u32,                  // from one m to the next, and so on
  x_k: u32,
  y_offset: u32,
  y_k: u32,
  y_n: u32,
  out_offset: u32,
  out_m: u32,
  out_n: u32,
  plus_offset: u32,          // otherwise it lies as out does
}

// The entry of each batch axis of the batch's `number`-th matrix.
fn batch_of(number: u32) -> vec4u {
  var batch = vec4u(0u, 0u, 0u, number);
  for (var axis = 3u; axis > 0u; axis--) {
    batch[axis - 1u] = batch[axis] / params.batch_shape[axis];
    batch[axis] = batch[axis] % params.batch_shape[axis];
  }
  return batch;
}

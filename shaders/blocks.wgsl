// What kernels share that read matrices of heads in blocks of 4 × 4. Their texts come after this one.

// Batch, group, member of the group, and a row: what the strides of a view [b, groups, members, n] go with.
fn entry_of(head: u32, groups: u32, members: u32, row: u32) -> vec4u {
  let in_batch = head % (groups * members);
  return vec4u(head / (groups * members), in_batch / members, in_batch % members, row);
}

// The first so many of four values, then zeros.
fn first(values: vec4f, count: i32) -> vec4f {
  return select(vec4f(), values, vec4i(0, 1, 2, 3) < vec4i(count));
}

// sum + a · b: four rows of one column, four columns of one row.
fn outer(sum: mat4x4f, a: vec4f, b: vec4f) -> mat4x4f {
  return mat4x4f(fma(a.xxxx, b, sum[0]), fma(a.yyyy, b, sum[1]), fma(a.zzzz, b, sum[2]), fma(a.wwww, b, sum[3]));
}

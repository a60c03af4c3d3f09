// What all threads of a workgroup have, reduced: `workgroup_sum`, `workgroup_max`, `workgroup_logsum`, of which every
// thread is given the same. They are in one of two further files, workgroup_reductions.wgsl or, for devices that have
// subgroups, subgroup_reductions.wgsl, and these are what both stand on. Texts that go on from here declare THREADS, a
// power of two, and Value: f32, i32, u32 or a vector. Every thread of the workgroup has to call.

var<workgroup> parts: array<Value, THREADS>;
var<workgroup> logsums: array<vec2f, THREADS>;

// A maximum m and Σ exp(x − m) of what two have seen.
fn join(a: vec2f, b: vec2f) -> vec2f {
  let m = max(a.x, b.x);
  return vec2f(m, a.y * exp(a.x - m) + b.y * exp(b.x - m));
}

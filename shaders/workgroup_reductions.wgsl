// What all threads of a workgroup have, reduced as a tree in its memory. subgroup_reductions.wgsl has the same by
// subgroups. Texts that go on from here declare THREADS, a power of two, and Value: f32, i32, u32 or a vector. Every
// thread of the workgroup has to call, and is given the same.

struct Thread { @builtin(local_invocation_index) index: u32 }

var<workgroup> parts: array<Value, THREADS>;
var<workgroup> logsums: array<vec2f, THREADS>;

fn workgroup_sum(t: Thread, value: Value) -> Value {
  let thread = t.index;
  // Others may still read what an earlier call left.
  workgroupBarrier();
  parts[thread] = value;
  for (var distance = THREADS / 2u; distance > 0u; distance /= 2u) {
    workgroupBarrier();
    if (thread < distance) { parts[thread] += parts[thread + distance]; }
  }
  workgroupBarrier();
  return parts[0];
}

fn workgroup_max(t: Thread, value: Value) -> Value {
  let thread = t.index;
  workgroupBarrier();
  parts[thread] = value;
  for (var distance = THREADS / 2u; distance > 0u; distance /= 2u) {
    workgroupBarrier();
    if (thread < distance) { parts[thread] = max(parts[thread], parts[thread + distance]); }
  }
  workgroupBarrier();
  return parts[0];
}

// A maximum m and Σ exp(x − m) of what two have seen.
fn join(a: vec2f, b: vec2f) -> vec2f {
  let m = max(a.x, b.x);
  return vec2f(m, a.y * exp(a.x - m) + b.y * exp(b.x - m));
}

fn workgroup_logsum(t: Thread, seen: vec2f) -> vec2f {
  let thread = t.index;
  workgroupBarrier();
  logsums[thread] = seen;
  for (var distance = THREADS / 2u; distance > 0u; distance /= 2u) {
    workgroupBarrier();
    if (thread < distance) { logsums[thread] = join(logsums[thread], logsums[thread + distance]); }
  }
  workgroupBarrier();
  return logsums[0];
}

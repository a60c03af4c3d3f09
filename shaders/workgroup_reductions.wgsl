// The reductions of reductions.wgsl as trees in the workgroup's memory.

struct Thread { @builtin(local_invocation_index) index: u32 }

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

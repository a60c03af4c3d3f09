// The sum and the maximum of what all threads of a workgroup have, by subgroups: each reduces what its own threads
// have, then all of what the subgroups found. The same as workgroup_reductions.wgsl, whose rules hold here.
//
// Which threads make a subgroup, and how many, is the device's affair: a subgroup's first thread leaves its sum at
// that thread's own place, the others leave zeros, and the threads of a subgroup share all places by counting
// themselves. Sums have one order as long as the device forms its subgroups alike.
enable subgroups;

var<workgroup> parts: array<Value, THREADS>;

fn workgroup_sum(thread: u32, value: Value) -> Value {
  let sum = subgroupAdd(value);
  let lanes = subgroupAdd(1u);
  let lane = subgroupExclusiveAdd(1u);
  // Others may still read what an earlier call left.
  workgroupBarrier();
  parts[thread] = select(Value(), sum, lane == 0u);
  workgroupBarrier();
  var total = Value();
  for (var i = lane; i < THREADS; i += lanes) { total += parts[i]; }
  return subgroupAdd(total);
}

fn workgroup_max(thread: u32, value: Value) -> Value {
  let largest = subgroupMax(value);
  let lanes = subgroupAdd(1u);
  let lane = subgroupExclusiveAdd(1u);
  workgroupBarrier();
  parts[thread] = largest;
  workgroupBarrier();
  var total = largest;
  for (var i = lane; i < THREADS; i += lanes) { total = max(total, parts[i]); }
  return subgroupMax(total);
}

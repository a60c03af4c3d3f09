// The sum and the maximum of what all threads of a workgroup have, by subgroups: every subgroup reduces all of it,
// each of its threads a share first. The same as workgroup_reductions.wgsl, whose rules hold here.
//
// How many threads make a subgroup, and which, is the device's affair: they count themselves. Each subgroup adds in
// one order, so that a device that forms its subgroups alike gives the same bits in every run.
enable subgroups;

var<workgroup> parts: array<Value, THREADS>;

fn workgroup_sum(thread: u32, value: Value) -> Value {
  let lanes = subgroupAdd(1u);
  let lane = subgroupExclusiveAdd(1u);
  // Others may still read what an earlier call left.
  workgroupBarrier();
  parts[thread] = value;
  workgroupBarrier();
  var share = parts[lane];
  for (var i = lane + lanes; i < THREADS; i += lanes) { share += parts[i]; }
  return subgroupAdd(share);
}

fn workgroup_max(thread: u32, value: Value) -> Value {
  let lanes = subgroupAdd(1u);
  let lane = subgroupExclusiveAdd(1u);
  workgroupBarrier();
  parts[thread] = value;
  workgroupBarrier();
  var share = parts[lane];
  for (var i = lane + lanes; i < THREADS; i += lanes) { share = max(share, parts[i]); }
  return subgroupMax(share);
}

// What all threads of a workgroup have, reduced by subgroups: every subgroup reduces all of it, each of its threads a
// share first. The same as workgroup_reductions.wgsl, whose rules hold here.
//
// How many threads make a subgroup, and which, is the device's affair: they count themselves. Each subgroup adds in
// one order, so that a device that forms its subgroups alike gives the same bits in every run.
enable subgroups;

var<workgroup> parts: array<Value, THREADS>;
var<workgroup> logsums: array<vec2f, THREADS>;

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

// A maximum m and Σ exp(x − m) of what two have seen.
fn join(a: vec2f, b: vec2f) -> vec2f {
  let m = max(a.x, b.x);
  return vec2f(m, a.y * exp(a.x - m) + b.y * exp(b.x - m));
}

fn workgroup_logsum(thread: u32, seen: vec2f) -> vec2f {
  let lanes = subgroupAdd(1u);
  let lane = subgroupExclusiveAdd(1u);
  workgroupBarrier();
  logsums[thread] = seen;
  workgroupBarrier();
  var share = logsums[lane];
  for (var i = lane + lanes; i < THREADS; i += lanes) { share = join(share, logsums[i]); }
  let m = subgroupMax(share.x);
  return vec2f(m, subgroupAdd(share.y * exp(share.x - m)));
}

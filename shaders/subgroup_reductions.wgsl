// What all threads of a workgroup have, reduced by subgroups: every subgroup reduces all of it, each of its threads a
// share first. The same as workgroup_reductions.wgsl, whose rules hold here.
//
// How many threads make a subgroup, and which, is the device's affair: they count themselves. Each subgroup adds in
// one order, so that a device that forms its subgroups alike gives the same bits in every run.
enable subgroups;

struct Thread {
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_invocation_id) id: u32,
}

// A thread's place among those of its subgroup that run, and how many they are.
struct Place { lane: u32, lanes: u32 }

fn place_of(thread: Thread) -> Place {
  let running = subgroupBallot(true);
  let words = vec4u(0u, 1u, 2u, 3u);
  let own = vec4u(thread.id / 32u);
  let lower = select(vec4u(), vec4u((1u << (thread.id % 32u)) - 1u), words == own);
  let before = running & select(lower, vec4u(0xffffffffu), words < own);
  return Place(dot(countOneBits(before), vec4u(1u)), dot(countOneBits(running), vec4u(1u)));
}

var<workgroup> parts: array<Value, THREADS>;
var<workgroup> logsums: array<vec2f, THREADS>;

fn workgroup_sum(thread: Thread, value: Value) -> Value {
  let place = place_of(thread);
  // Others may still read what an earlier call left.
  workgroupBarrier();
  parts[thread.index] = value;
  workgroupBarrier();
  var share = parts[place.lane];
  for (var i = place.lane + place.lanes; i < THREADS; i += place.lanes) { share += parts[i]; }
  return subgroupAdd(share);
}

fn workgroup_max(thread: Thread, value: Value) -> Value {
  let place = place_of(thread);
  workgroupBarrier();
  parts[thread.index] = value;
  workgroupBarrier();
  var share = parts[place.lane];
  for (var i = place.lane + place.lanes; i < THREADS; i += place.lanes) { share = max(share, parts[i]); }
  return subgroupMax(share);
}

// A maximum m and Σ exp(x − m) of what two have seen.
fn join(a: vec2f, b: vec2f) -> vec2f {
  let m = max(a.x, b.x);
  return vec2f(m, a.y * exp(a.x - m) + b.y * exp(b.x - m));
}

fn workgroup_logsum(thread: Thread, seen: vec2f) -> vec2f {
  let place = place_of(thread);
  workgroupBarrier();
  logsums[thread.index] = seen;
  workgroupBarrier();
  var share = logsums[place.lane];
  for (var i = place.lane + place.lanes; i < THREADS; i += place.lanes) { share = join(share, logsums[i]); }
  let m = subgroupMax(share.x);
  return vec2f(m, subgroupAdd(share.y * exp(share.x - m)));
}

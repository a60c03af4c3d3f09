// The reductions of reductions.wgsl by subgroups: every subgroup reduces what all threads have, each of its threads a
// share first.
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

// Leaves a part where every subgroup finds it.
fn leave_part(thread: Thread, part: Value) {
  // Others may still read what an earlier call left.
  workgroupBarrier();
  parts[thread.index] = part;
  workgroupBarrier();
}

fn workgroup_sum(thread: Thread, value: Value) -> Value {
  let place = place_of(thread);
  leave_part(thread, value);
  var share = parts[place.lane];
  for (var i = place.lane + place.lanes; i < THREADS; i += place.lanes) { share += parts[i]; }
  return subgroupAdd(share);
}

fn workgroup_max(thread: Thread, value: Value) -> Value {
  let place = place_of(thread);
  leave_part(thread, value);
  var share = parts[place.lane];
  for (var i = place.lane + place.lanes; i < THREADS; i += place.lanes) { share = max(share, parts[i]); }
  return subgroupMax(share);
}

fn workgroup_logsum(thread: Thread, seen: vec2f) -> vec2f {
  let place = place_of(thread);
  workgroupBarrier();
  logsums[thread.index] = seen;
  workgroupBarrier();
  // First the maximum: by `join` each part would cost two exponentials.
  var m = logsums[place.lane].x;
  for (var i = place.lane + place.lanes; i < THREADS; i += place.lanes) { m = max(m, logsums[i].x); }
  m = subgroupMax(m);
  var share = 0.0;
  for (var i = place.lane; i < THREADS; i += place.lanes) { share += logsums[i].y * exp(logsums[i].x - m); }
  return vec2f(m, subgroupAdd(share));
}

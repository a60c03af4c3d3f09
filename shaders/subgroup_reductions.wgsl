// The reductions of reductions.wgsl by subgroups: every subgroup reduces what all threads have, each of its threads a
// share first. Of many threads the first FEW reduce it to as many parts before, or each subgroup would have that work.
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

// No subgroup is larger.
const FEW: u32 = min(THREADS, 128u);

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
  if (THREADS > FEW) {
    if (thread.index < FEW) {
      var part = value;
      for (var i = thread.index + FEW; i < THREADS; i += FEW) { part += parts[i]; }
      parts[thread.index] = part;
    }
    workgroupBarrier();
  }
  var share = parts[place.lane];
  for (var i = place.lane + place.lanes; i < FEW; i += place.lanes) { share += parts[i]; }
  return subgroupAdd(share);
}

fn workgroup_max(thread: Thread, value: Value) -> Value {
  let place = place_of(thread);
  leave_part(thread, value);
  if (THREADS > FEW) {
    if (thread.index < FEW) {
      var part = value;
      for (var i = thread.index + FEW; i < THREADS; i += FEW) { part = max(part, parts[i]); }
      parts[thread.index] = part;
    }
    workgroupBarrier();
  }
  var share = parts[place.lane];
  for (var i = place.lane + place.lanes; i < FEW; i += place.lanes) { share = max(share, parts[i]); }
  return subgroupMax(share);
}

fn workgroup_logsum(thread: Thread, seen: vec2f) -> vec2f {
  let place = place_of(thread);
  workgroupBarrier();
  logsums[thread.index] = seen;
  workgroupBarrier();
  if (THREADS > FEW) {
    if (thread.index < FEW) {
      var part = seen;
      for (var i = thread.index + FEW; i < THREADS; i += FEW) { part = join(part, logsums[i]); }
      logsums[thread.index] = part;
    }
    workgroupBarrier();
  }
  var share = logsums[place.lane];
  for (var i = place.lane + place.lanes; i < FEW; i += place.lanes) { share = join(share, logsums[i]); }
  let m = subgroupMax(share.x);
  return vec2f(m, subgroupAdd(share.y * exp(share.x - m)));
}

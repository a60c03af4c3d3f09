// One job at a time, shared by threads. A job is a kernel, its params and a number of tasks; whoever is free
// takes the next task. Tasks write different outputs and none reads another's, so results do not depend on who
// takes which, nor on how many threads there are.
//
// The block of words at `control`:
const GENERATION: usize = 0; // rises with every job; idle workers sleep on it
const OPEN: usize = 4; // whether workers may still join the job
const ACTIVE: usize = 8; // workers inside it
const NEXT: usize = 12; // the first task that nobody has taken
const KERNEL: usize = 16; // its place in the table of functions
const TASKS: usize = 20;
const SLEEPERS: usize = 24;
/** Set by a worker that died of an exception: its task is lost. */
const FAILED: usize = 28;
/** Memory to work in, so many bytes for each thread; the host is thread 0. */
const SCRATCH: usize = 32;
const SCRATCH_BYTES: usize = 36;
/** Tells workers to end. */
const QUIT: usize = 40;
/** Where a job's params begin. */
const PARAMS: usize = 64;

/** Looks at a word so often before sleeping: some 20 µs, more than the host takes from one job to the next. */
const SPINS: i32 = 20000;

function drain(control: usize, thread: usize): void {
  const kernel = load<i32>(control, KERNEL);
  const scratch = load<usize>(control, SCRATCH) + thread * load<usize>(control, SCRATCH_BYTES);
  const tasks = load<i32>(control, TASKS);
  while (true) {
    const task = atomic.add<i32>(control, 1, NEXT);
    if (task >= tasks) return;
    call_indirect<void>(kernel, control + PARAMS, task, scratch);
  }
}

/** Runs a job whose params have been written, with the help of whoever is awake. False if a worker died. */
export function perform(
  control: usize,
  kernel: i32,
  tasks: i32,
  workers: i32,
  maySleep: i32,
): i32 {
  if (tasks == 1 || workers == 0) {
    const scratch = load<usize>(control, SCRATCH);
    for (let task = 0; task < tasks; task++) {
      call_indirect<void>(kernel, control + PARAMS, task, scratch);
    }
    return 1;
  }
  store<i32>(control, kernel, KERNEL);
  store<i32>(control, tasks, TASKS);
  atomic.store<i32>(control, 0, NEXT);
  atomic.store<i32>(control, 1, OPEN);
  atomic.add<i32>(control, 1, GENERATION);
  // A worker counts itself a sleeper before it looks at the generation a last time, so none is missed.
  if (atomic.load<i32>(control, SLEEPERS) > 0) atomic.notify(control + GENERATION, tasks - 1);
  drain(control, 0);
  atomic.store<i32>(control, 0, OPEN);
  let spins = 0;
  while (true) {
    const active = atomic.load<i32>(control, ACTIVE);
    if (active == 0) break;
    if (atomic.load<i32>(control, FAILED) != 0) return 0;
    // The thread of a browser's page may not sleep; others give way to the worker that is still at it.
    if (++spins > SPINS && maySleep) atomic.wait<i32>(control + ACTIVE, active, 1000000);
  }
  return i32(atomic.load<i32>(control, FAILED) == 0);
}

/** A worker's life. It ends with the process, with the backend, or with an exception. */
export function serve(control: usize, thread: usize): void {
  let seen = 0;
  while (atomic.load<i32>(control, QUIT) == 0) {
    let spins = 0;
    while (atomic.load<i32>(control, GENERATION) == seen) {
      if (++spins < SPINS) continue;
      atomic.add<i32>(control, 1, SLEEPERS);
      atomic.wait<i32>(control + GENERATION, seen, -1);
      atomic.sub<i32>(control, 1, SLEEPERS);
    }
    seen = atomic.load<i32>(control, GENERATION);
    // Entered first, looked second: whoever closes the job sees this worker, or this worker sees it closed.
    atomic.add<i32>(control, 1, ACTIVE);
    if (atomic.load<i32>(control, OPEN) != 0) drain(control, thread);
    if (atomic.sub<i32>(control, 1, ACTIVE) == 1) atomic.notify(control + ACTIVE, 1);
  }
}

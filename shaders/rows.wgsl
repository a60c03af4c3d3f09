// What kernels along rows share; goes on from one of the reductions. A workgroup has a row. It is read by units: elements,
// or, where all rows begin and end at multiples of four, four neighbours. A thread asks for four units in a turn before it
// works on any, THREADS apart; offsets, steps and lengths in Params count units.

alias Stored = f32;
alias Unit = f32;
const WIDTH: u32 = 1;
const THREADS: u32 = 128;
// Whether a turn is all of a row, which then stays in registers.
const ONCE: bool = false;

const LEAST: f32 = -0x1.fffffep+127;

fn sum_of(unit: Unit) -> f32 { return unit; }
fn max_of(unit: Unit) -> f32 { return unit; }

struct Turn { a: Unit, b: Unit, c: Unit, d: Unit }

fn dot_of(s: Turn, t: Turn) -> f32 { return sum_of((s.a * t.a + s.b * t.b) + (s.c * t.c + s.d * t.d)); }

// The maximum m of a turn, but no −Infinity, and Σ exp(x − m). What is past the row's end has to be −Infinity.
fn logsum_of(turn: Turn) -> vec2f {
  let m = max(LEAST, max_of(max(max(turn.a, turn.b), max(turn.c, turn.d))));
  return vec2f(m, sum_of((exp(turn.a - m) + exp(turn.b - m)) + (exp(turn.c - m) + exp(turn.d - m))));
}

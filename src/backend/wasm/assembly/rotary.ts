// Rotary positions, many rows a task: see rotary.ts of the operations for the formulas.
import { madd } from "./simd";

// Params: heads, n, d, half of what is turned; rows, how many are one task, whether to turn back; then for each of x and
// the rotations its address and the steps, in bytes, of batch, head (x alone), row and column; y, which is dense.
const HEADS: usize = 0;
const N: usize = 4;
const D: usize = 8;
const HALF: usize = 12;
const ROWS: usize = 16;
const ROWS_PER_TASK: usize = 20;
const BACK: usize = 24;
const X: usize = 28;
const ROTATIONS: usize = 48;
const Y: usize = 64;

export function rotary(params: usize, task: i32, _scratch: usize): void {
  const heads = load<i32>(params, HEADS), n = load<i32>(params, N), d = load<i32>(params, D);
  const half = load<i32>(params, HALF);
  const back = load<i32>(params, BACK) != 0;
  const step = load<usize>(params + X, 16), angleStep = load<usize>(params + ROTATIONS, 12);
  const dense = step == 4 && angleStep == 4;
  const flip = i32x4.splat(back ? 0x80000000 : 0);
  const perTask = load<i32>(params, ROWS_PER_TASK);
  const end = min(load<i32>(params, ROWS), (task + 1) * perTask);
  for (let i = task * perTask; i < end; i++) {
    const batch = i / (heads * n), head = (i / n) % heads, row = i % n;
    let x = load<usize>(params, X) + batch * load<i32>(params + X, 4) + head * load<i32>(params + X, 8) +
      row * load<i32>(params + X, 12);
    let angle = load<usize>(params, ROTATIONS) + batch * load<i32>(params + ROTATIONS, 4) +
      row * load<i32>(params + ROTATIONS, 8);
    let y = load<usize>(params, Y) + ((i * d) << 2);
    const toSecond = half * step, toSines = half * angleStep;
    let j = 0;
    if (dense) {
      for (; j + 4 <= half; j += 4) {
        const cos = v128.load(angle), sin = v128.xor(v128.load(angle + toSines), flip);
        const first = v128.load(x), second = v128.load(x + toSecond);
        v128.store(y, madd(first, cos, f32x4.neg(f32x4.mul(second, sin))));
        v128.store(y + (half << 2), madd(second, cos, f32x4.mul(first, sin)));
        x += 16;
        angle += 16;
        y += 16;
      }
    }
    for (; j < half; j++) {
      const cos = load<f32>(angle), sine = load<f32>(angle + toSines);
      const sin = back ? -sine : sine;
      const first = load<f32>(x), second = load<f32>(x + toSecond);
      store<f32>(y, first * cos - second * sin);
      store<f32>(y + (half << 2), second * cos + first * sin);
      x += step;
      angle += angleStep;
      y += 4;
    }
    x += toSecond;
    y += half << 2;
    for (j = 2 * half; j < d; j++) {
      store<f32>(y, load<f32>(x));
      x += step;
      y += 4;
    }
  }
}

// The step of AdamW, and what counts steps: see adamw.ts of the optimizers for the formulas.

// Params: g, p, the moments (m and v of each element side by side), the scalars (1 − β₁ᵗ, 1 − β₂ᵗ and the factor
// on g), the length, how much of it is one task, β₁, 1 − β₁, β₂, 1 − β₂, ε, η, λ.
export function adamw(params: usize, task: i32, _scratch: usize): void {
  const scalars = load<usize>(params, 12);
  const c1 = load<f32>(scalars), c2 = load<f32>(scalars, 4), factor = load<f32>(scalars, 8);
  // A step whose gradients overflowed is not taken.
  if (factor == 0) return;
  const chunk = load<i32>(params, 20);
  const first = task * chunk;
  let left = min(load<i32>(params, 16) - first, chunk);
  let g = load<usize>(params) + (first << 2), p = load<usize>(params, 4) + (first << 2);
  let moments = load<usize>(params, 8) + (first << 3);
  for (; left >= 4; left -= 4) {
    const gradient = f32x4.mul(v128.load(g), f32x4.splat(factor));
    const low = v128.load(moments), high = v128.load(moments, 16);
    const mean = f32x4.add(
      f32x4.mul(v128.load32_splat(params, 24), v128.shuffle<f32>(low, high, 0, 2, 4, 6)),
      f32x4.mul(v128.load32_splat(params, 28), gradient),
    );
    const square = f32x4.add(
      f32x4.mul(v128.load32_splat(params, 32), v128.shuffle<f32>(low, high, 1, 3, 5, 7)),
      f32x4.mul(v128.load32_splat(params, 36), f32x4.mul(gradient, gradient)),
    );
    const root = f32x4.sqrt(f32x4.div(square, f32x4.splat(c2)));
    const stepped = f32x4.div(
      f32x4.div(mean, f32x4.splat(c1)),
      f32x4.add(root, v128.load32_splat(params, 40)),
    );
    const before = v128.load(p);
    const change = f32x4.add(stepped, f32x4.mul(v128.load32_splat(params, 48), before));
    v128.store(moments, v128.shuffle<f32>(mean, square, 0, 4, 1, 5));
    v128.store(moments, v128.shuffle<f32>(mean, square, 2, 6, 3, 7), 16);
    v128.store(p, f32x4.sub(before, f32x4.mul(v128.load32_splat(params, 44), change)));
    g += 16;
    p += 16;
    moments += 32;
  }
  for (; left > 0; left--) {
    const gradient = load<f32>(g) * factor, before = load<f32>(p);
    const mean = load<f32>(params, 24) * load<f32>(moments) + load<f32>(params, 28) * gradient;
    const square = load<f32>(params, 32) * load<f32>(moments, 4) + load<f32>(params, 36) * (gradient * gradient);
    const root = sqrt<f32>(square / c2) + load<f32>(params, 40);
    const change = mean / c1 / root + load<f32>(params, 48) * before;
    store<f32>(moments, mean);
    store<f32>(moments, square, 4);
    store<f32>(p, before - load<f32>(params, 44) * change);
    g += 4;
    p += 4;
    moments += 8;
  }
}

// Params: the factor's address, the scalars', and β and 1 − β of both averages.
/** 1 − βᵗ ← β (1 − βᵗ) + (1 − β), for a step that is taken. */
export function adamwCount(params: usize, _task: i32, _scratch: usize): void {
  const factor = load<f32>(load<usize>(params)), scalars = load<usize>(params, 4);
  store<f32>(scalars, factor, 8);
  if (factor == 0) return;
  store<f32>(scalars, load<f32>(params, 8) * load<f32>(scalars) + load<f32>(params, 12));
  store<f32>(scalars, load<f32>(params, 16) * load<f32>(scalars, 4) + load<f32>(params, 20), 4);
}

// The step of AdamW: see adamw.ts for the formulas.

// Params: g, p, m, v, their length, how much of it is one task, β₁, 1 − β₁, β₂, 1 − β₂, 1 / (1 − β₁ᵗ),
// 1 / (1 − β₂ᵗ), ε, η, λ.
export function adamw(params: usize, task: i32, _scratch: usize): void {
  const chunk = load<i32>(params, 20);
  const first = task * chunk;
  let left = min(load<i32>(params, 16) - first, chunk);
  let g = load<usize>(params) + (first << 2), p = load<usize>(params, 4) + (first << 2);
  let m = load<usize>(params, 8) + (first << 2), v = load<usize>(params, 12) + (first << 2);
  for (; left >= 4; left -= 4) {
    const gradient = v128.load(g);
    const mean = f32x4.add(
      f32x4.mul(v128.load32_splat(params, 24), v128.load(m)),
      f32x4.mul(v128.load32_splat(params, 28), gradient),
    );
    const square = f32x4.add(
      f32x4.mul(v128.load32_splat(params, 32), v128.load(v)),
      f32x4.mul(v128.load32_splat(params, 36), f32x4.mul(gradient, gradient)),
    );
    const root = f32x4.sqrt(f32x4.mul(square, v128.load32_splat(params, 44)));
    const stepped = f32x4.div(
      f32x4.mul(mean, v128.load32_splat(params, 40)),
      f32x4.add(root, v128.load32_splat(params, 48)),
    );
    const before = v128.load(p);
    const change = f32x4.add(stepped, f32x4.mul(v128.load32_splat(params, 56), before));
    v128.store(m, mean);
    v128.store(v, square);
    v128.store(p, f32x4.sub(before, f32x4.mul(v128.load32_splat(params, 52), change)));
    g += 16;
    p += 16;
    m += 16;
    v += 16;
  }
  for (; left > 0; left--) {
    const gradient = load<f32>(g), before = load<f32>(p);
    const mean = load<f32>(params, 24) * load<f32>(m) + load<f32>(params, 28) * gradient;
    const square = load<f32>(params, 32) * load<f32>(v) + load<f32>(params, 36) * (gradient * gradient);
    const root = sqrt<f32>(square * load<f32>(params, 44)) + load<f32>(params, 48);
    const change = mean * load<f32>(params, 40) / root + load<f32>(params, 56) * before;
    store<f32>(m, mean);
    store<f32>(v, square);
    store<f32>(p, before - load<f32>(params, 52) * change);
    g += 4;
    p += 4;
    m += 4;
    v += 4;
  }
}

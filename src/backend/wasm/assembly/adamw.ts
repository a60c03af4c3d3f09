// The step of AdamW: see adamw.ts for the formulas.

// Params: g, p, m, v, the factor on g, the two corrections, the length, how much of it is one task, β₁, 1 − β₁, β₂,
// 1 − β₂, ε, η, λ.
export function adamw(params: usize, task: i32, _scratch: usize): void {
  const factor = load<f32>(load<usize>(params, 16));
  // A step whose gradients overflowed is not taken.
  if (factor == 0) return;
  const corrections = load<usize>(params, 20);
  const c1 = load<f32>(corrections), c2 = load<f32>(corrections, 4);
  const chunk = load<i32>(params, 28);
  const first = task * chunk;
  let left = min(load<i32>(params, 24) - first, chunk);
  let g = load<usize>(params) + (first << 2), p = load<usize>(params, 4) + (first << 2);
  let m = load<usize>(params, 8) + (first << 2), v = load<usize>(params, 12) + (first << 2);
  for (; left >= 4; left -= 4) {
    const gradient = f32x4.mul(v128.load(g), f32x4.splat(factor));
    const mean = f32x4.add(
      f32x4.mul(v128.load32_splat(params, 32), v128.load(m)),
      f32x4.mul(v128.load32_splat(params, 36), gradient),
    );
    const square = f32x4.add(
      f32x4.mul(v128.load32_splat(params, 40), v128.load(v)),
      f32x4.mul(v128.load32_splat(params, 44), f32x4.mul(gradient, gradient)),
    );
    const root = f32x4.sqrt(f32x4.div(square, f32x4.splat(c2)));
    const stepped = f32x4.div(
      f32x4.div(mean, f32x4.splat(c1)),
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
    const gradient = load<f32>(g) * factor, before = load<f32>(p);
    const mean = load<f32>(params, 32) * load<f32>(m) + load<f32>(params, 36) * gradient;
    const square = load<f32>(params, 40) * load<f32>(v) + load<f32>(params, 44) * (gradient * gradient);
    const root = sqrt<f32>(square / c2) + load<f32>(params, 48);
    const change = mean / c1 / root + load<f32>(params, 56) * before;
    store<f32>(m, mean);
    store<f32>(v, square);
    store<f32>(p, before - load<f32>(params, 52) * change);
    g += 4;
    p += 4;
    m += 4;
    v += 4;
  }
}

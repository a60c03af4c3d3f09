// What pointwise kernels compute: the types of their operands, the rule, and functions that rules call. This text comes
// after that of a kernel, whose Params have the bits of `scalar` and `size`.

// Types in memory, and the types that the rule computes with.
alias StoredX = f32;
alias StoredY = f32;
alias StoredZ = f32;
alias StoredOut = f32;
alias X = f32;
alias Y = f32;
alias Z = f32;
alias Out = f32;
// The type of a number given in place of an operand, and which operand it replaces: 1 x, 2 y, 0 none.
alias Scalar = f32;
const SCALAR: u32 = 0;

const pi = 3.14159265358979;

fn rule(x: X, y: Y, z: Z) -> Out { return x; }

// 1 − erf(x) for x ≥ 0, relative error < 1.2e-7 (Press et al., Numerical Recipes, erfcc).
fn erfc_positive(x: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.5 * x);
  let series = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 +
    t * (-0.18628806 + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 +
    t * (-0.82215223 + t * 0.17087277))))))));
  return t * exp(-x * x + series);
}

fn erf(x: f32) -> f32 {
  // Near 0 the difference from 1 cancels; there its Taylor series is exact to float32.
  if (abs(x) < 0.25) {
    let s = x * x;
    return x * (1.12837917 + s * (-0.376126389 + s * (0.112837917 + s * (-0.0268661706 + s * 0.00522397762))));
  }
  return sign(x) * (1.0 - erfc_positive(abs(x)));
}

// sin(x + quarters · π/2). The built-in sine is only good near 0; this one reduces the angle first, in
// three parts of π/2 (Cody and Waite), and then uses the Taylor series on [−π/4, π/4].
fn sine(x: f32, quarters: i32) -> f32 {
  let k = round(x * 0.636619772);
  let r = fma(k, -7.549790126e-8, fma(k, -4.837512969970703e-4, fma(k, -1.5703125, x)));
  let s = r * r;
  let sin_r = r * (1.0 + s * (-0.166666667 + s * (8.33333333e-3 + s * (-1.98412698e-4 + s * 2.75573192e-6))));
  let cos_r = 1.0 + s * (-0.5 + s * (4.16666667e-2 + s * (-1.38888889e-3 + s * 2.48015873e-5)));
  let turn = (i32(k) + quarters) & 3;
  let size = select(cos_r, sin_r, (turn & 1) == 0);
  return select(size, -size, turn >= 2);
}

// tanh overflows on some drivers; past 10 it is 1 in float32.
fn bounded_tanh(x: f32) -> f32 { return tanh(clamp(x, -10.0, 10.0)); }

// d silu / dx.
fn silu_slope(x: f32) -> f32 {
  let s = 1.0 / (1.0 + exp(-x));
  return s * (1.0 + x * (1.0 - s));
}

// d gelu / dx.
fn gelu_slope(x: f32) -> f32 {
  return 0.5 * (1.0 + erf(x * 0.707106781)) + x * exp(-0.5 * x * x) * 0.398942280;
}

// A number of these bits, which come through a variable because WGSL refuses constants that are not finite.
fn of_bits(bits: u32) -> f32 { return bitcast<f32>((params.size & 0u) | bits); }

// WGSL leaves open what logarithms of 0, of what is below it and of NaN are. It is told by bits, since compilers may take
// numbers to be finite.
fn logarithm(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  let above = select(log(x), of_bits(0xff800000u), bits << 1u == 0u);
  return select(above, of_bits(0x7fc00000u), bits > 0x7f800000u && bits != 0x80000000u);
}

// As Math.pow: a negative base has powers for integral exponents.
fn power(base: f32, exponent: f32) -> f32 {
  if (exponent == 0.0) { return 1.0; }
  let size = pow(abs(base), exponent);
  let odd = abs(exponent) - 2.0 * floor(abs(exponent) * 0.5) == 1.0;
  if (base < 0.0 && odd) { return -size; }
  let undefined_power = base < 0.0 && floor(exponent) != exponent;
  return select(size, of_bits(0x7fc00000u), undefined_power);
}

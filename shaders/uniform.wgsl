// out[i] = low + (high − low) · u(i), u(i) in [0, 1) from the Threefry-2x32 generator with 20 rounds
// (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). Block i / 2 gives two numbers.

struct Params {
  key: vec2u,
  size: u32,
  offset: u32,
  first_block: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<uniform> params: Params;

fn rotate(x: u32, bits: u32) -> u32 { return (x << bits) | (x >> (32u - bits)); }

fn round(x: vec2u, bits: u32) -> vec2u {
  let sum = x.x + x.y;
  return vec2u(sum, rotate(x.y, bits) ^ sum);
}

fn threefry(key: vec2u, counter: vec2u) -> vec2u {
  let k = vec3u(key, key.x ^ key.y ^ 0x1bd11bdau);
  var x = counter + key;
  x = round(round(round(round(x, 13u), 15u), 26u), 6u) + vec2u(k.y, k.z + 1u);
  x = round(round(round(round(x, 17u), 29u), 16u), 24u) + vec2u(k.z, k.x + 2u);
  x = round(round(round(round(x, 13u), 15u), 26u), 6u) + vec2u(k.x, k.y + 3u);
  x = round(round(round(round(x, 17u), 29u), 16u), 24u) + vec2u(k.y, k.z + 4u);
  x = round(round(round(round(x, 13u), 15u), 26u), 6u) + vec2u(k.z, k.x + 5u);
  return x;
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 256u + id.x;
  if (2u * i >= params.size) { return; }
  let words = threefry(params.key, vec2u(params.first_block + i, 0u));
  // The upper 24 bits are exact in float32, so every backend makes the same numbers.
  let numbers = vec2f(words >> vec2u(8u)) * 5.9604644775390625e-8;
  out[params.offset + 2u * i] = numbers.x;
  if (2u * i + 1u < params.size) { out[params.offset + 2u * i + 1u] = numbers.y; }
}

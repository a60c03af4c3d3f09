// Numbers from [0, 1) by Threefry-2x32 with 20 rounds: see random.ts for the source.

let x: u32, y: u32;

// @ts-ignore: decorator
@inline
function fourRounds(a: u32, b: u32, c: u32, d: u32): void {
  x += y;
  y = rotl<u32>(y, a) ^ x;
  x += y;
  y = rotl<u32>(y, b) ^ x;
  x += y;
  y = rotl<u32>(y, c) ^ x;
  x += y;
  y = rotl<u32>(y, d) ^ x;
}

// Params: out, its size, numbers of a task, which are even, the lower and upper word of the key, the first block.
export function uniform(params: usize, task: i32, _scratch: usize): void {
  const perTask = load<i32>(params, 8);
  const first = task * perTask, end = min(load<i32>(params, 4), first + perTask);
  const k0 = load<u32>(params, 12), k1 = load<u32>(params, 16), k2 = k0 ^ k1 ^ 0x1bd11bda;
  let out = load<usize>(params) + (first << 2);
  let block = load<u32>(params, 20) + first / 2;
  for (let i = first; i < end; i += 2) {
    x = block + k0;
    y = k1;
    fourRounds(13, 15, 26, 6);
    x += k1;
    y += k2 + 1;
    fourRounds(17, 29, 16, 24);
    x += k2;
    y += k0 + 2;
    fourRounds(13, 15, 26, 6);
    x += k0;
    y += k1 + 3;
    fourRounds(17, 29, 16, 24);
    x += k1;
    y += k2 + 4;
    fourRounds(13, 15, 26, 6);
    x += k2;
    y += k0 + 5;
    // 24 bits of each word.
    store<f32>(out, <f32> (x >> 8) * <f32> 5.9604644775390625e-8);
    if (i + 1 < end) store<f32>(out, <f32> (y >> 8) * <f32> 5.9604644775390625e-8, 4);
    out += 8;
    block++;
  }
}

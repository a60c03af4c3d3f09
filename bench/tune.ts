import { init, lightningAttention, noGrad, tidy, uniform } from "../mod.ts";
import { timed } from "./kernels.ts";
const device = await init({ backend: "webgpu" });
const n = device.software ? 512 : 32768;
for (const dtype of ["f32", "f16"] as const) {
  const [q, k, v] = [1, 2, 3].map((seed) => uniform(device.software?[1,2,n,128]:[4, 32, n, 128], { seed, dtype, low: -1 }));
  for (const blockSize of [64, 128, 256, 512]) {
    const ms = await timed(device, () => tidy(() => noGrad(() => void lightningAttention(q, k, v, { slopes: 0.01, blockSize }))), 3);
    console.log(dtype, blockSize, ms.toFixed(3), "pooled", device.memory().pooledBytes / 2 ** 20);
    device.trim();
  }
  [q, k, v].forEach((t) => t.dispose());
}

/** Products of square matrices. */
import { type Device, scope, tidy, uniform } from "../mod.ts";
import { deviceMs } from "./measure.ts";

/** How fast one product was. */
export interface MatmulRow {
  readonly size: number;
  readonly dtype: "f32" | "f16";
  readonly ms: number;
  readonly gflops: number;
}

/** Times C = A B of [size, size] for a few sizes and both dtypes, and prints a table. */
export async function reportMatmul(device: Device): Promise<MatmulRow[]> {
  const rows: MatmulRow[] = [];
  console.log("| matmul | dtype | ms | GFLOP/s |\n| --- | --- | ---: | ---: |");
  for (const size of device.software ? [128, 512] : [512, 1024, 4096]) {
    for (const dtype of ["f32", "f16"] as const) {
      using _ = scope();
      const [a, b] = [1, 2].map((seed) => uniform([size, size], { seed, low: -1, dtype, device }));
      const ms = await deviceMs(device, () => tidy(() => void a.matmul(b)));
      const gflops = 2 * size ** 3 / ms / 1e6;
      rows.push({ size, dtype, ms, gflops });
      console.log(`| ${size}³ | ${dtype} | ${ms.toFixed(3)} | ${gflops.toFixed(1)} |`);
    }
  }
  return rows;
}

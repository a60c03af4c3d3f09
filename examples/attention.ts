// Lightning Attention-2 and its gradient: `deno run -A examples/attention.ts`, or `bun run`.
import { decaySlopes, init, lightningAttention, randn } from "../mod.ts";

const device = await init();
console.log(device.describe());

const [q, k, v] = [1, 2, 3].map((seed) => randn([1, 8, 1024, 64], { seed, requiresGrad: true }));
const o = lightningAttention(q, k, v, { slopes: decaySlopes(8), scale: 64 ** -0.5 });
o.sum().backward();

console.log("o", o.shape, (await o.data()).slice(0, 4));
console.log("dq", q.grad!.shape, (await q.grad!.data()).slice(0, 4));

/** Levin, on the backend that is asked for. */
import { type Device, lightningAttention, loss, optim, tensor, tidy } from "@levin/levin";
import { TransNormerLLM } from "@levin/levin/models";
import { type Library, TRAINING } from "./library.ts";

/** Levin on `device`, which computes with `threads` threads. */
export function levinLibrary(device: Device, threads: number): Library {
  const make = (data: Float32Array, shape: number[], requiresGrad = false) =>
    tensor(data, { shape, device, requiresGrad });
  return {
    name: `Levin ${device.backend}`,
    threads,
    matmul: (a, b, size) => ({
      matmul: () => {
        const [left, right] = [a, b].map((data) => make(data, [size, size]));
        return {
          run: async () => {
            tidy(() => void left.matmul(right));
            await device.synchronize();
          },
          results: async () => {
            using c = left.matmul(right);
            return [await c.data()];
          },
          dispose: () => [left, right].forEach((t) => t.dispose()),
        };
      },
    }),
    attention: ({ heads, n, size, slopes, gradient: given, ...problem }) => ({
      lightningAttention: () => {
        const shape = [1, heads, n, size];
        const backward = given !== undefined;
        const inputs = [problem.q, problem.k, problem.v].map((x) => make(x, shape, backward));
        const gradient = backward ? make(given, shape) : undefined;
        const [q, k, v] = inputs;
        const call = () => {
          const o = lightningAttention(q, k, v, { slopes });
          if (backward) o.backward({ gradient });
          return o;
        };
        // Disposed, as the peers' results are: what waits to be collected is new memory for the next call.
        const drop = () => {
          for (const t of backward ? inputs : []) {
            t.grad!.dispose();
            t.grad = null;
          }
        };
        return {
          run: async () => {
            tidy(() => void call());
            await device.synchronize();
            drop();
          },
          results: async () => {
            using o = call();
            const found = [o, ...(backward ? inputs.map((t) => t.grad!) : [])];
            const results = await Promise.all(found.map((t) => t.data()));
            drop();
            return results;
          },
          dispose: () => [...inputs, gradient].forEach((t) => t?.dispose()),
        };
      },
    }),
    training: ({ config, batch, context, weights, ...problem }, steps) => ({
      "op by op": () => {
        const { learningRate, beta1, beta2, epsilon, weightDecay, clip } = TRAINING;
        const model = new TransNormerLLM(config, { device });
        tidy(() =>
          model.load(Object.fromEntries(
            [...weights].map(([name, { data, shape }]) => [name, make(data, [...shape])]),
          ))
        );
        const betas = [beta1, beta2] as const;
        const adamw = new optim.AdamW(model.parameters(), {
          ...{ learningRate, betas, epsilon, weightDecay },
        });
        const [ids, targets] = [problem.ids, problem.targets].map((data) =>
          tensor(data, { shape: [batch, context], dtype: "i32", device })
        );
        const step = () =>
          tidy(() => {
            const value = loss.crossEntropy(model.forward(ids), targets);
            value.backward();
            adamw.step(optim.clipFactor(model.parameters(), clip));
            adamw.zeroGrad();
            return value.detach();
          });
        return {
          run: async () => {
            step().dispose();
            await device.synchronize();
          },
          results: async () => {
            const losses: number[] = [];
            for (let i = 0; i < steps; i++) {
              using value = step();
              losses.push(await value.item());
            }
            return [Float32Array.from(losses)];
          },
          dispose: () => {
            [ids, targets].forEach((t) => t.dispose());
            adamw[Symbol.dispose]();
            model[Symbol.dispose]();
          },
        };
      },
    }),
  };
}

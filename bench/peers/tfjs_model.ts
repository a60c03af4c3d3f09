/**
 * A training step of TransNormerLLM in TensorFlow.js. The context of the demo's model is short, so its
 * attention is quadratic, which is faster there.
 */
import * as tf from "@tensorflow/tfjs";
import { type Candidate, TRAINING, type TrainingProblem } from "./library.ts";

const { learningRate, beta1, beta2, epsilon, weightDecay, clip, normEpsilon } = TRAINING;

/** M_ij = e^(−slope · (i−j)) for i ≥ j, else 0. */
export function decayMask(slope: number, n: number): tf.Tensor2D {
  const mask = new Float32Array(n * n);
  const powers = Float32Array.from({ length: n }, (_, i) => Math.exp(-slope * i));
  for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) mask[i * n + j] = powers[i - j];
  return tf.tensor2d(mask, [n, n]);
}

/** Products of matrices [.., m, k] · [.., k, n], each of which is a call of the fast kernel. */
function matmul(a: tf.Tensor, b: tf.Tensor): tf.Tensor {
  if (a.rank === 2) return tf.matMul(a as tf.Tensor2D, b as tf.Tensor2D);
  const right = tf.unstack(b);
  return tf.stack(tf.unstack(a).map((left, i) => matmul(left, right[i])));
}

function turned(x: tf.Tensor): tf.Tensor {
  return x.rank === 2 ? tf.transpose(x) : tf.transpose(x, [0, 2, 1]);
}

/** A B, whose gradients are G Bᵀ and Aᵀ G. */
const product = tf.customGrad((...operands) => {
  const [a, b, save] = operands as unknown as [tf.Tensor, tf.Tensor, tf.GradSaveFunc];
  save([a, b]);
  return {
    value: matmul(a, b),
    gradFunc: (dy, [a, b]) => [matmul(dy, turned(b)), matmul(turned(a), dy)],
  };
});

/** SRMSNorm(x) = x / √(mean x² + ε). */
function norm(x: tf.Tensor): tf.Tensor {
  return tf.mul(x, tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), normEpsilon)));
}

/** x Wᵀ, x [rows, in], W [out, in]. */
function linear(x: tf.Tensor, weight: tf.Tensor): tf.Tensor {
  return product(x, tf.transpose(weight));
}

/** Training steps on one batch. */
export function trainingStep(problem: TrainingProblem, steps: number): Candidate {
  const { config: { vocabulary, size, layers, heads }, batch, context: n } = problem;
  const d = size / heads;
  const names = [...problem.weights.keys()];
  let weights = [...problem.weights.values()].map((w) => tf.tensor(w.data, [...w.shape]));
  let [m, v] = [0, 1].map(() => weights.map((w) => tf.zerosLike(w)));
  // [batch · n, vocabulary]; the backend cannot scatter, so a gather would have no gradient.
  const [inputs, targets] = [problem.ids, problem.targets].map((ids) =>
    tf.tidy(() => tf.cast(tf.oneHot(tf.tensor1d(ids, "int32"), vocabulary), "float32"))
  );
  const masks = problem.slopes.map((slopes) =>
    tf.tidy(() => tf.tile(tf.stack(slopes.map((slope) => decayMask(slope, n))), [batch, 1, 1]))
  );
  const time = tf.reshape(tf.range(0, n), [n, 1]);

  const byHead = (t: tf.Tensor) =>
    tf.reshape(
      tf.transpose(tf.reshape(t, [batch, n, heads, d]), [0, 2, 1, 3]),
      [batch * heads, n, d],
    );
  const loss = (weights: tf.Tensor[]): tf.Scalar => {
    const weight = (name: string) => weights[names.indexOf(name)];
    let x = tf.mul(product(inputs, weight("model.embed_tokens.weight")), Math.sqrt(size));
    for (let layer = 0; layer < layers; layer++) {
      const own = (name: string) => weight(`model.layers.${layer}.${name}`);
      const projected = linear(norm(x), own("token_mixer.qkvu_proj.weight"));
      const [projectedQ, projectedK, value, u] = tf.split(projected, 4, 1);
      let [q, k] = [projectedQ, projectedK].map((t) => byHead(tf.mul(t, tf.sigmoid(t))));
      if (layer === 0) {
        const angle = tf.mul(own("token_mixer.lrpe.theta"), time);
        const [cos, sin] = [tf.cos(angle), tf.sin(angle)];
        [q, k] = [q, k].map((t) => {
          const split = tf.reshape(t, [batch, heads, n, d]);
          const placed = tf.concat([tf.mul(split, cos), tf.mul(split, sin)], -1);
          return tf.reshape(placed, [batch * heads, n, 2 * d]);
        });
      }
      const scores = tf.mul(product(q, turned(k)), masks[layer]);
      const attended = tf.reshape(product(scores, byHead(value)), [batch, heads, n, d]);
      const o = tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [batch * n, size]);
      const h = tf.add(x, linear(tf.mul(u, norm(o)), own("token_mixer.out_proj.weight")));
      const y = norm(h);
      const gated = tf.mul(
        linear(y, own("channel_mixer.l1.weight")),
        linear(y, own("channel_mixer.l2.weight")),
      );
      x = tf.add(h, linear(gated, own("channel_mixer.l3.weight")));
    }
    const logits = linear(norm(x), weight("lm_head.weight"));
    const chosen = tf.sum(tf.mul(logits, targets), -1);
    return tf.mean(tf.sub(tf.logSumExp(logits, -1), chosen)) as tf.Scalar;
  };
  const differentiated = tf.valueAndGrads((...weights: tf.Tensor[]) => loss(weights));

  /** AdamW with the gradients scaled to a global norm of at most `clip`. */
  const update = (gradients: tf.Tensor[], step: number) => {
    const norm = tf.sqrt(tf.addN(gradients.map((g) => tf.sum(tf.square(g)))));
    const factor = tf.minimum(tf.div(clip, tf.add(norm, 1e-6)), 1);
    const [correction1, correction2] = [1 - beta1 ** step, 1 - beta2 ** step];
    return gradients.map((gradient, i) => {
      const g = tf.mul(gradient, factor);
      const nextM = tf.add(tf.mul(m[i], beta1), tf.mul(g, 1 - beta1));
      const nextV = tf.add(tf.mul(v[i], beta2), tf.mul(tf.square(g), 1 - beta2));
      const root = tf.add(tf.sqrt(tf.div(nextV, correction2)), epsilon);
      const stepped = tf.div(tf.div(nextM, correction1), root);
      // Every weight of this model has two axes or more, so all of them shrink.
      const shrunk = tf.mul(weights[i], weightDecay);
      const next = tf.sub(weights[i], tf.mul(tf.add(stepped, shrunk), learningRate));
      return [next, nextM, nextV];
    });
  };
  let taken = 0;
  const once = (): tf.Scalar => {
    const { value, updated } = tf.tidy(() => {
      const { value, grads } = differentiated(weights);
      return { value: value as tf.Scalar, updated: update(grads, ++taken) };
    });
    tf.dispose([weights, m, v]);
    [weights, m, v] = [0, 1, 2].map((i) => updated.map((three) => three[i]));
    return value;
  };
  return {
    run: () => Promise.resolve(once().dispose()),
    results: async () => {
      const losses: number[] = [];
      for (let i = 0; i < steps; i++) {
        const value = once();
        losses.push((await value.data())[0]);
        value.dispose();
      }
      return [Float32Array.from(losses)];
    },
    dispose: () => tf.dispose([weights, m, v, inputs, targets, masks, time]),
  };
}

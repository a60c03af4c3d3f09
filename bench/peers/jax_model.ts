/**
 * A training step of TransNormerLLM in jax-js: the loss, its gradient and AdamW as one `jit`. The
 * context of the demo's model is short, so its attention is quadratic, which is faster there.
 */
import { blockUntilReady, jit, nn, numpy as np, tree, valueAndGrad } from "@jax-js/jax";
import { array, decayMask, read } from "./jax_arrays.ts";
import { type Candidate, TRAINING, type TrainingProblem } from "./library.ts";

/** Arrays by the name of a weight. */
type Weights = { [name: string]: np.Array };
type State = { weights: Weights; m: Weights; v: Weights };

const { learningRate, beta1, beta2, epsilon, weightDecay, clip, normEpsilon } = TRAINING;

/** SRMSNorm(x) = x / √(mean x² + ε). */
function norm(x: np.Array): np.Array {
  return x.ref.div(np.sqrt(np.mean(np.square(x), -1, { keepdims: true }).add(normEpsilon)));
}

/** x Wᵀ, x [.., in], W [out, in]. */
function linear(x: np.Array, weight: np.Array): np.Array {
  return np.matmul(x, np.matrixTranspose(weight));
}

function lossOf(problem: TrainingProblem, weights: Weights, ids: np.Array, targets: np.Array) {
  const { config: { vocabulary, size, layers, heads }, batch, context: n } = problem;
  const d = size / heads;
  // As products with one-hot rows: jax-js scatters slower than it multiplies.
  let x = np.matmul(nn.oneHot(ids, vocabulary), weights["model.embed_tokens.weight"].ref)
    .mul(Math.sqrt(size));
  for (let layer = 0; layer < layers; layer++) {
    const weight = (name: string) => weights[`model.layers.${layer}.${name}`].ref;
    const projected = linear(norm(x.ref), weight("token_mixer.qkvu_proj.weight"));
    const part = (i: number) => projected.ref.slice([], [], [i * size, (i + 1) * size]);
    const byHead = (t: np.Array) => np.transpose(t.reshape([batch, n, heads, d]), [0, 2, 1, 3]);
    let [q, k] = [0, 1].map((i) => byHead(nn.silu(part(i))));
    if (layer === 0) {
      const time = np.arange(n).astype(np.float32).reshape([n, 1]);
      const angle = weight("token_mixer.lrpe.theta").mul(time);
      [q, k] = [q, k].map((t) =>
        np.concatenate([t.ref.mul(np.cos(angle.ref)), t.mul(np.sin(angle.ref))], -1)
      );
    }
    const slopes = array(Float32Array.from(problem.slopes[layer]), [heads, 1, 1]);
    const scores = np.matmul(q, np.matrixTranspose(k)).mul(decayMask(slopes, n));
    const attended = np.matmul(scores, byHead(part(2)));
    const o = np.transpose(attended, [0, 2, 1, 3]).reshape([batch, n, size]);
    const mixed = linear(part(3).mul(norm(o)), weight("token_mixer.out_proj.weight"));
    const h = x.add(mixed);
    const y = norm(h.ref);
    const gated = linear(y.ref, weight("channel_mixer.l1.weight"))
      .mul(linear(y, weight("channel_mixer.l2.weight")));
    x = h.add(linear(gated, weight("channel_mixer.l3.weight")));
  }
  const logits = linear(norm(x), weights["lm_head.weight"].ref);
  const chosen = nn.logSoftmax(logits, -1).mul(nn.oneHot(targets, vocabulary)).sum();
  return chosen.neg().div(batch * n);
}

/** One step of AdamW with the gradients scaled to a global norm of at most `clip`. */
function stepOf({ weights, m, v }: State, gradients: Weights, step: np.Array): State {
  const names = Object.keys(weights);
  const squares = names.map((name) => np.square(gradients[name].ref).sum());
  const norm = np.sqrt(squares.reduce((a, b) => a.add(b)));
  const factor = np.minimum(np.reciprocal(norm.add(1e-6)).mul(clip), 1);
  const corrections = [beta1, beta2].map((beta) =>
    np.subtract(1, np.exp(step.ref.mul(Math.log(beta))))
  );
  const next: State = { weights: {}, m: {}, v: {} };
  for (const name of names) {
    const g = gradients[name].mul(factor.ref);
    next.m[name] = m[name].mul(beta1).add(g.ref.mul(1 - beta1));
    next.v[name] = v[name].mul(beta2).add(np.square(g).mul(1 - beta2));
    const root = np.sqrt(next.v[name].ref.div(corrections[1].ref)).add(epsilon);
    const stepped = next.m[name].ref.div(corrections[0].ref).div(root);
    // Every weight of this model has two axes or more, so all of them shrink.
    const shrunk = weights[name].ref.mul(weightDecay);
    next.weights[name] = weights[name].sub(stepped.add(shrunk).mul(learningRate));
  }
  return next;
}

/** Training steps on one batch. */
export function trainingStep(problem: TrainingProblem, steps: number): Candidate {
  const shape = [problem.batch, problem.context];
  const ids = array(problem.ids, shape);
  const targets = array(problem.targets, shape);
  const weights: Weights = {}, m: Weights = {}, v: Weights = {};
  for (const [name, { shape, data }] of problem.weights) {
    weights[name] = array(data, shape);
    m[name] = np.zeros([...shape]);
    v[name] = np.zeros([...shape]);
  }
  let state: State = { weights, m, v };
  let taken = 0;
  const compiled = jit((state: State, ids: np.Array, targets: np.Array, step: np.Array) => {
    const [loss, gradients] = valueAndGrad((weights: Weights) =>
      lossOf(problem, weights, ids, targets)
    )(tree.ref(state.weights));
    return { loss, state: stepOf(state, gradients, step) };
  });
  const once = async () => {
    const found = compiled(state, ids.ref, targets.ref, np.array(++taken).astype(np.float32));
    state = found.state;
    await blockUntilReady(found);
    return found.loss;
  };
  return {
    run: async () => (await once()).dispose(),
    results: async () => {
      const losses: number[] = [];
      for (let i = 0; i < steps; i++) losses.push((await read([await once()]))[0][0]);
      return [Float32Array.from(losses)];
    },
    dispose: () => tree.dispose([state, ids, targets]),
  };
}

/**
 * Softmax attention of heads that outgrow a binding. Of the pairs of pieces that see each other,
 *
 *     L = log Σ exp(L_i)        o = Σ exp(L_i − L) o_i
 *
 * With L and o of the whole, the gradients of a pair are those of any other call: dq sums over the pieces of
 * keys, dk and dv over those of queries and over the members of a group.
 *
 * @module
 */
import type { Op } from "../operation.ts";
import { tidy } from "../scope.ts";
import type { Tensor, TensorSpec } from "../tensor.ts";
import { joined, piecesOf, rowsOfAPiece, sumInto } from "./attention_pieces.ts";
import type { FlashOptions, GradientOptions, Wanted } from "./flash_attention.ts";
import { loadInto } from "./pointwise.ts";
import { split } from "./views.ts";

/** o and L, by calls that give float32. */
export function attendInPieces(
  attendPair: Op<FlashOptions, TensorSpec[]>,
  [q, k, v]: readonly Tensor[],
  [out, logsum]: readonly Tensor[],
  { causal, scale }: FlashOptions,
): void {
  const length = rowsOfAPiece([q, k, v, out]);
  const [qs, ks, vs, outs, logsums] = [q, k, v, out, logsum].map((t) => piecesOf(t, length));
  qs.forEach((q, i) =>
    tidy(() => {
      const pairs = ks.map((k, j) => () =>
        attendPair(q, k, vs[j], { causal: causal && i === j, scale })
      );
      const [o, l] = joined(pairs.slice(causal ? i : 0), merged);
      loadInto([[o, outs[i]], [l, logsums[i]]]);
    })
  );
}

/** o and L over two pieces of keys, by exp(L₁ − L) = 1 / (1 + exp(L₂ − L₁)). */
function merged([o1, l1]: Tensor[], [o2, l2]: Tensor[]): Tensor[] {
  const [share1, share2] = [l1.sub(l2).sigmoid(), l2.sub(l1).sigmoid()];
  const o = o1.mul(share1.unsqueeze(-1)).add(o2.mul(share2.unsqueeze(-1)));
  return [o, l1.maximum(l2).sub(share1.maximum(share2).log())];
}

/** The wanted ones of dq, dk and dv, by calls that give float32, each for the queries of one member. */
export function gradientsInPieces(
  pairGradients: Op<GradientOptions, TensorSpec[]>,
  [q, k, v, o, logsum, g]: readonly Tensor[],
  outputs: readonly Tensor[],
  { of, causal, scale }: GradientOptions,
): void {
  const length = rowsOfAPiece([q, k, v, o, g, ...outputs]);
  const [ks, vs] = [k, v].map((t) => piecesOf(t, length));
  const ofMembers = (t: Tensor) =>
    split(t, t.shape[2], 2).flatMap((member) => piecesOf(member, length));
  const [qs, os, ls, gs] = [q, o, logsum, g].map(ofMembers);
  const piecesOfAMember = qs.length / q.shape[2];
  const pair = (i: number, j: number, of: readonly Wanted[]) => () =>
    pairGradients(qs[i], ks[j], vs[j], os[i], ls[i], gs[i], {
      ...{ of, scale, causal: causal && i % piecesOfAMember === j },
    });
  const pairs = [...qs.keys()].flatMap((i) => [...ks.keys()].map((j) => ({ i, j })))
    .filter(({ i, j }) => !causal || i % piecesOfAMember <= j);

  const [dq, dk, dv] = (["q", "k", "v"] as const).map((name) => outputs[of.indexOf(name)]);
  if (dq !== undefined) {
    ofMembers(dq).forEach((target, at) =>
      sumInto([target], pairs.filter(({ i }) => i === at).map(({ i, j }) => pair(i, j, ["q"])))
    );
  }
  const ofKeys = of.filter((name) => name !== "q");
  if (ofKeys.length === 0) return;
  const targets = [dk, dv].filter((t) => t !== undefined).map((t) => piecesOf(t, length));
  ks.forEach((_, at) =>
    sumInto(
      targets.map((pieces) => pieces[at]),
      pairs.filter(({ j }) => j === at).map(({ i, j }) => pair(i, j, ofKeys)),
    )
  );
}

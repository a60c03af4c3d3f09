/**
 * The arguments that all attentions share: how they are refused, by name and before any work, and how heads
 * that share keys are grouped.
 *
 * @module
 */
import { DTypeError, ShapeError } from "../errors.ts";
import { checkNumber, format, sameShape } from "../shape.ts";
import type { Tensor } from "../tensor.ts";

/** Refuses q, k and v unless they fit each other with as many keys as queries. */
export function checkInputs(operation: string, q: Tensor, k: Tensor, v: Tensor): void {
  if (!fitEachOther(operation, q, k, v) || k.shape[2] !== q.shape[2]) {
    throw new ShapeError(
      `${operation}: expected q [batch, heads, n, d], k [batch, key heads, n, d] and ` +
        `v [batch, key heads, n, e], key heads dividing heads and d, e ≥ 1; found ${
          shapesOf(q, k, v)
        }`,
    );
  }
  checkDTypes(operation, q, k, v);
}

/** Refuses q, k and v unless they fit each other, with causal queries as the last of the keys. */
export function checkQuadratic(
  operation: string,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { causal, scale = 1 }: { causal: boolean; scale?: number },
): { n: number; m: number; heads: number; d: number } {
  if (!fitEachOther(operation, q, k, v)) {
    throw new ShapeError(
      `${operation}: expected q [b, h, n, d], k [b, g, m, d] and v [b, g, m, e] with g dividing h and ` +
        `d, e ≥ 1, found ${shapesOf(q, k, v)}`,
    );
  }
  const [, heads, n, d] = q.shape;
  const m = k.shape[2];
  if (causal && n > m) {
    throw new ShapeError(
      `${operation}: ${n} causal queries stand at the last of ${m} keys, so they cannot be more`,
    );
  }
  checkDTypes(operation, q, k, v);
  checkScale(operation, scale);
  return { n, m, heads, d };
}

/** [b, heads, ..] as [b, groups, members of a group, ..]: a view, whatever the strides. */
export function inGroups(t: Tensor, groups: number): Tensor {
  const [b, heads, ...rest] = t.shape;
  return t.reshape([b, groups, groups === 0 ? 1 : heads / groups, ...rest]);
}

/** Whether q, k and v agree in all but the number of queries. Refuses other ranks than 4. */
function fitEachOther(operation: string, q: Tensor, k: Tensor, v: Tensor): boolean {
  if ([q, k, v].some((t) => t.rank !== 4)) {
    throw new ShapeError(
      `${operation}: expected q, k and v of shape [batch, heads, n, size], found ${
        shapesOf(q, k, v)
      }`,
    );
  }
  const [b, heads, , d] = q.shape;
  const [, groups, m] = k.shape;
  const e = v.shape[3];
  return d > 0 && e > 0 && sameShape(k.shape, [b, groups, m, d]) &&
    sameShape(v.shape, [b, groups, m, e]) &&
    (groups === heads || (groups > 0 && heads % groups === 0));
}

function shapesOf(q: Tensor, k: Tensor, v: Tensor): string {
  return `q ${format(q.shape)}, k ${format(k.shape)}, v ${format(v.shape)}`;
}

function checkDTypes(operation: string, q: Tensor, k: Tensor, v: Tensor): void {
  const dtypes = new Set([q.dtype, k.dtype, v.dtype]);
  if (dtypes.size > 1 || !(dtypes.has("f32") || dtypes.has("f16"))) {
    const found = [...dtypes].join(", ");
    throw new DTypeError(
      `${operation}: expected q, k and v all f32 or all f16, found ${found}; convert with to()`,
    );
  }
}

/** Refuses a scale that is not finite. */
export function checkScale(operation: string, scale: number): void {
  checkNumber(operation, "a finite scale", scale, Number.isFinite(scale));
}

/** Refuses a state that is not float32 [batch, heads, d, e]. */
export function checkState(
  operation: string,
  argument: string,
  state: Tensor,
  batch: number,
  q: Tensor,
  v: Tensor,
): void {
  const wanted = [batch, q.shape[1], q.shape[3], v.shape[3]];
  if (!sameShape(state.shape, wanted)) {
    throw new ShapeError(
      `${operation}: expected ${argument} of shape [batch, heads, d, e] = ${
        format(wanted)
      }, found ` +
        format(state.shape),
    );
  }
  if (state.dtype !== "f32") {
    throw new DTypeError(`${operation}: expected ${argument} of dtype f32, found ${state.dtype}`);
  }
}

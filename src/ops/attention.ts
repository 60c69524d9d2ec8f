import { expectOptions, fail } from '../errors'
import { apply, defineOp, expectDType, expectRank, expectShape, expectTensor, type Op } from '../graph/op'
import { broadcastShapes, showShape } from '../tensor/shape'
import type { Spec, Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { concat } from './join'
import { checkDropout, randomFor } from './random'
import { expand } from './shape'

/** Options of `scaledDotProductAttention`. */
export interface AttentionOptions {
  /** Position t sees positions 0 to t only. */
  causal?: boolean
  /**
   * Broadcast to [batch, heads, queries, keys]: bool (true takes part) or f32 (added to the scores). It gets no
   * gradient. A query that sees no key gives zeros.
   */
  mask?: Tensor
  /** Factor of the scores; 1/√features by default. */
  scale?: number
  /** Probability with which a weight becomes 0 (others are divided by 1 - p). */
  dropoutP?: number
}

type Attrs = { scale: number; causal: boolean; p: number; id: number }
const numbers = (a: Attrs): number[] => [a.scale, a.causal ? 1 : 0, a.p, a.id]

// Results are [batch, positions, heads, features] in memory, so that merging the heads afterwards costs no copy.
const rows = (q: Spec, features: number): number[] => [q.shape[0], q.shape[2], q.shape[1], features]

const gradOp: Op<Attrs> = defineOp({
  name: 'attention_grad',
  infer: ([, q, k, v]) => [
    { shape: rows(q!, q!.shape[3]), dtype: 'f32' },
    { shape: rows(k!, k!.shape[3]), dtype: 'f32' },
    { shape: rows(v!, v!.shape[3]), dtype: 'f32' },
  ],
  kernel: (_, __, a) => ({ name: 'attention_grad', numbers: numbers(a) }),
  strided: 'all',
})

const attentionOp: Op<Attrs> = defineOp({
  name: 'attention',
  infer: ([q, k, v, mask]) => {
    const name = 'scaledDotProductAttention'
    for (const [what, t] of [
      ['q', q],
      ['k', k],
      ['v', v],
    ] as const) {
      expectRank(name, what, t!, 4)
      expectDType(name, what, t!, 'f32')
    }
    const [batch, heads, , features] = q!.shape
    const keys = k!.shape[2]
    expectShape(name, 'k', k!, [batch, heads, keys, features])
    expectShape(name, 'v', v!, [batch, heads, keys, v!.shape[3]])
    if (mask) expectDType(name, 'mask', mask, 'bool', 'f32')
    return [
      { shape: rows(q!, v!.shape[3]), dtype: 'f32' },
      { shape: q!.shape.slice(0, 3), dtype: 'f32' },
    ]
  },
  kernel: (_, __, a) => ({ name: 'attention', numbers: numbers(a) }),
  derive: (d) => {
    if (d.has(3) && d.needs(3))
      fail(
        'AUX_NO_GRADIENT',
        'scaledDotProductAttention: the mask gets no gradient; wrap it in detach() if none is meant',
      )
    const optional = [3, 4].map((i) => (d.has(i) ? d.input(i) : undefined))
    const sums = d.grad(1)
    let [v, y] = [d.input(2), d.output(0)]
    let dy = d.grad() ?? y.mul(0)
    if (sums) {
      // Scores get p (dp - dy·y + gradient of the sum): with one value more, which is 0, dy·y says that too.
      const more = (t: Tensor, last: Tensor): Tensor => concat([t, last], -1)
      const turned = sums.permute([0, 2, 1]).unsqueeze(-1)
      ;[v, y, dy] = [
        v.pad([
          [0, 0],
          [0, 0],
          [0, 0],
          [0, 1],
        ]),
        more(y, turned.neg()),
        more(dy, turned.mul(0).add(1)),
      ]
    }
    const [dq, dk, dv] = apply(gradOp, [dy, d.input(0), d.input(1), v, ...optional, y, d.output(1)], d.attrs)
    return [dq, dk, sums ? dv.narrow(3, 0, v.shape[3] - 1) : dv].map((g, i) =>
      d.needs(i) ? g.permute([0, 2, 1, 3]) : undefined,
    )
  },
  strided: 'all',
})

/**
 * softmax(scale · q kᵀ + mask) v, computed in tiles: the scores never lie in memory, forward or backward (Dao et al.
 * 2022). q [batch, heads, queries, features], k [batch, heads, keys, features], v [batch, heads, keys, values], any
 * strides; y [batch, heads, queries, values], whose `permute([0, 2, 1, 3])` is contiguous.
 */
export function scaledDotProductAttention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const [y, logSumExp] = attend(q, k, v, options)
  logSumExp.dispose()
  return y
}

/** @internal The same, with the logarithm of what the weights were divided by, [batch, heads, queries]. */
export function attend(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttentionOptions = {},
): [y: Tensor, logSumExp: Tensor] {
  expectOptions('scaledDotProductAttention', options, ['causal', 'mask', 'scale', 'dropoutP'])
  for (const t of [q, k, v]) expectTensor('scaledDotProductAttention', t)
  const { causal = false, mask, scale = 1 / Math.sqrt(q.shape[q.rank - 1]), dropoutP: p = 0 } = options
  checkDropout('scaledDotProductAttention dropoutP', p)
  if (mask !== undefined) expectTensor('scaledDotProductAttention mask', mask)
  return tidy(() => {
    const whole = [q.shape[0], q.shape[1], q.shape[2], k.shape[2]]
    if (
      mask &&
      (mask.rank > 4 ||
        broadcastShapes('scaledDotProductAttention mask', mask.shape, whole).some((n, i) => n !== whole[i]))
    )
      fail(
        'AUX_SHAPE_MISMATCH',
        `scaledDotProductAttention: expected a mask that broadcasts to ${showShape(whole)}, got ${showShape(mask.shape)}`,
      )
    const random = p > 0 ? randomFor([q, k, v]) : { key: undefined, id: 0 }
    const inputs = [q, k, v, mask && expand(mask, whole), random.key]
    const [y, logSumExp] = apply(attentionOp, inputs, { scale, causal, p, id: random.id })
    return [y.permute([0, 2, 1, 3]), logSumExp]
  })
}

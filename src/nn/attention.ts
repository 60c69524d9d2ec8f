import { expectOptions, fail } from '../errors'
import { expectTensor } from '../graph/op'
import { scaledDotProductAttention } from '../ops'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { Linear } from './linear'
import { Module } from './module'
import { expectSizes } from './size'

/** Options of `MultiHeadAttention`. */
export interface MultiHeadAttentionOptions {
  /** Whether the four projections add a bias (true). */
  bias?: boolean
  /** Probability with which an attention weight is dropped in training (0). */
  dropout?: number
  /** Position t sees positions 0 to t only. */
  causal?: boolean
}

/**
 * Multi-head attention (Vaswani et al. 2017) on [N, T, features]: projections q, k and v, scaled dot products in tiles
 * that never lie in memory, and the projection `out`.
 */
export class MultiHeadAttention extends Module {
  /** Projection of queries. */
  readonly q: Linear
  /** Projection of keys. */
  readonly k: Linear
  /** Projection of values. */
  readonly v: Linear
  /** Projection of the result. */
  readonly out: Linear
  readonly #heads: number
  readonly #dropout: number
  readonly #causal: boolean

  constructor(features: number, heads: number, options: MultiHeadAttentionOptions = {}) {
    super()
    expectSizes('MultiHeadAttention', { features, heads })
    expectOptions('MultiHeadAttention', options, ['bias', 'dropout', 'causal'])
    if (features % heads)
      fail('AUX_INVALID_ARGUMENT', `MultiHeadAttention: expected features that ${heads} heads divide, got ${features}`)
    const { bias = true, dropout = 0, causal = false } = options
    this.q = new Linear(features, features, { bias })
    this.k = new Linear(features, features, { bias })
    this.v = new Linear(features, features, { bias })
    this.out = new Linear(features, features, { bias })
    this.#heads = heads
    this.#dropout = dropout
    this.#causal = causal
  }

  /** `context` is what is attended to (x itself unless given); `mask` as in `scaledDotProductAttention`. */
  forward(x: Tensor, options: { context?: Tensor; mask?: Tensor } = {}): Tensor {
    expectOptions('MultiHeadAttention.forward', options, ['context', 'mask'])
    const { context = x, mask } = options
    for (const t of [x, context]) {
      expectTensor('MultiHeadAttention', t)
      if (t.rank !== 3)
        fail('AUX_SHAPE_MISMATCH', `MultiHeadAttention: expected input [N, T, features], got ${showShape(t.shape)}`)
    }
    const heads = (t: Tensor): Tensor => t.reshape([t.shape[0], t.shape[1], this.#heads, -1]).permute([0, 2, 1, 3])
    const y = scaledDotProductAttention(
      heads(this.q.forward(x)),
      heads(this.k.forward(context)),
      heads(this.v.forward(context)),
      {
        mask,
        causal: this.#causal,
        dropoutP: this.training ? this.#dropout : 0,
      },
    )
    return this.out.forward(y.permute([0, 2, 1, 3]).reshape(x.shape))
  }
}

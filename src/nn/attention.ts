import { expectIntegers, expectOptions, fail } from '../errors'
import { expectTensor } from '../graph/op'
import { scaledDotProductAttention, zeros } from '../ops'
import { attend } from '../ops/attention'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { keep, tidy } from '../tensor/tidy'
import { Linear } from './linear'
import { Module } from './module'

/** Options of `MultiHeadAttention`. */
export interface MultiHeadAttentionOptions {
  /** Whether the four projections add a bias (true). */
  bias?: boolean
  /** Probability with which an attention weight is dropped in training (0). */
  dropout?: number
  /** Position t sees positions 0 to t only. */
  causal?: boolean
  /** Features of what is attended to, if it is not x (those of x). */
  contextFeatures?: number
}

/** Keys and values of what is attended to, both [N, S, features]. */
export type KeysAndValues = readonly [keys: Tensor, values: Tensor]

/**
 * Keys and values of positions before x, that attention computed when it saw them (for one sequence, N = 1): what makes
 * the next token of a text cheap. They are state of their owner; no gradient reaches them.
 */
export class Past {
  /** [positions, features]. */
  readonly keys: Tensor
  /** [positions, features]. */
  readonly values: Tensor
  /** For a forward: 0 for each position that x attends to, -Infinity for one that is not there; as many as are looked at. */
  seen: Tensor | undefined
  /** From a forward: keys and values of x, [1, T, features], for `add` where it is traced. */
  made: KeysAndValues | undefined

  constructor(positions: number, features: number) {
    expectIntegers('Past', { positions, features })
    this.keys = keep(zeros([positions, features]))
    this.values = keep(zeros([positions, features]))
  }

  /** Keys and values of `count` positions from `start`, row by row (what follows them is left out). */
  add(start: number, count: number, keys: Float32Array, values: Float32Array): void {
    const size = count * this.keys.shape[1]
    tidy(() => {
      this.keys.narrow(0, start, count).assign(keys.subarray(0, size))
      this.values.narrow(0, start, count).assign(values.subarray(0, size))
    })
  }

  /** Frees both. */
  dispose(): void {
    this.keys.dispose()
    this.values.dispose()
  }
}

function expectTokens(t: Tensor): void {
  expectTensor('MultiHeadAttention', t)
  if (t.rank !== 3)
    fail('AUX_SHAPE_MISMATCH', `MultiHeadAttention: expected input [N, T, features], got ${showShape(t.shape)}`)
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
    expectIntegers('MultiHeadAttention', { features, heads })
    expectOptions('MultiHeadAttention', options, ['bias', 'dropout', 'causal', 'contextFeatures'])
    if (features % heads)
      fail('AUX_INVALID_ARGUMENT', `MultiHeadAttention: expected features that ${heads} heads divide, got ${features}`)
    const { bias = true, dropout = 0, causal = false, contextFeatures = features } = options
    expectIntegers('MultiHeadAttention', { contextFeatures })
    this.q = new Linear(features, features, { bias })
    this.k = new Linear(contextFeatures, features, { bias })
    this.v = new Linear(contextFeatures, features, { bias })
    this.out = new Linear(features, features, { bias })
    this.#heads = heads
    this.#dropout = dropout
    this.#causal = causal
  }

  /** Keys and values of a context [N, S, contextFeatures]: computed once where it is attended to many times. */
  project(context: Tensor): KeysAndValues {
    expectTokens(context)
    return [this.k.forward(context), this.v.forward(context)]
  }

  /**
   * `context` is what is attended to (x itself unless given), or what `project` made of it; `mask` as in
   * `scaledDotProductAttention`. With `past` x attends to what was there before it, too.
   */
  forward(x: Tensor, options: { context?: Tensor | KeysAndValues; mask?: Tensor; past?: Past } = {}): Tensor {
    expectOptions('MultiHeadAttention.forward', options, ['context', 'mask', 'past'])
    const { context = x, mask, past } = options
    expectTokens(x)
    const heads = (t: Tensor): Tensor => t.reshape([t.shape[0], t.shape[1], this.#heads, -1]).permute([0, 2, 1, 3])
    const q = this.q.forward(x)
    const [k, v] = Array.isArray(context) ? (context as KeysAndValues) : this.project(context as Tensor)
    for (const t of [k, v]) expectTokens(t)
    const attention = { mask, causal: this.#causal, dropoutP: this.training ? this.#dropout : 0 }
    let y: Tensor
    if (past?.seen) {
      const { seen } = past
      const before = (t: Tensor): Tensor => heads(t.narrow(0, 0, seen.size).unsqueeze(0))
      const [own, ownSum] = attend(heads(q), heads(k), heads(v), attention)
      const [other, otherSum] = attend(heads(q), before(past.keys), before(past.values), { mask: seen })
      y = own.add(other.sub(own).mul(otherSum.sub(ownSum).sigmoid().unsqueeze(-1)))
    } else y = scaledDotProductAttention(heads(q), heads(k), heads(v), attention)
    if (past) past.made = [k, v]
    return this.out.forward(y.permute([0, 2, 1, 3]).reshape(x.shape))
  }
}

import { expectIntegers, expectOptions, fail } from '../errors'
import { arange, concat, normal, stack, where } from '../ops'
import { attend } from '../ops/attention'
import { constant } from '../ops/constant'
import { keptOrder } from '../ops/sort'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { Linear } from './linear'
import { Module } from './module'

/** Options of `LSHAttention`. */
export interface LSHAttentionOptions {
  /** Positions that attend together (64); it divides the length, or is no less than it. */
  chunk?: number
  /** Hashes of each position, each with an attention of its own (1). */
  rounds?: number
  /** Buckets of a hash, an even number, or 1 (as many as there are chunks, 64 at most). */
  buckets?: number
  /** Position t sees positions 0 to t only. */
  causal?: boolean
  /** Whether the projections add a bias (true). */
  bias?: boolean
}

/**
 * Attention by locality-sensitive hashing (Kitaev et al. 2020, *Reformer*) on [N, T, features], in time and memory
 * proportional to T. Queries are keys, too (of length 1 as keys). Random rotations put them into buckets; sorted by bucket,
 * positions attend within their chunk and to the one before, to themselves only where there is nothing else. Rounds are
 * weighted by the sums that their weights were divided by. Rotations are drawn at every pass, also in evaluation.
 */
export class LSHAttention extends Module {
  /** Projection of queries, which are the keys, too. */
  readonly q: Linear
  /** Projection of values. */
  readonly v: Linear
  /** Projection of the result. */
  readonly out: Linear
  readonly #heads: number
  readonly #options: LSHAttentionOptions

  constructor(features: number, heads: number, options: LSHAttentionOptions = {}) {
    super()
    expectIntegers('LSHAttention', { features, heads })
    expectOptions('LSHAttention', options, ['chunk', 'rounds', 'buckets', 'causal', 'bias'])
    const { chunk = 64, rounds = 1, buckets, bias = true } = options
    expectIntegers('LSHAttention', { chunk, rounds, ...(buckets !== undefined && { buckets }) })
    if (features % heads)
      fail('AUX_INVALID_ARGUMENT', `LSHAttention: expected features that ${heads} heads divide, got ${features}`)
    if (buckets !== undefined && buckets > 1 && buckets % 2)
      fail('AUX_INVALID_ARGUMENT', `LSHAttention: expected an even number of buckets, got ${buckets}`)
    this.q = new Linear(features, features, { bias })
    this.v = new Linear(features, features, { bias })
    this.out = new Linear(features, features, { bias })
    this.#heads = heads
    this.#options = options
  }

  /** [N, T, features] to the same. */
  forward(x: Tensor): Tensor {
    const { chunk = 64 } = this.#options
    if (x.rank !== 3 || (x.shape[1] > chunk && x.shape[1] % chunk))
      fail(
        'AUX_SHAPE_MISMATCH',
        `LSHAttention: expected [N, T, features], chunks of ${chunk} in T, got ${showShape(x.shape)}`,
      )
    return tidy(() => this.#attend(x, chunk))
  }

  #attend(x: Tensor, chunk: number): Tensor {
    const { rounds = 1, buckets, causal = false } = this.#options
    const [n, length, features] = x.shape
    const heads = this.#heads
    const size = Math.min(chunk, length)
    const count = length / size
    const kinds = buckets ?? Math.min(64, 2 * Math.ceil(count / 2))
    const rows = (t: Tensor): Tensor =>
      t
        .reshape([n, length, heads, -1])
        .permute([0, 2, 1, 3])
        .reshape([n * heads * length, -1])
    const [q, v] = [rows(this.q.forward(x)), rows(this.v.forward(x))]
    const k = q.div(q.square().sum(-1, true).add(1e-12).sqrt())
    // Where the positions of each sequence begin among the rows.
    const first = constant(arange, 0, n * heads, 1, 'i32')
      .mul(length)
      .unsqueeze(-1)
    const results: Tensor[] = []
    const sums: Tensor[] = []
    for (let round = 0; round < rounds; round++) {
      const order = keptOrder(this.#hash(q, kinds).reshape([n * heads, length]))
      const back = order.argsort().add(first).reshape([-1])
      const places = order.add(first).reshape([-1])
      const chunks = (t: Tensor): Tensor => t.indexSelect(0, places).reshape([n * heads, count, size, -1])
      const around = (t: Tensor): Tensor => (count > 1 ? concat([t.roll(1, 1), t], 2) : t)
      const positions = order.reshape([n * heads, count, size, 1])
      const seen = around(positions).permute([0, 1, 3, 2])
      const mask = causal ? seen.lt(positions) : seen.ne(positions)
      const [y, sum] = attend(chunks(q), around(chunks(k)), around(chunks(v)), { mask })
      results.push(y.reshape([n * heads * length, -1]).indexSelect(0, back))
      sums.push(sum.reshape([-1]).indexSelect(0, back))
    }
    const total = stack(sums).maximum(-1e30)
    const mixed = rounds > 1 ? stack(results).mul(total.softmax(0).unsqueeze(-1)).sum(0) : results[0]
    const y = where(total.max(0).gt(-1e30).unsqueeze(-1), mixed, v)
    const merged = y.reshape([n, heads, length, -1]).permute([0, 2, 1, 3]).reshape([n, length, features])
    return this.out.forward(merged)
  }

  /** The bucket of each row: the largest of its rotated entries and their opposites. */
  #hash(q: Tensor, buckets: number): Tensor {
    if (buckets === 1) return q.detach().select(1, 0).mul(0).cast('i32')
    const rotated = q.detach().matmul(this.rotations(q.shape[1], buckets / 2))
    return concat([rotated, rotated.neg()], -1).argmax(-1)
  }

  /** Random directions, [features of a head, half of the buckets]. */
  protected rotations(features: number, count: number): Tensor {
    return normal([features, count])
  }
}

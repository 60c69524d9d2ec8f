import { expectIntegers, expectOptions, fail } from '../errors'
import { expectRank } from '../graph/op'
import { arange, embedding, normal, ones, searchsorted, where, zeros } from '../ops'
import { constant } from '../ops/constant'
import { expectIndices } from '../ops/indices'
import { resolveAxis, showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { Module } from './module'
import { Parameter } from './parameter'

/** Options of `Embedding`. */
export interface EmbeddingOptions {
  /** A row that does not learn, of zeros unless it is assigned others (none). */
  paddingIdx?: number
  /** Standard deviation of the weight (1). */
  std?: number
  /**
   * True for a table of which a batch looks up few rows (false): an update changes these alone and their state, in time and
   * memory of the batch and not of the table. Momentum, decay and moments of the others rest until they are looked up, as in
   * PyTorch's SparseAdam; SGD without momentum and Adagrad give what they give otherwise. For optimizers with state by element.
   */
  sparse?: boolean
}

/** Rows of a table by index: i32 [...] to [..., features]. Weight [rows, features], normal with deviation `std`. */
export class Embedding extends Module {
  /** [rows, features]. */
  readonly weight: Parameter
  readonly #paddingIdx: number | undefined

  constructor(rows: number, features: number, options: EmbeddingOptions = {}) {
    super()
    expectIntegers('Embedding', { rows, features })
    expectOptions('Embedding', options, ['paddingIdx', 'std', 'sparse'])
    const { paddingIdx, std = 1, sparse } = options
    const padding = paddingIdx === undefined ? undefined : resolveAxis('Embedding paddingIdx', paddingIdx, rows)
    const table = normal([rows, features], { std })
    if (padding !== undefined) tidy(() => table.select(0, padding).assign(zeros([features])))
    this.weight = new Parameter(table, { table: true, sparse })
    this.#paddingIdx = padding
  }

  /** i32 [...] to [..., features]. */
  forward(indices: Tensor): Tensor {
    return embedding(indices, this.weight, { paddingIdx: this.#paddingIdx })
  }
}

/** What becomes of the rows of a bag. */
export type BagMode = 'mean' | 'sum' | 'max'

/** Options of `EmbeddingBag`. */
export interface EmbeddingBagOptions {
  /** What becomes of the rows of a bag ('mean'). */
  mode?: BagMode
  /** A row that does not count, nor learn. */
  paddingIdx?: number
  /** As of `Embedding` (false). */
  sparse?: boolean
}

/**
 * Bags of rows of a table, each put together: i32 [..., T] to [..., features]. Bags that are smaller than T are filled
 * up with `paddingIdx`, which does not count; an empty one gives 0. Weight [rows, features], normal.
 */
export class EmbeddingBag extends Module {
  /** [rows, features]. */
  readonly weight: Parameter
  readonly #mode: BagMode
  readonly #paddingIdx: number | undefined

  constructor(rows: number, features: number, options: EmbeddingBagOptions = {}) {
    super()
    expectIntegers('EmbeddingBag', { rows, features })
    expectOptions('EmbeddingBag', options, ['mode', 'paddingIdx', 'sparse'])
    const { mode = 'mean', paddingIdx, sparse } = options
    if (!['mean', 'sum', 'max'].includes(mode))
      fail('AUX_INVALID_ARGUMENT', `EmbeddingBag: expected mode 'mean', 'sum' or 'max', got ${String(mode)}`)
    if (paddingIdx !== undefined) expectIntegers('EmbeddingBag', { paddingIdx }, 0, rows - 1)
    this.weight = new Parameter(normal([rows, features]), { table: true, sparse })
    this.#mode = mode
    this.#paddingIdx = paddingIdx
  }

  /**
   * i32 [..., T] to [..., features].
   * @param offsets where bags of any sizes, one after the other in indices [T], begin: i32 [N], rising from 0; result [N,
   * features]. Of modes mean and sum.
   */
  forward(indices: Tensor, offsets?: Tensor): Tensor {
    if (!indices.rank)
      fail('AUX_SHAPE_MISMATCH', `EmbeddingBag: expected bags [..., T], got ${showShape(indices.shape)}`)
    const paddingIdx = this.#paddingIdx
    return tidy(() => {
      const ids = expectIndices('EmbeddingBag', 'indices', indices)
      const rows = embedding(ids, this.weight, { paddingIdx })
      if (paddingIdx === undefined && !offsets) return rows[this.#mode](-2)
      const counts = paddingIdx === undefined ? undefined : ids.ne(paddingIdx).unsqueeze(-1)
      if (this.#mode === 'max') {
        if (!counts || offsets)
          fail('AUX_INVALID_ARGUMENT', "EmbeddingBag: expected bags in rows [..., T] for mode 'max', got offsets")
        return where(counts.any(-2), where(counts, rows, -Infinity).max(-2), 0)
      }
      const sumOf = offsets ? bagSums(ids, offsets) : (x: Tensor): Tensor => x.sum(-2)
      const sum = sumOf(counts ? where(counts, rows, 0) : rows)
      if (this.#mode === 'sum') return sum
      return sum.div(sumOf(counts?.cast('f32') ?? constant(ones, [ids.size, 1])).maximum(1))
    })
  }
}

/** Sums over bags: of x [T, features] to [N, features]. */
function bagSums(ids: Tensor, offsets: Tensor): (x: Tensor) => Tensor {
  expectRank('EmbeddingBag', 'indices with offsets', ids, 1)
  const starts = expectIndices('EmbeddingBag', 'offsets', offsets)
  const bag = searchsorted(starts, constant(arange, 0, ids.size, 1, 'i32'), { right: true }).sub(1)
  return (x) => constant(zeros, [starts.size, x.shape[1]]).indexAdd(0, bag, x)
}

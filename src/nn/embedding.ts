import { expectIntegers, expectOptions } from '../errors'
import { embedding, normal } from '../ops'
import type { Tensor } from '../tensor/tensor'
import { Module } from './module'
import { Parameter } from './parameter'

/** Options of `Embedding`. */
export interface EmbeddingOptions {
  /** A row that does not learn. */
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
    this.weight = new Parameter(normal([rows, features], { std: options.std ?? 1 }), {
      table: true,
      sparse: options.sparse,
    })
    this.#paddingIdx = options.paddingIdx
  }

  /** i32 [...] to [..., features]. */
  forward(indices: Tensor): Tensor {
    return embedding(indices, this.weight, { paddingIdx: this.#paddingIdx })
  }
}

import { expectIntegers, expectOptions } from '../errors'
import { embedding, normal } from '../ops'
import type { Tensor } from '../tensor/tensor'
import { Module } from './module'
import { Parameter } from './parameter'

/** Rows of a table by index: i32 [...] to [..., features]. Weight [rows, features], normal with deviation `std` (1). */
export class Embedding extends Module {
  /** [rows, features]. */
  readonly weight: Parameter
  readonly #paddingIdx: number | undefined

  constructor(rows: number, features: number, options: { paddingIdx?: number; std?: number } = {}) {
    super()
    expectIntegers('Embedding', { rows, features })
    expectOptions('Embedding', options, ['paddingIdx', 'std'])
    this.weight = new Parameter(normal([rows, features], { std: options.std ?? 1 }), { table: true })
    this.#paddingIdx = options.paddingIdx
  }

  /** i32 [...] to [..., features]. */
  forward(indices: Tensor): Tensor {
    return embedding(indices, this.weight, { paddingIdx: this.#paddingIdx })
  }
}

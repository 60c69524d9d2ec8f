import type { Tensor } from '../tensor/tensor'
import { Module } from './module'

/** Modules one after the other; their names are 0, 1, ... */
export class Sequential extends Module {
  readonly [index: number]: Module & { forward(x: Tensor): Tensor }
  readonly #length: number

  constructor(...layers: (Module & { forward(x: Tensor): Tensor })[]) {
    super()
    Object.assign(this, layers)
    this.#length = layers.length
  }

  /** Through all modules in order. */
  forward(x: Tensor): Tensor {
    for (let i = 0; i < this.#length; i++) x = this[i].forward(x)
    return x
  }
}

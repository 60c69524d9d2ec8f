import { describe, fail } from '../errors'
import type { Tensor } from '../tensor/tensor'
import { Module } from './module'

/** A module of one tensor to one. */
export interface Layer extends Module {
  /** What it makes of a tensor. */
  forward(x: Tensor): Tensor
}

/** Modules one after the other; their names are 0, 1, ... */
export class Sequential extends Module {
  readonly [index: number]: Layer
  readonly #length: number

  constructor(...layers: Layer[]) {
    super()
    layers.forEach((layer: unknown, i) => {
      if (!(layer instanceof Module) || typeof layer.forward !== 'function')
        fail('AUX_INVALID_ARGUMENT', `Sequential: expected modules, got ${describe(layer)} as number ${i}`)
    })
    Object.assign(this, layers)
    this.#length = layers.length
  }

  /** Through all modules in order. */
  forward(x: Tensor): Tensor {
    for (let i = 0; i < this.#length; i++) x = this[i].forward(x)
    return x
  }
}

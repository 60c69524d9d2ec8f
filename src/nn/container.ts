import type { Tensor } from '../tensor/tensor'
import { Module } from './module'

/** Modules one after the other; their names are 0, 1, ... */
export class Sequential extends Module {
  readonly #layers: Module[]

  constructor(...layers: (Module & { forward(x: Tensor): Tensor })[]) {
    super()
    this.#layers = layers
    layers.forEach((layer, i) => Object.defineProperty(this, String(i), { value: layer, enumerable: true }))
  }

  /** Through all modules in order. */
  forward(x: Tensor): Tensor {
    for (const layer of this.#layers as (Module & { forward(x: Tensor): Tensor })[]) x = layer.forward(x)
    return x
  }
}

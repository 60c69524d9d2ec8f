import { couple } from '../ops'
import type { Tensor } from '../tensor/tensor'
import type { Layer } from './container'
import { Module } from './module'

/**
 * A reversible residual block of two streams (Gomez et al. 2017, *The Reversible Residual Network*):
 * a' = a + f(b), b' = b + g(a'). Under the policy `invert` a chain of them keeps its last output alone.
 */
export class Reversible extends Module {
  /** Of the second stream, added to the first. */
  readonly f: Layer
  /** Of the new first stream, added to the second. */
  readonly g: Layer

  constructor(f: Layer, g: Layer) {
    super()
    this.f = f
    this.g = g
  }

  /** Both streams, of one shape, to the next two. */
  forward(a: Tensor, b: Tensor): [Tensor, Tensor] {
    const next = couple(a, this.f.forward(b))
    return [next, couple(b, this.g.forward(next))]
  }
}

import { expectOptions, fail } from '../errors'
import { couple, velocity } from '../ops'
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

/**
 * A residual block with momentum (Sander et al. 2021, *Momentum Residual Neural Networks*): v' = gamma v + (1 − gamma) f(x),
 * x' = x + v'. One stream and any f, where `Reversible` wants two: it takes the place of a residual block x + f(x). Under the
 * policy `invert` a chain of them keeps its last x and v alone. Going back through a block divides the rounding error of v
 * by gamma: after n blocks gradients are off by about 1e-7 gamma^-n, with 0.9 a digit in 22 blocks (the paper stores the
 * bits that are lost).
 */
export class Momentum extends Module {
  /** What a residual block would add. */
  readonly f: Layer
  /** Share of the velocity that stays. */
  readonly gamma: number

  constructor(
    f: Layer,
    options: {
      /** Share of the velocity that stays (0.9). */
      gamma?: number
    } = {},
  ) {
    super()
    expectOptions('Momentum', options, ['gamma'])
    const { gamma = 0.9 } = options
    if (!(gamma > 0 && gamma < 1))
      fail('AUX_INVALID_ARGUMENT', `Momentum: expected gamma between 0 and 1, got ${gamma}`)
    this.f = f
    this.gamma = gamma
  }

  /** State and velocity to the next two; the first block of a chain may do without (zeros). */
  forward(x: Tensor, v?: Tensor): [Tensor, Tensor] {
    const next = velocity(v, this.f.forward(x), this.gamma)
    return [couple(x, next), next]
  }
}

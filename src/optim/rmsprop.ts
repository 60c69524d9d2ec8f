import type { UpdateInputs } from '../compile/optimizer'
import { rmsUpdate } from '../ops/optim'
import type { Tensor } from '../tensor/tensor'
import { Base, checkEps, expectDecays, type BaseOptions } from './base'

/** Options of `RMSprop`. */
export interface RMSpropOptions extends BaseOptions {
  /** What is left of the mean square at each update (0.99). */
  alpha?: number
  /** Added to its root (1e-8). */
  eps?: number
  /** Share of the last update that goes on (0). */
  momentum?: number
  /** Whether steps go by the variance of gradients instead of their mean square (false). */
  centered?: boolean
}

/**
 * Hinton 2012, *Neural Networks for Machine Learning*, lecture 6: gradients over the root of their mean square. Weight
 * decay is added to the gradient. State: 4 bytes a weight, 4 more with momentum, 4 more centered.
 */
export class RMSprop extends Base {
  /** For checkpoints. */
  readonly name = 'rmsprop'
  protected readonly slots: readonly string[]
  readonly #alpha: number
  readonly #eps: number
  readonly #momentum: number

  constructor(options: RMSpropOptions) {
    super(options, ['alpha', 'eps', 'momentum', 'centered'])
    const { alpha = 0.99, eps = 1e-8, momentum = 0, centered = false } = options
    expectDecays({ alpha, momentum })
    this.#alpha = alpha
    this.#eps = checkEps(eps)
    this.#momentum = momentum
    this.slots = ['square', ...(centered ? ['mean'] : []), ...(momentum ? ['momentum'] : [])]
  }

  protected apply(
    w: Tensor,
    { square, mean, momentum }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    rmsUpdate([w, square, mean, momentum, gradient, lr, scale], {
      keep: this.#alpha,
      fresh: 1 - this.#alpha,
      start: 0,
      eps: this.#eps,
      weightDecay,
      momentum: this.#momentum,
    })
  }
}

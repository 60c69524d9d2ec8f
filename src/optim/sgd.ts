import { fail } from '../errors'
import type { UpdateInputs } from '../compile/optimizer'
import { sgdUpdate } from '../ops/optim'
import type { Tensor } from '../tensor/tensor'
import { Base, expectDecays, type BaseOptions } from './base'

/** Options of `SGD`. */
export interface SGDOptions extends BaseOptions {
  /** Share of the last update that goes on (0). */
  momentum?: number
  /** Nesterov 1983. */
  nesterov?: boolean
}

/** Stochastic gradient descent with momentum; weight decay is added to the gradient. State: 0, or 4 bytes a weight. */
export class SGD extends Base {
  /** For checkpoints. */
  readonly name = 'sgd'
  protected readonly slots: readonly string[]
  readonly #momentum: number
  readonly #nesterov: boolean

  constructor(options: SGDOptions) {
    super(options, ['momentum', 'nesterov'])
    this.#momentum = options.momentum ?? 0
    this.#nesterov = options.nesterov ?? false
    expectDecays({ momentum: this.#momentum })
    if (this.#nesterov && !this.#momentum)
      fail('AUX_INVALID_ARGUMENT', 'nesterov: expected a momentum > 0 with it, got none')
    this.slots = this.#momentum ? ['momentum'] : []
  }

  protected apply(
    w: Tensor,
    { momentum }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    sgdUpdate([w, momentum, gradient, lr, scale], { momentum: this.#momentum, nesterov: this.#nesterov, weightDecay })
  }
}

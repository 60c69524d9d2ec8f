import { fail } from '../errors'
import type { UpdateInputs } from '../compile/optimizer'
import { where } from '../ops'
import { sgdUpdate } from '../ops/optim'
import type { Tensor } from '../tensor/tensor'
import { Base, expectDecays, type BaseOptions } from './base'
import { decayed } from './moments'

/** Options of `SGD`. */
export interface SGDOptions extends BaseOptions {
  /** Share of the last update that goes on (0). */
  momentum?: number
  /** Nesterov 1983. */
  nesterov?: boolean
  /** Share of every gradient but the first that does not go into the momentum (0). */
  dampening?: number
}

/** Stochastic gradient descent with momentum; weight decay is added to the gradient. State: 0, or 4 bytes a weight. */
export class SGD extends Base {
  /** For checkpoints. */
  readonly name = 'sgd'
  protected readonly slots: readonly string[]
  readonly #momentum: number
  readonly #nesterov: boolean
  readonly #dampening: number

  constructor(options: SGDOptions) {
    super(options, ['momentum', 'nesterov', 'dampening'])
    this.#momentum = options.momentum ?? 0
    this.#nesterov = options.nesterov ?? false
    this.#dampening = options.dampening ?? 0
    expectDecays({ momentum: this.#momentum, dampening: this.#dampening })
    if (this.#nesterov && !this.#momentum)
      fail('AUX_INVALID_ARGUMENT', 'nesterov: expected a momentum > 0 with it, got none')
    if (this.#dampening && (!this.#momentum || this.#nesterov))
      fail('AUX_INVALID_ARGUMENT', 'dampening: expected a momentum > 0 that is not of Nesterov with it')
    this.slots = this.#momentum ? ['momentum'] : []
  }

  protected apply(
    w: Tensor,
    { momentum }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, step, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    if (this.#dampening) {
      // As PyTorch, which begins with the whole first gradient.
      const share = where(step.eq(1), 1, 1 - this.#dampening)
      momentum.assign(momentum.mul(this.#momentum).add(decayed(w, gradient, scale, weightDecay).mul(share)))
      w.assign(w.sub(momentum.mul(lr)))
    } else
      sgdUpdate([w, momentum, gradient, lr, scale], { momentum: this.#momentum, nesterov: this.#nesterov, weightDecay })
  }
}

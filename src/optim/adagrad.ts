import type { UpdateInputs } from '../compile/optimizer'
import { rmsUpdate } from '../ops/optim'
import type { Tensor } from '../tensor/tensor'
import { Base, checkEps, expectNonNegative, type BaseOptions } from './base'

/** Options of `Adagrad`. */
export interface AdagradOptions extends BaseOptions {
  /** The rate of update t is lr / (1 + (t - 1) lrDecay) (0). */
  lrDecay?: number
  /** What the sums of squares begin with (0). */
  initialAccumulatorValue?: number
  /** Added to their roots (1e-10). */
  eps?: number
}

/**
 * Duchi et al. 2011, *Adaptive Subgradient Methods*: gradients over the root of the sum of all their squares so far. Weight
 * decay is added to the gradient. State: 4 bytes a weight.
 */
export class Adagrad extends Base {
  /** For checkpoints. */
  readonly name = 'adagrad'
  protected readonly slots = ['sum']
  readonly #lrDecay: number
  readonly #start: number
  readonly #eps: number

  constructor(options: AdagradOptions) {
    super(options, ['lrDecay', 'initialAccumulatorValue', 'eps'])
    const { lrDecay = 0, initialAccumulatorValue = 0, eps = 1e-10 } = options
    expectNonNegative({ lrDecay, initialAccumulatorValue })
    this.#lrDecay = lrDecay
    this.#start = initialAccumulatorValue
    this.#eps = checkEps(eps)
  }

  protected apply(
    w: Tensor,
    { sum }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, step, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    const rate = this.#lrDecay ? lr.div(step.sub(1).mul(this.#lrDecay).add(1)) : lr
    rmsUpdate([w, sum, undefined, undefined, gradient, rate, scale], {
      keep: 1,
      fresh: 1,
      start: this.#start, // not in the sums: they are zeros at first, as all state
      eps: this.#eps,
      weightDecay,
      momentum: 0,
    })
  }
}

import type { UpdateInputs } from '../compile/optimizer'
import type { Tensor } from '../tensor/tensor'
import { Base, checkEps, expectDecays, type BaseOptions } from './base'
import { average, decayed } from './moments'

/** Options of `Adadelta`. */
export interface AdadeltaOptions extends BaseOptions {
  /** What is left of both mean squares at each update (0.9). */
  rho?: number
  /** Added to both (1e-6). */
  eps?: number
}

/**
 * Zeiler 2012, *ADADELTA*: gradients over their root mean square, times that of the updates so far; an `lr` of 1 is the method of
 * the paper. Weight decay is added to the gradient. State: 8 bytes a weight.
 */
export class Adadelta extends Base {
  /** For checkpoints. */
  readonly name = 'adadelta'
  protected readonly slots = ['square', 'delta']
  readonly #rho: number
  readonly #eps: number

  constructor(options: AdadeltaOptions) {
    super(options, ['rho', 'eps'])
    const { rho = 0.9, eps = 1e-6 } = options
    expectDecays({ rho })
    this.#rho = rho
    this.#eps = checkEps(eps)
  }

  protected apply(
    w: Tensor,
    { square, delta }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    const g = decayed(w, gradient, scale, weightDecay)
    average(square, g.square(), this.#rho)
    const update = g.mul(delta.add(this.#eps).div(square.add(this.#eps)).sqrt())
    average(delta, update.square(), this.#rho)
    w.assign(w.sub(update.mul(lr)))
  }
}

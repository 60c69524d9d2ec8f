import type { UpdateInputs } from '../compile/optimizer'
import type { Tensor } from '../tensor/tensor'
import { Base, checkBetas, checkEps, type BaseOptions } from './base'
import { average, decayed, shareOf } from './moments'

/** Options of `Adamax`. */
export interface AdamaxOptions extends BaseOptions {
  /** Decay of the mean gradient and of the largest one ([0.9, 0.999]). */
  betas?: readonly [number, number]
  /** Added to the magnitude of each gradient (1e-8). */
  eps?: number
}

/**
 * Kingma & Ba 2015, section 7.1: Adam with the largest gradient, as it decays, in the place of the root mean square.
 * Weight decay is added to the gradient. State: 8 bytes a weight.
 */
export class Adamax extends Base {
  /** For checkpoints. */
  readonly name = 'adamax'
  protected readonly slots = ['m', 'largest']
  readonly #betas: readonly [number, number]
  readonly #eps: number

  constructor(options: AdamaxOptions) {
    super(options, ['betas', 'eps'])
    this.#betas = checkBetas(options.betas ?? [0.9, 0.999])
    this.#eps = checkEps(options.eps ?? 1e-8)
  }

  protected apply(
    w: Tensor,
    { m, largest }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, step, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    const [beta1, beta2] = this.#betas
    const g = decayed(w, gradient, scale, weightDecay)
    average(m, g, beta1)
    largest.assign(largest.mul(beta2).maximum(g.abs().add(this.#eps)))
    w.assign(w.sub(m.div(largest).mul(lr.div(shareOf(beta1, step)))))
  }
}

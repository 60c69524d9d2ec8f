import type { UpdateInputs } from '../compile/optimizer'
import type { Tensor } from '../tensor/tensor'
import { average, decayed, Moments, shareOf, type MomentsOptions } from './moments'

/** Options of `Adamax`. */
export type AdamaxOptions = MomentsOptions

/**
 * Kingma & Ba 2015, section 7.1: Adam with the largest gradient, as it decays, in the place of the root mean square.
 * `eps` is added to the magnitude of each gradient, weight decay to the gradient. State: 8 bytes a weight.
 */
export class Adamax extends Moments {
  /** For checkpoints. */
  readonly name = 'adamax'
  protected readonly slots = ['m', 'largest']

  constructor(options: AdamaxOptions) {
    super(options, [])
  }

  protected apply(
    w: Tensor,
    { m, largest }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, step, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    const [beta1, beta2] = this.betas
    const g = decayed(w, gradient, scale, weightDecay)
    average(m, g, beta1)
    largest.assign(largest.mul(beta2).maximum(g.abs().add(this.eps)))
    w.assign(w.sub(m.div(largest).mul(lr.div(shareOf(beta1, step)))))
  }
}

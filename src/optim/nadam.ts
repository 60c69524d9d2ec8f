import type { UpdateInputs } from '../compile/optimizer'
import type { Spec, Tensor } from '../tensor/tensor'
import { expectNonNegative } from './base'
import { average, decayed, Moments, shareOf, type MomentsOptions } from './moments'

/** Options of `NAdam`. */
export interface NAdamOptions extends MomentsOptions {
  /** How fast the momentum grows to the first beta (0.004). */
  momentumDecay?: number
}

/**
 * Dozat 2016: Adam with the momentum of Nesterov, which grows from half of beta to beta, as PyTorch's. Weight decay is
 * added to the gradient. State: 8 bytes a weight, and 4 a parameter.
 */
export class NAdam extends Moments {
  /** For checkpoints. */
  readonly name = 'nadam'
  protected readonly slots = ['m', 'v', 'share']
  readonly #momentumDecay: number

  constructor(options: NAdamOptions) {
    super(options, ['momentumDecay'])
    this.#momentumDecay = options.momentumDecay ?? 0.004
    expectNonNegative({ momentumDecay: this.#momentumDecay })
  }

  protected override slot(name: string, parameter: Tensor): Spec {
    return name === 'share' ? { shape: [], dtype: 'f32' } : parameter
  }

  /** The momentum of an update: beta (1 - 0.96^(step · decay) / 2). */
  #momentum(step: Tensor): Tensor {
    const beta = this.betas[0]
    return step
      .mul(Math.log(0.96) * this.#momentumDecay)
      .exp()
      .mul(-beta / 2)
      .add(beta)
  }

  protected apply(
    w: Tensor,
    { m, v, share }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, step, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    const [beta1, beta2] = this.betas
    const g = decayed(w, gradient, scale, weightDecay)
    const [now, next] = [this.#momentum(step), this.#momentum(step.add(1))]
    // 1 - the product of all momenta so far: 0 at first, as all state.
    share.assign(share.sub(1).mul(now).add(1))
    average(m, g, beta1)
    average(v, g.square(), beta2)
    const coming = share.sub(1).mul(next).add(1)
    const direction = g.mul(now.neg().add(1).div(share)).add(m.mul(next.div(coming)))
    const root = v.div(shareOf(beta2, step)).sqrt().add(this.eps)
    w.assign(w.sub(direction.div(root).mul(lr)))
  }
}

import type { UpdateInputs } from '../compile/optimizer'
import { where } from '../ops'
import type { Tensor } from '../tensor/tensor'
import { average, decayed, Moments, shareOf, type MomentsOptions } from './moments'

/** Options of `RAdam`. */
export type RAdamOptions = MomentsOptions

/**
 * Liu et al. 2020, *On the Variance of the Adaptive Learning Rate and Beyond*: Adam that begins as momentum and is
 * held back while the second moment is of few gradients; no warm-up is wanted. Weight decay is added to the gradient.
 * State: 8 bytes a weight.
 */
export class RAdam extends Moments {
  /** For checkpoints. */
  readonly name = 'radam'
  protected readonly slots = ['m', 'v']

  constructor(options: RAdamOptions) {
    super(options, [])
  }

  protected apply(
    w: Tensor,
    { m, v }: Record<string, Tensor>,
    gradient: Tensor,
    { lr, step, scale }: UpdateInputs,
    weightDecay: number,
  ): void {
    const [beta1, beta2] = this.betas
    const g = decayed(w, gradient, scale, weightDecay)
    average(m, g, beta1)
    average(v, g.square(), beta2)
    const rate = lr.div(shareOf(beta1, step))
    w.assign(w.sub(this.#adapted(m, v, step).mul(rate)))
  }

  /** The mean gradient, over the root of the mean square once that is of more than 5 gradients. */
  #adapted(m: Tensor, v: Tensor, step: Tensor): Tensor {
    const beta = this.betas[1]
    const most = (1 + beta) / (1 - beta)
    if (most <= 5) return m
    const length = lengthOf(beta, step)
    const held = length
      .sub(4)
      .mul(length.sub(2))
      .div(length)
      .mul(most / ((most - 4) * (most - 2)))
    const factor = held.mul(shareOf(beta, step)).maximum(0).sqrt()
    return m.mul(where(length.gt(5), factor.div(v.sqrt().add(this.eps)), 1))
  }
}

/**
 * How many gradients a running mean is of, as a simple mean of the same spread: (1 + beta) / (1 - beta) - 2 step
 * beta^step / (1 - beta^step). Of the first steps little is left of this difference: with x = -step log(beta) it is
 * written in 1 - x / (exp(x) - 1), and that for small x as its series.
 */
function lengthOf(beta: number, step: Tensor): Tensor {
  const rate = -Math.log(beta)
  const x = step.mul(rate)
  const square = x.square()
  const even = square
    .mul(1 / 1209600)
    .sub(1 / 30240)
    .mul(square)
    .add(1 / 720)
    .mul(square)
    .sub(1 / 12)
    .mul(square)
  const rest = where(x.lt(1), even.add(x.mul(0.5)), x.div(x.expm1()).neg().add(1))
  return rest.mul(2 / rate).add((1 + beta) / (1 - beta) - 2 / rate)
}

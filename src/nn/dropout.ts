import { checkDropout, dropout } from '../ops/random'
import type { Tensor } from '../tensor/tensor'
import { Module } from './module'

/** In training, zeros with probability p and the rest divided by 1 − p. Backward keeps nothing for it. */
export class Dropout extends Module {
  constructor(
    /** Probability of a zero. */
    readonly p = 0.5,
  ) {
    super()
    checkDropout('Dropout', p)
  }

  /** Any shape; unchanged in evaluation mode. */
  forward(x: Tensor): Tensor {
    return dropout(x, this.p, this.training)
  }
}

import { ones } from '../ops'
import { checkDropout, dropout } from '../ops/random'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
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

/** In training, whole channels become 0 with probability p, those of each sample apart, and the rest are divided by 1 − p. */
export class Dropout2d extends Module {
  constructor(
    /** Probability of a zero. */
    readonly p = 0.5,
  ) {
    super()
    checkDropout('Dropout2d', p)
  }

  /** [N, ..., C], such as images; unchanged in evaluation mode. */
  forward(x: Tensor): Tensor {
    if (!this.training || this.p === 0) return x
    return tidy(() => x.mul(dropout(ones(x.shape.map((n, i) => (i === 0 || i === x.rank - 1 ? n : 1))), this.p)))
  }
}

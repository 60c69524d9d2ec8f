import { ones } from '../ops'
import { constant } from '../ops/constant'
import { checkDropout, dropout } from '../ops/random'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { Module } from './module'
import { seluAlpha, seluScale } from './selu'

/** What SELU makes of -Infinity. */
const lowest = -seluScale * seluAlpha

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
    const channels = x.shape.map((n, i) => (i === 0 || i === x.rank - 1 ? n : 1))
    return tidy(() => x.mul(dropout(constant(ones, channels), this.p)))
  }
}

/**
 * Dropout for networks of `SELU` (Klambauer et al. 2017): in training, elements become SELU's lowest value with
 * probability p, and all are scaled and shifted so that a mean of 0 and a variance of 1 stay.
 */
export class AlphaDropout extends Module {
  constructor(
    /** Probability of the lowest value. */
    readonly p = 0.5,
  ) {
    super()
    checkDropout('AlphaDropout', p)
  }

  /** Any shape; unchanged in evaluation mode. */
  forward(x: Tensor): Tensor {
    const { p } = this
    if (!this.training || p === 0) return x
    if (p === 1) return x.mul(0) // as PyTorch: nothing is left whose variance could stay
    const scale = 1 / Math.sqrt((1 - p) * (1 + p * lowest ** 2))
    return tidy(() => {
      const kept = dropout(constant(ones, x.shape), p).mul(1 - p) // 1 or 0
      return kept
        .mul(x.sub(lowest))
        .add(lowest * (1 - p))
        .mul(scale)
    })
  }
}

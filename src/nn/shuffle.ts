import { expectIntegers, fail } from '../errors'
import { expectRank } from '../graph/op'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { Module } from './module'

/**
 * Channels become pixels (Shi et al. 2016): each pixel a square of `factor` by `factor`. The channels of one square lie
 * together, as in PyTorch.
 */
export class PixelShuffle extends Module {
  constructor(
    /** Side of a square. */
    readonly factor: number,
  ) {
    super()
    expectIntegers('PixelShuffle', { factor })
  }
  /** [N, H, W, C · factor²] to [N, H · factor, W · factor, C]. */
  forward(x: Tensor): Tensor {
    expectRank('PixelShuffle', 'input', x, 4)
    const [n, h, w, all] = x.shape
    const r = this.factor
    const c = all / (r * r)
    if (!Number.isInteger(c))
      fail('AUX_SHAPE_MISMATCH', `PixelShuffle: expected channels that ${r * r} divides, got ${showShape(x.shape)}`)
    return tidy(() =>
      x
        .reshape([n, h, w, c, r, r])
        .permute([0, 1, 4, 2, 5, 3])
        .reshape([n, h * r, w * r, c]),
    )
  }
}

/** Pixels become channels: the inverse of `PixelShuffle`. */
export class PixelUnshuffle extends Module {
  constructor(
    /** Side of a square. */
    readonly factor: number,
  ) {
    super()
    expectIntegers('PixelUnshuffle', { factor })
  }
  /** [N, H · factor, W · factor, C] to [N, H, W, C · factor²]. */
  forward(x: Tensor): Tensor {
    expectRank('PixelUnshuffle', 'input', x, 4)
    const [n, height, width, c] = x.shape
    const r = this.factor
    const [h, w] = [height / r, width / r]
    if (!Number.isInteger(h) || !Number.isInteger(w))
      fail('AUX_SHAPE_MISMATCH', `PixelUnshuffle: expected sides that ${r} divides, got ${showShape(x.shape)}`)
    return tidy(() =>
      x
        .reshape([n, h, r, w, r, c])
        .permute([0, 1, 3, 5, 2, 4])
        .reshape([n, h, w, c * r * r]),
    )
  }
}

/** Channels of groups interleaved (Zhang et al. 2018): the first of each group, then the second of each. */
export class ChannelShuffle extends Module {
  constructor(
    /** Groups that the channels are in. */
    readonly groups: number,
  ) {
    super()
    expectIntegers('ChannelShuffle', { groups })
  }
  /** [..., C] to the same. */
  forward(x: Tensor): Tensor {
    const c = x.shape[x.rank - 1]
    if (!x.rank || c % this.groups)
      fail(
        'AUX_SHAPE_MISMATCH',
        `ChannelShuffle: expected channels that ${this.groups} groups divide, got ${showShape(x.shape)}`,
      )
    const rest = x.shape.slice(0, -1)
    return tidy(() =>
      x
        .reshape([...rest, this.groups, c / this.groups])
        .transpose()
        .reshape(x.shape),
    )
  }
}

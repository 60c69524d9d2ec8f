import { expectOptions } from '../errors'
import { expectRank } from '../graph/op'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { triple, type Triple } from './conv3d'
import './pool'

/** Window of a pooling of volumes; the stride is the window's size unless given. */
export interface Pool3dOptions {
  /** Places between windows (the size of the window). */
  stride?: Triple
  /** Positions around the volume (0). */
  padding?: Triple
}

declare module '../tensor/tensor' {
  interface Tensor {
    /** Maximum over windows: [N, D, H, W, C] to [N, P, Q, R, C]. */
    maxPool3d(kernel: Triple, options?: Pool3dOptions): Tensor
    /** Mean over windows: [N, D, H, W, C] to [N, P, Q, R, C]; padding counts as zeros. */
    avgPool3d(kernel: Triple, options?: Pool3dOptions): Tensor
    /** Mean over bins that divide the volume into `size` parts: [N, D, H, W, C] to [N, depth, height, width, C]. */
    adaptiveAvgPool3d(size: Triple): Tensor
  }
}

/** @internal A pooling of each frame, then one along the depth, of images whose rows are frames. */
export function twice(x: Tensor, frame: (x: Tensor) => Tensor, depth: (x: Tensor) => Tensor): Tensor {
  const [n, d, h, w, c] = x.shape
  const small = frame(x.reshape([n * d, h, w, c]))
  const [, p, q] = small.shape
  const y = depth(small.reshape([n, d, p * q, c]))
  return y.reshape([n, y.shape[1], p, q, c])
}

for (const kind of ['max', 'avg'] as const) {
  const name = `${kind}Pool3d` as const
  Tensor.prototype[name] = function (kernel, options = {}) {
    expectRank(name, 'input', this, 5)
    expectOptions(name, options, ['stride', 'padding'])
    const [kd, kh, kw] = triple(`${name}: window`, kernel)
    const [sd, sh, sw] = triple(`${name}: stride`, options.stride ?? kernel)
    const [pd, ph, pw] = triple(`${name}: padding`, options.padding, 0, 0)
    const pool = `${kind}Pool2d` as const
    return tidy(() =>
      twice(
        this,
        (x) => x[pool]([kh, kw], { stride: [sh, sw], padding: [ph, pw] }),
        (x) => x[pool]([kd, 1], { stride: [sd, 1], padding: [pd, 0] }),
      ),
    )
  }
}
Tensor.prototype.adaptiveAvgPool3d = function (size) {
  expectRank('adaptiveAvgPool3d', 'input', this, 5)
  const [d, h, w] = triple('adaptiveAvgPool3d: size', size)
  return tidy(() =>
    twice(
      this,
      (x) => x.adaptiveAvgPool2d([h, w]),
      (x) => x.adaptiveAvgPool2d([d, x.shape[2]]),
    ),
  )
}

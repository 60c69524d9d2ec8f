import { expectOptions, fail } from '../errors'
import { expectDType, expectShape, expectTensor } from '../graph/op'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { triple, volumeOptions, type Conv3dOptions, type Triple } from './conv3d'
import { zeros } from './create'
import { place } from './join'
import { convTranspose2d, type ConvTransposeOptions } from './transposed'

/** Geometry of a transposed convolution of volumes: that of the convolution it turns round. */
export interface ConvTranspose3dOptions extends Omit<Conv3dOptions, 'padding'> {
  /** Places cut from around the result (0). */
  padding?: Triple
  /** Places added at the far ends of the result (0); less than stride or dilation. */
  outputPadding?: Triple
}

/**
 * Transposed 3-D convolution, channels-last: x [N, D, H, W, I], weight [I, KD, KH, KW, O/groups], bias [O]; y [N, P,
 * Q, R, O], sizes as of `convTranspose2d`. It is the sum of one `convTranspose2d` a tap of depth.
 */
export function convTranspose3d(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  options: ConvTranspose3dOptions = {},
): Tensor {
  const name = 'convTranspose3d'
  expectTensor(name, x)
  expectTensor(name, weight)
  expectDType(name, 'input', x, 'f32')
  if (x.rank !== 5 || weight.rank !== 5 || x.shape[4] !== weight.shape[0])
    fail(
      'AUX_SHAPE_MISMATCH',
      `${name}: expected input [N, D, H, W, I] and weight [I, KD, KH, KW, O / groups], got ${showShape(x.shape)} and ` +
        showShape(weight.shape),
    )
  expectOptions(name, options)
  const { outputPadding, ...geometry } = options
  const { depth, image } = volumeOptions(name, weight.shape.slice(1, 4), geometry)
  const [more, ...rest] = triple(`${name}: outputPadding`, outputPadding, 0, 0)
  const { stride, padding, dilation } = depth
  if (more >= Math.max(stride, dilation))
    fail(
      'AUX_INVALID_ARGUMENT',
      `${name}: expected outputPadding less than stride or dilation, got ${more} with ${stride} and ${dilation}`,
    )
  const [n, frames, ...sides] = x.shape
  const [, taps] = weight.shape
  const positions = (frames - 1) * stride - 2 * padding + dilation * (taps - 1) + more + 1
  if (positions < 1)
    fail('AUX_SHAPE_MISMATCH', `${name}: nothing is left of input ${showShape(x.shape)} with padding ${padding}`)
  const outputs = weight.shape[4] * image.groups!
  if (bias) expectShape(name, 'bias', bias, [outputs])
  return tidy(() => {
    const frame = { ...image, outputPadding: rest } as ConvTransposeOptions
    let y: Tensor | undefined
    let size = sides
    for (let tap = 0; tap < taps; tap++) {
      const at = tap * dilation - padding // where it puts the first frame
      const first = Math.max(0, Math.ceil(-at / stride))
      const count = Math.min(frames, Math.floor((positions - 1 - at) / stride) + 1) - first
      if (count < 1) continue
      const seen = x.narrow(1, first, count).reshape([n * count, ...sides])
      const own = convTranspose2d(seen, weight.select(1, tap), undefined, frame)
      size = own.shape.slice(1)
      const starts = [0, first * stride + at, 0, 0, 0]
      const put = place(own.reshape([n, count, ...size]), [n, positions, ...size], starts, [1, stride, 1, 1, 1], 0)
      y = y ? y.add(put) : put
    }
    const sum = y ?? zeros([n, positions, ...size])
    return bias ? sum.add(bias) : sum
  })
}

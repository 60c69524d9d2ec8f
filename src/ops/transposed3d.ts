import { expectOptions, fail } from '../errors'
import { expectDType, expectShape, expectTensor } from '../graph/op'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { triple, volumeOptions, type Conv3dOptions, type Triple } from './conv3d'
import { constant } from './constant'
import { zeros } from './create'
import { place, stack } from './join'
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
 * Q, R, O], sizes as of `convTranspose2d`. It is made of one `convTranspose2d` a tap of depth.
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
    // With stride s, a tap reaches every s-th position: those from each of the first s on are a sum of their own.
    const every = Math.ceil(positions / stride)
    let size: readonly number[] = []
    const sums = Array.from({ length: stride }, (_, first) => {
      let sum: Tensor | undefined
      for (let tap = 0; tap < taps; tap++) {
        const shift = (tap * dilation - padding - first) / stride // where it puts the first frame
        const from = Math.max(0, -shift)
        const count = Math.min(frames, every - shift) - from
        if (!Number.isInteger(shift) || count < 1) continue
        const seen = x.narrow(1, from, count).reshape([n * count, ...sides])
        const own = convTranspose2d(seen, weight.select(1, tap), undefined, frame)
        size = own.shape.slice(1)
        const part = own.reshape([n, count, ...size])
        const put =
          count < every ? place(part, [n, every, ...size], [0, from + shift, 0, 0, 0], [1, 1, 1, 1, 1], 0) : part
        sum = sum ? sum.add(put) : put
      }
      return sum
    })
    if (!size.length)
      size = convTranspose2d(constant(zeros, [0, ...sides]), weight.select(1, 0), undefined, frame).shape.slice(1)
    const all = sums.map((sum) => sum ?? constant(zeros, [n, every, ...size]))
    const whole = [n, every * stride, ...size]
    const y = stride > 1 ? stack(all, 2).reshape(whole).narrow(1, 0, positions) : all[0]
    return bias ? y.add(bias) : y
  })
}

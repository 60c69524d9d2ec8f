import { expectOptions, fail } from '../errors'
import { expectDType, expectRank, expectShape, expectTensor } from '../graph/op'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { convInputGradient } from './conv'
import { convAttrs, pair, type ConvOptions, type Pair } from './geometry'

/** Geometry of a transposed convolution: that of the convolution it turns round. */
export interface ConvTransposeOptions extends Omit<ConvOptions, 'padding'> {
  /** Rows and columns cut from around the result (0). */
  padding?: Pair
  /** Rows and columns added at the lower and right end of the result (0); less than stride or dilation. */
  outputPadding?: Pair
}

/**
 * Transposed convolution, channels-last: x [N, H, W, I], weight [I, KH, KW, O/groups], bias [O]; y [N, P, Q, O] with
 * P = (H - 1) · stride - 2 · padding + dilation · (KH - 1) + outputPadding + 1, and Q likewise. What `conv2d` with the
 * same weight and options would make [N, H, W, I] of. Policies for layers (`asa`, `q2`) leave it to backpropagation.
 */
export function convTranspose2d(x: Tensor, weight: Tensor, bias?: Tensor, options: ConvTransposeOptions = {}): Tensor {
  const name = 'convTranspose2d'
  for (const [what, t] of [
    ['input', x],
    ['weight', weight],
  ] as const) {
    expectTensor(name, t)
    expectRank(name, what, t, 4)
    expectDType(name, what, t, 'f32')
  }
  const kernel = weight.shape.slice(1, 3)
  expectOptions(name, options)
  const { outputPadding, ...geometry } = options
  const attrs = convAttrs(name, kernel, geometry)
  const more = pair(`${name}: outputPadding`, outputPadding, 0, 0)
  const [n, , , inputs] = x.shape
  if (inputs !== weight.shape[0] || inputs % attrs.groups)
    fail(
      'AUX_SHAPE_MISMATCH',
      `${name}: expected input [N, H, W, ${weight.shape[0]}] for weight ${showShape(weight.shape)} in ${attrs.groups} group(s), got ${showShape(x.shape)}`,
    )
  const [p, q] = [0, 1].map((i) => {
    if (more[i] >= Math.max(attrs.stride[i], attrs.dilation[i]))
      fail(
        'AUX_INVALID_ARGUMENT',
        `${name}: expected outputPadding less than stride or dilation, got ${more[i]} with ${attrs.stride[i]} and ${attrs.dilation[i]}`,
      )
    return (
      (x.shape[1 + i] - 1) * attrs.stride[i] - 2 * attrs.padding[i] + attrs.dilation[i] * (kernel[i] - 1) + more[i] + 1
    )
  })
  if (p < 1 || q < 1)
    fail(
      'AUX_SHAPE_MISMATCH',
      `${name}: nothing is left of input ${showShape(x.shape)} with padding ${showShape(attrs.padding)}`,
    )
  const outputs = weight.shape[3] * attrs.groups
  if (bias) expectShape(name, 'bias', bias, [outputs])
  // With as many rows added as the stride or more, the convolution that this turns round makes more of them than x has.
  const [rows, columns] = more.map((m, i) => Math.floor(m / attrs.stride[i]))
  const none = [0, 0] as const
  return tidy(() => {
    const whole = rows || columns ? x.pad([none, [0, rows], [0, columns], none]) : x
    const y = convInputGradient(whole, weight, attrs, [n, p, q, outputs])
    return bias ? y.add(bias) : y
  })
}

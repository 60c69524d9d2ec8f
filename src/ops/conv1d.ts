import { expectIntegers, expectOptions, fail } from '../errors'
import { expectTensor } from '../graph/op'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { conv2d } from './conv'
import { convAttrs, convOptions, windows, type Conv1dOptions, type ConvOptions } from './geometry'

/** @internal The same geometry of images that are one row high. */
export function rowOptions(name: string, o: Conv1dOptions): ConvOptions {
  expectOptions(name, o, convOptions)
  const { stride = 1, padding = 0, dilation = 1, groups } = o
  expectIntegers(name, { stride, dilation })
  if (padding !== 'same') expectIntegers(name, { padding }, 0)
  return {
    stride: [1, stride],
    padding: padding === 'same' ? padding : [0, padding],
    dilation: [1, dilation],
    groups,
  }
}

/**
 * 1-D convolution, channels-last: x [N, L, C], weight [O, K, C/groups], bias [O]; y [N, P, O]. It is `conv2d` of an image
 * one row high.
 */
export function conv1d(x: Tensor, weight: Tensor, bias?: Tensor, options: Conv1dOptions = {}): Tensor {
  const name = 'conv1d'
  expectTensor(name, x)
  expectTensor(name, weight)
  const row = rowOptions(name, options)
  const { groups = 1 } = row
  const channels = weight.shape[2] * groups
  if (weight.rank !== 3 || x.rank !== 3 || x.shape[2] !== channels) {
    const first = x.rank === 3 && x.shape[1] === channels // as in PyTorch
    fail(
      'AUX_SHAPE_MISMATCH',
      `${name}: expected input [N, L, ${weight.rank === 3 ? channels : 'C'}] and weight [O, K, C / groups], got ` +
        `${showShape(x.shape)} and ${showShape(weight.shape)} in ${groups} group(s)` +
        (first ? '; channels come last here: permute([0, 2, 1])' : ''),
    )
  }
  const [, taps] = weight.shape
  const { stride, padding, dilation } = convAttrs(name, [1, taps], row)
  if (windows(x.shape[1], taps, stride[1], padding[1], dilation[1]) < 1)
    fail('AUX_SHAPE_MISMATCH', `${name}: kernel of ${taps} does not fit the padded input ${showShape(x.shape)}`)
  return tidy(() => conv2d(x.unsqueeze(1), weight.unsqueeze(1), bias, row).squeeze(1))
}

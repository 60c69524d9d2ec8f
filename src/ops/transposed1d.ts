import { expectIntegers, expectOptions, fail } from '../errors'
import { expectTensor } from '../graph/op'
import { showShape } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { rowOptions } from './conv1d'
import type { Conv1dOptions } from './geometry'
import { convTranspose2d, type ConvTransposeOptions } from './transposed'

/** Geometry of a transposed convolution along a sequence: that of the convolution it turns round. */
export interface ConvTranspose1dOptions extends Omit<Conv1dOptions, 'padding'> {
  /** Positions cut from both ends of the result (0). */
  padding?: number
  /** Positions added at the end of the result (0); less than stride or dilation. */
  outputPadding?: number
}

/**
 * Transposed 1-D convolution, channels-last: x [N, L, I], weight [I, K, O/groups], bias [O]; y [N, P, O] with P = (L -
 * 1) · stride - 2 · padding + dilation · (K - 1) + outputPadding + 1. It is `convTranspose2d` of an image one row
 * high.
 */
export function convTranspose1d(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  options: ConvTranspose1dOptions = {},
): Tensor {
  const name = 'convTranspose1d'
  expectTensor(name, x)
  expectTensor(name, weight)
  expectOptions(name, options)
  const { outputPadding = 0, ...geometry } = options
  const row = rowOptions(name, geometry)
  expectIntegers(name, { outputPadding }, 0)
  if (x.rank !== 3 || weight.rank !== 3 || x.shape[2] !== weight.shape[0])
    fail(
      'AUX_SHAPE_MISMATCH',
      `${name}: expected input [N, L, I] and weight [I, K, O / groups], got ${showShape(x.shape)} and ` +
        showShape(weight.shape),
    )
  const image = { ...row, outputPadding: [0, outputPadding] } as ConvTransposeOptions
  return tidy(() => convTranspose2d(x.unsqueeze(1), weight.unsqueeze(1), bias, image).squeeze(1))
}

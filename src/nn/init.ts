import { expectOneOf, expectOptions } from '../errors'
import type { Shape } from '../tensor/shape'
import { checkShape, sizeOf } from '../tensor/shape'
import type { Tensor } from '../tensor/tensor'
import { normal, truncatedNormal, uniform } from '../ops'

// Initial values of weights [outputs, ..., inputs]: the last axis and any kernel axes between are the fan-in.

/** Inputs and outputs that one weight tensor connects, kernel positions included. */
export function fans(shape: Shape): {
  /** Inputs of one output. */
  fanIn: number
  /** Outputs of one input. */
  fanOut: number
} {
  checkShape('fans', shape)
  const taps = sizeOf(shape.slice(1, -1))
  return { fanIn: taps * shape[shape.length - 1], fanOut: taps * shape[0] }
}

/** Uniform within ±1/√fanIn: the default of linear layers and convolutions. */
export function fanInUniform(shape: Shape, fanIn: number): Tensor {
  const bound = 1 / Math.sqrt(Math.max(1, fanIn))
  return uniform(shape, { low: -bound, high: bound })
}

/** Options of `kaimingNormal` and `kaimingUniform`. */
export interface KaimingOptions {
  /** Which fan keeps its variance (`in`: forward, `out`: backward). */
  mode?: 'in' | 'out'
  /** √2 for ReLU. */
  gain?: number
}

function kaimingStd(name: string, shape: Shape, options: KaimingOptions): number {
  expectOptions(name, options, ['mode', 'gain'])
  const { mode = 'in', gain = Math.SQRT2 } = options
  expectOneOf(name, { mode }, 'in', 'out')
  const { fanIn, fanOut } = fans(shape)
  return gain / Math.sqrt(mode === 'in' ? fanIn : fanOut)
}

/** He et al. 2015. */
export function kaimingNormal(shape: Shape, options: KaimingOptions = {}): Tensor {
  return normal(shape, { std: kaimingStd('kaimingNormal', shape, options) })
}

/** He et al. 2015. */
export function kaimingUniform(shape: Shape, options: KaimingOptions = {}): Tensor {
  const bound = Math.sqrt(3) * kaimingStd('kaimingUniform', shape, options)
  return uniform(shape, { low: -bound, high: bound })
}

/** Glorot & Bengio 2010. */
export function xavierNormal(shape: Shape, gain = 1): Tensor {
  const { fanIn, fanOut } = fans(shape)
  return normal(shape, { std: gain * Math.sqrt(2 / (fanIn + fanOut)) })
}

/** Glorot & Bengio 2010. */
export function xavierUniform(shape: Shape, gain = 1): Tensor {
  const { fanIn, fanOut } = fans(shape)
  const bound = gain * Math.sqrt(6 / (fanIn + fanOut))
  return uniform(shape, { low: -bound, high: bound })
}

/** Normal, cut off at two standard deviations. */
export const truncated = (shape: Shape, std = 0.02): Tensor => truncatedNormal(shape, { std })

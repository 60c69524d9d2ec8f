import { expectOneOf, expectOptions, fail } from '../errors'
import { checkShape, showShape, sizeOf, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
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

/**
 * Of the matrix [outputs, all else] the rows, or where these are more than the columns the columns, are orthogonal and of
 * length `gain`, at random (Saxe et al. 2014). Time grows with the smaller side squared times the larger.
 */
export function orthogonal(shape: Shape, gain = 1): Tensor {
  checkShape('orthogonal', shape)
  if (shape.length < 2)
    fail('AUX_SHAPE_MISMATCH', `orthogonal: expected a shape of at least 2 axes, got ${showShape(shape)}`)
  const outputs = shape[0]
  const rest = sizeOf(shape.slice(1))
  const [count, length] = [Math.min(outputs, rest), Math.max(outputs, rest)]
  const drawn = Float64Array.from(tidy(() => normal([count, length]).dataSync()))
  const rows = Array.from({ length: count }, (_, i) => drawn.subarray(i * length, (i + 1) * length))
  rows.forEach((row, i) => {
    // Gram-Schmidt, twice: what rounding has left of the others goes with the second.
    for (let pass = 0; pass < 2; pass++) for (const q of rows.slice(0, i)) addScaled(row, q, -dot(row, q))
    const scale = 1 / Math.sqrt(dot(row, row))
    for (let k = 0; k < length; k++) row[k] *= scale
  })
  const values = Float32Array.from(drawn, (v) => gain * v)
  return tidy(() => {
    const matrix = Tensor.from(values, [count, length], 'f32')
    return (outputs > rest ? matrix.transpose() : matrix).reshape(shape)
  })
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0
  for (let k = 0; k < a.length; k++) sum += a[k] * b[k]
  return sum
}

function addScaled(a: Float64Array, b: Float64Array, factor: number): void {
  for (let k = 0; k < a.length; k++) a[k] += factor * b[k]
}

/** Normal, cut off at two standard deviations. */
export const truncated = (shape: Shape, std = 0.02): Tensor => truncatedNormal(shape, { std })

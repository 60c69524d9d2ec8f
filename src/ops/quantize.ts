import { fail } from '../errors'
import { apply, defineOp, expectDType, expectShape } from '../graph/op'
import { checkShape, sizeOf, type Shape } from '../tensor/shape'
import type { Spec, Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { randomFor } from './random'

// A few bits an element (Chen et al. 2021, ActNN, at a fixed number of bits): groups of 256 elements in row-major order,
// each with its minimum m and range r in bfloat16; code q stands for m + q r / (2^bits - 1).

/** Bits of a code. */
export type CodeBits = 2 | 4 | 8

/** @internal Elements of a group. */
export const groupElements = 256

/** @internal The codes and ranges of values of this shape. */
export const codeSpecs = (shape: Shape, bits: CodeBits): [codes: Spec, ranges: Spec] => {
  const groups = Math.ceil(sizeOf(shape) / groupElements)
  return [
    { shape: [groups, 8 * bits], dtype: 'u32' },
    { shape: [groups], dtype: 'u32' },
  ]
}

const quantizeOp = defineOp<{ bits: CodeBits; id: number }>({
  name: 'quantize',
  infer: ([x], { bits }) => {
    expectDType('quantize', 'input', x, 'f32')
    return codeSpecs(x!.shape, bits)
  },
  kernel: (_, __, { bits, id }) => ({ name: 'quantize', numbers: [bits, id] }),
  constant: true,
})

const dequantizeOp = defineOp<{ bits: CodeBits; shape: Shape }>({
  name: 'dequantize',
  infer: (inputs, { shape, bits }) => {
    checkShape('dequantize', shape)
    codeSpecs(shape, bits).forEach((spec, i) => {
      const name = ['codes', 'ranges'][i]
      expectDType('dequantize', name, inputs[i], 'u32')
      expectShape('dequantize', name, inputs[i], spec.shape)
    })
    return [{ shape, dtype: 'f32' }]
  },
  kernel: (_, __, { bits }) => ({ name: 'dequantize', numbers: [bits] }),
  constant: true,
})

/** @internal Errors unless both are what `quantize` takes. */
export function checkCodes(name: string, bits: unknown, rounding: unknown): void {
  if (bits !== 2 && bits !== 4 && bits !== 8)
    fail('AUX_INVALID_ARGUMENT', `${name}: expected 2, 4 or 8 bits, got ${String(bits)}`)
  if (rounding !== 'stochastic' && rounding !== 'nearest')
    fail('AUX_INVALID_ARGUMENT', `${name}: expected rounding 'stochastic' or 'nearest', got ${String(rounding)}`)
}

/** An f32 tensor in few bits. */
export interface Quantized {
  /** u32 [ceil(size / 256), 8 bits]: the codes of each 256 elements. */
  readonly codes: Tensor
  /** u32 [ceil(size / 256)]: minimum (upper half) and range (lower half) of each 256 elements, in bfloat16. */
  readonly ranges: Tensor
}

/**
 * x in codes of 2, 4 or 8 bits. Of the two levels around an element one is drawn so that the mean is the element
 * (`stochastic`), or the nearer is taken (`nearest`): |x̂ - x| is at most r / (2^bits - 1), or half of that. A group of
 * 256 that holds a NaN or an infinity comes back as NaN. Draws are independent bytes, so that a mean may be off by 1/256
 * of the levels' distance.
 */
export function quantize(x: Tensor, bits: CodeBits, rounding: 'stochastic' | 'nearest' = 'stochastic'): Quantized {
  checkCodes('quantize', bits, rounding)
  const made = tidy(() => {
    const { key, id } = rounding === 'stochastic' ? randomFor([x]) : { key: undefined, id: 0 }
    return apply(quantizeOp, [x, key], { bits, id })
  })
  return { codes: made[0], ranges: made[1] }
}

/** The values that codes stand for, f32 in the shape they were made from. */
export function dequantize({ codes, ranges }: Quantized, bits: CodeBits, shape: Shape): Tensor {
  checkCodes('dequantize', bits, 'nearest')
  return apply(dequantizeOp, [codes, ranges], { bits, shape })[0]
}

import { expectOptions } from '../errors'
import { checkCodes, dequantize, quantize, type CodeBits, type Quantized } from '../ops/quantize'
import type { Tensor } from '../tensor/tensor'
import { Policy, type MemoryPolicy } from './policy'

/** Options of `quantized`. */
export interface QuantizedOptions {
  /** Bits an element: 8, 4 or 2 (8). */
  bits?: CodeBits
  /** `stochastic`: unbiased, as in the papers; `nearest`: half the largest error, and faster. */
  rounding?: 'stochastic' | 'nearest'
}

/** Fewer elements than this, and vectors (a number a channel), are kept as they are: nothing would be saved. */
const least = 1024

/** Codes of traced values, by bits and rounding: modules with policies of their own share what they read in common. */
const codes = new WeakMap<Tensor, Map<string, Quantized>>()

/**
 * Forward is exact; of what backward reads inside the module (inputs of layers and norms, of GELU, of attention) it
 * keeps codes of 8, 4 or 2 bits, each 256 elements with a range of their own: the codec of ActNN (Chen et al. 2021) at
 * a fixed number of bits, 8 as in Mesa (Pan et al. 2021). Kept as they are: parameters, statistics, ReLU's one bit,
 * what gradients compare rather than multiply (maxima), and what is read outside modules (the loss). Layers inside with
 * policies of their own (`asa`, `q2`) keep what those say, and the rest is quantised, auxiliaries of `ara` too.
 */
export function quantized(options: QuantizedOptions = {}): MemoryPolicy {
  expectOptions('quantized', options, ['bits', 'rounding'])
  const { bits = 8, rounding = 'stochastic' } = options
  checkCodes('quantized', bits, rounding)
  return new Policy(`quantized ${bits}`, () => ({
    compress(value) {
      if (value.dtype !== 'f32' || value.rank < 2 || value.size < least) return undefined
      const made = codes.get(value) ?? codes.set(value, new Map()).get(value)!
      const key = `${bits} ${rounding}`
      const kept = made.get(key) ?? made.set(key, quantize(value, bits, rounding)).get(key)!
      return () => dequantize(kept, bits, value.shape)
    },
  }))
}

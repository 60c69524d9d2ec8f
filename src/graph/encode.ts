import { dtypeCode, type DType } from '../tensor/dtype'
import type { Layout } from '../tensor/tensor'

/** An operand of a kernel call: a layout on a numbered buffer. */
export interface Operand {
  readonly layout: Layout
  readonly dtype: DType
  readonly buffer: number
  readonly byteOffset: number
}

/**
 * Operands as the flat list of numbers that native code decodes (native/core/plan.h): for each
 * `buffer, byteOffset, elementOffset, dtype, rank, shape..., strides...`, or -1 alone for an absent one.
 */
export function encodeOperands(operands: readonly (Operand | undefined)[]): Float64Array {
  return Float64Array.from(operandWords(operands))
}

export function operandWords(operands: readonly (Operand | undefined)[]): number[] {
  const words: number[] = []
  for (const o of operands) {
    if (!o) {
      words.push(-1)
      continue
    }
    const { shape, strides, offset } = o.layout
    words.push(o.buffer, o.byteOffset, offset, dtypeCode(o.dtype), shape.length, ...shape, ...strides)
  }
  return words
}

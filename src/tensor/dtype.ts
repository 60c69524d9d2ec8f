import { AuxgradError, fail } from '../errors'

/**
 * Element types. `bf16` is for storage; `u32` holds bit-packed data, 32 rows a word.
 * The order is that of native/core/dtype.h.
 */
export const dtypes = ['f32', 'bf16', 'i32', 'u8', 'bool', 'u32'] as const
/** Element type: 'f32', 'bf16' (storage only), 'i32', 'u8', 'bool', or 'u32' (packed bits). */
export type DType = (typeof dtypes)[number]

/** Arrays that hold values: bf16 as 16-bit patterns, bool as bytes 0 and 1. */
export type TypedArray = Float32Array | Uint16Array | Int32Array | Uint8Array | Uint32Array

const size: Record<DType, number> = { f32: 4, bf16: 2, i32: 4, u8: 1, bool: 1, u32: 4 }

/** Bytes of one element. */
export const bytesPerElement = (dtype: DType): number => size[dtype]

export const dtypeCode = (dtype: DType): number => dtypes.indexOf(dtype)

const arrays = {
  f32: Float32Array,
  bf16: Uint16Array,
  i32: Int32Array,
  u8: Uint8Array,
  bool: Uint8Array,
  u32: Uint32Array,
}

/** Throws unless it is a dtype; `what` names the caller. */
export function checkDType(what: string, dtype: DType): void {
  if (!dtypes.includes(dtype))
    fail('AUX_DTYPE_MISMATCH', `${what}: expected a dtype, one of ${dtypes.join(', ')}, got ${String(dtype)}`)
}

/**
 * A typed array of the kind that holds a dtype (bf16 as raw 16-bit patterns, bool as 0 and 1).
 * @throws AUX_OUT_OF_MEMORY
 */
export function typedArray(dtype: DType, length: number): TypedArray {
  checkDType('values', dtype)
  try {
    return new arrays[dtype](length)
  } catch (cause) {
    const message = `JavaScript has no room for ${length} values of ${dtype}`
    throw new AuxgradError('AUX_OUT_OF_MEMORY', message, { cause })
  }
}

/** bf16 patterns of numbers, rounded to nearest, ties to even; NaN stays NaN. */
export function toBf16(values: ArrayLike<number>): Uint16Array {
  const bits = new Uint32Array(Float32Array.from(values).buffer)
  // from() with a function is ten times as slow as map().
  return new Uint16Array(
    bits.map((b) => ((b & 0x7fffffff) > 0x7f800000 ? (b >>> 16) | 0x40 : (b + 0x7fff + ((b >>> 16) & 1)) >>> 16)),
  )
}

/** The numbers that bf16 patterns stand for. */
export const fromBf16 = (patterns: Uint16Array): Float32Array =>
  new Float32Array(new Uint32Array(patterns).map((p) => p << 16).buffer)

/**
 * Numbers as a typed array of the kind that holds a dtype: bf16 rounded, bool as 0 and 1, whole numbers cut off behind the
 * point. `what` names them in errors.
 * @throws AUX_INVALID_ARGUMENT for a number beyond the range of whole numbers, which would become another one.
 */
export function encode(what: string, values: ArrayLike<number>, dtype: DType): TypedArray {
  if (dtype === 'bf16') return toBf16(values)
  const out = typedArray(dtype, values.length)
  if (dtype === 'bool') for (let i = 0; i < out.length; i++) out[i] = values[i] ? 1 : 0
  else out.set(values)
  for (let i = 0; dtype !== 'f32' && dtype !== 'bool' && i < out.length; i++)
    if (out[i] !== Math.trunc(values[i]))
      fail('AUX_INVALID_ARGUMENT', `${what}: expected values that ${dtype} can hold, got ${values[i]} at ${i}`)
  return out
}

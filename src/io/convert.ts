import { fail } from '../errors'
import { dtypes, fromBf16, toBf16, type DType } from '../tensor/dtype'
import type { HostArray } from '../tensor/host'
import type { RawTensor, SafetensorsDType } from './safetensors'

/** auxgrad's dtypes in files; the others have to be converted. */
export const fileTypes: Record<DType, SafetensorsDType> = {
  f32: 'F32',
  bf16: 'BF16',
  i32: 'I32',
  u8: 'U8',
  bool: 'BOOL',
  u32: 'U32',
}
const ownType = (dtype: SafetensorsDType): DType | undefined => dtypes.find((d) => fileTypes[d] === dtype)

/**
 * A tensor of a file as a host array: of its own dtype (not copied) where auxgrad has it, or converted to f32 or i32.
 * F16, BF16 and F64 become f32, integers of all sizes i32; what does not fit is an error, not a rounded number, except
 * that F64 is rounded to the nearest f32.
 * @param what names the tensor in errors.
 * @throws AUX_DTYPE_MISMATCH if there is no such conversion, AUX_BAD_FILE if a value is out of range.
 */
export function toHostArray(tensor: RawTensor, dtype?: DType, what = 'tensor'): HostArray {
  const { shape, data } = tensor
  const own = ownType(tensor.dtype)
  if (own !== undefined && (dtype === undefined || dtype === own)) {
    if (own === 'bool') {
      const wrong = (data as Uint8Array).findIndex((v) => v > 1)
      if (wrong >= 0)
        fail('AUX_BAD_FILE', `${what}: expected BOOL values 0 and 1, got ${String(data[wrong])} at ${wrong}`)
    }
    return { data: data as HostArray['data'], shape, dtype: own }
  }
  const integer = /^[IU]\d|^BOOL$/.test(tensor.dtype)
  if (dtype === 'f32') {
    if (tensor.dtype === 'F16') return { data: new Float32Array(data as Uint16Array).map(halfToNumber), shape, dtype }
    if (tensor.dtype === 'BF16') return { data: fromBf16(data as Uint16Array), shape, dtype }
    const out = new Float32Array(data.length)
    for (let i = 0; i < out.length; i++) {
      const value = data[i]
      out[i] = Number(value)
      const fits =
        typeof value === 'bigint'
          ? BigInt(out[i]) === value
          : integer
            ? out[i] === value
            : Number.isFinite(out[i]) || !Number.isFinite(value)
      if (!fits) fail('AUX_BAD_FILE', `${what}: expected values that f32 can hold, got ${String(data[i])} at ${i}`)
    }
    return { data: out, shape, dtype }
  }
  if (dtype === 'i32' && integer) {
    const out = new Int32Array(data.length)
    for (let i = 0; i < out.length; i++) {
      out[i] = Number(data[i])
      if (out[i] !== Number(data[i]))
        fail('AUX_BAD_FILE', `${what}: expected values that i32 can hold, got ${String(data[i])} at ${i}`)
    }
    return { data: out, shape, dtype }
  }
  return fail(
    'AUX_DTYPE_MISMATCH',
    `${what}: expected a dtype that ${tensor.dtype} can be read as ` +
      `(${[own, 'f32', integer && 'i32'].filter(Boolean).join(', ')}), got ${dtype ?? 'none asked for'}`,
  )
}

/**
 * Floats in half as many bytes, rounded to nearest, ties to even.
 * @throws AUX_INVALID_ARGUMENT for a finite value that would become infinite.
 */
export function narrowed({ data, shape }: HostArray, dtype: 'F16' | 'BF16', what: string): RawTensor {
  const values = data as Float32Array
  const patterns = dtype === 'BF16' ? toBf16(values) : toHalf(values)
  const infinite = dtype === 'BF16' ? 0x7f80 : 0x7c00
  const beyond = patterns.findIndex((p, i) => (p & 0x7fff) === infinite && Number.isFinite(values[i]))
  if (beyond >= 0)
    fail('AUX_INVALID_ARGUMENT', `${what}: expected values that ${dtype} can hold, got ${values[beyond]} at ${beyond}`)
  return { data: patterns as Uint16Array<ArrayBuffer>, shape, dtype }
}

/** IEEE half-precision patterns of numbers. */
function toHalf(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  return Uint16Array.from(bits, (x) => {
    const sign = (x >>> 16) & 0x8000
    const exponent = ((x >>> 23) & 255) - 112
    if (exponent === 143) return sign | (x & 0x7fffff ? 0x7e00 : 0x7c00)
    if (exponent > 30) return sign | 0x7c00
    if (exponent < -10) return sign
    // Below 2^-14 the fraction has its leading 1 and is shifted; a carry goes on into the exponent as it should.
    const fraction = exponent > 0 ? (exponent << 23) | (x & 0x7fffff) : (x & 0x7fffff) | 0x800000
    const shift = exponent > 0 ? 13 : 14 - exponent
    const low = fraction & ((1 << shift) - 1)
    const half = fraction >>> shift
    const middle = 1 << (shift - 1)
    return sign | (half + (low > middle || (low === middle && half & 1) ? 1 : 0))
  })
}

/** The value of an IEEE half-precision pattern. */
function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  return sign * (1024 + fraction) * 2 ** (exponent - 25)
}

import { fail } from '../errors'
import { typedArray, dtypes, type DType, type TypedArray } from '../tensor/dtype'
import type { HostArray } from '../tensor/host'
import { checkShape, showShape, sizeOf, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'

/** Shape of an input, with its dtype where that is not f32 (or i32, for labels and indices). */
export type InputSpec = Shape | { readonly shape: Shape; readonly dtype?: DType }

/** A value for an input. Typed arrays without a shape have one axis; nested arrays of numbers are f32. */
export type InputValue = HostArray | Tensor | TypedArray | number | readonly unknown[]

export interface NormalSpec {
  readonly shape: Shape
  readonly dtype: DType | undefined
}

export function normalSpec(name: string, spec: InputSpec): NormalSpec {
  const { shape, dtype } = Array.isArray(spec) ? { shape: spec as Shape, dtype: undefined } : (spec as { shape: Shape; dtype?: DType })
  checkShape(`input ${name}`, shape)
  if (dtype !== undefined && !dtypes.includes(dtype)) fail('AUX_DTYPE_MISMATCH', `input ${name}: expected one of ${dtypes.join(', ')}, got ${String(dtype)}`)
  return { shape, dtype }
}

const dtypeOf = (data: TypedArray): DType | undefined =>
  data instanceof Float32Array ? 'f32'
    : data instanceof Int32Array ? 'i32'
      : data instanceof Uint8Array ? 'u8'
        : data instanceof Uint32Array ? 'u32'
          : data instanceof Uint16Array ? 'bf16'
            : undefined

function nestedShape(value: unknown): number[] {
  return Array.isArray(value) ? [value.length, ...(value.length ? nestedShape(value[0]) : [])] : []
}

/** Any value that a run accepts, as a typed array with a shape. */
export function hostValue(name: string, value: InputValue): HostArray | Tensor {
  if (value instanceof Tensor) {
    value.liveStorage()
    return value
  }
  if (ArrayBuffer.isView(value)) {
    const data = value as TypedArray
    const dtype = dtypeOf(data)
    if (!dtype) fail('AUX_DTYPE_MISMATCH', `input ${name}: expected a typed array of 8, 16 or 32 bits, got ${data.constructor.name}`)
    return { data, shape: [data.length], dtype }
  }
  if (typeof value === 'number') return { data: Float32Array.of(value), shape: [], dtype: 'f32' }
  if (Array.isArray(value)) {
    const shape = nestedShape(value)
    const flat = (value as unknown[]).flat(Infinity)
    if (flat.length !== sizeOf(shape) || flat.some((v) => typeof v !== 'number'))
      fail('AUX_SHAPE_MISMATCH', `input ${name}: expected nested arrays of numbers of equal lengths`)
    return { data: Float32Array.from(flat as number[]), shape, dtype: 'f32' }
  }
  const host = value as HostArray
  if (!host || !ArrayBuffer.isView(host.data) || !Array.isArray(host.shape) || !dtypes.includes(host.dtype))
    fail('AUX_INVALID_ARGUMENT', `input ${name}: expected a tensor, a typed array or { data, shape, dtype }, got ${value === null ? 'null' : typeof value}`)
  if (host.data.length !== sizeOf(host.shape))
    fail('AUX_SHAPE_MISMATCH', `input ${name}: expected ${sizeOf(host.shape)} values for shape ${showShape(host.shape)}, got ${host.data.length}`)
  return host
}

/** The bytes to write for a value. */
export const bytesOfValue = (value: HostArray | Tensor): TypedArray => (value instanceof Tensor ? value.dataSync() : value.data)

/** An empty array to read an output into. */
export const hostArray = (shape: Shape, dtype: DType): HostArray => ({ data: typedArray(dtype, sizeOf(shape)), shape, dtype })

import { fail } from '../errors'
import { typedArray, type DType, type TypedArray } from './dtype'
import { checkShape, showShape, sizeOf, type Shape } from './shape'
import { Tensor } from './tensor'

/**
 * Values in JavaScript memory, in row-major order: what data sets give and training takes. The garbage collector frees
 * it, there is nothing to dispose.
 */
export interface HostArray {
  /** The values; bf16 as 16-bit patterns, bool as bytes 0 and 1. */
  readonly data: TypedArray
  /** Its shape. */
  readonly shape: readonly number[]
  /** Its element type. */
  readonly dtype: DType
}

/** Numbers nested as deep as the array has axes. */
export type NestedNumbers = number | boolean | readonly NestedNumbers[]

/** Everything that values can be given as. */
export type HostValues = HostArray | Tensor | TypedArray | NestedNumbers

const natural = (values: unknown): DType | undefined =>
  values instanceof Float32Array
    ? 'f32'
    : values instanceof Int32Array
      ? 'i32'
      : values instanceof Uint32Array
        ? 'u32'
        : values instanceof Uint16Array
          ? 'bf16'
          : values instanceof Uint8Array
            ? 'u8'
            : undefined

const sameStorage = (a: DType, b: DType): boolean =>
  a === b || (a === 'u8' && b === 'bool') || (a === 'bool' && b === 'u8')

/** A host array on a typed array (not copied); one axis and the dtype of the array unless given. */
export function hostArray(data: TypedArray, shape: Shape = [data.length], dtype?: DType): HostArray {
  const kind = natural(data)
  if (!kind)
    fail(
      'AUX_INVALID_ARGUMENT',
      'hostArray: expected a Float32Array, Int32Array, Uint32Array, Uint16Array (bf16) or Uint8Array, got ' +
        `${describe(data)}`,
    )
  if (dtype && !sameStorage(kind, dtype))
    fail('AUX_DTYPE_MISMATCH', `hostArray: expected an array that holds ${dtype}, got ${describe(data)}`)
  checkShape('hostArray', shape)
  if (sizeOf(shape) !== data.length)
    fail(
      'AUX_SHAPE_MISMATCH',
      `hostArray: expected ${sizeOf(shape)} values for shape ${showShape(shape)}, got ${data.length}`,
    )
  return { data, shape: [...shape], dtype: dtype ?? kind }
}

/** True for an object with data, shape and dtype. */
export function isHostArray(value: unknown): value is HostArray {
  if (typeof value !== 'object' || value === null || value instanceof Tensor) return false
  const { data, shape, dtype } = value as Partial<HostArray>
  return ArrayBuffer.isView(data) && Array.isArray(shape) && typeof dtype === 'string'
}

/**
 * Values of any kind as a host array: typed arrays and host arrays are not copied, unless another dtype is asked for.
 * Plain numbers are f32 and booleans bool unless `dtype` says otherwise. `what` names them in errors.
 */
export function toHost(what: string, values: HostValues, dtype?: DType): HostArray {
  const array = asHost(what, values, dtype)
  if (!dtype || array.dtype === dtype) return array
  if (array.dtype === 'bf16' || dtype === 'bf16')
    fail('AUX_DTYPE_MISMATCH', `${what}: expected values of dtype ${dtype}, got ${array.dtype}`)
  const data = typedArray(dtype, array.data.length)
  for (let i = 0; i < data.length; i++) store(what, array.data[i], dtype, data, i)
  return { data, shape: array.shape, dtype }
}

function asHost(what: string, values: HostValues, dtype?: DType): HostArray {
  if (values instanceof Tensor) return { data: values.rawSync(), shape: values.shape, dtype: values.dtype }
  if (ArrayBuffer.isView(values)) {
    const kind = natural(values)
    if (!kind)
      fail(
        'AUX_INVALID_ARGUMENT',
        `${what}: expected an array of f32, i32, u32, u16 (bf16) or u8 values, got ${describe(values)}`,
      )
    return { data: values as TypedArray, shape: [(values as TypedArray).length], dtype: kind }
  }
  if (isHostArray(values)) {
    const kind = natural(values.data)
    if (!kind || !sameStorage(kind, values.dtype))
      fail('AUX_DTYPE_MISMATCH', `${what}: expected an array that holds ${values.dtype}, got ${describe(values.data)}`)
    if (values.data.length !== sizeOf(values.shape))
      fail(
        'AUX_SHAPE_MISMATCH',
        `${what}: expected ${sizeOf(values.shape)} values for shape ${showShape(values.shape)}, got ` +
          `${describe(values.data)} of ${values.data.length}`,
      )
    return values
  }
  const shape: number[] = []
  let first: unknown = values
  for (; Array.isArray(first); first = first[0]) {
    shape.push(first.length)
    if (first.length === 0) break
  }
  const kind = dtype ?? (typeof first === 'boolean' ? 'bool' : 'f32')
  if (kind === 'bf16')
    fail('AUX_DTYPE_MISMATCH', `${what}: expected values of dtype f32, i32, u32, u8 or bool, got bf16 asked for`)
  const data = typedArray(kind, sizeOf(shape))
  flatten(what, values as NestedNumbers, shape, 0, kind, data, 0)
  return { data, shape, dtype: kind }
}

function flatten(
  what: string,
  v: NestedNumbers,
  shape: Shape,
  axis: number,
  dtype: DType,
  out: TypedArray,
  at: number,
): number {
  if (axis === shape.length) {
    if (typeof v !== 'number' && typeof v !== 'boolean')
      fail('AUX_SHAPE_MISMATCH', `${what}: expected numbers in arrays of shape ${showShape(shape)}, got ${describe(v)}`)
    store(what, Number(v), dtype, out, at)
    return at + 1
  }
  if (!Array.isArray(v) || v.length !== shape[axis])
    fail(
      'AUX_SHAPE_MISMATCH',
      `${what}: expected nested arrays of shape ${showShape(shape)}, got ` +
        `${Array.isArray(v) ? `one of length ${v.length}` : describe(v)} on axis ${axis}`,
    )
  for (const item of v as NestedNumbers[]) at = flatten(what, item, shape, axis + 1, dtype, out, at)
  return at
}

// A label of 300 in a u8 array must not silently become 44.
function store(what: string, value: number, dtype: DType, out: TypedArray, at: number): void {
  out[at] = value
  if (dtype !== 'f32' && (out[at] !== value || (dtype === 'bool' && value > 1)))
    fail('AUX_INVALID_ARGUMENT', `${what}: expected values that ${dtype} can hold, got ${value} at ${at}`)
}

function describe(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  if (typeof value === 'object') return value.constructor?.name ?? 'an object'
  return typeof value === 'function' ? 'a function' : (JSON.stringify(value) ?? String(value))
}

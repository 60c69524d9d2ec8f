import { describe, fail, isForeign } from '../errors'
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

/** Typed arrays that values can be given in; doubles become f32, unless another dtype is asked for. */
export type NumberArray = TypedArray | Float64Array | Uint8ClampedArray

/** Numbers nested as deep as the array has axes; the innermost arrays may be typed (but for bf16 patterns). */
export type NestedNumbers = number | boolean | Exclude<NumberArray, Uint16Array> | readonly NestedNumbers[]

/** Numbers and their shape: a `HostArray` whose dtype may be left out, being that of the array. */
export interface ShapedArray {
  /** The values, in row-major order. */
  readonly data: NumberArray | readonly number[]
  /** Its shape. */
  readonly shape: readonly number[]
  /** Its element type; that of a typed array, and f32 of an array of numbers, unless given. */
  readonly dtype?: DType
}

/** Everything that values can be given as. */
export type HostValues = ShapedArray | Tensor | NumberArray | NestedNumbers

const kinds: Readonly<Record<string, DType>> = {
  Float32Array: 'f32',
  Int32Array: 'i32',
  Uint32Array: 'u32',
  Uint16Array: 'bf16',
  Uint8Array: 'u8',
  Uint8ClampedArray: 'u8',
}

// Arrays of another context (node:vm, a test environment) are of no class that is known here.
/** What kind of typed array it is, by name. */
const kindOf = (values: unknown): string =>
  ArrayBuffer.isView(values) ? (values as Uint8Array)[Symbol.toStringTag] : ''

/** True of an array of doubles. */
export const isDoubles = (values: unknown): values is Float64Array => kindOf(values) === 'Float64Array'

/** The dtype that a typed array holds as it is. */
export const naturalDType = (values: unknown): DType | undefined => kinds[kindOf(values)]

const sameStorage = (a: DType, b: DType): boolean =>
  a === b || (a === 'u8' && b === 'bool') || (a === 'bool' && b === 'u8')

/** A host array on a typed array (not copied); one axis and the dtype of the array unless given. */
export function hostArray(data: TypedArray, shape: Shape = [data.length], dtype?: DType): HostArray {
  const kind = naturalDType(data)
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

/** True of an array, typed or not. */
const isRow = (value: unknown): value is ArrayLike<unknown> => Array.isArray(value) || ArrayBuffer.isView(value)

export const isShaped = (value: unknown): value is ShapedArray =>
  typeof value === 'object' &&
  value !== null &&
  !(value instanceof Tensor) &&
  isRow((value as ShapedArray).data) &&
  Array.isArray((value as ShapedArray).shape)

const isPlain = (values: HostValues): values is NestedNumbers =>
  Array.isArray(values) || typeof values === 'number' || typeof values === 'boolean'

/**
 * Values of any kind as a host array: typed arrays and host arrays are not copied, unless another dtype is asked for.
 * Plain numbers are f32 and booleans bool unless `dtype` says otherwise. `what` names them in errors.
 */
export function toHost(what: string, values: HostValues, dtype?: DType): HostArray {
  const array = asHost(what, values, dtype)
  if (!dtype || array.dtype === dtype) return array
  if (array.dtype === 'bf16' || dtype === 'bf16')
    fail('AUX_DTYPE_MISMATCH', `${what}: expected values of dtype ${dtype}, got ${array.dtype}`)
  return { data: storeAll(what, array.data, dtype), shape: array.shape, dtype }
}

function asHost(what: string, values: HostValues, dtype?: DType): HostArray {
  if (values instanceof Tensor) return { data: values.rawSync(), shape: values.shape, dtype: values.dtype }
  if (ArrayBuffer.isView(values)) return viewed(what, values as NumberArray, dtype)
  if (isShaped(values)) {
    const { data, shape } = values
    const wanted = values.dtype ?? dtype
    const array = ArrayBuffer.isView(data) ? viewed(what, data as NumberArray, wanted) : asHost(what, data, wanted)
    const kind = values.dtype ?? array.dtype
    if (!sameStorage(array.dtype, kind))
      fail('AUX_DTYPE_MISMATCH', `${what}: expected an array that holds ${kind}, got ${describe(data)}`)
    checkShape(what, shape)
    if (array.data.length !== sizeOf(shape))
      fail(
        'AUX_SHAPE_MISMATCH',
        `${what}: expected ${sizeOf(shape)} values for shape ${showShape(shape)}, got ` +
          `${describe(data)} of ${array.data.length}`,
      )
    return array.data === data && isHostArray(values) ? values : { data: array.data, shape, dtype: kind }
  }
  if (!isPlain(values)) {
    const { data, shape } = (values ?? {}) as Partial<ShapedArray>
    fail(
      'AUX_INVALID_ARGUMENT',
      `${what}: expected a tensor, a typed array, { data, shape } with an array, or numbers in nested arrays, got ` +
        (data && !isForeign(values) ? `{ data: ${describe(data)}, shape: ${describe(shape)} }` : describe(values)),
    )
  }
  const { numbers, shape, dtype: own } = flatten(what, values)
  const kind = dtype ?? own
  if (kind === 'bf16')
    fail('AUX_DTYPE_MISMATCH', `${what}: expected values of dtype f32, i32, u32, u8 or bool, got bf16 asked for`)
  return { data: storeAll(what, numbers, kind), shape, dtype: kind }
}

/** A typed array as it is, or doubles as another dtype (f32 unless said). */
function viewed(what: string, values: NumberArray, dtype: DType = 'f32'): HostArray {
  const shape = [values.length]
  if (isDoubles(values)) {
    if (dtype === 'bf16')
      fail('AUX_DTYPE_MISMATCH', `${what}: expected a Uint16Array of bf16 patterns, got Float64Array`)
    return { data: storeAll(what, values, dtype), shape, dtype }
  }
  const kind = naturalDType(values)
  if (!kind)
    fail(
      'AUX_INVALID_ARGUMENT',
      `${what}: expected an array of floats, i32, u32, u16 (bf16) or u8 values, got ${describe(values)}`,
    )
  const clamped = kindOf(values) === 'Uint8ClampedArray'
  return {
    data: clamped ? new Uint8Array(values.buffer, values.byteOffset, values.length) : (values as TypedArray),
    shape,
    dtype: kind,
  }
}

/** Numbers as an array of this dtype, each of which it can hold: a label of 300 must not silently become 44. */
export function storeAll(what: string, values: ArrayLike<number>, dtype: DType): TypedArray {
  const out = typedArray(dtype, values.length)
  for (let i = 0; i < out.length; i++) {
    const value = values[i]
    out[i] = value
    if (dtype !== 'f32' && (out[i] !== value || (dtype === 'bool' && value > 1)))
      fail('AUX_INVALID_ARGUMENT', `${what}: expected values that ${dtype} can hold, got ${value} at ${i}`)
  }
  return out
}

/**
 * Numbers or booleans out of nested arrays, in row-major order. The dtype is that of the first: f32 of a number, bool of a
 * boolean, and of a typed array its own.
 * @throws AUX_SHAPE_MISMATCH where arrays of one depth differ in length, AUX_INVALID_ARGUMENT at what is no number.
 */
export function flatten(what: string, values: NestedNumbers): { numbers: Float64Array; shape: number[]; dtype: DType } {
  const shape: number[] = []
  let first: unknown = values
  let dtype: DType | undefined
  for (; isRow(first); first = first[0]) {
    shape.push(first.length)
    if (ArrayBuffer.isView(first)) dtype = isDoubles(first) ? 'f32' : naturalDType(first)
  }
  const numbers = new Float64Array(sizeOf(shape))
  let at = 0
  const visit = (v: unknown, axis: number): void => {
    if (axis < shape.length ? !isRow(v) || v.length !== shape[axis] : isRow(v))
      fail(
        'AUX_SHAPE_MISMATCH',
        `${what}: expected nested arrays of shape ${showShape(shape)}, got ` +
          `${isRow(v) ? `one of length ${v.length}` : describe(v)} on axis ${axis}`,
      )
    if (Array.isArray(v)) for (const item of v) visit(item, axis + 1)
    else if (ArrayBuffer.isView(v) && axis === shape.length - 1 && (isDoubles(v) || rowTypes.has(naturalDType(v)))) {
      numbers.set(v as Float64Array, at)
      at += shape[axis]
    } else if (typeof v === 'number' || typeof v === 'boolean') numbers[at++] = Number(v)
    else
      fail(
        'AUX_INVALID_ARGUMENT',
        `${what}: expected numbers in nested arrays, or arrays of f32, f64, i32, u32 or u8, got ${describe(v)}`,
      )
  }
  visit(values, 0)
  return { numbers, shape, dtype: dtype ?? (typeof first === 'boolean' ? 'bool' : 'f32') }
}

/** What a typed array within others may hold: of a Uint16Array nobody knows whether it holds numbers or bf16 patterns. */
const rowTypes: ReadonlySet<DType | undefined> = new Set(['f32', 'i32', 'u32', 'u8'])

import { expectIntegers, fail } from '../errors'
import { apply, defineOp } from '../graph/op'
import { checkDType, encode, fromBf16, typedArray, type DType, type TypedArray } from '../tensor/dtype'
import { describe } from '../tensor/host'
import { checkShape, showShape, sizeOf, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'

/** Numbers nested as deep as the tensor has axes. */
export type Nested = number | boolean | readonly Nested[]

function shapeOf(values: Nested): number[] {
  if (!Array.isArray(values)) return []
  return [values.length, ...(values.length ? shapeOf(values[0] as Nested) : [])]
}

function flattenInto(values: Nested, shape: Shape, out: TypedArray, at: number): number {
  if (shape.length === 0) {
    if (typeof values !== 'number' && typeof values !== 'boolean')
      fail(
        Array.isArray(values) ? 'AUX_SHAPE_MISMATCH' : 'AUX_INVALID_ARGUMENT',
        Array.isArray(values)
          ? 'tensor: expected nested arrays of equal lengths, got a ragged one'
          : `tensor: expected numbers, or booleans, in nested arrays, or a typed array, got ${describe(values)}`,
      )
    out[at] = Number(values)
    return at + 1
  }
  if (!Array.isArray(values) || values.length !== shape[0])
    fail(
      'AUX_SHAPE_MISMATCH',
      `tensor: expected nested arrays of equal lengths, got ${Array.isArray(values) ? values.length : 'a number'} where ${shape[0]} were before`,
    )
  for (const v of values as Nested[]) at = flattenInto(v, shape.slice(1), out, at)
  return at
}

function dtypeOfArray(values: ArrayBufferView): DType {
  if (values instanceof Float32Array || values instanceof Float64Array) return 'f32'
  if (values instanceof Int32Array) return 'i32'
  if (values instanceof Uint32Array) return 'u32'
  if (values instanceof Uint16Array) return 'bf16'
  if (values instanceof Uint8Array || values instanceof Uint8ClampedArray) return 'u8'
  return fail(
    'AUX_DTYPE_MISMATCH',
    `tensor: expected a typed array of 32 or 64-bit floats, i32, u32, u16 (bf16) or u8, got ${values.constructor.name}`,
  )
}

const firstOf = (values: Nested): unknown => (Array.isArray(values) ? firstOf(values[0] as Nested) : values)

/**
 * A tensor from nested arrays or a typed array (then with its shape; one axis by default). The dtype is f32 for plain
 * numbers, bool for booleans, and the array's own for typed arrays (a Uint16Array holds bf16 patterns), unless given.
 */
export function tensor(
  values: Nested | TypedArray | Float64Array | Uint8ClampedArray,
  shape?: Shape,
  dtype?: DType,
): Tensor {
  if (ArrayBuffer.isView(values)) {
    const array = values as TypedArray
    const target = shape ?? [array.length]
    checkShape('tensor', target)
    if (sizeOf(target) !== array.length)
      fail(
        'AUX_SHAPE_MISMATCH',
        `tensor: expected ${sizeOf(target)} values for shape ${showShape(target)}, got ${array.length}`,
      )
    const own = dtypeOfArray(array)
    if ((!dtype || dtype === own) && !(values instanceof Float64Array)) return Tensor.from(array, target, own)
    const numbers = own === 'bf16' ? fromBf16(array as Uint16Array) : array
    return Tensor.from(encode(numbers, dtype ?? own), target, dtype ?? own)
  }
  const nested = shapeOf(values)
  const kind = dtype ?? (typeof firstOf(values) === 'boolean' ? 'bool' : 'f32')
  // Fractions on their way to bf16 must not be cut.
  const data = kind === 'bf16' ? new Float32Array(sizeOf(nested)) : typedArray(kind, sizeOf(nested))
  flattenInto(values, nested, data, 0)
  const target = shape ?? nested
  checkShape('tensor', target)
  if (sizeOf(target) !== data.length)
    fail(
      'AUX_SHAPE_MISMATCH',
      `tensor: expected ${sizeOf(target)} values for shape ${showShape(target)}, got ${data.length}`,
    )
  return Tensor.from(kind === 'bf16' ? encode(data, kind) : data, target, kind)
}

/** @internal */
export const fillOp = defineOp<{ shape: Shape; dtype: DType; value: number }>({
  name: 'fill',
  infer: (_, { shape, dtype }) => [{ shape, dtype }],
  kernel: (_, __, { value }) => ({ name: 'fill', numbers: [value] }),
})

/** A tensor with one value everywhere. */
export function full(shape: Shape, value: number, dtype: DType = 'f32'): Tensor {
  checkShape('full', shape)
  checkDType('full', dtype)
  return apply(fillOp, [], { shape, dtype, value })[0]
}
/** Zeros. */
export const zeros = (shape: Shape, dtype: DType = 'f32'): Tensor => full(shape, 0, dtype)
/** Ones. */
export const ones = (shape: Shape, dtype: DType = 'f32'): Tensor => full(shape, 1, dtype)

/** start, start + step, ... below stop. */
export function arange(start: number, stop?: number, step = 1, dtype: DType = 'f32'): Tensor {
  const [from, to] = stop === undefined ? [0, start] : [start, stop]
  if (![from, to, step].every(Number.isFinite) || step === 0)
    fail('AUX_INVALID_ARGUMENT', `arange: expected finite bounds and a step that is not 0, got ${from}, ${to}, ${step}`)
  const n = Math.max(0, Math.ceil((to - from) / step))
  return Tensor.from(
    encode(
      Array.from({ length: n }, (_, i) => from + i * step),
      dtype,
    ),
    [n],
    dtype,
  )
}

/** `count` values from start to stop, both included. */
export function linspace(start: number, stop: number, count: number): Tensor {
  expectIntegers('linspace', { count }, 0)
  const data = Float32Array.from({ length: count }, (_, i) =>
    count === 1 ? start : start + ((stop - start) * i) / (count - 1),
  )
  return Tensor.from(data, [count], 'f32')
}

/** The identity matrix. */
export function eye(n: number): Tensor {
  checkShape('eye', [n, n])
  const data = new Float32Array(n * n)
  for (let i = 0; i < n; i++) data[i * n + i] = 1
  return Tensor.from(data, [n, n], 'f32')
}

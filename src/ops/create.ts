import { fail } from '../errors'
import { apply, defineOp } from '../graph/op'
import { typedArray, type DType, type TypedArray } from '../tensor/dtype'
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
      fail('AUX_SHAPE_MISMATCH', 'tensor: expected nested arrays of equal lengths, got a ragged one')
    out[at] = Number(values)
    return at + 1
  }
  if (!Array.isArray(values) || values.length !== shape[0])
    fail('AUX_SHAPE_MISMATCH', `tensor: expected nested arrays of equal lengths, got ${Array.isArray(values) ? values.length : 'a number'} where ${shape[0]} were before`)
  for (const v of values as Nested[]) at = flattenInto(v, shape.slice(1), out, at)
  return at
}

const dtypeOfArray = (values: TypedArray): DType =>
  values instanceof Float32Array ? 'f32' : values instanceof Int32Array ? 'i32' : values instanceof Uint32Array ? 'u32' : values instanceof Uint16Array ? 'bf16' : 'u8'

/**
 * A tensor from nested arrays or a typed array (then with its shape; one axis by default). The dtype is f32 for plain
 * numbers, bool for booleans, and the array's own for typed arrays, unless given.
 */
export function tensor(values: Nested | TypedArray, shape?: Shape, dtype?: DType): Tensor {
  if (ArrayBuffer.isView(values)) {
    const array = values as TypedArray
    const target = shape ?? [array.length]
    checkShape('tensor', target)
    if (sizeOf(target) !== array.length)
      fail('AUX_SHAPE_MISMATCH', `tensor: expected ${sizeOf(target)} values for shape ${showShape(target)}, got ${array.length}`)
    const t = Tensor.from(array, target, dtypeOfArray(array))
    return dtype && dtype !== t.dtype ? t.cast(dtype) : t
  }
  const nested = shapeOf(values)
  const kind = dtype ?? (typeof [values].flat(Infinity as 1)[0] === 'boolean' ? 'bool' : 'f32')
  const data = typedArray(kind, sizeOf(nested))
  flattenInto(values, nested, data, 0)
  const t = Tensor.from(data, nested, kind)
  return shape ? t.reshape(shape) : t
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
  return apply(fillOp, [], { shape, dtype, value })[0]
}
export const zeros = (shape: Shape, dtype: DType = 'f32'): Tensor => full(shape, 0, dtype)
export const ones = (shape: Shape, dtype: DType = 'f32'): Tensor => full(shape, 1, dtype)

/** start, start + step, ... below stop. */
export function arange(start: number, stop?: number, step = 1, dtype: DType = 'f32'): Tensor {
  const [from, to] = stop === undefined ? [0, start] : [start, stop]
  if (step === 0) fail('AUX_INVALID_ARGUMENT', 'arange: expected a step that is not 0')
  const n = Math.max(0, Math.ceil((to - from) / step))
  const data = typedArray(dtype, n)
  for (let i = 0; i < n; i++) data[i] = from + i * step
  return Tensor.from(data, [n], dtype)
}

/** `count` values from start to stop, both included. */
export function linspace(start: number, stop: number, count: number): Tensor {
  const data = Float32Array.from({ length: count }, (_, i) => (count === 1 ? start : start + ((stop - start) * i) / (count - 1)))
  return Tensor.from(data, [count], 'f32')
}

/** The identity matrix. */
export function eye(n: number): Tensor {
  const data = new Float32Array(n * n)
  for (let i = 0; i < n; i++) data[i * n + i] = 1
  return Tensor.from(data, [n, n], 'f32')
}

import { AuxgradError, describe, expectIntegers, fail } from '../errors'
import { apply, defineOp } from '../graph/op'
import { checkDType, encode, fromBf16, type DType, type TypedArray } from '../tensor/dtype'
import {
  flatten,
  isShaped,
  isDoubles,
  naturalDType,
  toHost,
  type HostArray,
  type NestedNumbers,
  type NumberArray,
  type ShapedArray,
} from '../tensor/host'
import { checkShape, showShape, sizeOf, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'

/**
 * A tensor from nested arrays, a typed array (then with its shape; one axis by default), or what runs and files give,
 * `{ data, shape, dtype }`. The dtype is f32 for plain numbers, bool for booleans, and the array's own for typed arrays (a Uint16Array holds bf16 patterns), unless given.
 */
export function tensor(values: NestedNumbers | NumberArray | ShapedArray, shape?: Shape, dtype?: DType): Tensor {
  const given = ArrayBuffer.isView(values)
    ? { numbers: values as NumberArray, shape: [(values as NumberArray).length], dtype: dtypeOf(values as NumberArray) }
    : isShaped(values as ShapedArray)
      ? numbersOf(toHost('tensor', values as ShapedArray))
      : flatten('tensor', values as NestedNumbers)
  const { numbers } = given
  const target = shape ?? given.shape
  checkShape('tensor', target)
  if (sizeOf(target) !== numbers.length)
    fail(
      'AUX_SHAPE_MISMATCH',
      `tensor: expected ${sizeOf(target)} values for shape ${showShape(target)}, got ${numbers.length}`,
    )
  const kind = dtype ?? given.dtype
  if (kind === given.dtype && !isDoubles(numbers)) return Tensor.from(numbers as TypedArray, target, kind)
  return Tensor.from(
    encode('tensor', given.dtype === 'bf16' ? fromBf16(numbers as Uint16Array) : numbers, kind),
    target,
    kind,
  )
}

const numbersOf = ({ data, shape, dtype }: HostArray) => ({ numbers: data as NumberArray, shape, dtype })

const dtypeOf = (values: NumberArray): DType =>
  isDoubles(values)
    ? 'f32'
    : (naturalDType(values) ??
      fail(
        'AUX_DTYPE_MISMATCH',
        `tensor: expected a typed array of 32 or 64-bit floats, i32, u32, u16 (bf16) or u8, got ${describe(values)}`,
      ))

/** @internal */
export const fillOp = defineOp<{ shape: Shape; dtype: DType; value: number }>({
  name: 'fill',
  infer: (_, { shape, dtype }) => [{ shape, dtype }],
  kernel: (_, __, { value }) => ({ name: 'fill', numbers: [value] }),
})

function filled(what: string, shape: Shape, value: number, dtype: DType): Tensor {
  checkShape(what, shape)
  checkDType(what, dtype)
  return apply(fillOp, [], { shape, dtype, value: asStored(what, value, dtype) })[0]
}

/** @internal What a tensor of this dtype holds for a number: whole ones are cut off behind the point. Throws where it is beyond. */
export const asStored = (what: string, value: number, dtype: DType): number =>
  dtype === 'f32' || dtype === 'bf16' ? value : encode(what, [value], dtype)[0]

/** A tensor with one value everywhere. @throws AUX_INVALID_ARGUMENT for one that the dtype cannot hold. */
export const full = (shape: Shape, value: number, dtype: DType = 'f32'): Tensor => filled('full', shape, value, dtype)
/** Zeros. */
export const zeros = (shape: Shape, dtype: DType = 'f32'): Tensor => filled('zeros', shape, 0, dtype)
/** Ones. */
export const ones = (shape: Shape, dtype: DType = 'f32'): Tensor => filled('ones', shape, 1, dtype)

/** start, start + step, ... below stop. */
export function arange(start: number, stop?: number, step = 1, dtype: DType = 'f32'): Tensor {
  const [from, to] = stop === undefined ? [0, start] : [start, stop]
  if (![from, to, step].every(Number.isFinite) || step === 0)
    fail('AUX_INVALID_ARGUMENT', `arange: expected finite bounds and a step that is not 0, got ${from}, ${to}, ${step}`)
  const n = Math.max(0, Math.ceil((to - from) / step))
  const values = numbersFor('arange', Float64Array, n)
  for (let i = 0; i < n; i++) values[i] = from + i * step
  return Tensor.from(encode('arange', values, dtype), [n], dtype)
}

/** Zeros in memory of JavaScript, or a clear error: what it has no room for would end the process. */
function numbersFor<T extends Float32Array | Float64Array>(what: string, Kind: new (n: number) => T, n: number): T {
  try {
    return new Kind(n)
  } catch (cause) {
    throw new AuxgradError('AUX_OUT_OF_MEMORY', `${what}: JavaScript has no room for ${n} numbers`, { cause })
  }
}

/** `count` values from start to stop, both included. */
export function linspace(start: number, stop: number, count: number): Tensor {
  expectIntegers('linspace', { count }, 0)
  if (![start, stop].every(Number.isFinite))
    fail('AUX_INVALID_ARGUMENT', `linspace: expected finite bounds, got ${start} and ${stop}`)
  const data = numbersFor('linspace', Float32Array, count)
  for (let i = 0; i < count; i++) data[i] = count === 1 ? start : start + ((stop - start) * i) / (count - 1)
  return Tensor.from(data, [count], 'f32')
}

/** The identity matrix. */
export function eye(n: number): Tensor {
  checkShape('eye', [n, n])
  const data = numbersFor('eye', Float32Array, n * n)
  for (let i = 0; i < n; i++) data[i * n + i] = 1
  return Tensor.from(data, [n, n], 'f32')
}

import { describe, fail } from '../errors'
import { checkDType, typedArray, type DType, type TypedArray } from '../tensor/dtype'
import { storeAll, toHost, type HostArray, type HostValues } from '../tensor/host'
import { checkShape, sizeOf, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'

/** Shape of an input, with its dtype where that is not f32 (or i32, for labels and indices); or a value that has it. */
export type InputSpec =
  | Shape
  | TypedArray
  | {
      /** Sizes of the axes. */
      readonly shape: Shape
      /** Element type. */
      readonly dtype?: DType
    }

/** A value for an input. Typed arrays without a shape have one axis; whole numbers are indices where such are wanted, whatever they are given as. */
export type InputValue = HostValues

/** Shapes of named inputs: `{ x: [128, 28, 28, 1], y: [128] }`. */
export type Specs = Readonly<Record<string, InputSpec>>
/** Values of named inputs: `{ x: array, y: [3, 1, 4] }`. */
export type Batch = Readonly<Record<string, InputValue>>

export interface NormalSpec {
  readonly shape: Shape
  readonly dtype: DType | undefined
}

function normalSpec(name: string, spec: InputSpec): NormalSpec {
  if (ArrayBuffer.isView(spec)) return toHost(`input ${name}`, spec as TypedArray)
  if (typeof spec !== 'object' || spec === null)
    fail('AUX_INVALID_ARGUMENT', `input ${name}: expected a shape or { shape, dtype }, got ${describe(spec)}`)
  const { shape, dtype } = Array.isArray(spec)
    ? { shape: spec as Shape, dtype: undefined }
    : (spec as { shape: Shape; dtype?: DType })
  checkShape(`input ${name}`, shape)
  if (dtype !== undefined) checkDType(`input ${name}`, dtype)
  return { shape, dtype }
}

/** Inputs by name, in normal form. */
export function specsOf(specs: Specs): Map<string, NormalSpec> {
  expectNamed('plan', 'shapes', specs)
  return new Map(Object.entries(specs).map(([name, spec]) => [name, normalSpec(name, spec)]))
}

function expectNamed(method: string, what: string, given: unknown): void {
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    fail('AUX_INVALID_ARGUMENT', `${method}: expected { name: ${what} }, got ${describe(given)}`)
}

/** Shapes and dtypes of inputs as a key. */
export function keyOf(specs: ReadonlyMap<string, NormalSpec>): string {
  let key = ''
  for (const name of [...specs.keys()].sort()) {
    const { shape, dtype } = specs.get(name)!
    key += `${name}:${dtype ?? '?'}[${shape.join()}] `
  }
  return key
}

/** A batch with its values in a form that can be written. */
export function valuesOf(batch: Batch): Map<string, HostArray | Tensor> {
  expectNamed('run', 'values', batch)
  const values = new Map<string, HostArray | Tensor>()
  for (const name in batch) values.set(name, hostValue(name, batch[name]))
  return values
}

/** Any value that a run accepts, in a form that can be written to the arena when its turn comes. */
function hostValue(name: string, value: InputValue): HostArray | Tensor {
  if (value instanceof Tensor) {
    value.liveStorage()
    return value
  }
  return toHost(`input ${name}`, value)
}

/** The bytes to write for a value of an input of this dtype. */
export function bytesOfValue(name: string, value: HostArray | Tensor, dtype: DType): TypedArray {
  const data = value instanceof Tensor ? value.rawSync() : value.data
  // They were there when the run was asked for.
  if (data.length !== sizeOf(value.shape))
    fail(
      'AUX_INVALID_ARGUMENT',
      `input ${name}: expected ${sizeOf(value.shape)} values when the run begins, got ${data.length}: their memory was ` +
        'transferred or resized before its turn',
    )
  return value.dtype === 'f32' && dtype === 'i32' ? storeAll(`input ${name}`, data, dtype) : data
}

/** The dtype that is settled before tracing: that of a shape, but floats of a tensor or an array may turn out to be indices. */
export const declared = (spec: NormalSpec): DType | undefined =>
  'data' in spec && spec.dtype === 'f32' ? undefined : spec.dtype

/** An empty array to read an output into. */
export const emptyHost = (shape: Shape, dtype: DType): HostArray => ({
  data: typedArray(dtype, sizeOf(shape)),
  shape,
  dtype,
})

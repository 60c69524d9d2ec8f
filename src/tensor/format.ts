import { fromBf16, type DType, type TypedArray } from './dtype'
import { showShape, type Shape } from './shape'

/** Numbers (or booleans) nested as deep as the tensor has axes. */
export type NestedArray = number | boolean | NestedArray[]

/** Row-major values as nested arrays. */
export function nest(values: TypedArray, shape: Shape, dtype: DType): NestedArray {
  const at = { index: 0 }
  const build = (axis: number): NestedArray => {
    if (axis === shape.length) {
      const v = values[at.index++]
      return dtype === 'bool' ? v !== 0 : v
    }
    return Array.from({ length: shape[axis] }, () => build(axis + 1))
  }
  return build(0)
}

/** Entries shown at each end of an axis that is too long, and the number of elements up to which all are shown. */
const edge = 3
const most = 1000

const show = (v: number, dtype: DType): string => {
  if (dtype === 'bool') return v ? 'true' : 'false'
  if ((Number.isInteger(v) && (dtype !== 'f32' || Math.abs(v) < 1e8)) || !Number.isFinite(v))
    return Object.is(v, -0) ? '-0' : String(v)
  const size = Math.abs(v)
  return size >= 1e5 || size < 1e-3 ? v.toExponential(4) : v.toFixed(4)
}

/** A table for people: aligned, and cut where it is long. */
export function format(values: TypedArray, shape: Shape, dtype: DType): string {
  const cut = values.length > most
  const shown = (n: number): (number | null)[] =>
    cut && n > 2 * edge ? [...range(0, edge), null, ...range(n - edge, n)] : range(0, n)
  const cells: string[] = []
  const collect = (axis: number, offset: number): void => {
    if (axis === shape.length) cells.push(show(values[offset], dtype))
    else for (const i of shown(shape[axis])) if (i !== null) collect(axis + 1, offset * shape[axis] + i)
  }
  if (values.length) collect(0, 0)
  const width = Math.max(0, ...cells.map((c) => c.length))
  let next = 0
  const write = (axis: number): string => {
    if (axis === shape.length) return cells[next++].padStart(width)
    if (!values.length) return '[]'
    const inner = shown(shape[axis]).map((i) => (i === null ? '...' : write(axis + 1)))
    const last = axis === shape.length - 1
    return `[${inner.join(last ? ', ' : `,${'\n'.repeat(shape.length - 1 - axis)}${' '.repeat(axis + 1)}`)}]`
  }
  return `Tensor ${dtype} ${showShape(shape)}\n${write(0)}`
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i)

/** Values as numbers that JavaScript can read: bf16 as floats. */
export const readable = (values: TypedArray, dtype: DType): TypedArray =>
  dtype === 'bf16' ? fromBf16(values as Uint16Array) : values

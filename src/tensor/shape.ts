import { describe, fail } from '../errors'

/** Sizes of the axes, at most eight; [] is a single number. */
export type Shape = readonly number[]

export const maxRank = 8

export const sizeOf = (shape: Shape): number => shape.reduce((n, d) => n * d, 1)

export const sameShape = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((d, i) => d === b[i])

export const showShape = (shape: Shape): string => `[${shape.join(', ')}]`

/** Strides, in elements, of a contiguous tensor. */
export function contiguousStrides(shape: Shape): number[] {
  const strides = new Array<number>(shape.length)
  let stride = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride
    stride *= shape[i]
  }
  return strides
}

export function isContiguous(shape: Shape, strides: readonly number[]): boolean {
  let expected = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== expected) return false
    expected *= shape[i]
  }
  return true
}

/** Numpy broadcasting of two shapes; `what` names the op in the error. */
export function broadcastShapes(what: string, a: Shape, b: Shape): number[] {
  const rank = Math.max(a.length, b.length)
  const result = new Array<number>(rank)
  for (let i = 0; i < rank; i++) {
    const x = a[a.length - rank + i] ?? 1
    const y = b[b.length - rank + i] ?? 1
    if (x !== y && x !== 1 && y !== 1)
      fail('AUX_SHAPE_MISMATCH', `${what}: cannot broadcast ${showShape(a)} with ${showShape(b)}`)
    result[i] = x === 1 ? y : x
  }
  return result
}

/** An axis in [0, rank) from one that may be negative. */
export function resolveAxis(what: string, axis: number, rank: number): number {
  const resolved = Number.isInteger(axis) ? (axis < 0 ? axis + rank : axis) : -1
  if (resolved < 0 || resolved >= rank)
    fail('AUX_INVALID_ARGUMENT', `${what}: expected an axis in [${-rank}, ${rank - 1}], got ${describe(axis)}`)
  return resolved
}

export function checkShape(what: string, shape: Shape): void {
  if (!Array.isArray(shape))
    fail('AUX_INVALID_ARGUMENT', `${what}: expected a shape (array of sizes), got ${describe(shape)}`)
  if (shape.length > maxRank)
    fail('AUX_INVALID_ARGUMENT', `${what}: expected at most ${maxRank} axes, got ${shape.length}: ${showShape(shape)}`)
  for (const d of shape)
    if (!Number.isSafeInteger(d) || d < 0)
      fail('AUX_INVALID_ARGUMENT', `${what}: expected sizes that are integers >= 0, got ${showShape(shape)}`)
}

import { apply, contiguous, copy, defineOp, expectRank, graphOf } from '../graph/op'
import { describe, expectOneOf, expectOptions, fail } from '../errors'
import {
  checkShape,
  contiguousStrides,
  isContiguous,
  resolveAxis,
  sameShape,
  showShape,
  sizeOf,
  type Shape,
} from '../tensor/shape'
import type { TypedArray } from '../tensor/dtype'
import { Tensor, type Layout } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'

// Zero-copy views: other shapes and strides on the same memory.

const viewless = (): never => fail('AUX_INVALID_ARGUMENT', 'a view has no outputs of its own')

const large = (n: number): boolean => n !== 1

/** The strides in a shape that differs by axes of size 1 alone, or of what is contiguous in any. */
function stridesIn(shape: Shape, x: Layout): readonly number[] {
  if (isContiguous(x.shape, x.strides)) return contiguousStrides(shape)
  const strides = x.strides.filter((_, axis) => large(x.shape[axis]))
  return shape.map((n) => (large(n) ? strides.shift()! : 1))
}

const reshapeOp = defineOp<{ shape: Shape }>({
  name: 'reshape',
  infer: viewless,
  view: (x, { shape }) => ({ shape, strides: stridesIn(shape, x), offset: x.offset }),
  derive: (d) => [d.grad()!.reshape(d.spec(0).shape)],
})

const permuteOp = defineOp<{ order: readonly number[] }>({
  name: 'permute',
  infer: viewless,
  view: (x, { order }) => ({
    shape: order.map((a) => x.shape[a]),
    strides: order.map((a) => x.strides[a]),
    offset: x.offset,
  }),
  derive: (d) => [d.grad()!.permute(d.attrs.order.map((_, i) => d.attrs.order.indexOf(i)))],
})

const expandOp = defineOp<{ shape: Shape }>({
  name: 'expand',
  infer: viewless,
  view: (x, { shape }) => {
    const lead = shape.length - x.shape.length
    const strides = shape.map((d, i) => (i < lead || (x.shape[i - lead] === 1 && d !== 1) ? 0 : x.strides[i - lead]))
    return { shape, strides, offset: x.offset }
  },
  derive: (d) => [sumTo(d.grad()!, d.spec(0).shape)],
})

/** Sums a gradient over the axes along which a value was broadcast. */
function sumTo(g: Tensor, shape: Shape): Tensor {
  const lead = g.rank - shape.length
  const axes = g.shape.map((_, i) => i).filter((i) => i < lead || (shape[i - lead] === 1 && g.shape[i] !== 1))
  return axes.length ? g.sum(axes, true).reshape(shape) : g
}

/** @internal The tensor repeated along axes of size 1 (and new leading ones); no memory moves. */
export const expand = (x: Tensor, shape: Shape): Tensor =>
  x.rank === shape.length && x.shape.every((d, i) => d === shape[i]) ? x : apply(expandOp, [x], { shape })[0]

const detachOp = defineOp<undefined>({
  name: 'detach',
  infer: viewless,
  view: (x) => ({ shape: x.shape, strides: x.strides, offset: x.offset }),
  constant: true,
})

/** @internal What an op that changes nothing returns: a view of its own if eager (so that both can be disposed). */
export const alias = (x: Tensor): Tensor => (graphOf([x]) ? x : apply(detachOp, [x], undefined)[0])

/**
 * Coordinates of a grid: of vectors [n], [m], ... one tensor [n, m, ...] each, without copying. With `indexing: 'xy'` the
 * first two axes are the other way round, rows by columns.
 */
export function meshgrid(vectors: readonly Tensor[], options: { indexing?: 'ij' | 'xy' } = {}): Tensor[] {
  const name = 'meshgrid'
  expectArray(name, vectors)
  for (const t of vectors) expectRank(name, 'every tensor', t, 1)
  expectOptions(name, options, ['indexing'])
  const { indexing = 'ij' } = options
  expectOneOf(name, { indexing }, 'ij', 'xy')
  const axes = vectors.map((_, i) => (indexing === 'xy' && i < 2 && vectors.length > 1 ? 1 - i : i))
  const shape = axes.map((i) => vectors[i].size)
  return vectors.map((t, i) => tidy(() => t.reshape(shape.map((n, k) => (k === axes[i] ? n : 1))).expand(shape)))
}

declare module '../tensor/tensor' {
  interface Tensor {
    /** The same values in another shape; one size may be -1. Copies only where the strides demand it. */
    reshape(shape: Shape): Tensor
    /** Axes `from` to `to` (the last by default) made one. */
    flatten(from?: number, to?: number): Tensor
    /** Axes in another order. */
    permute(order: readonly number[]): Tensor
    /** Two axes exchanged (the last two by default). */
    transpose(a?: number, b?: number): Tensor
    /** Repeated along axes of size 1 and along new leading axes, without copying. */
    expand(shape: Shape): Tensor
    /** A new axis of size 1. */
    unsqueeze(axis: number): Tensor
    /** Without an axis of size 1, or without all of them. */
    squeeze(axis?: number): Tensor
    /** A copy in memory of its own, in row-major order. */
    clone(): Tensor
    /** The same values, through which no gradient flows; without copying. */
    detach(): Tensor
    /**
     * Writes the values into a tensor of the same shape and dtype, or into an array of the same length.
     * @throws AUX_TRACED_VALUE on a traced tensor.
     */
    copyTo(target: Tensor | TypedArray): void
  }
}

const expectArray = (name: string, sizes: unknown): void => {
  if (!Array.isArray(sizes)) fail('AUX_INVALID_ARGUMENT', `${name}: expected an array, got ${describe(sizes)}`)
}
Tensor.prototype.reshape = function (shape) {
  expectArray('reshape', shape)
  const known = shape.reduce((n, d) => (d === -1 ? n : n * d), 1)
  const target = shape.map((d) => (d === -1 ? (known ? Math.floor(this.size / known) : 0) : d))
  checkShape('reshape', target)
  if (sizeOf(target) !== this.size || shape.filter((d) => d === -1).length > 1)
    fail(
      'AUX_SHAPE_MISMATCH',
      `reshape: cannot make ${showShape(shape)} of ${showShape(this.shape)} (${this.size} elements)`,
    )
  // In a plan a copy of what is taken out lets go of the rest.
  const alike = !graphOf([this]) && sameShape(target.filter(large), this.shape.filter(large))
  return tidy(() => apply(reshapeOp, [alike ? this : contiguous(this)], { shape: target })[0])
}
Tensor.prototype.flatten = function (from = 0, to = -1) {
  const [first, last] = [from, to].map((axis) => resolveAxis('flatten', axis, Math.max(this.rank, 1)))
  if (last < first) fail('AUX_INVALID_ARGUMENT', `flatten: expected axes in order, got ${from} and ${to}`)
  const merged = sizeOf(this.shape.slice(first, last + 1))
  return this.reshape([...this.shape.slice(0, first), merged, ...this.shape.slice(last + 1)])
}
Tensor.prototype.permute = function (order) {
  expectArray('permute', order)
  if (order.length !== this.rank || [...order].sort((a, b) => a - b).some((a, i) => a !== i))
    fail(
      'AUX_INVALID_ARGUMENT',
      `permute: expected each of the axes 0 to ${this.rank - 1} once, got ${showShape(order)}`,
    )
  return apply(permuteOp, [this], { order: [...order] })[0]
}
Tensor.prototype.transpose = function (a = -2, b = -1) {
  const order = this.shape.map((_, i) => i)
  const [i, j] = [resolveAxis('transpose', a, this.rank), resolveAxis('transpose', b, this.rank)]
  order[i] = j
  order[j] = i
  return this.permute(order)
}
Tensor.prototype.expand = function (shape) {
  checkShape('expand', shape)
  const lead = shape.length - this.rank
  if (lead < 0 || this.shape.some((d, i) => d !== 1 && d !== shape[i + lead]))
    fail('AUX_SHAPE_MISMATCH', `expand: cannot expand ${showShape(this.shape)} to ${showShape(shape)}`)
  const y = expand(this, shape)
  return y === this ? alias(this) : y
}
Tensor.prototype.unsqueeze = function (axis) {
  const at = resolveAxis('unsqueeze', axis, this.rank + 1)
  return this.reshape([...this.shape.slice(0, at), 1, ...this.shape.slice(at)])
}
Tensor.prototype.squeeze = function (axis) {
  if (axis === undefined) return this.reshape(this.shape.filter((n) => n !== 1))
  const at = resolveAxis('squeeze', axis, this.rank)
  if (this.shape[at] !== 1)
    fail('AUX_SHAPE_MISMATCH', `squeeze: expected size 1 at axis ${axis}, got ${showShape(this.shape)}`)
  return this.reshape([...this.shape.slice(0, at), ...this.shape.slice(at + 1)])
}
Tensor.prototype.clone = function () {
  return copy(this)
}
Tensor.prototype.detach = function () {
  return apply(detachOp, [this], undefined)[0]
}
Tensor.prototype.copyTo = function (target) {
  if (target instanceof Tensor) {
    if (target.rank !== this.rank || target.shape.some((d, i) => d !== this.shape[i]))
      fail(
        'AUX_SHAPE_MISMATCH',
        `copyTo: expected a target of shape ${showShape(this.shape)}, got ${showShape(target.shape)}`,
      )
    target.assign(this)
    return
  }
  if (!ArrayBuffer.isView(target))
    fail('AUX_INVALID_ARGUMENT', `copyTo: expected a tensor or a typed array, got ${describe(target)}`)
  if (target.length !== this.size)
    fail('AUX_SHAPE_MISMATCH', `copyTo: expected an array of ${this.size} values, got ${target.length}`)
  target.set(this.dataSync())
}

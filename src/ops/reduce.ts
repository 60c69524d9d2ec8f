import { apply, defineOp, expectDType, type Derivation, type Op } from '../graph/op'
import { resolveAxis, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { expand } from './shape'

// Reductions over any axes; all axes if none are named.

type Axes = { axes: readonly number[]; keep: boolean }

const reducedShape = (shape: Shape, { axes, keep }: Axes): number[] =>
  shape.flatMap((d, i) => (axes.includes(i) ? (keep ? [1] : []) : [d]))

/** A gradient or result with the reduced axes put back as size 1, expanded to the input's shape. */
const spread = (t: Tensor, shape: Shape, axes: readonly number[]): Tensor =>
  expand(t.reshape(shape.map((d, i) => (axes.includes(i) ? 1 : d))), shape)

const reduction = (name: string, derive?: (d: Derivation<Axes>) => Tensor, kinds: ('f32' | 'i32')[] = ['f32', 'i32']): Op<Axes> =>
  defineOp<Axes>({
    name,
    infer: ([x], attrs) => {
      expectDType(name, 'input', x!, ...kinds)
      return [{ shape: reducedShape(x!.shape, attrs), dtype: x!.dtype }]
    },
    kernel: (_, __, { axes }) => ({ name, numbers: axes }),
    derive: derive && ((d) => [derive(d)]),
    strided: 'all',
  })

const count = (shape: Shape, axes: readonly number[]): number => axes.reduce((n, a) => n * shape[a], 1)
const extremeGrad = (d: Derivation<Axes>): Tensor => {
  const { shape } = d.spec(0)
  // Ties share the gradient.
  const hit = d.input(0).eq(spread(d.output(), shape, d.attrs.axes)).cast('f32')
  const share = hit.div(spread(hit.sum(d.attrs.axes as number[]), shape, d.attrs.axes))
  return share.mul(spread(d.grad()!, shape, d.attrs.axes))
}

const sum = reduction('sum', (d) => spread(d.grad()!, d.spec(0).shape, d.attrs.axes))
const mean = reduction('mean', (d) => spread(d.grad()!.mul(1 / count(d.spec(0).shape, d.attrs.axes)), d.spec(0).shape, d.attrs.axes), ['f32'])
const max = reduction('max', extremeGrad)
const min = reduction('min', extremeGrad)
const argmax: Op<Axes> = {
  ...reduction('argmax', undefined, ['f32']),
  infer: ([x], attrs) => [{ shape: reducedShape(x!.shape, attrs), dtype: 'i32' }],
  constant: true,
}

function reduce(op: Op<Axes>, x: Tensor, axes: number | readonly number[] | undefined, keep = false): Tensor {
  const list = axes === undefined ? x.shape.map((_, i) => i) : typeof axes === 'number' ? [axes] : axes
  const resolved = [...new Set(list.map((a) => resolveAxis(op.name, a, x.rank)))].sort((a, b) => a - b)
  return apply(op, [x], { axes: resolved, keep })[0]
}

declare module '../tensor/tensor' {
  interface Tensor {
    /** Sum over axes (all by default); `keep` leaves them with size 1. */
    sum(axes?: number | readonly number[], keep?: boolean): Tensor
    mean(axes?: number | readonly number[], keep?: boolean): Tensor
    max(axes?: number | readonly number[], keep?: boolean): Tensor
    min(axes?: number | readonly number[], keep?: boolean): Tensor
    /** Position of the first maximum along an axis (the last by default), as i32. */
    argmax(axis?: number): Tensor
  }
}

Tensor.prototype.sum = function (axes, keep) { return reduce(sum, this, axes, keep) }
Tensor.prototype.mean = function (axes, keep) { return reduce(mean, this, axes, keep) }
Tensor.prototype.max = function (axes, keep) { return reduce(max, this, axes, keep) }
Tensor.prototype.min = function (axes, keep) { return reduce(min, this, axes, keep) }
Tensor.prototype.argmax = function (axis = -1) { return reduce(argmax, this, axis) }

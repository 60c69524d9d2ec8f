import { apply, defineOp, expectDType, expectTensor, type Derivation, type Op } from '../graph/op'
import { resolveAxis, showShape, type Shape } from '../tensor/shape'
import { describe, expectOptions, fail } from '../errors'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { ratio, where } from './binary'
import { expand } from './shape'

// Reductions over any axes; all axes if none are named.

type Axes = { axes: readonly number[]; keep: boolean; correction?: number }

const reducedShape = (shape: Shape, { axes, keep }: Axes): number[] =>
  shape.flatMap((d, i) => (axes.includes(i) ? (keep ? [1] : []) : [d]))

/** A gradient or result with the reduced axes put back as size 1, expanded to the input's shape. */
const spread = (t: Tensor, shape: Shape, axes: readonly number[]): Tensor =>
  expand(t.reshape(shape.map((d, i) => (axes.includes(i) ? 1 : d))), shape)

const reduction = (
  name: string,
  derive?: (d: Derivation<Axes>) => Tensor,
  kinds: ('f32' | 'i32' | 'bool')[] = ['f32', 'i32'],
): Op<Axes> =>
  defineOp<Axes>({
    name,
    infer: ([x], attrs) => {
      expectDType(name, 'input', x!, ...kinds)
      return [{ shape: reducedShape(x!.shape, attrs), dtype: x!.dtype }]
    },
    kernel: (_, __, { axes, correction }) => ({
      name,
      numbers: correction === undefined ? axes : [correction, ...axes],
    }),
    derive: derive && ((d) => [derive(d)]),
    strided: 'all',
  })

const count = (shape: Shape, axes: readonly number[]): number => axes.reduce((n, a) => n * shape[a], 1)
const extremeGrad = (d: Derivation<Axes>): Tensor => {
  const { shape } = d.spec(0)
  // Ties share the gradient.
  const hit = d
    .input(0)
    .eq(spread(d.output(), shape, d.attrs.axes))
    .cast('f32')
  const share = hit.div(spread(hit.sum(d.attrs.axes as number[]), shape, d.attrs.axes))
  return share.mul(spread(d.grad()!, shape, d.attrs.axes))
}

const sum = reduction('sum', (d) => spread(d.grad()!, d.spec(0).shape, d.attrs.axes))
const mean = reduction(
  'mean',
  (d) => spread(d.grad()!.mul(1 / count(d.spec(0).shape, d.attrs.axes)), d.spec(0).shape, d.attrs.axes),
  ['f32'],
)
const prodGradOp: Op<Axes> = defineOp({
  name: 'prod_grad',
  infer: ([x]) => [{ shape: x!.shape, dtype: 'f32' }],
  kernel: (_, __, { axes }) => ({ name: 'prod_grad', numbers: axes }),
})
const prod = reduction('prod', (d) => apply(prodGradOp, [d.input(0), d.grad()!], d.attrs)[0], ['f32'])
const any = { ...reduction('any', undefined, ['bool']), constant: true }
const all = { ...reduction('all', undefined, ['bool']), constant: true }
/** x minus its mean, over the degrees of freedom. */
const deviation = (d: Derivation<Axes>): Tensor => {
  const x = d.input(0)
  const { axes, correction } = d.attrs
  return x.sub(x.mean(axes, true)).mul(1 / Math.max(0, count(x.shape, axes) - correction!))
}
const variance = reduction('var', (d) => deviation(d).mul(spread(d.grad()!.mul(2), d.spec(0).shape, d.attrs.axes)), [
  'f32',
])
// Gradients of roots are 0 where the root is.
const norm2 = reduction(
  'norm',
  (d) => d.input(0).mul(spread(ratio(d.grad()!, d.output()), d.spec(0).shape, d.attrs.axes)),
  ['f32'],
)
const logSumExpOp = reduction(
  'log_sum_exp',
  (d) => {
    const { shape } = d.spec(0)
    return d
      .input(0)
      .sub(spread(d.output(), shape, d.attrs.axes))
      .exp()
      .mul(spread(d.grad()!, shape, d.attrs.axes))
  },
  ['f32'],
)
const logSumExp = { ...logSumExpOp, exact: true }
const rootOp = defineOp<undefined>({
  name: 'sqrt',
  infer: ([x]) => [x!],
  kernel: () => ({ name: 'sqrt' }),
  derive: (d) => [ratio(d.grad()!.mul(0.5), d.output())],
  inplace: [0],
})
const max = { ...reduction('max', extremeGrad), exact: true }
const min = { ...reduction('min', extremeGrad), exact: true }
const argmax: Op<Axes> = {
  ...reduction('argmax', undefined, ['f32']),
  infer: ([x], attrs) => [{ shape: reducedShape(x!.shape, attrs), dtype: 'i32' }],
  constant: true,
}

function resolve(name: string, x: Tensor, axes: number | readonly number[] | undefined): number[] {
  const list = axes === undefined ? x.shape.map((_, i) => i) : typeof axes === 'number' ? [axes] : axes
  if (!Array.isArray(list))
    fail('AUX_INVALID_ARGUMENT', `${name}: expected an axis or an array of axes, got ${describe(list)}`)
  return [...new Set(list.map((a) => resolveAxis(name, a, x.rank)))].sort((a, b) => a - b)
}

function reduce(op: Op<Axes>, x: Tensor, axes: number | readonly number[] | undefined, keep = false): Tensor {
  if (typeof keep !== 'boolean')
    fail('AUX_INVALID_ARGUMENT', `${op.name}: expected keep to be true or false, got ${describe(keep)}`)
  return apply(op, [x], { axes: resolve(op.name, x, axes), keep })[0]
}

/** Reductions that have no value without terms. */
function pickOne(op: Op<Axes>, x: Tensor, axes: number | readonly number[] | undefined, keep?: boolean): Tensor {
  const along = resolve(op.name, x, axes)
  if (count(x.shape, along) === 0 && x.shape.every((n, i) => n > 0 || along.includes(i)))
    fail(
      'AUX_INVALID_ARGUMENT',
      `${op.name}: expected at least one element along axes ${showShape(along)}, got shape ${showShape(x.shape)}`,
    )
  return reduce(op, x, along, keep)
}

/** How `var` and `std` count. */
export interface VarianceOptions {
  /** Divisor: number of elements minus this (1: unbiased, 0: biased). */
  correction?: number
  /** Leaves reduced axes with size 1 (false). */
  keep?: boolean
}

const truth = (x: Tensor): Tensor => (x.dtype === 'bool' ? x : x.ne(0))

/** Sum of the products of two vectors. */
export function dot(a: Tensor, b: Tensor): Tensor {
  for (const t of [a, b]) expectTensor('dot', t)
  if (a.rank !== 1 || b.rank !== 1 || a.shape[0] !== b.shape[0])
    fail(
      'AUX_SHAPE_MISMATCH',
      `dot: expected two vectors of one length, got ${showShape(a.shape)} and ${showShape(b.shape)}`,
    )
  return tidy(() => a.mul(b).sum())
}

declare module '../tensor/tensor' {
  interface Tensor {
    /** Sum over axes (all by default), of bool how many are true, as i32; `keep` leaves them with size 1. */
    sum(axes?: number | readonly number[], keep?: boolean): Tensor
    /** Mean over axes. */
    mean(axes?: number | readonly number[], keep?: boolean): Tensor
    /** Maximum over axes; NaN if any is. */
    max(axes?: number | readonly number[], keep?: boolean): Tensor
    /** Minimum over axes; NaN if any is. */
    min(axes?: number | readonly number[], keep?: boolean): Tensor
    /** Position of the first maximum along an axis (the last by default), as i32. */
    argmax(axis?: number, keep?: boolean): Tensor
    /** Position of the first minimum along an axis (the last by default), as i32. */
    argmin(axis?: number, keep?: boolean): Tensor
    /** Product over axes. */
    prod(axes?: number | readonly number[], keep?: boolean): Tensor
    /** True where any element is true (not 0). */
    any(axes?: number | readonly number[], keep?: boolean): Tensor
    /** True where all are, over axes. */
    all(axes?: number | readonly number[], keep?: boolean): Tensor
    /** Variance over axes, unbiased by default. */
    var(axes?: number | readonly number[], options?: VarianceOptions): Tensor
    /** Standard deviation over axes; its gradient is 0 where it is 0. */
    std(axes?: number | readonly number[], options?: VarianceOptions): Tensor
    /** log(sum(exp(x))) over axes, without overflow. */
    logSumExp(axes?: number | readonly number[], keep?: boolean): Tensor
    /** Vector norm over axes, p from 1 (2) to Infinity; its gradient is 0 where it is 0. */
    norm(axes?: number | readonly number[], options?: { p?: number; keep?: boolean }): Tensor
  }
}

Tensor.prototype.sum = function (axes, keep) {
  return this.dtype === 'bool' ? tidy(() => this.cast('i32').sum(axes, keep)) : reduce(sum, this, axes, keep)
}
Tensor.prototype.mean = function (axes, keep) {
  return reduce(mean, this, axes, keep)
}
Tensor.prototype.max = function (axes, keep) {
  return pickOne(max, this, axes, keep)
}
Tensor.prototype.min = function (axes, keep) {
  return pickOne(min, this, axes, keep)
}
Tensor.prototype.argmax = function (axis = -1, keep) {
  return pickOne(argmax, this, axis, keep)
}
Tensor.prototype.argmin = function (axis = -1, keep) {
  return tidy(() => this.neg().argmax(axis, keep))
}
Tensor.prototype.prod = function (axes, keep) {
  return reduce(prod, this, axes, keep)
}
Tensor.prototype.any = function (axes, keep) {
  return tidy(() => reduce(any, truth(this), axes, keep))
}
Tensor.prototype.all = function (axes, keep) {
  return tidy(() => reduce(all, truth(this), axes, keep))
}
Tensor.prototype.var = function (axes, options = {}) {
  expectOptions('var', options, ['correction', 'keep'])
  const { correction = 1, keep = false } = options
  return apply(variance, [this], { axes: resolve('var', this, axes), keep, correction })[0]
}
Tensor.prototype.std = function (axes, options) {
  return tidy(() => apply(rootOp, [this.var(axes, options)], undefined)[0])
}
Tensor.prototype.logSumExp = function (axes, keep) {
  return reduce(logSumExp, this, axes, keep)
}
Tensor.prototype.norm = function (axes, options = {}) {
  expectOptions('norm', options, ['p', 'keep'])
  const { p = 2, keep = false } = options
  if (p === 2) return reduce(norm2, this, axes, keep)
  if (!(typeof p === 'number' && p >= 1))
    fail('AUX_INVALID_ARGUMENT', `norm: expected p to be a number >= 1, got ${describe(p)}`)
  return tidy(() => {
    const sizes = this.abs()
    if (p === 1) return sizes.sum(axes, keep)
    if (p === Infinity) return sizes.max(axes, keep)
    // Powers of shares of the largest, lest they overflow: its own gradient cancels.
    const top = sizes.max(axes, true).detach()
    const powers = sizes
      .div(where(top.gt(0), top, 1))
      .pow(p)
      .sum(axes, keep)
    return where(powers.gt(0), powers, 1)
      .pow(1 / p)
      .mul(top.reshape(powers.shape))
  })
}

import { expectOptions, fail } from '../errors'
import { apply, defineOp, expectDType, type Op } from '../graph/op'
import { resolveAxis, showShape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { scatterZeros } from './indices'
import { alias } from './shape'

const sortOp = defineOp<{ descending: boolean; count: number }>({
  name: 'sort',
  infer: ([x], { count }) => {
    expectDType('sort', 'input', x!, 'f32', 'i32')
    const shape = [...x!.shape.slice(0, -1), count]
    return [
      { shape, dtype: x!.dtype },
      { shape, dtype: 'i32' },
    ]
  },
  kernel: (_, __, a) => ({ name: 'sort', numbers: [a.descending ? 1 : 0] }),
  derive: (d) => [scatterZeros(d.spec(0).shape, d.spec(0).shape.length - 1, d.output(1), d.grad()!, 'sort')],
})

const keptSortOp: typeof sortOp = { ...sortOp, statistics: true }

/** @internal The positions that sort the last axis, i32: kept where the module around them is computed again. */
export const keptOrder = (x: Tensor): Tensor =>
  apply(keptSortOp, [x], { descending: false, count: x.shape[x.rank - 1] })[1]

const cumsumOp: Op<{ axis: number; reverse: boolean }> = defineOp({
  name: 'cumsum',
  infer: ([x]) => {
    expectDType('cumsum', 'input', x!, 'f32')
    return [{ shape: x!.shape, dtype: 'f32' }]
  },
  kernel: (_, __, a) => ({ name: 'cumsum', numbers: [a.axis, a.reverse ? 1 : 0] }),
  derive: (d) => [apply(cumsumOp, [d.grad()!], { ...d.attrs, reverse: !d.attrs.reverse })[0]],
})

interface SortedOptions {
  axis?: number
  descending?: boolean
  count?: number
}

function sorted(name: string, x: Tensor, { axis = -1, descending = false, count }: SortedOptions): Sorted {
  if (!x.rank) fail('AUX_SHAPE_MISMATCH', `${name}: expected at least one axis, got shape []`)
  const at = resolveAxis(name, axis, x.rank)
  const size = x.shape[at]
  if (count !== undefined && (!Number.isInteger(count) || count < 0 || count > size))
    fail('AUX_INVALID_ARGUMENT', `${name}: expected k in [0, ${size}] for shape ${showShape(x.shape)}, got ${count}`)
  const last = at === x.rank - 1
  return tidy(() => {
    const both = apply(sortOp, [last ? x : x.transpose(at, -1)], { descending, count: count ?? size })
    const [values, indices] = last ? both : both.map((y) => y.transpose(at, -1))
    return { values, indices }
  })
}

/** Values and where they were along an axis (i32). */
export interface Sorted {
  /** In order. */
  values: Tensor
  /** Their positions on the axis, i32. */
  indices: Tensor
}

declare module '../tensor/tensor' {
  interface Tensor {
    /** Sorted along an axis (the last), stably, NaN as the largest. */
    sort(options?: { axis?: number; descending?: boolean }): Sorted
    /** The positions that sort an axis (the last), as i32. */
    argsort(options?: { axis?: number; descending?: boolean }): Tensor
    /** The k largest (or smallest) along an axis (the last), in order. */
    topk(k: number, options?: { axis?: number; largest?: boolean }): Sorted
    /** Running sums along an axis. */
    cumsum(axis: number): Tensor
    /** Running products along an axis, in log2 of its length passes; gradients are right where something is 0, too. */
    cumprod(axis: number): Tensor
  }
}

Tensor.prototype.sort = function (options = {}) {
  expectOptions('sort', options, ['axis', 'descending'])
  return sorted('sort', this, options)
}
Tensor.prototype.argsort = function (options = {}) {
  expectOptions('argsort', options, ['axis', 'descending'])
  const { values, indices } = sorted('argsort', this, options)
  values.dispose()
  return indices
}
Tensor.prototype.topk = function (k, options = {}) {
  expectOptions('topk', options, ['axis', 'largest'])
  const { axis, largest = true } = options
  return sorted('topk', this, { axis, descending: largest, count: k })
}
Tensor.prototype.cumsum = function (axis) {
  return apply(cumsumOp, [this], { axis: resolveAxis('cumsum', axis, this.rank), reverse: false })[0]
}
Tensor.prototype.cumprod = function (axis) {
  const at = resolveAxis('cumprod', axis, this.rank)
  return tidy(() => {
    let y = alias(this)
    // After a pass each entry is the product of the last 2 gap up to it (Hillis & Steele 1986).
    for (let gap = 1; gap < this.shape[at]; gap *= 2) {
      const before = this.shape.map((_, i): [number, number] => (i === at ? [gap, -gap] : [0, 0]))
      y = y.mul(y.pad(before, 1))
    }
    return y
  })
}

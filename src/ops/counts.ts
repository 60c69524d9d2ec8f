import { expectIntegers, expectOptions } from '../errors'
import { expectRank, expectShape } from '../graph/op'
import { sizeOf } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { where } from './binary'
import { constant } from './constant'
import { ones, zeros } from './create'
import { expectIndices } from './indices'

// Counts and places by value.

/**
 * How many labels there are of each class: i32 of any shape; f32 [classes]. Of `weights` of that shape it is their sums, with
 * a gradient. Counts are exact up to 2^24.
 * @param options.classes one more than the largest label unless given, which values are read for: not in a compiled function.
 * @throws AUX_INDEX_OUT_OF_RANGE
 */
export function bincount(labels: Tensor, options: { classes?: number; weights?: Tensor } = {}): Tensor {
  expectOptions('bincount', options, ['classes', 'weights'])
  const { weights } = options
  return tidy(() => {
    const ids = expectIndices('bincount', 'labels', labels)
    if (weights) expectShape('bincount', 'weights', weights, ids.shape)
    const classes = options.classes ?? (ids.dataSync() as Int32Array).reduce((n, label) => Math.max(n, label + 1), 0)
    expectIntegers('bincount', { classes }, 0)
    const each = weights?.flatten() ?? constant(ones, [ids.size])
    return constant(zeros, [classes]).indexAdd(0, ids.flatten(), each)
  })
}

/**
 * Where values would be put into a sorted vector [n], so that it stays sorted: i32 of their shape, from 0 to n. Before
 * entries that are equal, or with `right` behind them; NaN is the largest.
 */
export function searchsorted(sorted: Tensor, values: Tensor, options: { right?: boolean } = {}): Tensor {
  expectRank('searchsorted', 'the sorted tensor', sorted, 1)
  expectOptions('searchsorted', options, ['right'])
  const n = sorted.size
  return tidy(() => {
    let at: Tensor = constant(zeros, values.shape, 'i32')
    // As many entries lie before it as can be skipped, in leaps of powers of two.
    for (let leap = 2 ** Math.floor(Math.log2(n)); leap >= 1; leap /= 2) {
      const next = at.add(leap)
      const last = sorted.indexSelect(0, next.minimum(n).sub(1))
      const larger = options.right ? last.gt(values) : last.ge(values)
      const behind = larger.logicalOr(
        options.right ? last.isNaN().logicalAnd(values.isNaN().logicalNot()) : last.isNaN(),
      )
      at = where(next.le(n).logicalAnd(behind.logicalNot()), next, at)
    }
    return at
  })
}

/** What `unique` gives. */
export interface Unique {
  /** Each value once, in order: [K]. */
  values: Tensor
  /** Where each element is among them: i32, of the shape of what was asked about. */
  inverse: Tensor
  /** How many elements have each value: i32 [K]. */
  counts: Tensor
}

/**
 * The different values of a tensor, f32 or i32 (each NaN is one of its own). Their number is known from the values alone: not
 * in a compiled function.
 * @throws AUX_TRACED_VALUE
 */
export function unique(x: Tensor): Unique {
  const [sorted, order] = tidy(() => {
    const { values, indices } = x.flatten().sort()
    return [values.dataSync(), indices.dataSync()]
  })
  const fresh = (v: number, i: number): boolean => v !== sorted[i - 1]
  const values = sorted.filter(fresh)
  const counts = new Int32Array(values.length)
  const inverse = new Int32Array(sizeOf(x.shape))
  let at = -1
  sorted.forEach((v, i) => {
    if (fresh(v, i)) at++
    inverse[order[i]] = at
    counts[at]++
  })
  return {
    values: Tensor.from(values, [values.length], x.dtype),
    inverse: Tensor.from(inverse, x.shape, 'i32'),
    counts: Tensor.from(counts, [values.length], 'i32'),
  }
}

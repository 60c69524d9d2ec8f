import { describe, fail } from '../errors'
import { expectDType } from '../graph/op'
import { resolveAxis, showShape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { where } from './binary'
import { stack } from './join'

// What stands at a share of the way along the sorted values of an axis.

/** The values in order along the last axis, and how one of them, [..., 1], becomes the result: NaN where there was one. */
function inOrder(name: string, x: Tensor, axis: number | undefined, keep: boolean): [Tensor, (one: Tensor) => Tensor] {
  expectDType(name, 'input', x, 'f32')
  if (typeof keep !== 'boolean')
    fail('AUX_INVALID_ARGUMENT', `${name}: expected keep to be true or false, got ${describe(keep)}`)
  const along = axis === undefined ? undefined : resolveAxis(name, axis, x.rank)
  const size = along === undefined ? x.size : x.shape[along]
  if (!size) fail('AUX_INVALID_ARGUMENT', `${name}: expected at least one element, got shape ${showShape(x.shape)}`)
  const { values } = (along === undefined ? x.flatten() : x.transpose(along, -1)).sort()
  const reduced = x.shape.flatMap((n, i) => (along === undefined || i === along ? (keep ? [1] : []) : [n]))
  const largest = values.narrow(-1, size - 1, 1)
  const result = (one: Tensor): Tensor => {
    const y = where(largest.isNaN(), NaN, one)
    return (along === undefined ? y : y.transpose(along, -1)).reshape(reduced)
  }
  return [values, result]
}

declare module '../tensor/tensor' {
  interface Tensor {
    /**
     * The value below which a share q in [0, 1] lies, along an axis (of all by default), linear between two; NaN if any is. Of
     * several shares: [q.length, ...].
     */
    quantile(q: number | readonly number[], axis?: number, keep?: boolean): Tensor
    /** The middle value along an axis (of all by default), of two the lower one; NaN if any is. */
    median(axis?: number, keep?: boolean): Tensor
  }
}

Tensor.prototype.quantile = function (q, axis, keep = false) {
  const shares = [q].flat()
  if (!shares.length || !shares.every((share) => typeof share === 'number' && share >= 0 && share <= 1))
    fail('AUX_INVALID_ARGUMENT', `quantile: expected shares in [0, 1], got ${JSON.stringify(q)}`)
  return tidy(() => {
    const [values, result] = inOrder('quantile', this, axis, keep)
    const parts = shares.map((share) => {
      const place = share * (values.shape[values.rank - 1] - 1)
      const [from, part] = [Math.floor(place), place % 1]
      const low = values.narrow(-1, from, 1)
      return result(
        part
          ? low.add(
              values
                .narrow(-1, from + 1, 1)
                .sub(low)
                .mul(part),
            )
          : low,
      )
    })
    return typeof q === 'number' ? parts[0] : stack(parts)
  })
}
Tensor.prototype.median = function (axis, keep = false) {
  return tidy(() => {
    const [values, result] = inOrder('median', this, axis, keep)
    return result(values.narrow(-1, (values.shape[values.rank - 1] - 1) >> 1, 1))
  })
}

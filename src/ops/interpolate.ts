import { fail } from '../errors'
import { expectRank, expectTensor } from '../graph/op'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { tensor } from './create'
import { pair, type Pair } from './geometry'
import { matmul } from './matmul'

/** Options of `interpolate`: one of `size` and `scale`. */
export interface InterpolateOptions {
  /** Height and width of the result. */
  size?: Pair
  /** Factors of height and width, whole or not. */
  scale?: number | readonly [number, number]
  /** The nearest pixel (the default), or the mean of the four around, by their distance. */
  mode?: 'nearest' | 'bilinear'
  /** With bilinear: whether the centres of corners meet instead of the edges (false). */
  alignCorners?: boolean
}

/** Where each pixel of a row of `to` lies in one of `from`. */
const places = (from: number, to: number, alignCorners: boolean): number[] =>
  Array.from({ length: to }, (_, i) =>
    alignCorners ? (to > 1 ? (i * (from - 1)) / (to - 1) : 0) : Math.max(0, ((i + 0.5) * from) / to - 0.5),
  )

/** The matrix [to, from] that interpolates linearly along an axis. */
function linearMatrix(from: number, to: number, alignCorners: boolean): Tensor {
  const data = new Float32Array(to * from)
  places(from, to, alignCorners).forEach((at, i) => {
    const low = Math.min(Math.floor(at), from - 1)
    const share = Math.min(1, at - low)
    data[i * from + low] += 1 - share
    data[i * from + Math.min(low + 1, from - 1)] += share
  })
  return tensor(data, [to, from])
}

function nearest(x: Tensor, axis: number, to: number): Tensor {
  const from = x.shape[axis]
  if (to % from === 0) return to === from ? x : x.repeatInterleave(to / from, axis)
  return x.indexSelect(axis, tensor(Int32Array.from({ length: to }, (_, i) => Math.floor((i * from) / to))))
}

/** Images of another size: [N, H, W, C] to [N, P, Q, C]. Bilinear is two matrix products, one an axis. */
export function interpolate(x: Tensor, options: InterpolateOptions): Tensor {
  const name = 'interpolate'
  expectTensor(name, x)
  expectRank(name, 'input', x, 4)
  const { size, scale, mode = 'nearest', alignCorners = false } = options ?? {}
  if ((size === undefined) === (scale === undefined))
    fail('AUX_INVALID_ARGUMENT', `${name}: expected one of size and scale, got ${size === undefined ? 'none' : 'both'}`)
  const [n, h, w, c] = x.shape
  const factors = typeof scale === 'number' ? [scale, scale] : scale
  const [p, q] = pair(`${name}: size`, size ?? [Math.floor(h * factors![0]), Math.floor(w * factors![1])], undefined)
  if (mode === 'nearest') return tidy(() => nearest(nearest(x, 1, p), 2, q).reshape([n, p, q, c]))
  if (mode !== 'bilinear')
    fail('AUX_INVALID_ARGUMENT', `${name}: expected mode nearest or bilinear, got ${String(mode)}`)
  return tidy(() => {
    const rows = matmul(linearMatrix(w, q, alignCorners), x) // [N, H, Q, C]
    return matmul(linearMatrix(h, p, alignCorners), rows.reshape([n, h, q * c])).reshape([n, p, q, c])
  })
}

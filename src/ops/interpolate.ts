import { describe, expectOptions, fail } from '../errors'
import { apply, defineOp, expectRank, expectTensor, type Op } from '../graph/op'
import type { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { constant } from './constant'
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

/** Each pixel fh · fw times, as a view [N, H, fh, W, fw, C]; its gradient is one pass over windows. */
const spreadOp: Op<{ factors: readonly [number, number] }> = defineOp({
  name: 'spread',
  infer: () => fail('AUX_INVALID_ARGUMENT', 'a view has no outputs of its own'),
  view: ({ shape: [n, h, w, c], strides: [sn, sh, sw, sc], offset }, { factors: [fh, fw] }) => ({
    shape: [n, h, fh, w, fw, c],
    strides: [sn, sh, 0, sw, 0, sc],
    offset,
  }),
  derive: (d) => {
    const [n, h, fh, w, fw, c] = d.grad()!.shape
    const windows = d.grad()!.reshape([n, h * fh, w * fw, c])
    return [windows.avgPool2d([fh, fw]).mul(fh * fw)]
  },
})

/** The pixel of a row of `from` that is nearest to each of `to`, i32. */
const pixels = (from: number, to: number): Tensor =>
  tensor(Int32Array.from({ length: to }, (_, i) => Math.floor((i * from) / to)))

function nearest(x: Tensor, p: number, q: number): Tensor {
  const [n, h, w, c] = x.shape
  if (x.size && p % h === 0 && q % w === 0)
    return apply(spreadOp, [x], { factors: [p / h, q / w] })[0].reshape([n, p, q, c])
  return x.indexSelect(1, constant(pixels, h, p)).indexSelect(2, constant(pixels, w, q))
}

/** Images of another size: [N, H, W, C] to [N, P, Q, C]. Bilinear is two matrix products, one an axis. */
export function interpolate(x: Tensor, options: InterpolateOptions): Tensor {
  const name = 'interpolate'
  expectTensor(name, x)
  expectRank(name, 'input', x, 4)
  expectOptions(name, options, ['size', 'scale', 'mode', 'alignCorners'])
  const { size, scale, mode = 'nearest', alignCorners = false } = options
  if ((size === undefined) === (scale === undefined))
    fail('AUX_INVALID_ARGUMENT', `${name}: expected one of size and scale, got ${size === undefined ? 'none' : 'both'}`)
  const [n, h, w, c] = x.shape
  const factors = typeof scale === 'number' ? [scale, scale] : scale
  if (!Array.isArray(size ?? factors) && typeof size !== 'number')
    fail(
      'AUX_INVALID_ARGUMENT',
      `${name}: expected ${size === undefined ? 'scale' : 'size'} to be one number or two, got ${describe(size ?? scale)}`,
    )
  const [p, q] = pair(`${name}: size`, size ?? [Math.floor(h * factors![0]), Math.floor(w * factors![1])], undefined)
  if (mode === 'nearest') return tidy(() => nearest(x, p, q))
  if (mode !== 'bilinear')
    fail('AUX_INVALID_ARGUMENT', `${name}: expected mode nearest or bilinear, got ${String(mode)}`)
  return tidy(() => {
    const rows = matmul(constant(linearMatrix, w, q, alignCorners), x) // [N, H, Q, C]
    return matmul(constant(linearMatrix, h, p, alignCorners), rows.reshape([n, h, q * c])).reshape([n, p, q, c])
  })
}

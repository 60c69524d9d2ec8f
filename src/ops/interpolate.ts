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
  /** Factors of height and width, whole or not: places follow from them, sizes are rounded down; what keeps its size stays. */
  scale?: number | readonly [number, number]
  /** The nearest pixel (the default), or the mean of the four around, by their distance. */
  mode?: 'nearest' | 'bilinear'
  /** With bilinear: whether the centres of corners meet instead of the edges (false). */
  alignCorners?: boolean
}

/** A place in a row of `from` pixels for one in a row of `to`: by the factor; by their sizes without one (0), or if equal. */
const placeOf = (i: number, from: number, to: number, factor: number): number =>
  factor && from !== to ? i / factor : (i * from) / to

/** Where each pixel of a row of `to` lies in one of `from`. */
const places = (from: number, to: number, factor: number, alignCorners: boolean): number[] =>
  Array.from({ length: to }, (_, i) =>
    alignCorners ? (to > 1 ? (i * (from - 1)) / (to - 1) : 0) : Math.max(0, placeOf(i + 0.5, from, to, factor) - 0.5),
  )

/** The matrix [to, from] that interpolates linearly along an axis. */
function linearMatrix(from: number, to: number, factor: number, alignCorners: boolean): Tensor {
  const data = new Float32Array(to * from)
  places(from, to, factor, alignCorners).forEach((at, i) => {
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
const pixels = (from: number, to: number, factor: number): Tensor =>
  tensor(Int32Array.from({ length: to }, (_, i) => Math.min(from - 1, Math.floor(placeOf(i, from, to, factor)))))

function nearest(x: Tensor, [p, q]: readonly number[], [fh, fw]: readonly number[]): Tensor {
  const [n, h, w, c] = x.shape
  const whole = (from: number, to: number, factor: number): boolean =>
    to === from || (to % from === 0 && to === from * (factor || to / from))
  if (x.size && whole(h, p, fh) && whole(w, q, fw))
    return apply(spreadOp, [x], { factors: [p / h, q / w] })[0].reshape([n, p, q, c])
  return x.indexSelect(1, constant(pixels, h, p, fh)).indexSelect(2, constant(pixels, w, q, fw))
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
  const factors = typeof scale === 'number' ? [scale, scale] : scale === undefined ? [0, 0] : scale
  if (!Array.isArray(size ?? factors) && typeof size !== 'number')
    fail(
      'AUX_INVALID_ARGUMENT',
      `${name}: expected ${size === undefined ? 'scale' : 'size'} to be one number or two, got ${describe(size ?? scale)}`,
    )
  const [p, q] = pair(`${name}: size`, size ?? [Math.floor(h * factors[0]), Math.floor(w * factors[1])], undefined)
  if (mode === 'nearest') return tidy(() => nearest(x, [p, q], factors))
  if (mode !== 'bilinear')
    fail('AUX_INVALID_ARGUMENT', `${name}: expected mode nearest or bilinear, got ${String(mode)}`)
  return tidy(() => {
    const down = constant(linearMatrix, h, p, factors[0], alignCorners)
    const across = constant(linearMatrix, w, q, factors[1], alignCorners)
    const rows = matmul(across, x) // [N, H, Q, C]
    return matmul(down, rows.reshape([n, h, q * c])).reshape([n, p, q, c])
  })
}

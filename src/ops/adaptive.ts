import { expectIntegers } from '../errors'
import { expectRank } from '../graph/op'
import { Tensor } from '../tensor/tensor'
import { tidy } from '../tensor/tidy'
import { triple, type Triple } from './conv3d'
import { constant } from './constant'
import { tensor } from './create'
import { pair, type Pair } from './geometry'
import { twice } from './pool3d'

declare module '../tensor/tensor' {
  interface Tensor {
    /** Maximum over bins that divide the sequence into `size` parts: [N, L, C] to [N, size, C]. */
    adaptiveMaxPool1d(size: number): Tensor
    /** Maximum over bins that divide the image into `size` parts: [N, H, W, C] to [N, height, width, C]. */
    adaptiveMaxPool2d(size: Pair): Tensor
    /** Maximum over bins that divide the volume into `size` parts: [N, D, H, W, C] to [N, depth, height, width, C]. */
    adaptiveMaxPool3d(size: Triple): Tensor
  }
}

/** The entries of all bins of an axis, one behind the other, i32: shorter ones repeat their last entry. */
function entriesOf(size: number, parts: number): Tensor {
  const starts = Array.from({ length: parts }, (_, i) => Math.floor((i * size) / parts))
  const ends = starts.map((_, i) => Math.ceil(((i + 1) * size) / parts))
  const length = Math.max(...starts.map((start, i) => ends[i] - start))
  return tensor(
    Int32Array.from(starts.flatMap((start, i) => Array.from({ length }, (_, k) => Math.min(start + k, ends[i] - 1)))),
  )
}

/** An axis laid out so that all bins are as long, one behind the other. */
function inBins(x: Tensor, axis: number, parts: number): { x: Tensor; length: number } {
  const size = x.shape[axis]
  if (size % parts === 0) return { x, length: size / parts }
  const entries = constant(entriesOf, size, parts)
  return { x: x.indexSelect(axis, entries), length: entries.size / parts }
}

Tensor.prototype.adaptiveMaxPool2d = function (size) {
  const name = 'adaptiveMaxPool2d'
  expectRank(name, 'input', this, 4)
  const [p, q] = pair(`${name}: size`, size, undefined)
  return tidy(() => {
    const rows = inBins(this, 1, p)
    const both = inBins(rows.x, 2, q)
    return both.x.maxPool2d([rows.length, both.length])
  })
}
Tensor.prototype.adaptiveMaxPool1d = function (size) {
  expectRank('adaptiveMaxPool1d', 'input', this, 3)
  expectIntegers('adaptiveMaxPool1d', { size })
  return tidy(() => this.unsqueeze(1).adaptiveMaxPool2d([1, size]).squeeze(1))
}
Tensor.prototype.adaptiveMaxPool3d = function (size) {
  expectRank('adaptiveMaxPool3d', 'input', this, 5)
  const [d, h, w] = triple('adaptiveMaxPool3d: size', size)
  return tidy(() =>
    twice(
      this,
      (x) => x.adaptiveMaxPool2d([h, w]),
      (x) => x.adaptiveMaxPool2d([d, x.shape[2]]),
    ),
  )
}

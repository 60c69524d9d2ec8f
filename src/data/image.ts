import { expectIntegers, expectOptions, fail } from '../errors'
import { encode, typedArray, type TypedArray } from '../tensor/dtype'
import type { HostArray } from '../tensor/host'
import { Random } from '../tensor/philox'
import { showShape } from '../tensor/shape'
import type { Batch, BatchContext, Transform } from './dataset'

/** A transform that keeps the fields of a batch. */
export type FieldTransform = <B extends Batch>(batch: B, context: BatchContext) => B

/** Which field of a batch holds the images. */
export interface ImageOptions {
  /** The field that holds the images `[N, H, W, C]`; 'x' by default. */
  field?: string
}

/** Of transforms that choose at random, by seed, epoch and row. */
export interface RandomOptions extends ImageOptions {
  /** Give two transforms of the same kind different numbers to make their choices independent. */
  stream?: number
}

// Streams of random numbers, so that a crop and a flip of one image are independent; 0 is the order of an epoch.
const streams = { crop: 1 * 2 ** 16, flip: 2 * 2 ** 16 }

function randomStream(what: string, base: number, stream = 0): number {
  expectIntegers(what, { stream }, 0, 2 ** 16 - 1)
  return base + stream
}

function fieldOf(what: string, batch: Batch, name: string): HostArray {
  const array = batch[name]
  if (!array)
    fail(
      'AUX_INVALID_ARGUMENT',
      `${what}: expected a batch with field ${name}, got fields ${Object.keys(batch).join(', ') || 'none'}`,
    )
  return array
}

function imagesOf(what: string, batch: Batch, name: string): HostArray {
  const array = fieldOf(what, batch, name)
  if (array.shape.length !== 4)
    fail(
      'AUX_SHAPE_MISMATCH',
      `${what}: expected field ${name} to be images [N, H, W, C], got shape ${showShape(array.shape)}`,
    )
  return array
}

const withField = <B extends Batch>(batch: B, name: string, array: HostArray): B => ({ ...batch, [name]: array })

// Random choices belong to a row of the data set, wherever in a batch it comes; each time that it does.
function eachRow(
  context: BatchContext,
  stream: number,
  rows: number,
  visit: (i: number, random: Random) => void,
): void {
  const random = new Random(context.seed)
  const { indices, repeats, epoch } = context
  for (let i = 0; i < rows; i++) visit(i, random.seek(indices[i], epoch, stream + (repeats?.[i] ?? 0) * 2 ** 20))
}

/**
 * Cuts `size` (a number, or [height, width]) out of each image at a random place, after adding `padding` pixels of
 * value `fill` on every side.
 * @throws AUX_SHAPE_MISMATCH if the padded image is smaller.
 */
export function randomCrop(
  size: number | readonly [number, number],
  options: RandomOptions & { padding?: number; fill?: number } = {},
): FieldTransform {
  expectOptions('randomCrop', options, ['field', 'stream', 'padding', 'fill'])
  const { field = 'x', padding = 0, fill = 0 } = options
  const [height, width] = (Array.isArray(size) ? size : [size, size]) as readonly [number, number]
  expectIntegers('randomCrop', { height, width })
  expectIntegers('randomCrop', { padding }, 0)
  const stream = randomStream('randomCrop', streams.crop, options.stream)
  return (batch, context) => {
    const { data, shape, dtype } = imagesOf('randomCrop', batch, field)
    const [rows, h, w, c] = shape
    const room = [h + 2 * padding - height, w + 2 * padding - width]
    if (room[0] < 0 || room[1] < 0)
      fail(
        'AUX_SHAPE_MISMATCH',
        `randomCrop: expected images of at least [${height}, ${width}] with padding ${padding}, got [${h}, ${w}]`,
      )
    const out = typedArray(dtype, rows * height * width * c)
    if (fill !== 0 && padding > 0) out.fill(encode('randomCrop: fill', [fill], dtype)[0])
    eachRow(context, stream, rows, (i, random) => {
      const top = random.below(room[0] + 1) - padding
      const left = random.below(room[1] + 1) - padding
      const first = Math.max(0, left)
      const columns = Math.min(w, left + width) - first
      if (columns <= 0) return
      for (let y = Math.max(0, -top); y < height && top + y < h; y++) {
        const from = ((i * h + top + y) * w + first) * c
        out.set(data.subarray(from, from + columns * c), ((i * height + y) * width + first - left) * c)
      }
    })
    return withField(batch, field, { data: out, shape: [rows, height, width, c], dtype })
  }
}

/** Mirrors each image with a probability, left to right or (`axis: 'vertical'`) top to bottom. */
export function randomFlip(
  options: RandomOptions & { probability?: number; axis?: 'horizontal' | 'vertical' } = {},
): FieldTransform {
  expectOptions('randomFlip', options, ['field', 'stream', 'probability', 'axis'])
  const { field = 'x', probability = 0.5, axis = 'horizontal' } = options
  if (!(probability >= 0 && probability <= 1))
    fail('AUX_INVALID_ARGUMENT', `randomFlip: expected a probability from 0 to 1, got ${String(probability)}`)
  if (axis !== 'horizontal' && axis !== 'vertical')
    fail('AUX_INVALID_ARGUMENT', `randomFlip: expected axis 'horizontal' or 'vertical', got ${String(axis)}`)
  const stream = randomStream('randomFlip', streams.flip, options.stream)
  return (batch, context) => {
    const { data, shape, dtype } = imagesOf('randomFlip', batch, field)
    const [rows, h, w, c] = shape
    const out = data.slice()
    eachRow(context, stream, rows, (i, random) => {
      if (random.uniform() >= probability) return
      const image = i * h * w * c
      if (axis === 'vertical') {
        for (let y = 0; y < h; y++)
          out.set(data.subarray(image + y * w * c, image + (y + 1) * w * c), image + (h - 1 - y) * w * c)
      } else {
        for (let row = image; row < image + h * w * c; row += w * c)
          for (let from = row, to = row + (w - 1) * c; to >= row; from += c, to -= c)
            for (let k = 0; k < c; k++) out[to + k] = data[from + k]
      }
    })
    return withField(batch, field, { data: out, shape, dtype })
  }
}

/** Bytes 0 to 255 as f32 values 0 to 1, in a field of any shape. */
export function toFloat(options: ImageOptions = {}): FieldTransform {
  expectOptions('toFloat', options, ['field'])
  const { field = 'x' } = options
  const table = Float32Array.from({ length: 256 }, (_, v) => v / 255)
  return (batch) => {
    const { data, shape, dtype } = fieldOf('toFloat', batch, field)
    if (dtype !== 'u8') fail('AUX_DTYPE_MISMATCH', `toFloat: expected field ${field} of dtype u8, got ${dtype}`)
    return withField(batch, field, { data: lookUp(data, [table]), shape, dtype: 'f32' })
  }
}

function lookUp(data: TypedArray, tables: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(data.length)
  const channels = tables.length
  for (let k = 0; k < channels; k++) {
    const table = tables[k]
    for (let i = k; i < out.length; i += channels) out[i] = table[data[i]]
  }
  return out
}

/**
 * (value - mean) / std, one number for all channels (the last axis) or one for each. Bytes are divided by 255 first,
 * in the same pass: `normalize` on u8 images is `toFloat` and `normalize` on f32 ones.
 */
export function normalize(
  mean: number | readonly number[],
  std: number | readonly number[],
  options: ImageOptions = {},
): FieldTransform {
  expectOptions('normalize', options, ['field'])
  const { field = 'x' } = options
  const [means, stds] = [[mean].flat(), [std].flat()]
  if (means.length === 0 || ![...means, ...stds].every(Number.isFinite) || !stds.every((s) => s > 0))
    fail(
      'AUX_INVALID_ARGUMENT',
      `normalize: expected finite means and stds above 0, got ${means.join(', ')} and ${stds.join(', ')}`,
    )
  const channels = Math.max(means.length, stds.length)
  for (const list of [means, stds])
    if (list.length !== channels && list.length !== 1)
      fail(
        'AUX_SHAPE_MISMATCH',
        `normalize: expected as many stds as means, got ${means.length} means and ${stds.length} stds`,
      )
  const meanOf = (k: number): number => means[means.length === 1 ? 0 : k]
  const stdOf = (k: number): number => stds[stds.length === 1 ? 0 : k]
  // From the rounded f32 value, so that it makes no difference whether bytes were converted before.
  const tables = Array.from({ length: channels }, (_, k) =>
    Float32Array.from({ length: 256 }, (_, v) => (Math.fround(v / 255) - meanOf(k)) / stdOf(k)),
  )
  return (batch) => {
    const { data, shape, dtype } = fieldOf('normalize', batch, field)
    const last = shape[shape.length - 1]
    if (channels > 1 && last !== channels)
      fail(
        'AUX_SHAPE_MISMATCH',
        `normalize: expected field ${field} with ${channels} channels, got shape ${showShape(shape)}`,
      )
    if (dtype === 'u8') return withField(batch, field, { data: lookUp(data, tables), shape, dtype: 'f32' })
    if (dtype !== 'f32')
      fail('AUX_DTYPE_MISMATCH', `normalize: expected field ${field} of dtype u8 or f32, got ${dtype}`)
    const out = new Float32Array(data.length)
    for (let k = 0; k < channels; k++) {
      const [m, s] = [meanOf(k), stdOf(k)]
      for (let i = k; i < out.length; i += channels) out[i] = (data[i] - m) / s
    }
    return withField(batch, field, { data: out, shape, dtype })
  }
}

/** Transforms one after another, each of which may be asynchronous. */
export function compose(
  ...transforms: FieldTransform[]
): <B extends Batch>(batch: B, context: BatchContext) => Promise<B>
export function compose<A extends Batch, B extends Batch>(
  first: Transform<A, B>,
  ...rest: Transform<B, B>[]
): Transform<A, B>
export function compose(...transforms: Transform[]): Transform {
  for (const t of transforms)
    if (typeof t !== 'function') fail('AUX_INVALID_ARGUMENT', `compose: expected functions, got ${typeof t}`)
  return async (batch, context) => {
    for (const t of transforms) batch = await t(batch, context)
    return batch
  }
}

import fc from 'fast-check'
import * as data from '../../src/data'
import type { Batch, BatchContext } from '../../src/data'
import { withCode } from '../support/refusals'

const context = (indices: number[], epoch = 0, seed = 1): BatchContext => ({
  indices: Uint32Array.from(indices),
  epoch,
  seed,
})
const images = (n: number, h: number, w: number, c: number): Batch & { x: Batch[string] } => ({
  x: { data: Uint8Array.from({ length: n * h * w * c }, (_, i) => 1 + (i % 255)), shape: [n, h, w, c], dtype: 'u8' },
})
const at = ({ data: d, shape: [, h, w, c] }: Batch[string], i: number, y: number, x: number, k: number): number =>
  y < 0 || x < 0 || y >= h || x >= w ? 0 : d[((i * h + y) * w + x) * c + k]

test('a crop is a window of the padded image, anywhere, the same for the same row and epoch', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 1, max: 3 }),
      fc.nat(3),
      fc.nat(9),
      (h, w, c, padding, less) => {
        const batch = images(3, h, w, c)
        const size: [number, number] = [Math.max(1, h + 2 * padding - less), Math.max(1, w + 2 * padding - (less % 4))]
        const { x } = data.randomCrop(size, { padding })(batch, context([5, 9, 5]))
        expect(x.shape).toEqual([3, ...size, c])
        for (let i = 0; i < 3; i++) {
          let windows = 0
          for (let top = -padding; top <= h + padding - size[0]; top++)
            for (let left = -padding; left <= w + padding - size[1]; left++) {
              let same = true
              for (let y = 0; y < size[0]; y++)
                for (let u = 0; u < size[1]; u++)
                  for (let k = 0; k < c; k++) same &&= at(x, i, y, u, k) === at(batch.x, i, top + y, left + u, k)
              windows += Number(same)
            }
          expect(windows).toBeGreaterThan(0)
        }
      },
    ),
    { numRuns: 100 },
  )
})

test('all places of a crop come up, and depend on row and epoch only', () => {
  const one = {
    x: { data: Uint8Array.from({ length: 9 }, (_, i) => i + 1), shape: [1, 3, 3, 1], dtype: 'u8' as const },
  }
  const crop = data.randomCrop(1)
  const seen = new Map<number, number>()
  for (let row = 0; row < 900; row++) {
    const value = crop(one, context([row])).x.data[0]
    seen.set(value, (seen.get(value) ?? 0) + 1)
    expect(crop(one, context([row])).x.data[0]).toBe(value)
  }
  expect(seen.size).toBe(9)
  for (const count of seen.values()) expect(Math.abs(count - 100)).toBeLessThan(45)
  const differs = (a: BatchContext, b: BatchContext): boolean => {
    const batch = images(32, 8, 8, 1)
    return crop(batch, a).x.data.join() !== crop(batch, b).x.data.join()
  }
  const rows = Array.from({ length: 32 }, (_, i) => i)
  expect(differs(context(rows, 0), context(rows, 1))).toBe(true)
  expect(differs(context(rows, 0, 1), context(rows, 0, 2))).toBe(true)
  expect(
    data
      .randomCrop(1, { stream: 1 })(images(32, 8, 8, 1), context(rows))
      .x.data.join(),
  ).not.toBe(crop(images(32, 8, 8, 1), context(rows)).x.data.join())
  const filled = data.randomCrop(5, { padding: 1, fill: 77 })(one, context([0])).x.data
  expect(filled.filter((v) => v === 77).length).toBe(16)
  expect(() => data.randomCrop(5, { padding: 1, fill: 300 })(one, context([0]))).toThrow(
    /randomCrop: fill: expected values that u8 can hold, got 300/,
  )
})

test('a flip mirrors whole images, about half of them', () => {
  for (const axis of ['horizontal', 'vertical'] as const) {
    const batch = images(200, 3, 4, 2)
    const { x } = data.randomFlip({ axis })(batch, context(Array.from({ length: 200 }, (_, i) => i)))
    let flipped = 0
    for (let i = 0; i < 200; i++) {
      const mirrored = at(x, i, 0, 0, 0) !== at(batch.x, i, 0, 0, 0)
      flipped += Number(mirrored)
      for (let y = 0; y < 3; y++)
        for (let u = 0; u < 4; u++)
          for (let k = 0; k < 2; k++)
            expect(at(x, i, y, u, k)).toBe(
              !mirrored
                ? at(batch.x, i, y, u, k)
                : axis === 'horizontal'
                  ? at(batch.x, i, y, 3 - u, k)
                  : at(batch.x, i, 2 - y, u, k),
            )
    }
    expect(Math.abs(flipped - 100)).toBeLessThan(36) // 5 standard deviations
    expect(data.randomFlip({ axis, probability: 0 })(batch, context([0])).x.data).toEqual(batch.x.data)
  }
})

test('bytes become floats, and normalising them in one pass or two is the same', () => {
  const bytes = {
    x: {
      data: Uint8Array.from({ length: 256 * 3 }, (_, i) => Math.floor(i / 3)),
      shape: [1, 16, 16, 3],
      dtype: 'u8' as const,
    },
  }
  const before = bytes.x.data.slice()
  const floats = data.toFloat()(bytes, context([0]))
  for (let i = 0; i < 768; i++) expect(floats.x.data[i]).toBe(Math.fround(Math.floor(i / 3) / 255))
  const means = [0.485, 0.456, 0.406]
  const stds = [0.229, 0.224, 0.225]
  const normalize = data.normalize(means, stds)
  const direct = normalize(bytes, context([0]))
  expect(direct.x).toEqual(normalize(floats, context([0])).x)
  for (let i = 0; i < 768; i++)
    expect(direct.x.data[i]).toBeCloseTo((Math.floor(i / 3) / 255 - means[i % 3]) / stds[i % 3], 5)
  expect(data.normalize(0.5, 2)(floats, context([0])).x.data[3]).toBe(Math.fround((Math.fround(1 / 255) - 0.5) / 2))
  expect(bytes.x.data).toEqual(before)
})

test('transforms never write to the batch they are given', async () => {
  const batch = images(8, 6, 6, 3)
  const before = batch.x.data.slice()
  const all = data.compose(
    data.randomCrop(6, { padding: 2 }),
    data.randomFlip(),
    data.randomFlip({ axis: 'vertical', stream: 1 }),
    data.toFloat(),
    data.normalize(0.5, 0.5),
  )
  const result = await all({ ...batch, y: batch.x }, context([0, 1, 2, 3, 4, 5, 6, 7]))
  expect(batch.x.data).toEqual(before)
  expect(result.x.shape).toEqual([8, 6, 6, 3])
  expect(result.y).toBe(batch.x)
})

test('wrong arguments and fields are named', () => {
  const bad: (() => unknown)[] = [
    () => data.randomCrop(0),
    () => data.randomCrop(4, { padding: -1 }),
    () => data.randomCrop(4, { stream: -1 }),
    () => data.randomFlip({ probability: 2 }),
    () => data.randomFlip({ axis: 'diagonal' as never }),
    () => data.normalize([], []),
    () => data.normalize(0, 0),
    () => data.compose(3 as never),
    () => data.toFloat({ field: 'z' })(images(1, 2, 2, 1), context([0])),
  ]
  for (const body of bad) expect(body).toThrow(withCode('AUX_INVALID_ARGUMENT'))
  expect(() => data.normalize([1, 2], [1, 2, 3])).toThrow(withCode('AUX_SHAPE_MISMATCH'))
  expect(() => data.randomCrop(9)(images(1, 4, 4, 1), context([0]))).toThrow(withCode('AUX_SHAPE_MISMATCH'))
  expect(() => data.normalize([1, 2], 1)(images(1, 4, 4, 3), context([0]))).toThrow(withCode('AUX_SHAPE_MISMATCH'))
  expect(() => data.randomFlip()({ x: { data: new Uint8Array(4), shape: [4], dtype: 'u8' } }, context([0]))).toThrow(
    withCode('AUX_SHAPE_MISMATCH'),
  )
  const ints = { x: { data: new Int32Array(4), shape: [1, 2, 2, 1], dtype: 'i32' as const } }
  expect(() => data.toFloat()(ints, context([0]))).toThrow(withCode('AUX_DTYPE_MISMATCH'))
  expect(() => data.normalize(0, 1)(ints, context([0]))).toThrow(withCode('AUX_DTYPE_MISMATCH'))
})

import fc from 'fast-check'
import { concat, stack, tensor, zeros, type Tensor } from '../../src/index'
import { broadcastShapes } from '../../src/tensor/shape'
import { bytes } from '../support/run'

const runs = { numRuns: 200 }
const size = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)
const shapes = fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 4 })
const counting = (shape: number[]): Tensor =>
  tensor(
    Float32Array.from({ length: size(shape) }, (_, i) => i),
    shape,
  )
const values = (t: Tensor): string => bytes(t.rawSync())

test('broadcasting two shapes gives the size of each axis, or an error', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 4 }),
      fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 4 }),
      (a, b) => {
        const rank = Math.max(a.length, b.length)
        const [x, y] = [a, b].map((s) => [...new Array<number>(rank - s.length).fill(1), ...s])
        const fits = x.every((d, i) => d === y[i] || d === 1 || y[i] === 1)
        if (!fits) return expect(() => broadcastShapes('test', a, b)).toThrow(/cannot broadcast/)
        const result = x.map((d, i) => (d === 1 ? y[i] : d))
        expect(broadcastShapes('test', a, b)).toEqual(result)
        expect(counting(a).add(counting(b)).shape).toEqual(result)
      },
    ),
    runs,
  )
})

test('permuting by an order and back is the identity', () => {
  fc.assert(
    fc.property(
      shapes.chain((s) =>
        fc.tuple(
          fc.constant(s),
          fc.shuffledSubarray(
            s.map((_, i) => i),
            { minLength: s.length },
          ),
        ),
      ),
      ([shape, order]) => {
        const x = counting(shape)
        const back = order.map((_, i) => order.indexOf(i))
        expect(values(x.permute(order).permute(back))).toBe(values(x))
        expect(values(x.permute(order).clone().permute(back))).toBe(values(x))
      },
    ),
    runs,
  )
})

test('flatten makes axes from one to another one', () => {
  const x = zeros([2, 3, 4, 5])
  expect(
    [x.flatten(), x.flatten(1), x.flatten(1, 2), x.flatten(0, -2), x.flatten(-2, 3), x.flatten(2, 2)].map(
      (t) => t.shape,
    ),
  ).toEqual([[120], [2, 60], [2, 12, 5], [24, 5], [2, 3, 20], [2, 3, 4, 5]])
  expect(tensor(3).flatten().shape).toEqual([1])
})

test('reshaping any view keeps the order of its elements', () => {
  fc.assert(
    fc.property(
      shapes.chain((s) =>
        fc.tuple(
          fc.constant(s),
          fc.shuffledSubarray(
            s.map((_, i) => i),
            { minLength: s.length },
          ),
        ),
      ),
      ([shape, order]) => {
        const x = counting(shape).permute(order)
        expect(values(x.reshape([size(shape)]))).toBe(values(x))
        expect(
          x
            .reshape([size(shape)])
            .reshape(x.shape)
            .toArray(),
        ).toEqual(x.toArray())
      },
    ),
    runs,
  )
})

test('slices are those of JavaScript arrays', () => {
  const bound = fc.option(fc.integer({ min: -8, max: 8 }), { nil: undefined })
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 6 }), bound, bound, fc.integer({ min: 1, max: 4 }), (n, start, end, step) => {
      const x = counting([n, 2])
      const expected = (x.toArray() as number[][]).slice(start, end).filter((_, i) => i % step === 0)
      const y = x.slice([start, end, step])
      expect(y.toArray()).toEqual(expected)
      expect(y.clone().toArray()).toEqual(expected)
      expect(y.shape).toEqual([expected.length, 2])
    }),
    runs,
  )
})

test('what is split and joined, padded and cut, turned and turned back is what it was', () => {
  fc.assert(
    fc.property(
      shapes.chain((s) =>
        fc.tuple(fc.constant(s), fc.nat(s.length - 1), fc.integer({ min: 1, max: 4 }), fc.integer({ min: -7, max: 7 })),
      ),
      ([shape, axis, n, shift]) => {
        const x = counting(shape)
        const same = (y: Tensor): void => {
          expect(y.shape).toEqual(shape)
          expect(values(y)).toBe(values(x))
        }
        same(concat(x.split(n, axis), axis))
        same(
          x
            .pad(
              shape.map(() => [n, 1]),
              9,
            )
            .pad(shape.map(() => [-n, -1])),
        )
        same(x.pad(shape.map(() => [n, 1])).slice(...shape.map((d): [number, number] => [n, n + d])))
        same(x.flip(axis).flip(axis))
        same(x.roll(shift, axis).roll(-shift, axis))
        same(x.unsqueeze(axis).squeeze(axis))
        if (shape[axis])
          same(
            stack(
              Array.from({ length: shape[axis] }, (_, i) => x.select(axis, i)),
              axis,
            ),
          )
      },
    ),
    runs,
  )
})

test('views share memory; clones do not', () => {
  const x = tensor([
    [1, 2],
    [3, 4],
  ])
  const [view, copy] = [x.select(0, 1), x.clone()]
  x.assign([9, 9, 9, 9])
  expect(view.toArray()).toEqual([9, 9])
  expect(copy.toArray()).toEqual([
    [1, 2],
    [3, 4],
  ])
})

test('an axis of size 1 comes and goes without copying, whatever the strides', () => {
  const x = counting([3, 4])
  const views = [x.select(1, 2), x.transpose().unsqueeze(1), x.slice(null, [1, 2]).squeeze(1).unsqueeze(0)]
  for (const view of views) expect(view.storage).toBe(x.storage)
  const before = views.map((view) => view.toArray())
  const all = new Float32Array(12).fill(-1)
  x.assign(all)
  for (const [i, view] of views.entries()) {
    expect(view.dataSync()).toEqual(all.subarray(0, view.size))
    expect(before[i]).not.toEqual(view.toArray())
  }
  expect(() => x.select(1, 2).assign([7, 8, 9])).toThrow(/expected a contiguous tensor, got a strided view/)
  for (const t of [...views, x]) t.dispose()
})

test('what changes nothing gives a tensor of its own: to dispose it leaves the other', () => {
  const x = counting([2, 3])
  for (const y of [x.cast('f32'), x.expand([2, 3]), x.roll([], []), x.slice(), x.detach()]) {
    expect(y).not.toBe(x)
    y.dispose()
  }
  expect(x.disposed).toBe(false)
})

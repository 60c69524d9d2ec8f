import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import * as data from '../../src/data'
import { tensor } from '../../src/ops'
import type { Batch, LoaderOptions } from '../../src/data'
import { withCode } from '../support/refusals'

const rows = (n: number): data.Dataset<{ x: Batch[string]; y: Batch[string] }> =>
  data.fromArrays({
    x: { data: Float32Array.from({ length: n * 3 }, (_, i) => i), shape: [n, 3], dtype: 'f32' },
    y: Int32Array.from({ length: n }, (_, i) => i),
  })

type XY = { x: Batch[string]; y: Batch[string] }
async function all<B extends Batch>(loader: AsyncIterable<B>): Promise<B[]> {
  const result: B[] = []
  for await (const batch of loader) result.push(batch)
  return result
}
const labels = (batches: Batch[]): number[] => batches.flatMap((b) => [...b.y.data])

test('rows keep their fields together, the last batch is short, lengths agree', async () => {
  const loader = new data.DataLoader(rows(10), { batchSize: 4, shuffle: true, seed: 1 })
  expect(loader.length).toBe(3)
  const batches = await all(loader)
  expect(batches.map((b) => b.x.shape)).toEqual([
    [4, 3],
    [4, 3],
    [2, 3],
  ])
  for (const { x, y } of batches)
    y.data.forEach((label, i) =>
      expect([...x.data.slice(3 * i, 3 * i + 3)]).toEqual([3 * label, 3 * label + 1, 3 * label + 2]),
    )
  const dropping = new data.DataLoader(rows(10), { batchSize: 4, dropLast: true })
  expect(dropping.length).toBe(2)
  expect(labels(await all(dropping))).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
})

test('a permutation is a function of seed and epoch', () => {
  expect([...data.permutation(8, 1, 0)]).toEqual([...data.permutation(8, 1, 0)])
  const orders = new Set<string>()
  for (const seed of [0, 1, 2 ** 32])
    for (const epoch of [0, 1, 2]) orders.add(data.permutation(20, seed, epoch).join())
  expect(orders.size).toBe(9)
  // All 24 orders of four rows come about equally often: chi-squared with 23 degrees of freedom, 1 in 1000.
  const counts = new Map<string, number>()
  for (let epoch = 0; epoch < 2400; epoch++) {
    const key = data.permutation(4, 3, epoch).join()
    counts.set(key, (counts.get(key) ?? 0) + 1)
  }
  expect(counts.size).toBe(24)
  expect([...counts.values()].reduce((sum, n) => sum + (n - 100) ** 2 / 100, 0)).toBeLessThan(49.7)
})

const settings = fc.record({
  size: fc.integer({ min: 0, max: 60 }),
  batchSize: fc.integer({ min: 1, max: 20 }),
  shuffle: fc.boolean(),
  seed: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
  prefetch: fc.integer({ min: 0, max: 5 }),
})

test('every row comes exactly once an epoch', async () => {
  await fc.assert(
    fc.asyncProperty(settings, async ({ size, ...options }) => {
      const loader = new data.DataLoader(rows(size), options)
      for (let epoch = 0; epoch < 3; epoch++) {
        expect(loader.epoch).toBe(epoch)
        const batches = await all(loader)
        expect(batches.length).toBe(loader.length)
        expect(labels(batches).sort((a, b) => a - b)).toEqual(Array.from({ length: size }, (_, i) => i))
      }
    }),
    { numRuns: 60 },
  )
})

// Training that is stopped after `stop` batches, saved as JSON, and continued by another loader.
async function interrupted<A extends Batch>(make: () => data.DataLoader<A>, stop: number, total: number): Promise<A[]> {
  const result: A[] = []
  const take = async (loader: data.DataLoader<A>, until: number): Promise<void> => {
    while (result.length < until)
      for await (const batch of loader) {
        result.push(batch)
        if (result.length === until) break
      }
  }
  const first = make()
  await take(first, stop)
  const second = make()
  second.restore(JSON.parse(JSON.stringify(first.state())) as data.LoaderState)
  await take(second, total)
  return result
}

async function checkResume<A extends Batch>(
  make: () => data.DataLoader<A>,
  stop: number,
  total: number,
): Promise<void> {
  const straight: A[] = []
  for (const loader = make(); straight.length < total;) for await (const batch of loader) straight.push(batch)
  expect(await interrupted(make, stop, total)).toEqual(straight.slice(0, total))
}

const pixels = (n: number): data.Dataset<XY> =>
  data.fromArrays({
    x: { data: Uint8Array.from({ length: n * 48 }, (_, i) => (i * 7) % 256), shape: [n, 4, 4, 3], dtype: 'u8' },
    y: Int32Array.from({ length: n }, (_, i) => i),
  })

test('a run resumed anywhere gives the batches of one that was not interrupted', async () => {
  const augment = data.compose(
    data.randomCrop(4, { padding: 1 }),
    data.randomFlip(),
    data.normalize([0.1, 0.2, 0.3], 0.5),
  )
  await fc.assert(
    fc.asyncProperty(settings, fc.nat({ max: 30 }), async ({ size, ...options }, stop) => {
      const images = pixels(size + 1)
      await checkResume(() => new data.DataLoader(images, { ...options, transform: augment }), stop, 32)
      const stream = (): data.SampleStream<{ y: Batch[string] }> =>
        data.fromSamples(
          async function* ({ epoch }) {
            for (let i = 0; i <= size; i++) yield { y: epoch * 1000 + i }
          },
          { shuffleBuffer: 7 },
        )
      await checkResume(() => new data.DataLoader(stream(), options), stop, 32)
    }),
    { numRuns: 40 },
  )
})

test('a state taken after the last batch resumes at the end of its epoch', async () => {
  const make = (): data.DataLoader<XY> => new data.DataLoader(rows(4), { batchSize: 2, shuffle: true })
  const first = make()
  let state: data.LoaderState | undefined
  for await (const _ of first) state = first.state()
  expect(state).toMatchObject({ epoch: 0, position: 2 })
  const second = make()
  second.restore(state!)
  expect(await all(second)).toEqual([])
  expect(second.state()).toEqual(first.state())
  expect(labels(await all(second))).toEqual(labels(await all(first)))
})

test('break ends an epoch, and the next loop is the next epoch', async () => {
  const loader = new data.DataLoader(rows(10), { batchSize: 2, shuffle: true, seed: 4 })
  for await (const _ of loader) break
  expect(loader.state()).toMatchObject({ epoch: 0, position: 1 })
  expect(labels(await all(loader))).toEqual([...data.permutation(10, 4, 1)])
  expect(loader.epoch).toBe(2)
})

test('one loop at a time', async () => {
  const loader = new data.DataLoader(rows(10), { batchSize: 2 })
  const old = loader[Symbol.asyncIterator]()
  await old.next()
  const current = loader[Symbol.asyncIterator]()
  await expect(old.next()).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
  expect((await current.next()).done).toBe(false)
  loader.restore(loader.state())
  await expect(current.next()).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
})

/** Rows that take time, with a count of reads that began, run and ended. */
class SlowRows extends data.Dataset<{ y: Batch[string] }> {
  readonly size = 40
  begun = 0
  running = 0
  most = 0
  failAt = Infinity

  async read({ indices }: data.BatchContext): Promise<{ y: Batch[string] }> {
    const n = ++this.begun
    this.most = Math.max(this.most, ++this.running)
    await sleep(2)
    this.running--
    if (n >= this.failAt) throw new Error(`row ${indices[0]}`)
    return { y: { data: Int32Array.from(indices), shape: [indices.length], dtype: 'i32' } }
  }
}

test('prefetch prepares ahead while the program waits, never more than asked for', async () => {
  for (const prefetch of [0, 1, 3]) {
    const slow = new SlowRows()
    const loader = new data.DataLoader(slow, { batchSize: 2, prefetch })
    let used = 0
    for await (const { y } of loader) {
      expect([...y.data]).toEqual([2 * used, 2 * used + 1])
      used++
      await sleep(10)
      expect(slow.begun).toBe(Math.min(20, used + prefetch))
    }
    expect(used).toBe(20)
    expect(slow.most).toBeLessThanOrEqual(prefetch + 1)
  }
})

test('a batch that cannot be read fails in its turn, and nothing is left unhandled', async () => {
  const unhandled = jest.fn()
  process.on('unhandledRejection', unhandled)
  const slow = new SlowRows()
  slow.failAt = 4
  const loader = new data.DataLoader(slow, { batchSize: 2, prefetch: 4 })
  const seen: number[] = []
  await expect(
    (async () => {
      for await (const { y } of loader) {
        seen.push(y.data[0])
        await sleep(10)
      }
    })(),
  ).rejects.toThrow('row 6')
  expect(seen).toEqual([0, 2, 4])
  const quit = new data.DataLoader(slow, { batchSize: 2, prefetch: 4 })
  await expect(all(quit)).rejects.toThrow('row 0')
  await sleep(20)
  process.off('unhandledRejection', unhandled)
  expect(unhandled).not.toHaveBeenCalled()
  // The place is that of the failed batch: it can be asked for again.
  slow.failAt = Infinity
  loader.restore(loader.state())
  expect((await all(loader))[0].y.data[0]).toBe(6)
})

test('break closes a stream once, with prefetch running', async () => {
  let open = 0
  let closed = 0
  const stream = data.fromSamples(async function* () {
    open++
    try {
      for (let i = 0; ; i++) {
        await sleep(1)
        yield { y: i }
      }
    } finally {
      closed++
    }
  })
  const loader = new data.DataLoader(stream, { batchSize: 3, prefetch: 2 })
  expect(loader.length).toBeNaN()
  let n = 0
  for await (const { y } of loader) {
    expect([...y.data]).toEqual([3 * n, 3 * n + 1, 3 * n + 2])
    if (++n === 4) break
  }
  expect([open, closed]).toEqual([1, 1])
})

test('a stream in memory, by epochs, and one that can be read only once', async () => {
  const make = async function* (): AsyncGenerator<{ y: number }> {
    for (let i = 0; i < 7; i++) yield { y: i }
  }
  const collected = await data.collect(make(), { dtypes: { y: 'i32' } })
  expect(collected.size).toBe(7)
  expect((await collected.batch([6, 0])).y).toEqual({ data: Int32Array.of(6, 0), shape: [2], dtype: 'i32' })
  expect((await data.collect(make(), { limit: 2 })).size).toBe(2)
  const again = new data.DataLoader(data.fromSamples(make, { size: 7 }), { batchSize: 4, dropLast: true })
  expect(again.length).toBe(1)
  for (let i = 0; i < 2; i++) expect(labels(await all(again))).toEqual([0, 1, 2, 3])
  const once = new data.DataLoader(data.fromSamples(make()), { batchSize: 4 })
  expect(labels(await all(once))).toEqual([0, 1, 2, 3, 4, 5, 6])
  await expect(all(once)).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
  const mixed = new data.DataLoader(data.fromSamples(make, { shuffleBuffer: 3 }), { batchSize: 4, shuffle: true })
  const [first, second] = [labels(await all(mixed)), labels(await all(mixed))]
  expect(first).not.toEqual(second)
  for (const order of [first, second]) expect([...order].sort()).toEqual([0, 1, 2, 3, 4, 5, 6])
})

test('samples that do not match are refused', async () => {
  const fails = async (samples: unknown[], expected: 'AUX_INVALID_ARGUMENT' | 'AUX_SHAPE_MISMATCH'): Promise<void> => {
    await expect(data.collect(samples as data.Sample[])).rejects.toEqual(withCode(expected))
    await expect(
      all(new data.DataLoader(data.fromSamples(samples as data.Sample[]), { batchSize: 4 })),
    ).rejects.toEqual(withCode(expected))
  }
  await fails([{ x: [1, 2] }, { x: [1] }], 'AUX_SHAPE_MISMATCH')
  await fails([{ x: 1 }, { x: true }], 'AUX_SHAPE_MISMATCH')
  await fails([{ x: 1 }, { y: 1 }], 'AUX_SHAPE_MISMATCH')
  await fails([{ x: 1 }, { x: 1, y: 1 }], 'AUX_SHAPE_MISMATCH')
  await fails([3], 'AUX_INVALID_ARGUMENT')
  await expect(data.collect([])).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
  const misspelt = { dtypes: { lable: 'i32' } } as const // the labels would be f32
  const refused = /expected dtypes of the fields x, label, got one of lable/
  await expect(data.collect([{ x: 1, label: 1 }], misspelt)).rejects.toThrow(refused)
  const stream = data.fromSamples([{ x: 1, label: 1 }], misspelt)
  await expect(all(new data.DataLoader(stream, { batchSize: 4 }))).rejects.toThrow(refused)
})

test('data sets map, slice and select', async () => {
  const set = data.fromArrays({ x: tensor([[1], [2], [3], [4]]), y: [0, 1, 2, 3] }, { dtypes: { y: 'i32' } })
  expect(set.size).toBe(4)
  const doubled = set.map(({ x }) => ({ z: { ...x, data: x.data.map((v) => 2 * v) } }))
  expect([...(await doubled.slice(-3).batch([2, 0])).z.data]).toEqual([8, 4])
  expect([...(await set.select([3, 1]).slice(1).batch([0, 0])).y.data]).toEqual([1, 1])
  expect(set.slice(3, 1).size).toBe(0)
  const into = {
    x: { data: new Float32Array(2), shape: [2, 1], dtype: 'f32' as const },
    y: { data: new Int32Array(2), shape: [2], dtype: 'i32' as const },
  }
  const batch = await set.batch([2, 1], { into })
  expect(batch.x.data).toBe(into.x.data)
  expect([...into.x.data, ...into.y.data]).toEqual([3, 2, 2, 1])
  await expect(set.batch([0], { into })).rejects.toEqual(withCode('AUX_SHAPE_MISMATCH'))
  await expect(set.batch([4])).rejects.toEqual(withCode('AUX_INDEX_OUT_OF_RANGE'))
  await expect(set.map(() => 3 as never).batch([0])).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
  await expect(set.map(() => ({ x: 3 }) as never).batch([0])).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
})

test('data sets one behind the other, in any order of rows', async () => {
  const seen: number[][] = []
  const third = rows(4).map((batch, { indices }) => (seen.push([...indices]), batch))
  const joined = rows(3).concat(rows(0), rows(5).slice(2), third)
  expect(joined.size).toBe(10)
  const { x, y } = await joined.batch([9, 0, 4, 6, 2, 4])
  expect([...y.data]).toEqual([3, 0, 3, 0, 2, 3])
  expect(x.shape).toEqual([6, 3])
  y.data.forEach((label, i) => expect([...x.data.slice(3 * i, 3 * i + 3)]).toEqual([0, 1, 2].map((k) => 3 * label + k)))
  expect(seen).toEqual([[3, 0]]) // as the part counts them
  expect((await joined.batch([])).x.shape).toEqual([0, 3])
  expect(labels(await all(new data.DataLoader(joined, { batchSize: 4 })))).toEqual([0, 1, 2, 2, 3, 4, 0, 1, 2, 3])
  const refused = (other: unknown, message: RegExp): Promise<void> =>
    expect(
      (async () =>
        rows(1)
          .concat(other as typeof joined)
          .batch([0, 1]))(),
    ).rejects.toEqual(withCode(other instanceof data.Dataset ? 'AUX_SHAPE_MISMATCH' : 'AUX_INVALID_ARGUMENT', message))
  await refused(data.fromArrays({ x: [[1, 2, 3]] }), /^Dataset.concat: expected fields x, y, got x$/)
  await refused(data.fromArrays({ x: [[1, 2]], y: [1] }), /expected field x to be f32 \[2, 3\], got f32 \[2, 2\]$/)
  await refused(data.fromArrays({ x: [[1, 2, 3]], y: [1] }), /expected field y to be i32 \[2\], got f32 \[2\]$/)
  await refused([], /^Dataset.concat: expected data sets, got Array$/)
})

test('a data set in parts: each row in one of them, by seed', async () => {
  const of = async (set: data.Dataset) =>
    (await all(new data.DataLoader(set, { batchSize: 99 }))).flatMap((b) => [...b.y.data])
  const parts = await Promise.all(rows(11).split([0.7, 0.2, 0.1], { seed: 3 }).map(of))
  expect(parts.map((p) => p.length)).toEqual([8, 2, 1]) // 7, 2 and 1, and one that is left over
  expect(parts.flat()).toEqual([...data.permutation(11, 3, 0)])
  const shares = [[0.71, 0.29], [0.43, 0.57]] // prettier-ignore
  expect(shares.map((p) => rows(100).split(p).map((set) => set.size))).toEqual([[71, 29], [43, 57]]) // prettier-ignore
  expect(rows(5).split([2, 0, 3]).map((set) => set.size)).toEqual([2, 0, 3]) // prettier-ignore
  expect(rows(1).split([1]).map((set) => set.size)).toEqual([1]) // prettier-ignore
  for (const wrong of [[2, 2], [0.5, 0.4], [-1, 6], [NaN], [], 3])
    expect(() => rows(5).split(wrong as number[])).toThrow(
      withCode('AUX_INVALID_ARGUMENT', /^Dataset\.split: expected numbers of rows that add up to 5/),
    )
  expect(() => rows(5).split([5], { seed: -1 })).toThrow(withCode('AUX_INVALID_ARGUMENT', /seed/))
})

test('a cross-validation leaves out each row once, and trains on all others', async () => {
  const rowsOf = async (set: data.Dataset): Promise<number[]> =>
    Array.from((await set.batch(Array.from({ length: set.size }, (_, i) => i))).x.data)
  const set = data.fromArrays({ x: Array.from({ length: 11 }, (_, i) => i) })
  const folds = set.kFold(4, { seed: 3 })
  expect(folds.map(({ validation }) => validation.size)).toEqual([2, 3, 3, 3])
  const left: number[] = []
  for (const { train, validation } of folds) {
    const out = await rowsOf(validation)
    left.push(...out)
    expect([...(await rowsOf(train)), ...out].sort((a, b) => a - b)).toEqual(Array.from({ length: 11 }, (_, i) => i))
  }
  expect([...left].sort((a, b) => a - b)).toEqual(Array.from({ length: 11 }, (_, i) => i))
  expect(left).toEqual(Array.from(data.permutation(11, 3, 0)))
  expect(() => set.kFold(1)).toThrow(/expected k to be a whole number from 2 to 11, got 1/)
  expect(() => set.kFold(12)).toThrow(/expected k to be a whole number from 2 to 11, got 12/)
})

test('weights: a row that comes again is cut and mirrored anew, wherever the transform stands', async () => {
  const image = (first: number, count: number) =>
    data.fromArrays({
      x: {
        data: Float32Array.from({ length: count * 9 }, (_, i) => first * 9 + i),
        shape: [count, 1, 9, 1],
        dtype: 'f32',
      },
    })
  const change = data.compose(data.randomCrop([1, 4]), data.randomFlip())
  const weights = Array.from({ length: 64 }, (_, i) => (i === 40 ? 1 : 0))
  const seen = async (loader: AsyncIterable<data.Batch>): Promise<string[]> =>
    (await all(loader)).flatMap(({ x }) =>
      Array.from({ length: x.shape[0] }, (_, i) => x.data.slice(4 * i, 4 * i + 4).join()),
    )
  const options = { batchSize: 7, weights, seed: 3 }
  const first = () => new data.DataLoader(image(0, 64), { ...options, transform: change })
  const whole = await seen(first())
  expect(new Set(whole).size).toBe(12) // 6 places, 2 ways round
  const parts = image(0, 30).map(change).concat(image(30, 34).map(change))
  expect(new Set(await seen(new data.DataLoader(parts, options))).size).toBe(12)
  const resumed = first()
  resumed.restore({ ...resumed.state(), position: 4 })
  expect(await seen(resumed)).toEqual(whole.slice(28))
})

test('weights: rows come as often as they say, a function of seed and epoch, and a loader resumes', async () => {
  const weights = [0, 1, 3, 0, 4, 0]
  const make = (seed = 5) => new data.DataLoader(rows(6), { batchSize: 4, weights, seed })
  const loader = make()
  expect(loader.length).toBe(2)
  const epochs = 2000
  const counts = new Array<number>(6).fill(0)
  const first: number[][] = []
  for (let epoch = 0; epoch < epochs; epoch++) {
    const got = labels(await all(loader))
    if (epoch < 2) first.push(got)
    for (const label of got) counts[label]++
  }
  expect([counts[0], counts[3], counts[5]]).toEqual([0, 0, 0])
  // Chi-squared with 2 degrees of freedom, 1 in 1000.
  const expected = weights.map((w) => (w / 8) * 6 * epochs)
  expect(counts.reduce((sum, n, i) => sum + (expected[i] ? (n - expected[i]) ** 2 / expected[i] : 0), 0)).toBeLessThan(
    13.8,
  )
  expect(first[0]).not.toEqual(first[1])
  const again = make()
  expect([labels(await all(again)), labels(await all(again))]).toEqual(first)
  expect(labels(await all(make(6)))).not.toEqual(first[0])
  const resumed = make()
  resumed.restore({ ...make().state(), epoch: 1, position: 1 })
  expect(labels(await all(resumed))).toEqual(first[1].slice(4))
  // By other weights other rows would come: that state is refused, and one of before, without them, is not.
  const others = new data.DataLoader(rows(6), { batchSize: 4, weights: [1, 1, 3, 0, 4, 0], seed: 5 })
  const even = new data.DataLoader(rows(6), { batchSize: 4, shuffle: true, seed: 5 })
  for (const other of [others, even])
    expect(() => other.restore(make().state())).toThrow(withCode('AUX_INVALID_ARGUMENT', /a state with weights /))
  const { weights: _, shuffleBuffer: __, ...before } = make().state()
  others.restore(before)
  const mixing = (shuffleBuffer: number) =>
    new data.DataLoader(data.fromSamples([{ y: 1 }], { shuffleBuffer }), { batchSize: 1, shuffle: true })
  expect(() => mixing(3).restore(mixing(4).state())).toThrow(
    withCode('AUX_INVALID_ARGUMENT', /a state with shuffleBuffer 3 as in this loader, got 4/),
  )
  const wrong = (options: object) => () => new data.DataLoader(rows(2), { batchSize: 1, ...options })
  for (const bad of [[1], [1, -1], [0, 0], [1, NaN], [1, Infinity], [1, 2, 3]])
    expect(wrong({ weights: bad })).toThrow(
      withCode('AUX_INVALID_ARGUMENT', new RegExp(`weights >= 0, .* each of 2 rows .*, got ${bad.length}`)),
    )
  expect(wrong({ weights: [1, 1], shuffle: false })).toThrow(withCode('AUX_INVALID_ARGUMENT', /no shuffle: false/))
  expect(() => new data.DataLoader(data.fromSamples([{ y: 1 }]), { batchSize: 1, weights: [1] })).toThrow(
    withCode('AUX_INVALID_ARGUMENT'),
  )
})

test('batches are kept by nobody else', async () => {
  const set = rows(6)
  const loader = new data.DataLoader(set, { batchSize: 2 })
  const kept = await all(loader)
  for (const { x } of kept) x.data.fill(-1)
  expect((await all(loader))[0].x.data[1]).toBe(1)
  expect(new Set(kept.map((b) => b.x.data.buffer)).size).toBe(3)
})

test('rows whose memory is given away are missed, not made up', async () => {
  const x = new Float32Array(6).fill(1)
  const set = data.fromArrays({ x: { data: x, shape: [2, 3] } })
  expect([...(await set.batch([1])).x.data]).toEqual([1, 1, 1])
  structuredClone(x, { transfer: [x.buffer] })
  await expect(set.batch([1])).rejects.toEqual(
    withCode('AUX_INVALID_ARGUMENT', /fromArrays: expected field x to have its 6 values still, got 0/),
  )
})

test('wrong arguments are named', () => {
  const make = (options: Partial<LoaderOptions<XY, XY>>) => () =>
    new data.DataLoader(rows(4), { batchSize: 2, ...options })
  for (const options of [
    { batchSize: 0 },
    { batchSize: 1.5 },
    { seed: -1 },
    { prefetch: -1 },
    { batchSize: 5, dropLast: true },
    { transform: 3 as never },
  ])
    expect(make(options)).toThrow(withCode('AUX_INVALID_ARGUMENT'))
  expect(() => new data.DataLoader([1] as never, { batchSize: 1 })).toThrow(
    withCode('AUX_INVALID_ARGUMENT', /expected a data set, .*got Array$/),
  )
  expect(() => new data.DataLoader(data.fromSamples([{ y: 1 }]), { batchSize: 1, shuffle: true })).toThrow(
    withCode('AUX_INVALID_ARGUMENT'),
  )
  expect(() => data.fromArrays({})).toThrow(withCode('AUX_INVALID_ARGUMENT'))
  expect(() => data.fromArrays({ x: [1, 2], y: [1] })).toThrow(withCode('AUX_SHAPE_MISMATCH'))
  expect(() => data.fromArrays({ x: 1 })).toThrow(withCode('AUX_SHAPE_MISMATCH'))
  const loader = make({})()
  const state = loader.state()
  for (const change of [
    { version: 2 },
    { seed: 1 },
    { size: 5 },
    { batchSize: 1 },
    { shuffle: true },
    { position: 3 },
    { position: -1 },
    { epoch: 0.5 },
  ])
    expect(() => loader.restore({ ...state, ...change } as never)).toThrow(withCode('AUX_INVALID_ARGUMENT'))
  expect(() => loader.restore(null as never)).toThrow(withCode('AUX_INVALID_ARGUMENT'))
})

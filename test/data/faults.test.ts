import fc from 'fast-check'
import { AuxgradError } from '../../src'
import * as data from '../../src/data'
import { check } from '../support/property'

// Random sources of batches that fail at a random place, or loops that end there: the batches before are those of a source
// that does not fail, the error is the source's own or one that names what came, sources are closed once, and the loader
// goes on from where it stood. AUXGRAD_FUZZ=n runs n times as many, AUXGRAD_SEED others.
const times = Number(process.env.AUXGRAD_FUZZ ?? (process.env.AUXGRAD_LONG === '1' ? 30 : 1))

type XY = { x: data.Batch[string]; y: data.Batch[string] }

const faults = [
  'none',
  'throw',
  'reject',
  'another shape',
  'another field',
  'no sample',
  'break',
  'throw outside',
] as const
const sources = [
  'arrays',
  'own',
  'own, asynchronous',
  'mapped',
  'generator',
  'asynchronous generator',
  'iterable',
] as const

const plain = { noNullPrototype: true }
const situation = fc.record(
  {
    source: fc.constantFrom(...sources),
    fault: fc.constantFrom(...faults),
    /** Row, or batch of a loop that ends, at which it happens. */
    at: fc.nat(14),
    size: fc.nat(14),
    batchSize: fc.integer({ min: 1, max: 6 }),
    epoch: fc.nat(2),
    order: fc.constantFrom('as they are', 'shuffled', 'weighted'),
    dropLast: fc.boolean(),
    prefetch: fc.nat(4),
    transformed: fc.constantFrom('no', 'at once', 'later'),
    endless: fc.boolean(),
  },
  plain,
)
type Situation = typeof situation extends fc.Arbitrary<infer T> ? T : never

const own = new Error('of the source')
const later = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** A loader of these, what was opened and closed of its source, and whether it can be made. */
function make(s: Situation, fault: Situation['fault']) {
  const counts = { opened: 0, closed: 0 }
  const isStream = s.source.includes('generator') || s.source === 'iterable'
  const fails = (row: number, epoch: number): boolean => row === s.at && epoch === s.epoch
  const sample = (row: number, epoch: number): data.Sample => {
    const good = { x: [row, epoch], y: row }
    if (!fails(row, epoch)) return good
    if (fault === 'throw' || fault === 'reject') throw own
    if (fault === 'another shape') return { ...good, x: [row, epoch, 0] }
    if (fault === 'another field' && isStream) return { x: good.x, z: row }
    return fault === 'no sample' ? (undefined as never) : good
  }
  const size = s.endless && isStream ? Infinity : s.size
  let set: data.Dataset<XY> | data.SampleStream<XY>
  if (isStream) {
    const generate = function* (epoch: number): Generator<data.Sample> {
      counts.opened++
      try {
        for (let row = 0; row < size; row++) yield sample(row, epoch)
      } finally {
        counts.closed++
      }
    }
    const asynchronous = async function* (epoch: number): AsyncGenerator<data.Sample> {
      for (const one of generate(epoch)) {
        await later()
        yield one
      }
    }
    set = data.fromSamples(
      ({ epoch }) =>
        s.source === 'generator'
          ? generate(epoch)
          : s.source === 'iterable'
            ? { [Symbol.iterator]: () => generate(epoch) }
            : asynchronous(epoch),
      { dtypes: { y: 'i32' }, ...(s.order !== 'as they are' && { shuffleBuffer: 3 }) },
    ) as data.SampleStream<XY>
  } else {
    const rows = Array.from({ length: s.size }, (_, i) => i)
    const arrays = data.fromArrays({
      x: { data: Float32Array.from(rows.flatMap((i) => [i, 0])), shape: [s.size, 2], dtype: 'f32' },
      y: Int32Array.from(rows),
    })
    const read = (context: data.BatchContext, batch: XY): XY => {
      const { indices, epoch } = context
      const hit = indices.find((row) => fails(row, epoch))
      const x = batch.x.data.map((v, i) => (i % 2 ? epoch : v))
      if (hit === undefined) return { ...batch, x: { ...batch.x, data: x } }
      const one = sample(hit, epoch) as Record<string, number[]> | undefined
      if (one === undefined) return undefined as never
      if (one.x?.length === 3) return { ...batch, x: batch.x.data as never }
      return { ...batch, x: { ...batch.x, data: x } }
    }
    class Own extends data.Dataset<XY> {
      readonly size = s.size
      async read(context: data.BatchContext): Promise<XY> {
        if (s.source !== 'own') await later()
        return read(context, await arrays.batch([...context.indices]))
      }
    }
    set =
      s.source === 'mapped' || s.source === 'arrays'
        ? arrays.map((batch, context) => read(context, batch as XY)) // prettier-ignore
        : new Own()
  }
  const loader = new data.DataLoader<XY>(set, {
    batchSize: s.batchSize,
    seed: 3,
    dropLast: s.dropLast,
    prefetch: s.prefetch,
    ...(s.order !== 'as they are' && { shuffle: true }),
    ...(s.order === 'weighted' && !isStream && { weights: Array.from({ length: s.size }, (_, i) => i % 3) }),
    ...(s.transformed !== 'no' && {
      transform: async (batch: XY): Promise<XY> => {
        if (s.transformed === 'later') await later()
        if (!batch.y) return batch
        return { ...batch, y: { ...batch.y, data: batch.y.data.map((v) => v + 100) } }
      },
    }),
  })
  return { loader, counts }
}

const shown = (batch: data.Batch): string =>
  JSON.stringify(Object.values(batch).map(({ shape, data }) => [shape, [...data]]))

/** Batches of an epoch until it ends, fails, or the loop is left after `most`. */
async function epochOf(
  loader: data.DataLoader<XY>,
  most: number,
  error?: Error,
): Promise<{ got: string[]; error?: unknown; left?: boolean }> {
  const got: string[] = []
  try {
    for await (const batch of loader) {
      got.push(shown(batch))
      if (got.length === most) {
        if (error) throw error
        return { got, left: true }
      }
    }
    return { got }
  } catch (error) {
    return { got, error }
  }
}

const unhandled: unknown[] = []
const note = (error: unknown): void => void unhandled.push(error)
beforeAll(() => void process.on('unhandledRejection', note))
afterAll(() => void process.off('unhandledRejection', note))

test(
  'a source that fails, a loop that is left: nothing is lost before it, all is closed, and it goes on from there',
  async () => {
    let failed = 0
    await check(80 * times, situation, async (s) => {
      let good: ReturnType<typeof make>
      try {
        good = make(s, 'none')
      } catch (error) {
        if (!(error instanceof AuxgradError)) throw error
        return
      }
      const most = s.endless ? 6 : Infinity
      const whole: string[][] = []
      for (let epoch = 0; epoch <= s.epoch; epoch++) whole.push((await epochOf(good.loader, most)).got)
      const { loader, counts } = make(s, s.fault)
      for (let epoch = 0; epoch < s.epoch; epoch++) expect((await epochOf(loader, most)).got).toEqual(whole[epoch])
      const left = s.fault === 'break' || s.fault === 'throw outside'
      const outside = s.fault === 'throw outside' ? new Error('outside') : undefined
      const { got, error, left: early } = await epochOf(loader, left ? Math.min(most, 1 + (s.at % 3)) : most, outside)
      // A sample that is the first of its batch says of what kind the batch is.
      const others = got.filter((batch, i) => batch !== whole[s.epoch][i])
      expect(others.length).toBeLessThanOrEqual(s.fault.startsWith('another') ? 1 : 0)
      if (error) {
        failed++
        if (error !== own && error !== outside) {
          expect(error).toBeInstanceOf(AuxgradError)
          expect((error as Error).message).toMatch(
            /^(fromSamples|Dataset\.\w+|DataLoader)(: \w+)?.*: .*expected .*got /s,
          )
        }
      } else if (!left) expect(got.length).toBe(whole[s.epoch].length)
      await later()
      await later()
      expect(counts.closed).toBe(counts.opened)
      // Another loader goes on from here as if nothing had been.
      const state = JSON.parse(JSON.stringify(loader.state())) as data.LoaderState
      expect(state.epoch * 1000 + state.position).toBe(
        error || early ? s.epoch * 1000 + got.length : (s.epoch + 1) * 1000,
      )
      const resumed = make(s, 'none').loader
      resumed.restore(state)
      if (state.epoch === s.epoch && most > got.length)
        expect((await epochOf(resumed, most - got.length)).got).toEqual(whole[s.epoch].slice(got.length))
      // So does this one, with its next epoch.
      const next = await epochOf(loader, most)
      expect(loader.epoch >= s.epoch + 1).toBe(true)
      if (state.epoch === s.epoch && most > got.length) expect((await epochOf(resumed, most)).got).toEqual(next.got)
    })
    await later()
    expect(unhandled).toEqual([])
    expect(failed).toBeGreaterThan(5 * times)
  },
  60000 + 60000 * times,
)

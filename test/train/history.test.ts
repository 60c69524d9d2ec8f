import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { compile, data, nn, optim, seed, tensor, train } from '../../src'
import { maskedCrc } from '../../src/train/events'
import { cli } from '../support/cli'
import { scratchFolder } from '../support/folder'

const folder = scratchFolder()

/** Fields of a protocol buffer: numbers as they are, the rest as bytes. */
function fieldsOf(bytes: Buffer): { field: number; value: number | Buffer }[] {
  const fields: { field: number; value: number | Buffer }[] = []
  let at = 0
  const varint = (): number => {
    let n = 0
    for (let unit = 1; ; unit *= 128) {
      const byte = bytes[at++]
      n += (byte & 127) * unit
      if (byte < 128) return n
    }
  }
  while (at < bytes.length) {
    const key = varint()
    const length = { 0: 0, 1: 8, 5: 4 }[key & 7] ?? varint()
    const value =
      (key & 7) === 0
        ? varint()
        : (key & 7) === 1
          ? bytes.readDoubleLE(at)
          : (key & 7) === 5
            ? bytes.readFloatLE(at)
            : bytes.subarray(at, at + length)
    at += length
    fields.push({ field: key >> 3, value })
  }
  return fields
}

const only = (bytes: Buffer, field: number) => fieldsOf(bytes).find((f) => f.field === field)?.value

/** Messages of a TFRecord file whose checksums are right. */
function records(file: string): Buffer[] {
  const bytes = readFileSync(file)
  const messages: Buffer[] = []
  for (let at = 0; at < bytes.length;) {
    const length = bytes.readUInt32LE(at)
    expect(bytes.readUInt32LE(at + 4)).toBe(0)
    expect(bytes.readUInt32LE(at + 8)).toBe(maskedCrc(bytes.subarray(at, at + 8)))
    const message = bytes.subarray(at + 12, at + 12 + length)
    expect(bytes.readUInt32LE(at + 12 + length)).toBe(maskedCrc(message))
    messages.push(message)
    at += length + 16
  }
  return messages
}

describe('events', () => {
  test('the checksum is that of TFRecord', () => {
    // RFC 3720: crc32c of "123456789"; and the length that every file of events begins with, as TensorFlow writes it.
    const crc = 0xe3069283
    expect(maskedCrc(Buffer.from('123456789'))).toBe((((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0)
    expect(maskedCrc(Buffer.from([24, 0, 0, 0, 0, 0, 0, 0]))).toBe(0x224b7fa3)
  })

  test('scalars and histograms are records that say what was noted', async () => {
    const writer = new train.EventWriter(path.join(folder, 'made', 'on the way'))
    writer.scalars({ loss: 0.5, 'rows/s': 1234 }, 0)
    writer.scalars({ loss: NaN }, 1e10)
    writer.histogram('w', tensor([-1, -1, 0.2, 3, NaN]), 7, { buckets: 4 })
    writer.histogram('same', new Float32Array(5).fill(2), 7)
    await writer.flush()
    expect(records(writer.file)).toHaveLength(5)
    writer.scalars({ loss: 0.25 }, 300)
    await writer.close()
    const [version, first, second, third, same, last] = records(writer.file)
    expect(String(only(version, 3))).toBe('brain.Event:2')
    expect(version).toHaveLength(24)
    expect(Math.abs((only(first, 1) as number) - Date.now() / 1000)).toBeLessThan(60)
    const summaries = (message: Buffer) => fieldsOf(only(message, 5) as Buffer).map((f) => f.value as Buffer)
    const scalars = (message: Buffer) => summaries(message).map((s) => [String(only(s, 1)), only(s, 2)])
    expect(scalars(first)).toEqual([
      ['loss', 0.5],
      ['rows/s', 1234],
    ])
    expect([only(second, 2), ...scalars(second)]).toEqual([1e10, ['loss', NaN]])
    expect([only(last, 2), ...scalars(last)]).toEqual([300, ['loss', 0.25]])
    const histogram = (message: Buffer) => {
      const [summary] = summaries(message)
      const proto = only(summary, 5) as Buffer
      const doubles = (field: number) => {
        const packed = only(proto, field) as Buffer
        return Array.from({ length: packed.length / 8 }, (_, i) => packed.readDoubleLE(8 * i))
      }
      return { numbers: [1, 2, 3, 4].map((f) => only(proto, f)), limits: doubles(6), counts: doubles(7) }
    }
    const { numbers, limits, counts } = histogram(third)
    expect(numbers.slice(0, 3)).toEqual([-1, 3, 4])
    expect(numbers[3]).toBeCloseTo(1.2)
    expect(limits).toEqual([0, 1, 2, 3])
    expect(counts).toEqual([2, 1, 0, 1])
    expect(histogram(same)).toMatchObject({ limits: [2], counts: [5] })
    expect(() => writer.scalars({ loss: 1 }, 301)).toThrow(expect.objectContaining({ code: 'AUX_DISPOSED' }))
  })

  test('what cannot be written or is no number is an error', async () => {
    const file = path.join(folder, 'a file')
    writeFileSync(file, '')
    const writer = new train.EventWriter(path.join(file, 'run'))
    writer.scalars({ loss: 1 }, 1)
    await expect(writer.flush()).rejects.toMatchObject({
      code: 'AUX_WRITE_FAILED',
      message: expect.stringContaining(writer.file),
    })
    expect(() => writer.scalars({ loss: 1 }, 2)).toThrow(/events cannot be written/)
    await expect(writer.close()).rejects.toThrow(/events cannot be written/)
    const other = new train.EventWriter(folder)
    expect(() => other.scalars({ loss: '1' as never }, 1)).toThrow(/expected loss to be a number, got string/)
    expect(() => other.scalars({ loss: 1 }, 1.5)).toThrow(/expected the number of the step, got 1.5/)
    expect(() => other.histogram('w', [1], 1, { buckets: 0 })).toThrow(/whole number of buckets, got 0/)
    await other.close()
    await other[Symbol.asyncDispose]() // closed already
    expect(() => new train.EventWriter('')).toThrow(/path of a folder/)
  })
})

describe('reports', () => {
  const learn = async (events?: train.EventWriter) => {
    seed(1)
    const model = new nn.Sequential(new nn.Linear(4, 16), new nn.ReLU(), new nn.Linear(16, 1))
    const step = compile({
      model,
      loss: ({ x, y }) => nn.mse(model.forward(x), y),
      optimizer: new optim.SGD({ lr: 0.05 }),
      clip: { norm: 1 },
      indicator: true,
    })
    const x = Float32Array.from({ length: 256 }, (_, i) => Math.sin(i * i))
    const rows = data.fromArrays({ x: { data: x, shape: [64, 4] }, y: { data: x.slice(0, 64), shape: [64, 1] } })
    const loader = new data.DataLoader(rows, { batchSize: 16 })
    const history = new train.History()
    const plan = step.plan({ x: [16, 4], y: [16, 1] })
    for await (const event of train.fit({ step, loader, epochs: 3, validate: () => 0.5 })) {
      history.scalars(train.scalarsOf(event), step.runs)
      events?.scalars(train.scalarsOf(event), step.runs)
    }
    step.close()
    return { history, plan }
  }

  test('what fit tells has numbers by name', async () => {
    const events = new train.EventWriter(path.join(folder, 'fit'))
    const { history } = await learn(events)
    await events.close()
    expect([...history.series.keys()]).toEqual([
      'loss',
      'gradNorm',
      'rows/s',
      'indicator/0',
      'indicator/2',
      'epoch/loss',
      'epoch/validation',
    ])
    expect(history.series.get('loss')!.steps).toEqual(Array.from({ length: 12 }, (_, i) => i + 1))
    expect(history.series.get('epoch/validation')).toEqual({ steps: [4, 8, 12], values: [0.5, 0.5, 0.5] })
    for (const mean of history.series.get('indicator/2')!.values) expect(mean).toBeCloseTo(1, 4)
    expect(records(events.file)).toHaveLength(16)
  })

  test('a report is one page with curves, bytes and arena, and fetches nothing', async () => {
    const run = await learn()
    const page = train.report([{ name: 'a < b', ...run, facts: { accuracy: 0.123456, note: '<i>' } }], {
      title: 'T & U',
    })
    expect(page).toMatch(/^<!doctype html>/)
    expect(page).toContain('<h1>T &amp; U</h1>')
    expect(page).toContain('a &lt; b')
    expect(page).toContain('<td>0.1235</td>')
    expect(page).toContain('<td>&lt;i&gt;</td>')
    expect(page.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(/https?:|<script|<link|@import|url\(/)
    expect(page).toContain(run.plan.toSVG())
    for (const { layer } of run.plan.kept) expect(page).toContain(`<td>${layer || '(outside of layers)'}</td>`)
    expect(page.match(/<figure>/g)).toHaveLength(5) // loss, gradNorm, rows/s, indicator, epoch
    expect(page).toMatch(/>indicator<\/text>/)
  })

  test('curves say what was lost in them, and lie in their picture', () => {
    const history = new train.History()
    for (let step = 0; step < 1000; step++) history.scalars({ loss: step < 990 ? Math.exp(-step / 100) : NaN }, step)
    history.scalars({ flat: 3 }, 5)
    history.scalars({ never: Infinity }, 5)
    for (let i = 0; i < 12; i++) history.scalars({ [`many/${i}`]: i }, 0)
    const page = train.report([{ name: 'run', history }])
    expect(page).toContain('10 not finite, first at step 990')
    expect(page).toContain('loss (log scale)')
    expect(page).toContain('>0.001</text>')
    expect(page).toContain('and 4 more, not drawn')
    expect(page).not.toMatch(/(points|x1?|y1?|cx|cy|width|height)="[^"]*(NaN|Infinity)/)
    for (const [, points] of page.matchAll(/points="(.*?)"/g))
      for (const point of points.split(' ')) {
        const [x, y] = point.split(',').map(Number)
        expect(x >= 62 && x <= 546 && y >= 34 && y <= 266).toBe(true)
      }
    // The empty report is a page too.
    expect(train.report([])).toContain('<h1>Training</h1>')
  })

  test('what is no run is refused by name', () => {
    expect(() => train.report([{ name: 'a', histroy: 1 } as never])).toThrow(/there is no option histroy/)
    expect(() => train.report([{ name: 'a', history: {} as never }])).toThrow(
      /expected history of a to be a train.History/,
    )
    expect(() => train.report({} as never)).toThrow(/expected an array of runs/)
  })
})

test('the command line writes both', async () => {
  mkdirSync(path.join(folder, 'cli'))
  const [page, events] = ['page.html', 'events'].map((name) => path.join(folder, 'cli', name))
  const flags = ['train', '--model', 'mlp', '--limit', '512', '--rule', 'bp,asa']
  const { out, code } = await cli(...flags, '--report', page, '--events', events)
  expect(code).toBe(0)
  expect(out).toContain(`curves in ${page}`)
  expect(readFileSync(page, 'utf8')).toMatch(/test accuracy[^]*The arena of asa/)
  for (const rule of ['bp', 'asa']) expect(existsSync(path.join(events, rule))).toBe(true)
})

import { mkdir, open, type FileHandle } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { AuxgradError, fail } from '../errors'
import { reasonOf } from '../io/file'
import { toHost, type HostValues } from '../tensor/host'
import { expectScalars, type Scalars } from './history'

// A file of events is a TFRecord file: each record is the length of a message, a checksum of that, the message, a checksum of
// it. Messages are protocol buffers, of which these few lines write what an Event is made of.

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  return crc
})

/** @internal CRC-32C, turned and moved as TFRecord wants it. */
export function maskedCrc(bytes: Uint8Array): number {
  let crc = ~0
  for (const byte of bytes) crc = crcTable[(crc ^ byte) & 255] ^ (crc >>> 8)
  crc = ~crc >>> 0
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

function varint(n: number): number[] {
  const bytes: number[] = []
  for (; n > 127; n = Math.floor(n / 128)) bytes.push((n % 128) | 128)
  return [...bytes, n]
}

const numbers = (values: readonly number[], type: 'float' | 'double'): Buffer => {
  const size = type === 'float' ? 4 : 8
  const bytes = Buffer.alloc(size * values.length)
  values.forEach((v, i) => (type === 'float' ? bytes.writeFloatLE(v, 4 * i) : bytes.writeDoubleLE(v, 8 * i)))
  return bytes
}
/** Fields of a message, by kind of wire. */
const wholeField = (field: number, n: number): Buffer => Buffer.from([field << 3, ...varint(n)])
const doubleField = (field: number, x: number): Buffer =>
  Buffer.concat([Buffer.from([(field << 3) | 1]), numbers([x], 'double')])
const floatField = (field: number, x: number): Buffer =>
  Buffer.concat([Buffer.from([(field << 3) | 5]), numbers([x], 'float')])
const bytesField = (field: number, bytes: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from([(field << 3) | 2, ...varint(bytes.length)]), bytes])
const textField = (field: number, words: string): Buffer => bytesField(field, Buffer.from(words))

function record(message: Uint8Array): Buffer {
  const bytes = Buffer.alloc(message.length + 16)
  bytes.writeUInt32LE(message.length, 0)
  bytes.writeUInt32LE(maskedCrc(bytes.subarray(0, 8)), 8)
  bytes.set(message, 12)
  bytes.writeUInt32LE(maskedCrc(message), message.length + 12)
  return bytes
}

/** Counts of values in equal parts of their range, as a HistogramProto. Values that are not finite are left out. */
function histogramOf(values: ArrayLike<number>, buckets: number): Buffer {
  let [low, high, count, sum, squares] = [Infinity, -Infinity, 0, 0, 0]
  for (let i = 0; i < values.length; i++) {
    const v = values[i]
    if (!Number.isFinite(v)) continue
    low = Math.min(low, v)
    high = Math.max(high, v)
    count++
    sum += v
    squares += v * v
  }
  if (!count) low = high = 0
  const parts = high > low ? buckets : 1
  const width = (high - low) / parts
  const counts = new Array<number>(parts).fill(0)
  for (let i = 0; i < values.length; i++)
    if (Number.isFinite(values[i])) counts[width ? Math.min(parts - 1, Math.floor((values[i] - low) / width)) : 0]++
  const limits = counts.map((_, i) => (i === parts - 1 ? high : low + width * (i + 1)))
  return Buffer.concat([
    ...[low, high, count, sum, squares].map((x, i) => doubleField(i + 1, x)),
    bytesField(6, numbers(limits, 'double')),
    bytesField(7, numbers(counts, 'double')),
  ])
}

const flushEvery = 2000 // milliseconds
let files = 0

/**
 * Writes events that TensorBoard reads: `tensorboard --logdir runs`, one folder a run. Nothing waits for the disk: what is
 * noted is written a little later, at the latest by `flush` or `close`, which also say if it could not be.
 */
export class EventWriter {
  /** The file that is written. */
  readonly file: string
  #waiting: Buffer[] = []
  #written: Promise<unknown> = Promise.resolve()
  #handle: FileHandle | undefined
  #failed: AuxgradError | undefined
  #closed = false
  #last = performance.now()

  /** A new file in `directory`, which is made if need be. */
  constructor(directory: string) {
    if (typeof directory !== 'string' || !directory)
      fail('AUX_INVALID_ARGUMENT', `EventWriter: expected the path of a folder, got ${JSON.stringify(directory)}`)
    const now = Math.floor(Date.now() / 1000)
    this.file = path.join(directory, `events.out.tfevents.${now}.${os.hostname()}.${process.pid}.${files++}`)
    this.#event(0, textField(3, 'brain.Event:2'))
  }

  /** Notes what these numbers are at a step. Numbers that are not finite are noted as such. */
  scalars(values: Scalars, step: number): void {
    expectScalars('EventWriter', values, step)
    const summaries = Object.entries(values).map(([name, value]) =>
      bytesField(1, Buffer.concat([textField(1, name), floatField(2, value)])),
    )
    this.#event(step, bytesField(5, Buffer.concat(summaries)))
  }

  /** Notes how these values are spread at a step: `histogram('conv1.weight', weight.dataSync(), 100)`. */
  histogram(name: string, values: HostValues, step: number, { buckets = 30 }: { buckets?: number } = {}): void {
    expectScalars('EventWriter', { buckets }, step)
    if (!(Number.isInteger(buckets) && buckets > 0))
      fail('AUX_INVALID_ARGUMENT', `EventWriter: expected a whole number of buckets, got ${buckets}`)
    const { data, dtype } = toHost('EventWriter', values)
    if (dtype === 'bf16') fail('AUX_DTYPE_MISMATCH', `EventWriter: expected ${name} as f32 or whole numbers, got bf16`)
    const histogram = histogramOf(data, buckets)
    this.#event(step, bytesField(5, bytesField(1, Buffer.concat([textField(1, name), bytesField(5, histogram)]))))
  }

  /** Resolves once all that was noted is in the file. */
  async flush(): Promise<void> {
    this.#last = performance.now()
    const written = (this.#written = this.#written.then(() => this.#write()))
    await written
    if (this.#failed) throw this.#failed
  }

  /** Writes what is left and closes the file. */
  async close(): Promise<void> {
    this.#closed = true
    try {
      await this.flush()
    } finally {
      await this.#handle?.close()
      this.#handle = undefined
    }
  }

  /** `close`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #event(step: number, what: Buffer): void {
    if (this.#closed) fail('AUX_DISPOSED', `${this.file}: expected an open writer of events, got one that was closed`)
    if (this.#failed) throw this.#failed
    const when = doubleField(1, Date.now() / 1000)
    this.#waiting.push(record(Buffer.concat([when, ...(step ? [wholeField(2, step)] : []), what])))
    if (performance.now() - this.#last > flushEvery) this.flush().catch(() => {}) // told at the next call
  }

  async #write(): Promise<void> {
    const waiting = Buffer.concat(this.#waiting)
    this.#waiting = []
    if (this.#failed || !waiting.length) return
    try {
      if (!this.#handle) {
        await mkdir(path.dirname(this.file), { recursive: true })
        this.#handle = await open(this.file, 'a')
      }
      await this.#handle.appendFile(waiting)
    } catch (cause) {
      const reason = `${this.file}: events cannot be written: ${reasonOf(cause)}`
      this.#failed = new AuxgradError('AUX_WRITE_FAILED', reason, { cause })
    }
  }
}

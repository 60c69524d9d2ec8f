import { createHash } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import { writeAtomic } from '../io/atomic'
import { checkEndianness } from '../io/file'
import { native } from '../native'
import { dtypeCode } from '../tensor/dtype'
import type { HostArray } from '../tensor/host'
import type { Storage } from '../tensor/storage'
import type { Tensor } from '../tensor/tensor'
import { bytesOfValue } from './inputs'
import type { Plan, Slot } from './plan'

/** Inputs that a run sets itself; they change from run to run. */
export const inputLr = '$lr'
export const inputStep = '$step'
export const inputRandom = '$random'

/** A plan with the names of what it returns. */
export interface Program {
  readonly plan: Plan
  readonly outputs: readonly string[]
}

/** All that runs without Node need. */
export interface SavedRuns {
  readonly kind: 'step' | 'function'
  /** What a run does; for accumulation first a run that sums, then one that updates. */
  readonly programs: readonly Program[]
  readonly values: ReadonlyMap<string, HostArray | Tensor>
  /** Parameters and buffers by path. */
  readonly state: ReadonlyMap<string, Tensor>
  /** Seed of random numbers, low and high word. */
  readonly seed: readonly [number, number]
  /** Runs and updates done, and runs that make one update. */
  readonly runs: number
  readonly updates: number
  readonly accumulate: number
  /** Learning rates of the updates to come. */
  readonly rates: readonly number[]
  /** Whether the last of them stays. */
  readonly lastRateStays: boolean
}

// The format is described where it is read: native/core/plan_file.h.
const magic = 'AUXPLAN\n'
const version = 1
const sources = new Map([
  [inputLr, 1],
  [inputStep, 2],
  [inputRandom, 3],
])
const partBytes = 8 << 20

/** Little-endian fields, one after the other. */
class Fields {
  #bytes = Buffer.alloc(1 << 12)
  #used = 0

  integer(n: number): void {
    this.#at(8, (at) => this.#bytes.writeBigUInt64LE(BigInt(n), at))
  }

  words([low, high]: readonly [number, number]): void {
    this.#at(8, (at) => {
      this.#bytes.writeInt32LE(low | 0, at)
      this.#bytes.writeInt32LE(high | 0, at + 4)
    })
  }

  real(x: number): void {
    this.#at(8, (at) => this.#bytes.writeDoubleLE(x, at))
  }

  text(s: string): void {
    const length = Buffer.byteLength(s)
    this.integer(length)
    this.#at(length, (at) => this.#bytes.write(s, at))
  }

  list<T>(items: readonly T[], write: (item: T) => void): void {
    this.integer(items.length)
    items.forEach(write)
  }

  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#used)
  }

  #at(bytes: number, write: (at: number) => void): void {
    if (this.#used + bytes > this.#bytes.length)
      this.#bytes = Buffer.concat([this.#bytes, Buffer.alloc(this.#bytes.length + bytes)])
    write(this.#used)
    this.#used += bytes
  }
}

/**
 * Writes a plan file, atomically.
 * @throws AUX_WRITE_FAILED; then the file is as it was.
 */
export async function savePlan(file: string, saved: SavedRuns): Promise<void> {
  checkEndianness(file)
  const names = new Map([...saved.state].map(([name, t]) => [t.storage!, name]))
  const storages = new Set(saved.programs.flatMap(({ plan }) => plan.program.storages))
  const values = [...saved.values.keys()].filter((name) => saved.programs.some(({ plan }) => plan.inputs.has(name)))
  const batch = values.map((name) => {
    const slot = saved.programs.map(({ plan }) => plan.inputs.get(name)).find((s) => s !== undefined)!
    return bytesOfValue(name, saved.values.get(name)!, slot.dtype)
  })

  const fields = new Fields()
  fields.text(saved.kind)
  fields.words(saved.seed)
  for (const n of [saved.runs, saved.updates, saved.accumulate, saved.lastRateStays ? 1 : 0]) fields.integer(n)
  fields.list(saved.rates, (rate) => fields.real(rate))
  fields.list([...storages], (s) => {
    fields.text(names.get(s) ?? 'state of the step')
    fields.integer(s.bytes)
  })
  fields.list(batch, (data) => fields.integer(data.byteLength))
  const index = new Map([...storages].map((s, i) => [s, i]))
  fields.list(saved.programs, (program) => writeProgram(fields, program, index, values))

  const head = new Fields()
  head.integer(version)
  head.integer(fields.bytes.length)
  const data = batch.map((a) => new Uint8Array(a.buffer, a.byteOffset, a.byteLength))
  await writeAtomic(file, hashed([Buffer.from(magic), head.bytes, fields.bytes], storages, data))
}

function writeProgram(
  fields: Fields,
  { plan, outputs }: Program,
  storages: ReadonlyMap<Storage, number>,
  values: readonly string[],
): void {
  const { words, kernels, storages: buffers } = plan.program
  const slot = (name: string, { shape, dtype, offset }: Slot): void => {
    fields.text(name)
    fields.integer(dtypeCode(dtype))
    fields.list(shape, (n) => fields.integer(n))
    fields.integer(offset)
  }
  fields.integer(plan.bytes.total)
  fields.list(kernels, (name) => fields.text(name))
  fields.list(buffers, (s) => fields.integer(storages.get(s)!))
  fields.integer(words.length)
  for (const w of words) fields.real(w)
  fields.list(plan.ops, (op) => fields.text(`${op.phase} ${op.layer || '-'} ${op.op}`))
  fields.list([...plan.inputs], ([name, s]) => {
    slot(name, s)
    fields.integer(sources.get(name) ?? 0)
    fields.integer(Math.max(0, values.indexOf(name)))
  })
  fields.list(
    plan.outputs.map((s, i) => [outputs[i], s] as const),
    ([name, s]) => slot(name, s),
  )
}

async function* hashed(
  first: readonly Uint8Array[],
  storages: Iterable<Storage>,
  last: readonly Uint8Array[],
): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256')
  const seen = (part: Uint8Array): Uint8Array => {
    hash.update(part)
    return part
  }
  for (const part of first) yield seen(part)
  for (const s of storages)
    for (let at = 0; at < s.bytes; at += partBytes) {
      const part = new Uint8Array(Math.min(partBytes, s.bytes - at))
      native().read(s.handle, at, part)
      yield seen(part)
      await turn() // leaves room for other work
    }
  for (const part of last) yield seen(part)
  yield hash.digest()
}

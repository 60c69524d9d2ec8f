import { lstat, realpath } from 'node:fs/promises'
import path from 'node:path'
import { types } from 'node:util'
import { AuxgradError, expectOptions, fail } from '../errors'
import type { DType } from '../tensor/dtype'
import type { HostArray } from '../tensor/host'
import { showShape, type Shape } from '../tensor/shape'
import { Tensor } from '../tensor/tensor'
import { writeAtomic } from './atomic'
import { fileTypes } from './convert'
import { allocate, badFile, checkEndianness, InputFile } from './file'
import { JsonError, JsonReader, quote } from './json'

/** Element types of safetensors files; BF16 and F16 are held as 16-bit patterns, BOOL as bytes 0 and 1. */
const kinds = {
  BOOL: Uint8Array,
  U8: Uint8Array,
  I8: Int8Array,
  I16: Int16Array,
  U16: Uint16Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I32: Int32Array,
  U32: Uint32Array,
  F32: Float32Array,
  I64: BigInt64Array,
  U64: BigUint64Array,
  F64: Float64Array,
} as const

/** Element types of safetensors files, by the names they have there. */
export type SafetensorsDType = keyof typeof kinds
type RawArray = InstanceType<(typeof kinds)[SafetensorsDType]>

/** A tensor as it lies in a file. */
export interface RawTensor {
  /** Element type in the file. */
  readonly dtype: SafetensorsDType
  /** Its shape; [] is a single number. */
  readonly shape: readonly number[]
  /** The elements in row-major order; F16 and BF16 as 16-bit patterns. */
  readonly data: RawArray
}

/** What a file says of a tensor: its bytes are [begin, end) of the part after the header. */
export interface TensorInfo {
  /** Element type. */
  readonly dtype: SafetensorsDType
  /** Its shape. */
  readonly shape: readonly number[]
  /** First byte, counted from the end of the header. */
  readonly begin: number
  /** Byte after the last. */
  readonly end: number
}

const isKind = (name: string): name is SafetensorsDType => Object.hasOwn(kinds, name)
const bytesOf = (dtype: SafetensorsDType): number => kinds[dtype].BYTES_PER_ELEMENT
const maxHeader = 100_000_000
const maxAxes = 64 // as in NumPy

/** Number of elements; NaN if it is no safe integer at any step. */
function countOf(shape: Shape): number {
  let count = 1
  for (const d of shape) {
    count *= d
    if (!Number.isSafeInteger(count)) return NaN
  }
  return count
}

interface Header {
  readonly infos: Map<string, TensorInfo>
  readonly metadata: Map<string, string>
}

/** Reads and checks a header, which must describe exactly `bytes` bytes of tensors. */
function parseHeader(file: string, header: Uint8Array, bytes: number): Header {
  const bad = (problem: string, cause?: unknown): AuxgradError =>
    badFile(file, `not a valid safetensors file: ${problem}`, cause)
  let source: string
  try {
    source = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(header)
  } catch (cause) {
    throw bad('expected a header in UTF-8, got other bytes', cause)
  }
  if (!source.startsWith('{'))
    throw bad(`expected a header that begins with {, got ${JSON.stringify(source.slice(0, 8))}`)
  const infos = new Map<string, TensorInfo>()
  const metadata = new Map<string, string>()
  const json = new JsonReader(source)
  try {
    json.object((name) => {
      if (name === '__metadata__') json.object((key) => metadata.set(key, json.string()))
      else infos.set(name, readInfo(json, name, bytes))
    })
    json.end(/^ *$/)
  } catch (error) {
    if (error instanceof JsonError) throw bad(error.message)
    throw error
  }
  // Sorted by place, the tensors must tile the file: no holes, no overlaps, nothing after the last.
  let place = 0
  for (const [name, info] of [...infos].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)) {
    if (info.begin !== place)
      throw bad(`expected tensor ${quote(name)} to begin at ${place}, where the one before ends, got ${info.begin}`)
    place = info.end
  }
  if (place !== bytes)
    throw bad(
      `expected ${place} bytes of tensors, got ${bytes}: it is ` +
        `${bytes < place ? 'cut short' : 'followed by other bytes'}`,
    )
  return { infos, metadata }
}

function readInfo(json: JsonReader, name: string, bytes: number): TensorInfo {
  const label = `tensor ${quote(name)}`
  let dtype: string | undefined
  const shape: number[] = []
  const offsets: number[] = []
  const seen = new Set<string>()
  const append = (list: number[], most: number, expected: string): void => {
    if (list.push(json.integer()) > most) throw new JsonError(`expected ${expected}, got more`)
  }
  json.object((key) => {
    seen.add(key)
    if (key === 'dtype') dtype = json.string()
    else if (key === 'shape') json.array(() => append(shape, maxAxes, `${label} to have at most ${maxAxes} axes`))
    else if (key === 'data_offsets') json.array(() => append(offsets, 2, `${label} to have two data_offsets`))
    else throw new JsonError(`expected ${label} to have dtype, shape and data_offsets, got ${quote(key)}`)
  })
  for (const key of ['dtype', 'shape', 'data_offsets'])
    if (!seen.has(key)) throw new JsonError(`expected ${label} to have ${key}, got none`)
  if (!isKind(dtype!))
    throw new JsonError(`expected ${label} of dtype ${Object.keys(kinds).join(', ')}, got ${quote(dtype!)}`)
  const [begin, end] = offsets
  if (offsets.length !== 2 || begin > end || end > bytes)
    throw new JsonError(
      `expected ${label} within the ${bytes} bytes of tensors that are there, got data_offsets [${offsets.join(', ')}]`,
    )
  const expected = countOf(shape) * bytesOf(dtype)
  if (expected !== end - begin)
    throw new JsonError(
      `expected ${label} of shape ${showShape(shape)} and dtype ${dtype} to take ` +
        `${Number.isNaN(expected) ? 'fewer' : expected} bytes, got ${end - begin}`,
    )
  return { dtype, shape, begin, end }
}

/** An open safetensors file: the header is read and checked, tensors are read one by one, each into its own memory. */
export class SafetensorsFile {
  /** What is in the file, in the order of its header. */
  readonly infos: ReadonlyMap<string, TensorInfo>
  /** Texts by name, from the header. */
  readonly metadata: ReadonlyMap<string, string>
  readonly #file: InputFile
  /** @internal The bytes before the tensors: the length and the header. */
  readonly prefix: Uint8Array

  private constructor(file: InputFile, prefix: Uint8Array, header: Header) {
    this.#file = file
    this.prefix = prefix
    this.infos = header.infos
    this.metadata = header.metadata
  }

  /** @throws AUX_BAD_FILE */
  static async open(path: string): Promise<SafetensorsFile> {
    const file = await InputFile.open(path)
    try {
      checkEndianness(path)
      if (file.size < 8) throw badFile(path, `expected a safetensors file of at least 8 bytes, got ${file.size}`)
      const length = new Uint8Array(8)
      await file.read(length, 0)
      const n = new DataView(length.buffer).getBigUint64(0, true)
      if (n < 2n || n > BigInt(maxHeader) || n + 8n > BigInt(file.size))
        throw badFile(
          path,
          `expected a header of 2 to ${Math.max(2, Math.min(maxHeader, file.size - 8))} bytes, got a length of ` +
            `${n}: not a safetensors file, or cut short`,
        )
      const prefix = new Uint8Array(allocate(path, 8 + Number(n)))
      prefix.set(length)
      const header = prefix.subarray(8)
      await file.read(header, 8)
      return new SafetensorsFile(file, prefix, parseHeader(path, header, file.size - prefix.length))
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /** The file. */
  get path(): string {
    return this.#file.path
  }

  /**
   * Reads a tensor; `seen` is given its bytes, part by part.
   * @throws AUX_BAD_FILE if there is no tensor of that name.
   */
  async read(name: string, seen?: (part: Uint8Array) => void): Promise<RawTensor> {
    const info = this.infos.get(name)
    if (!info) throw badFile(this.path, `expected a tensor ${quote(name)}, got ${this.infos.size} others`)
    const buffer = allocate(this.path, info.end - info.begin)
    await this.#file.read(new Uint8Array(buffer), this.prefix.length + info.begin, seen)
    return { dtype: info.dtype, shape: info.shape, data: new kinds[info.dtype](buffer) }
  }

  /** Closes the file. */
  async close(): Promise<void> {
    await this.#file.close()
  }
}

/** What a file holds. */
export interface Safetensors {
  /** Tensors by name. */
  readonly tensors: Map<string, RawTensor>
  /** Texts by name, from the header. */
  readonly metadata: Map<string, string>
}

/** Options of `readSafetensors`. */
export interface ReadOptions {
  /** Reads only the tensors whose names it accepts. */
  only?: (name: string) => boolean
  /** Lets a sharded model's files be links to files elsewhere, as in the cache of Hugging Face's tools. */
  allowLinks?: boolean
}

/**
 * Reads a safetensors file, or the files that a `*.index.json` beside them names. Each tensor is read straight into its
 * own array; nothing is allocated before the header has been checked against the size of the file.
 * @throws AUX_BAD_FILE naming the file, what was expected and what came.
 */
export async function readSafetensors(file: string, options: ReadOptions = {}): Promise<Safetensors> {
  expectOptions('readSafetensors', options, ['only', 'allowLinks'])
  const tensors = new Map<string, RawTensor>()
  const metadata = new Map<string, string>()
  for await (const [name, tensor] of tensorsOf(file, options, metadata)) tensors.set(name, tensor)
  return { tensors, metadata }
}

/** @internal The same, one tensor after the other. */
export async function* tensorsOf(
  file: string,
  { only = () => true, allowLinks }: ReadOptions,
  metadata?: Map<string, string>,
): AsyncGenerator<[name: string, tensor: RawTensor]> {
  if (typeof file === 'string' && file.endsWith('.json')) {
    const directory = path.dirname(path.resolve(file))
    for (const [shard, names] of await readIndex(file)) {
      const part = path.join(directory, shard)
      if (!allowLinks) await checkInside(file, directory, part)
      const wanted = names.filter((name) => only(name))
      if (wanted.length) yield* read(part, () => wanted, metadata)
    }
  } else yield* read(file, (names) => names.filter((name) => only(name)), metadata)
}

async function* read(
  file: string,
  wanted: (names: string[]) => string[],
  metadata?: Map<string, string>,
): AsyncGenerator<[name: string, tensor: RawTensor]> {
  const open = await SafetensorsFile.open(file)
  try {
    for (const name of wanted([...open.infos.keys()])) yield [name, await open.read(name)]
    for (const [key, value] of open.metadata) metadata?.set(key, value)
  } finally {
    await open.close()
  }
}

/** The tensors' names by the name of the file that holds them. */
async function readIndex(index: string): Promise<Map<string, string[]>> {
  const source = await InputFile.with(index, async (file) => {
    if (file.size > maxHeader) throw badFile(index, `expected an index of at most ${maxHeader} bytes, got ${file.size}`)
    const bytes = new Uint8Array(allocate(index, file.size))
    await file.read(bytes, 0)
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    } catch (cause) {
      throw badFile(index, 'expected an index in UTF-8, got other bytes', cause)
    }
  })
  const shards = new Map<string, string[]>()
  const json = new JsonReader(source)
  let found = false
  try {
    json.object((key) => {
      if (key !== 'weight_map') return json.skip()
      found = true
      json.object((name) => {
        const shard = json.string()
        // A plain name: no way up, no way out, on no system.
        if (!/^[^/\\:\0]+$/.test(shard) || shard === '.' || shard === '..')
          throw new JsonError(`expected the name of a file beside the index, got ${quote(shard)}`)
        const names = shards.get(shard)
        if (names) names.push(name)
        else shards.set(shard, [name])
      })
    })
    json.end(/^[ \t\r\n]*$/)
  } catch (error) {
    throw error instanceof JsonError ? badFile(index, `not a valid index: ${error.message}`) : error
  }
  if (!found) throw badFile(index, 'not a valid index: expected a weight_map, got none')
  return shards
}

async function checkInside(index: string, directory: string, file: string): Promise<void> {
  const entry = await lstat(file).catch(() => undefined)
  if (!entry?.isSymbolicLink()) return
  const [home, target] = await Promise.all([realpath(directory), realpath(file).catch(() => '')])
  if (path.dirname(target) !== home)
    throw badFile(
      index,
      `expected ${path.basename(file)} to be a file beside it, got a link to elsewhere (allowLinks: true lets it pass)`,
    )
}

/** @internal A file as its parts: the length and the header, then the bytes of the tensors in order. */
export interface Encoded {
  readonly prefix: Uint8Array
  readonly parts: readonly Uint8Array[]
}

/** @internal Orders tensors and writes their header; the bytes of the tensors are not copied. */
export function encodeSafetensors(
  what: string,
  tensors: Iterable<readonly [string, HostArray | RawTensor]>,
  metadata: Iterable<readonly [string, string]> = [],
): Encoded {
  checkEndianness(what)
  const names = new Set<string>()
  const entries: { name: string; dtype: SafetensorsDType; shape: Shape; bytes: Uint8Array }[] = []
  for (const [name, tensor] of tensors) {
    if (typeof name !== 'string' || name === '__metadata__' || names.has(name) || /\p{Surrogate}/u.test(name))
      fail(
        'AUX_INVALID_ARGUMENT',
        `${what}: expected tensors with names of their own in valid Unicode, got ` +
          `${JSON.stringify(name) ?? typeof name}${names.has(name) ? ' twice' : ''}`,
      )
    names.add(name)
    const { data, shape } = tensor ?? {}
    const own = tensor?.dtype ?? ''
    const dtype = Object.hasOwn(fileTypes, own) ? fileTypes[own as DType] : (own as SafetensorsDType)
    const valid =
      isKind(dtype) &&
      data?.[Symbol.toStringTag] === kinds[dtype].name &&
      Array.isArray(shape) &&
      shape.length <= maxAxes
    if (!valid || countOf(shape) !== data.length)
      fail(
        'AUX_INVALID_ARGUMENT',
        `${what}: expected ${JSON.stringify(name)} to be an array with its shape and dtype, got ` +
          `${data?.constructor?.name ?? typeof data} of ${data?.length ?? 'no'} values as ${dtype || 'no dtype'} ` +
          `${Array.isArray(shape) ? showShape(shape) : ''}`,
      )
    entries.push({ name, dtype, shape, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) })
  }
  entries.sort((a, b) => bytesOf(b.dtype) - bytesOf(a.dtype) || (a.name < b.name ? -1 : 1))
  const members: string[] = []
  const pairs = [...metadata].sort(([a], [b]) => (a < b ? -1 : 1))
  for (const [key, value] of pairs)
    if (typeof key !== 'string' || typeof value !== 'string' || /\p{Surrogate}/u.test(key + ' ' + value))
      fail(
        'AUX_INVALID_ARGUMENT',
        `${what}: expected metadata of strings in valid Unicode, got ${typeof value} for ${JSON.stringify(key)}`,
      )
  if (pairs.length)
    members.push(`"__metadata__":{${pairs.map(([k, v]) => `${JSON.stringify(k)}:${JSON.stringify(v)}`).join(',')}}`)
  let offset = 0
  for (const { name, dtype, shape, bytes } of entries) {
    const range = `[${offset},${offset + bytes.length}]`
    members.push(`${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join(',')}],"data_offsets":${range}}`)
    offset += bytes.length
  }
  const header = new TextEncoder().encode(`{${members.join(',')}}`)
  const padded = Math.ceil(header.length / 8) * 8
  if (padded > maxHeader)
    fail('AUX_INVALID_ARGUMENT', `${what}: expected names and metadata of at most ${maxHeader} bytes, got ${padded}`)
  const prefix = new Uint8Array(8 + padded).fill(0x20)
  new DataView(prefix.buffer).setBigUint64(0, BigInt(padded), true)
  prefix.set(header, 8)
  return { prefix, parts: entries.map((e) => e.bytes) }
}

const entriesOf = <T>(values: ReadonlyMap<string, T> | Readonly<Record<string, T>>): Iterable<readonly [string, T]> =>
  types.isMap(values) ? (values as ReadonlyMap<string, T>) : Object.entries(values as Readonly<Record<string, T>>)

/**
 * Writes a safetensors file, atomically. Its bytes depend on names, values and metadata only, not on their order. The
 * arrays are not copied: do not change them before the promise resolves. Tensors are.
 * @throws AUX_WRITE_FAILED; then the file is as it was.
 */
export async function writeSafetensors(
  file: string,
  tensors:
    ReadonlyMap<string, HostArray | RawTensor | Tensor> | Readonly<Record<string, HostArray | RawTensor | Tensor>>,
  metadata: ReadonlyMap<string, string> | Readonly<Record<string, string>> = {},
): Promise<void> {
  const arrays = Array.from(entriesOf(tensors), ([name, t]) => {
    return [name, t instanceof Tensor ? { data: t.rawSync(), shape: t.shape, dtype: t.dtype } : t] as const
  })
  const { prefix, parts } = encodeSafetensors(file, arrays, entriesOf(metadata))
  await writeAtomic(file, [prefix, ...parts])
}

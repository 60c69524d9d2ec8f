import { createHash } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { AuxgradError, expectOptions, fail } from '../errors'
import type { HostArray } from '../tensor/host'
import { writeAtomic } from './atomic'
import { toHostArray } from './convert'
import { badFile } from './file'
import { notJson, quote, type Json } from './json'
import { encodeSafetensors, SafetensorsFile, type RawTensor } from './safetensors'

/** Everything that training needs to go on as if it had not been interrupted. */
export interface Checkpoint {
  /** Parameters, optimizer state, running statistics. */
  readonly tensors: ReadonlyMap<string, HostArray>
  /** Step, schedule, random state, loader state, hash of the configuration: any JSON. */
  readonly state: Json
}

// The file is a safetensors file whose metadata holds these entries. The checksum is the SHA-256 of the whole file as it
// is with 64 zeros in place of the checksum, so it covers every byte: names, shapes, state and values.
const format = 'auxgrad.checkpoint'
const version = '1'
const zeros = '0'.repeat(64)
const keys = { format: 'format', version: 'version', state: 'state', checksum: 'sha256' } as const
const partBytes = 8 << 20

const checksumEntry = (digest: string): Buffer => Buffer.from(`"${keys.checksum}":"${digest}"`)

/** The prefix of a file with its checksum replaced. Quotes inside of strings are escaped, so the entry is unique. */
function withChecksum(prefix: Uint8Array, from: string, to: string): Uint8Array {
  const result = Buffer.from(prefix)
  const at = result.indexOf(checksumEntry(from))
  if (at >= 0) checksumEntry(to).copy(result, at)
  return result
}

/**
 * Saves a checkpoint as one file, atomically. The arrays are not copied: do not change them before the promise resolves.
 * @param checkpoint.keep files to keep in all, the new one and its predecessors as `file.1`, `file.2`, ...; 1 by default.
 * @throws AUX_INVALID_ARGUMENT if the state is not JSON, AUX_WRITE_FAILED; then the files are as they were.
 */
export async function saveCheckpoint(file: string, checkpoint: Checkpoint & { keep?: number }): Promise<void> {
  const { tensors, state, keep = 1 } = checkpoint
  const problem = notJson(state, 'state')
  if (problem) fail('AUX_INVALID_ARGUMENT', `${file}: expected a state that JSON can hold, got one in which ${problem}`)
  const { prefix, parts } = encodeSafetensors(file, tensors, [
    [keys.format, format],
    [keys.version, version],
    [keys.state, JSON.stringify(state)],
    [keys.checksum, zeros],
  ])
  await writeAtomic(file, withDigest(prefix, parts), { keep })
}

async function* withDigest(prefix: Uint8Array, parts: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256').update(prefix)
  for (const part of parts)
    for (let at = 0; at < part.length; at += partBytes) {
      hash.update(part.subarray(at, at + partBytes))
      await turn() // leaves room for other work
    }
  yield withChecksum(prefix, zeros, hash.digest('hex'))
  yield* parts
}

export interface LoadedCheckpoint extends Checkpoint {
  readonly tensors: Map<string, HostArray>
  /** The file it was read from: the one asked for, or a predecessor. */
  readonly path: string
}

/**
 * Loads a checkpoint and verifies its checksum.
 * @param options.fallback if the file is missing or damaged, takes the newest predecessor (`file.1`, ...) that is valid.
 * @throws AUX_BAD_FILE
 */
export async function loadCheckpoint(file: string, options: { fallback?: boolean } = {}): Promise<LoadedCheckpoint> {
  expectOptions('loadCheckpoint', options, ['fallback'])
  if (!options.fallback) return load(file)
  const problems: AuxgradError[] = []
  for (const candidate of [file, ...(await predecessors(file))]) {
    try {
      return await load(candidate)
    } catch (error) {
      if (!(error instanceof AuxgradError) || error.code !== 'AUX_BAD_FILE') throw error
      problems.push(error)
    }
  }
  throw new AuxgradError('AUX_BAD_FILE', problems.map((p) => p.message).join('; '), { cause: problems[0] })
}

async function predecessors(file: string): Promise<string[]> {
  const prefix = `${path.basename(file)}.`
  const names = await readdir(path.dirname(file)).catch(() => [])
  const ends = names.filter((n) => n.startsWith(prefix)).map((n) => n.slice(prefix.length))
  const numbers = ends.filter((n) => /^[1-9]\d{0,8}$/.test(n)).map(Number)
  return numbers.sort((a, b) => a - b).map((n) => `${file}.${n}`)
}

async function load(file: string): Promise<LoadedCheckpoint> {
  const open = await SafetensorsFile.open(file)
  try {
    const entry = (key: string): string | undefined => open.metadata.get(key)
    if (entry(keys.format) !== format)
      throw badFile(file, `expected a checkpoint of auxgrad, got ${entry(keys.format) ?? 'another safetensors file'}`)
    if (entry(keys.version) !== version)
      throw badFile(
        file,
        `expected a checkpoint of version ${version}, got ${entry(keys.version)}; a newer auxgrad may have written it`,
      )
    const digest = entry(keys.checksum) ?? ''
    const hash = createHash('sha256').update(withChecksum(open.prefix, digest, zeros))
    const raw = new Map<string, RawTensor>()
    // In the order of the bytes, so that one pass both reads and verifies.
    const order = [...open.infos].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)
    for (const [name] of order) raw.set(name, await open.read(name, (part) => hash.update(part)))
    const actual = hash.digest('hex')
    if (actual !== digest) throw badFile(file, `expected SHA-256 ${digest}, got ${actual}: the file is damaged`)
    try {
      const tensors = new Map([...raw].map(([name, t]) => [name, toHostArray(t, undefined, `tensor ${quote(name)}`)]))
      return { tensors, state: JSON.parse(entry(keys.state) ?? '') as Json, path: file }
    } catch (cause) {
      throw badFile(
        file,
        `expected a checkpoint, got its checksum without its contents: ${(cause as Error).message}`,
        cause,
      )
    }
  } finally {
    await open.close()
  }
}

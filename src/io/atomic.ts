import { randomBytes } from 'node:crypto'
import { link, open, readdir, realpath, rename, stat, unlink, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import { AuxgradError, expectIntegers, fail } from '../errors'
import { reasonOf } from './file'

/**
 * Failures made on purpose, for tests: `AUXGRAD_FAULTS=write:3:ENOSPC` makes the third write of this process fail,
 * `write:3+:ENOSPC` every later one too, `write:1:SHORT` writes half of what it is given. Also open, fsync, link and
 * rename; several are separated by commas.
 */
class Faults {
  #text: string | undefined
  #rules: { call: string; k: number; on: boolean; code: string }[] = []
  #calls = new Map<string, number>()

  /** Counts a call; throws, or returns true for a short write, if it is to fail. */
  check(call: string): boolean {
    const text = process.env.AUXGRAD_FAULTS
    if (text !== this.#text) {
      this.#text = text
      this.#calls.clear()
      this.#rules = (text ?? '').split(',').flatMap((rule) => {
        const found = /^(open|write|fsync|link|rename):(\d+)(\+?):([A-Z0-9]+)$/.exec(rule)
        return found ? [{ call: found[1], k: Number(found[2]), on: found[3] === '+', code: found[4] }] : []
      })
    }
    if (this.#rules.length === 0) return false
    const n = (this.#calls.get(call) ?? 0) + 1
    this.#calls.set(call, n)
    const rule = this.#rules.find((r) => r.call === call && (n === r.k || (r.on && n > r.k)))
    if (!rule) return false
    if (rule.code === 'SHORT') return true
    throw Object.assign(new Error(`${rule.code}: made to fail, ${call}`), { code: rule.code })
  }
}

const faults = new Faults()

// Larger writes would hold a thread of Node's pool for long.
const chunkBytes = 8 << 20

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    let wanted = Math.min(chunkBytes, bytes.length - done)
    if (faults.check('write')) wanted = Math.ceil(wanted / 2)
    done += (await handle.write(bytes, done, wanted)).bytesWritten
  }
}

/** A rename lasts through a power failure only when its directory is on the disk too. */
async function syncDirectory(directory: string): Promise<void> {
  try {
    const handle = await open(directory, 'r')
    try {
      faults.check('fsync')
      await handle.sync()
    } finally {
      await handle.close()
    }
  } catch (error) {
    // Windows has no such call.
    if (process.platform !== 'win32' || (error as NodeJS.ErrnoException).code !== 'EPERM') throw error
  }
}

const temporaryOf = (target: string): string => `${target}.tmp-${process.pid}-${randomBytes(6).toString('hex')}`

const forget = (file: string): Promise<void> => unlink(file).catch(() => {})

/** Removes what writers of this file left behind when they were killed, an hour ago or more. */
async function sweep(target: string): Promise<void> {
  const directory = path.dirname(target)
  const prefix = `${path.basename(target)}.tmp-`
  for (const name of await readdir(directory)) {
    if (!name.startsWith(prefix) || !/^\d+-[0-9a-f]{12}$/.test(name.slice(prefix.length))) continue
    const file = path.join(directory, name)
    const { mtimeMs } = await stat(file).catch(() => ({ mtimeMs: Infinity }))
    if (Date.now() - mtimeMs > 3_600_000) await forget(file)
  }
}

/**
 * `file` becomes `file.1`, `file.1` becomes `file.2`, ... and `file` stays where it is until it is replaced. Gives what
 * must be done if it is not replaced.
 */
async function keepPrevious(target: string, keep: number): Promise<() => Promise<void>> {
  const nothing = async (): Promise<void> => {}
  if (keep < 2) return nothing
  for (let i = keep - 1; i >= 2; i--) {
    faults.check('rename')
    await rename(`${target}.${i - 1}`, `${target}.${i}`).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
    })
  }
  const second = temporaryOf(target)
  try {
    faults.check('link')
    await link(target, second)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return nothing
    // Some file systems have no links: then there is a moment with `file.1` only.
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(code ?? '')) throw error
    faults.check('rename')
    await rename(target, `${target}.1`)
    return () => rename(`${target}.1`, target)
  }
  try {
    faults.check('rename')
    await rename(second, `${target}.1`)
  } finally {
    // rename() does nothing if both names are links to one file.
    await forget(second)
  }
  return nothing
}

/** Saves of one file in this process wait for each other, in the order asked for. */
const queues = new Map<string, Promise<unknown>>()

async function inTurn<T>(file: string, body: () => Promise<T>): Promise<T> {
  const turn = (queues.get(file) ?? Promise.resolve()).then(body)
  const settled = turn.catch(() => {})
  queues.set(file, settled)
  try {
    return await turn
  } finally {
    if (queues.get(file) === settled) queues.delete(file)
  }
}

/**
 * Writes a file so that, whatever happens, its name stands for either all of the old or all of the new contents: they
 * go to a temporary file beside it, to the disk, and then take over the name. A symbolic link is followed.
 * @param options.keep files to keep in all: the new one and, as `file.1` (newest) and so on, its predecessors; 1.
 * @throws AUX_WRITE_FAILED naming the reason; then the file is as it was.
 */
export async function writeAtomic(
  file: string,
  parts: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  options: { keep?: number } = {},
): Promise<void> {
  const keep = options.keep ?? 1
  if (typeof file !== 'string' || file === '')
    fail('AUX_INVALID_ARGUMENT', `expected the path of a file to write, got ${JSON.stringify(file) ?? typeof file}`)
  expectIntegers(file, { keep })
  const absolute = path.resolve(file)
  await inTurn(absolute, async () => {
    const target = await realpath(absolute).catch(() => absolute)
    const temporary = temporaryOf(target)
    let handle: FileHandle | undefined
    let replaced = false
    let undo: (() => Promise<void>) | undefined
    try {
      const old = await stat(target).catch(() => undefined)
      if (old?.isDirectory()) throw Object.assign(new Error(), { code: 'EISDIR' })
      await sweep(target)
      faults.check('open')
      handle = await open(temporary, 'wx', old ? old.mode & 0o777 : 0o666)
      for await (const part of parts) await writeAll(handle, part)
      faults.check('fsync')
      await handle.sync()
      await handle.close()
      handle = undefined
      undo = await keepPrevious(target, keep)
      faults.check('rename')
      await rename(temporary, target)
      replaced = true
      await syncDirectory(path.dirname(target))
    } catch (cause) {
      await handle?.close().catch(() => {})
      if (!replaced) {
        await undo?.().catch(() => {})
        await forget(temporary)
      }
      if (cause instanceof AuxgradError) throw cause
      const state = replaced
        ? 'it is written, but may not outlive a power failure'
        : 'the file that was there is unchanged'
      throw new AuxgradError('AUX_WRITE_FAILED', `${file}: cannot be written: ${reasonOf(cause)}; ${state}`, { cause })
    }
  })
}

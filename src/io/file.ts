import { open, stat, type FileHandle } from 'node:fs/promises'
import os from 'node:os'
import { AuxgradError, fail } from '../errors'

/** Names of failures of the operating system, in words. */
const reasons: Record<string, string> = {
  ENOENT: 'no such file or directory',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  ENOSPC: 'no space left on the device',
  EDQUOT: 'the disk quota is used up',
  EFBIG: 'the file would be larger than allowed',
  EROFS: 'the file system is read-only',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of the path is not a directory',
  EIO: 'the device failed',
  EMFILE: 'too many open files',
}

export function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException
  return code && reasons[code] ? `${reasons[code]} (${code})` : String(message ?? error)
}

export const badFile = (path: string, problem: string, cause?: unknown): AuxgradError =>
  new AuxgradError('AUX_BAD_FILE', `${path}: ${problem}`, cause === undefined ? undefined : { cause })

/** Memory for what a file holds, or a clear error. */
export function allocate(path: string, bytes: number): ArrayBuffer {
  try {
    return new ArrayBuffer(bytes)
  } catch (cause) {
    throw new AuxgradError('AUX_OUT_OF_MEMORY', `${path}: JavaScript has no ${bytes} bytes to give`, { cause })
  }
}

/** Files hold tensors as little-endian machines do. */
export function checkEndianness(file: string): void {
  if (os.endianness() !== 'LE')
    fail('AUX_BAD_FILE', `${file}: expected a little-endian machine for files of tensors, got a big-endian one`)
}

const chunkBytes = 8 << 20

/** A file open for reading at any place. */
export class InputFile {
  private constructor(
    readonly path: string,
    readonly size: number,
    readonly handle: FileHandle,
  ) {}

  /** @throws AUX_BAD_FILE if there is no such file or it cannot be read. */
  static async open(path: string): Promise<InputFile> {
    if (typeof path !== 'string') fail('AUX_INVALID_ARGUMENT', `expected the path of a file, got ${typeof path}`)
    let handle: FileHandle | undefined
    try {
      // Opening a pipe would wait for a writer.
      if (!(await stat(path)).isFile()) throw new Error('it is not a regular file')
      handle = await open(path, 'r')
      return new InputFile(path, (await handle.stat()).size, handle)
    } catch (cause) {
      await handle?.close()
      throw badFile(path, `cannot be read: ${reasonOf(cause)}`, cause)
    }
  }

  /** Runs `use` with an open file and closes it. */
  static async with<T>(path: string, use: (file: InputFile) => Promise<T>): Promise<T> {
    const file = await InputFile.open(path)
    try {
      return await use(file)
    } finally {
      await file.close()
    }
  }

  /** Fills `target` with the bytes from `position` on; `seen` is given each part as it comes. */
  async read(target: Uint8Array, position: number, seen?: (part: Uint8Array) => void): Promise<void> {
    for (let done = 0; done < target.length;) {
      const wanted = Math.min(chunkBytes, target.length - done)
      let got: number
      try {
        got = (await this.handle.read(target, done, wanted, position + done)).bytesRead
      } catch (cause) {
        throw badFile(this.path, `cannot be read: ${reasonOf(cause)}`, cause)
      }
      if (got === 0)
        throw badFile(
          this.path,
          `expected ${target.length} bytes at ${position}, got ${done}: it was cut while being read`,
        )
      seen?.(target.subarray(done, done + got))
      done += got
    }
  }

  async close(): Promise<void> {
    await this.handle.close()
  }
}

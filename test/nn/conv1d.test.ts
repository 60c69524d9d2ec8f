import path from 'node:path'
import { io, nn, tensor, train, type Tensor } from '../../src'
import { scratchFolder } from '../support/folder'
import { expectLearnsUnderPolicies } from '../support/policies'

class Series extends nn.Module {
  readonly conv1 = new nn.Conv1d(2, 8, 5, { padding: 'same' })
  readonly norm = new nn.BatchNorm1d(8)
  readonly pool = new nn.MaxPool1d(2)
  readonly conv2 = new nn.Conv1d(8, 8, 3, { padding: 2, dilation: 2, groups: 2 })
  readonly mean = new nn.AvgPool1d(2)
  readonly all = new nn.AdaptiveAvgPool1d(1)
  readonly fc = new nn.Linear(8, 1)
  forward(x: Tensor): Tensor {
    x = this.pool.forward(this.norm.forward(this.conv1.forward(x)).relu())
    x = this.mean.forward(this.conv2.forward(x).relu())
    return this.fc.forward(this.all.forward(x).flatten(1))
  }
}
const x = { data: Float32Array.from({ length: 8 * 32 * 2 }, (_, i) => Math.sin(i * i)), shape: [8, 32, 2] }
const y = { data: Float32Array.from({ length: 8 }, (_, i) => Math.cos(i)), shape: [8, 1] }

test('a network over sequences learns, under every policy', () =>
  expectLearnsUnderPolicies(() => new Series(), { x, y }, 'conv2'))

const folder = scratchFolder()
test('weights of PyTorch, [out, in, k], are turned', async () => {
  const file = path.join(folder, 'a.safetensors')
  const model = new Series()
  await train.saveWeights(file, model, { layout: 'torch' })
  const { tensors } = await io.readSafetensors(file)
  expect(tensors.get('conv1.weight')!.shape).toEqual([8, 2, 5])
  expect(tensors.get('conv2.weight')!.shape).toEqual([8, 4, 3])
  const other = new Series()
  await train.loadWeights(file, other, { layout: 'torch' })
  for (const [name, t] of other.state()) expect([...t.dataSync()]).toEqual([...model.state().get(name)!.dataSync()])
  // The third number of the file is the first output's third tap on the first input.
  const raw = io.toHostArray(tensors.get('conv1.weight')!, 'f32', 'conv1.weight')
  expect(raw.data[2]).toBe(model.conv1.weight.dataSync()[4])
})

test('mistakes name the layer', () => {
  expect(() => new nn.Conv1d(3, 4, 3, { groups: 2 })).toThrow(/^Conv1d: expected channels that 2 groups divide/)
  expect(() => new nn.Conv1d(3, 4, [3] as never)).toThrow(/^Conv1d: expected kernel to be a whole number >= 1/)
  expect(() => new nn.Conv1d(3, 4, 2, { padding: 'same' })).toThrow(/^Conv1d: expected an odd kernel/)
  expect(() => new nn.Conv1d(1, 1, 3).forward(tensor([[[1], [2]]]))).toThrow(/^conv1d: kernel of 3 does not fit/)
})

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import {
  asa,
  checkpoint,
  compile,
  io,
  nn,
  optim,
  q2,
  quantized,
  seed,
  tensor,
  train,
  type MemoryAssignment,
  type Tensor,
} from '../../src'

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

async function trained(memory?: MemoryAssignment) {
  seed(2)
  const model = new Series()
  const step = compile({
    model,
    loss: ({ x, y }) => nn.mse(model.forward(x), y),
    optimizer: new optim.Adam({ lr: 1e-2 }),
    memory,
  })
  const plan = step.plan({ x: x.shape, y: y.shape })
  const losses: number[] = []
  for (let i = 0; i < 30; i++) losses.push((await step.run({ x, y })).loss)
  step.close()
  return { losses, plan, state: [...model.state()].map(([, t]) => [...t.dataSync()]) }
}

test('a network over sequences learns, under every policy', async () => {
  const plain = await trained()
  expect(plain.losses[29]).toBeLessThan(0.5 * plain.losses[0])
  expect((await trained(checkpoint())).state).toEqual(plain.state)
  for (const policy of [asa(), q2(), quantized()]) {
    const { losses, plan } = await trained({ conv2: policy })
    expect(losses[29]).toBeLessThan(0.7 * losses[0])
    expect(plan.bytes.kept).toBeLessThan(plain.plan.bytes.kept)
  }
})

test('weights of PyTorch, [out, in, k], are turned', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'auxgrad-'))
  try {
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
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('mistakes name the layer', () => {
  expect(() => new nn.Conv1d(3, 4, 3, { groups: 2 })).toThrow(/^Conv1d: expected channels that 2 groups divide/)
  expect(() => new nn.Conv1d(3, 4, [3] as never)).toThrow(/^Conv1d: expected kernel to be a whole number >= 1/)
  expect(() => new nn.Conv1d(3, 4, 2, { padding: 'same' })).toThrow(/^Conv1d: expected an odd kernel/)
  expect(() => new nn.Conv1d(1, 1, 3).forward(tensor([[[1], [2]]]))).toThrow(/^conv1d: kernel of 3 does not fit/)
})

import { existsSync } from 'node:fs'
import path from 'node:path'
import {
  ara,
  asa,
  checkpoint,
  compile,
  crossEntropy,
  hostArray,
  memory,
  models,
  nn,
  optim,
  quantized,
  resetPeakMemory,
  seed,
  tensor,
  train,
  type MemoryAssignment,
  type Tensor,
} from '../../src'
import { native } from '../../src/native'
import { library, useHostDevice } from '../support/device'
import { withCode } from '../support/refusals'
import { generator } from '../support/run'

const on = process.platform === 'win32' ? describe.skip : describe

class Net extends nn.Module {
  conv = new nn.Conv2d(2, 8, 3, { padding: 1 })
  norm = new nn.BatchNorm2d(8)
  relu = new nn.ReLU()
  conv2 = new nn.Conv2d(8, 8, 3, { padding: 1 })
  drop = new nn.Dropout(0.2)
  fc = new nn.Linear(8 * 36, 3)
  forward(x: Tensor): Tensor {
    const h = this.relu.forward(this.norm.forward(this.conv.forward(x)))
    return this.fc.forward(this.drop.forward(this.conv2.forward(h).relu()).flatten(1))
  }
}

/** Always the same weights. */
function net(): Net {
  seed(3)
  return new Net()
}

const random = generator(7)
const batch = {
  x: hostArray(
    Float32Array.from({ length: 5 * 72 }, () => 2 * random() - 1),
    [5, 6, 6, 2],
  ),
  y: Int32Array.of(0, 1, 2, 1, 0),
}
const shapes = { x: [5, 6, 6, 2], y: { shape: [5], dtype: 'i32' } } as const

const loss =
  (model: Net) =>
  ({ x, y }: { x: Tensor; y: Tensor }): Tensor =>
    crossEntropy(model.forward(x), y)

const bits = (model: nn.Module): Record<string, number[]> =>
  Object.fromEntries(
    [...model.state()].map(([name, t]) => [name, [...new Int32Array((t.dataSync() as Float32Array).buffer)]]),
  )

async function trained(devices: readonly string[], assignment: MemoryAssignment, accumulate = 1) {
  const model = net()
  const step = compile({
    model,
    loss: loss(model),
    optimizer: new optim.Adam({ lr: 0.01 }),
    memory: assignment,
    clip: { norm: 1 },
    accumulate,
    seed: 4,
  })
  const losses: number[] = []
  for (const [i, device] of devices.entries()) {
    model.to(device)
    losses.push(i % 2 ? step.runSync(batch).loss : (await step.run(batch)).loss)
  }
  const weights = bits(model)
  step.close()
  model.dispose()
  return { losses, weights }
}

on('a model on a device', () => {
  beforeAll(() => {
    expect(existsSync(library)).toBe(true)
    useHostDevice()
  })

  test.each<[string, MemoryAssignment, number]>([
    ['backpropagation', {}, 1],
    ['accumulated', {}, 2],
    ['asa', asa(), 1],
    ['ara', { conv2: ara() }, 1],
    ['checkpoint', { conv2: checkpoint() }, 1],
    ['quantized', quantized({ bits: 4 }), 1],
  ])('trains as on the processor, bit for bit: %s', async (_, assignment, accumulate) => {
    const here = await trained(Array<string>(6).fill('cpu'), assignment, accumulate)
    expect(here.losses[5]).not.toBe(here.losses[0])
    expect(await trained(Array<string>(6).fill('cuda'), assignment, accumulate)).toEqual(here)
    expect(await trained(['cpu', 'cuda', 'cuda', 'cpu', 'cpu', 'cuda'], assignment, accumulate)).toEqual(here)
  })

  test('takes the bytes there that its plan states, and none here', async () => {
    const model = net()
    const weights = memory().live
    const there = memory('cuda').live
    const step = compile({ model, loss: loss(model), optimizer: new optim.Adam({ lr: 0.01 }), memory: asa() })
    model.to('cuda')
    expect(memory().live).toBeLessThan(weights)
    resetPeakMemory('cuda')
    const { bytes } = step.plan(shapes)
    await step.run(batch)
    await step.run(batch)
    expect(memory('cuda').peak - there).toBe(bytes.total)
    expect(step.measuredArenaBytes).toBe(step.plan(shapes).arenaBytes)
    expect(model.conv.weight.device).toBe('cuda')
    step.close()
    model.dispose()
    expect(memory('cuda').live - there).toBe(bytes.optimizer)
  })

  test('is evaluated, read, assigned, saved and averaged there', async () => {
    const model = net().to('cuda')
    const twin = net()
    const predict = compile({ model, forward: ({ x }) => model.forward(x) })
    const same = compile({ model: twin, forward: ({ x }) => twin.forward(x) })
    const expected = await same.run({ x: batch.x })
    expect(await predict.run({ x: batch.x })).toEqual(expected)
    expect(predict.runSync({ x: batch.x })).toEqual(expected)
    expect(bits(model)).toEqual(bits(twin))

    // Ops at once run on the processor, and the next run takes the weights back.
    expect(model.fc.bias!.mul(2).add(1).dataSync()).toEqual(twin.fc.bias!.mul(2).add(1).dataSync())
    expect(model.fc.bias!.device).toBe('cpu')
    model.fc.bias!.assign([1, 2, 3])
    twin.fc.bias!.assign([1, 2, 3])
    const moved = await predict.run({ x: batch.x })
    expect(moved).toEqual(await same.run({ x: batch.x }))
    expect(moved).not.toEqual(expected)
    expect(model.fc.bias!.device).toBe('cuda')

    const average = new train.WeightAverage(net(), model, { decay: 0.5 })
    model.fc.bias!.assign([5, 6, 7])
    await average.update()
    expect([...average.average.fc.bias!.dataSync()]).toEqual([3, 4, 5])
    expect(model.fc.weight.device).toBe('cuda')
    model.loadState(twin.state())
    expect(bits(model)).toEqual(bits(twin))
  })

  test('generates text there', async () => {
    const model = new models.GPT({ vocabulary: 11, length: 16, features: 16, layers: 2, heads: 2 })
    const text = async () => {
      const tokens: number[] = []
      for await (const token of models.generate(model, [1, 2, 3], { window: 16, count: 9, temperature: 0 }))
        tokens.push(token)
      return tokens
    }
    const here = await text()
    model.to('cuda')
    expect(await text()).toEqual(here)
    expect(model.head.weight.device).toBe('cuda')
  })

  test('shares tensors with plans that run elsewhere', async () => {
    const scale = tensor([2, 3, 4])
    const model = net().to('cuda')
    const twin = net()
    const there = compile({ model, forward: ({ x }) => model.forward(x).mul(scale) })
    const here = compile(({ x }) => x.mul(scale))
    const expected = await compile({ model: twin, forward: ({ x }) => twin.forward(x).mul(scale) }).run({ x: batch.x })
    for (let i = 0; i < 3; i++) {
      expect(await there.run({ x: batch.x })).toEqual(expected)
      expect(scale.device).toBe('cuda')
      expect([...(await here.run({ x: [1, 1, 1] })).data]).toEqual([2, 3, 4])
      expect(scale.device).toBe('cpu')
    }
    // A run under way keeps what it reads.
    const running = there.run({ x: batch.x })
    expect(() => scale.add(1)).toThrow(withCode('AUX_INVALID_ARGUMENT', /a run on cuda reads this tensor; await it/))
    expect(() => model.to('cpu')).toThrow(withCode('AUX_INVALID_ARGUMENT', /while a run of it is under way/))
    expect(await running).toEqual(expected)
    expect(scale.add(1).toArray()).toEqual([3, 4, 5])
  })

  test('says what is missing, and lives on', async () => {
    const model = net()
    expect(() => model.to('gpu')).toThrow(withCode('AUX_INVALID_ARGUMENT', /expected a device "cpu", "cuda"/))
    expect(() => model.to('cuda:1')).toThrow(withCode('AUX_NO_DEVICE', /no such device/))
    process.env.AUXGRAD_CUDA_LIBRARY = path.join(path.dirname(library), 'nothing.so')
    expect(() => model.to('cuda:2')).toThrow(
      withCode('AUX_NO_DEVICE', /there are no CUDA kernels here: expected .* or .*nothing\.so/),
    )
    useHostDevice()

    const step = compile({ model, loss: loss(model), optimizer: new optim.Lion({ lr: 0.01 }) })
    model.to('cuda')
    await expect(step.run(batch)).rejects.toEqual(withCode('AUX_NO_KERNEL', /no CUDA kernel named "lion_update"/))
    model.to('cpu')
    const before = bits(model)

    native().setFault(1, false)
    expect(() => model.to('cuda')).toThrow(withCode('AUX_OUT_OF_MEMORY', /the device has no/))
    expect(bits(model)).toEqual(before)
    model.to('cpu')
    expect((await step.run(batch)).loss).toBeGreaterThan(0)
  })

  test('a step that fails there has changed nothing', async () => {
    const model = net().to('cuda')
    const step = compile({ model, loss: loss(model), optimizer: new optim.SGD({ lr: 0.1, momentum: 0.9 }) })
    await step.run(batch)
    const before = bits(model)
    await expect(step.run({ ...batch, y: [0, 1, 2, 3, 0] })).rejects.toEqual(withCode('AUX_INDEX_OUT_OF_RANGE'))
    await expect(step.run(batch, { signal: AbortSignal.abort() })).rejects.toThrow(/abort/i)
    expect(bits(model)).toEqual(before)
    await step.run(batch)
    expect(bits(model)).not.toEqual(before)
  })
})

import { execFileSync } from 'node:child_process'
import path from 'node:path'
import {
  checkpoint,
  compile,
  io,
  memory,
  models,
  nn,
  normal,
  optim,
  quantized,
  resetPeakMemory,
  seed,
  train,
  zeros,
  type MemoryAssignment,
  type StoreFormat,
  type Tensor,
} from '../../src'
import { binaryPath } from '../../src/native'
import { distance, host } from '../support/arrays'
import { useHostDevice } from '../support/device'
import { scratchFolder } from '../support/folder'
import { gradientsOf, snapshot } from '../support/record'
import { withCode } from '../support/refusals'
import { bytes, generator } from '../support/run'

const refused = withCode('AUX_INVALID_ARGUMENT')
const formats: StoreFormat[] = ['bf16', 'q8', 'q4']
const sizes = { vocabulary: 40, length: 8, layers: 2, features: 256, heads: 4, hidden: 256 }
/** Bytes of its matrices but the adapters', an element. */
const matrices = 40 * 256 * 2 + 8 * 256 + 2 * 6 * 256 * 256
const folder = scratchFolder()
const at = (name: string) => path.join(folder, name)

const bitsOf = (t: Tensor): string => bytes(t.dataSync() as Float32Array)

const noise = (n: number): Float32Array => {
  const random = generator(n)
  return Float32Array.from({ length: n }, () => 0.2 * random() - 0.1)
}

/** Always the same weights; adapters beside the attention of a frozen model. */
function adapted(format?: StoreFormat): models.GPT {
  seed(3)
  const model = new models.GPT(sizes)
  nn.adapt(model, 'blocks.*.attention.*', { rank: 2 })
  for (const [path, p] of model.namedParameters()) if (path.endsWith('up.weight')) p.assign(noise(p.size))
  return format ? model.store(format) : model
}

function indices(k: number) {
  const random = generator(k)
  return {
    data: Int32Array.from({ length: 24 }, () => Math.floor(random() * 40)),
    shape: [3, 8],
    dtype: 'i32' as const,
  }
}
const batch = { tokens: indices(1), next: indices(2) }
const shapes = { tokens: { shape: [3, 8], dtype: 'i32' }, next: { shape: [3, 8], dtype: 'i32' } } as const

const training = (model: models.GPT, options: { memory?: MemoryAssignment; budget?: number } = {}) =>
  compile({
    model,
    loss: ({ tokens, next }) => nn.crossEntropy(model.forward(tokens), next),
    optimizer: new optim.AdamW({ lr: 1e-2 }),
    ...options,
  })

test('values are those of before to the error that the format states', () => {
  for (const format of formats) {
    seed(1)
    const layer = new nn.Linear(300, 70).freeze()
    const before = layer.weight.dataSync()
    layer.store(format)
    expect([layer.weight.stored, layer.weight.dtype, layer.bias!.stored]).toEqual([format, 'f32', 'f32'])
    expect(layer.weight.shape).toEqual([70, 300])
    const after = layer.weight.dataSync() as Float32Array
    const levels = { bf16: 0, q8: 255, q4: 15 }[format]
    for (let from = 0; from < before.length; from += 256) {
      const group = before.subarray(from, from + 256)
      const range = Math.max(...group) - Math.min(...group)
      const most = (v: number) => (levels ? (0.51 * (range * 1.02)) / levels : Math.abs(v) / 256)
      expect(group.every((v, i) => Math.abs(after[from + i] - v) <= most(v))).toBe(true)
    }
    expect(bitsOf(layer.weight.mul(2))).toBe(bytes(after.map((v) => 2 * v)))
    layer.store('f32')
    expect(layer.weight.stored).toBe('f32')
    expect(bitsOf(layer.weight)).toBe(bytes(after))
    layer.dispose()
  }
})

test.each(formats)(
  '%s: gradients are those of a float32 model with the rounded weights, bit for bit',
  async (format) => {
    const model = adapted(format)
    const same = adapted().loadState(model.state())
    const memories: MemoryAssignment[] =
      format === 'q8' ? [{ 'blocks.*': checkpoint() }, { 'blocks.*': quantized() }] : [[]]
    for (const memory of memories) {
      const record = (m: models.GPT) =>
        gradientsOf(m, ({ tokens, next }) => nn.crossEntropy(m.forward(tokens), next), batch, memory)
      const [a, b] = [await record(model), await record(same)]
      expect(a.result.loss).toBe(b.result.loss)
      expect(Object.keys(a.gradients)).toHaveLength(16)
      expect(a.gradients).toEqual(b.gradients)
      expect(a.plan.bytes.kept).toBe(b.plan.bytes.kept)
      // One weight at a time is float32.
      expect(a.plan.liveBytes).toBeLessThanOrEqual(b.plan.liveBytes + 4 * 256 * 256)
    }
    for (const m of [model, same]) m.dispose()
  },
)

test('plans state the bytes, by layer, and those of a plan file are measured', async () => {
  const held: Record<string, number> = {}
  for (const format of [undefined, ...formats]) {
    const model = adapted(format)
    const step = training(model)
    const plan = step.plan(shapes)
    held[format ?? 'f32'] = plan.bytes.parameters
    if (format) {
      expect(plan.stored).toHaveLength(3 + 2 * 6 + (format === 'bf16' ? 16 : 0)) // adapters learn, and may be bf16
      expect(plan.stored.find((w) => w.layer === 'blocks.1.fc1')).toMatchObject({ format, shape: [256, 256] })
      expect(String(plan)).toMatch(new RegExp(`\\nweights in fewer bytes.*:\\n(.*\\n)*blocks\\.1\\.fc1 +${format} `))
    } else expect(plan.stored).toEqual([])
    await step.save(at('step.plan'), batch)
    const { loss } = await step.run(batch)
    expect(step.measuredArenaBytes).toBe(plan.arenaBytes)
    const program = path.join(path.dirname(binaryPath()), `auxgrad_run${process.platform === 'win32' ? '.exe' : ''}`)
    const out = execFileSync(program, [at('step.plan'), '--json'], { encoding: 'utf8' })
    const report = JSON.parse(out.trim().split('\n').at(-1)!)
    expect([report.plannedBytes, report.measuredBytes]).toEqual([plan.bytes.total, plan.bytes.total])
    expect(Math.fround(report.steps[0].values.loss)).toBe(loss)
    step.close()
    model.dispose()
  }
  expect(held).toEqual({ f32: 3291200, bf16: 1656896, q8: 877056, q4: 472576 })
})

test('a model is stored between two runs: the next one has less to hold, and a budget counts it', async () => {
  const model = adapted()
  const step = training(model)
  await step.run(batch)
  const [{ total }, live] = [step.plan(shapes).bytes, memory().live]
  model.store('q8')
  await step.run(batch)
  const after = step.plan(shapes).bytes
  expect(after.parameters).toBeLessThan(0.3 * 4311040)
  expect(live - memory().live).toBeGreaterThan(4 * matrices - matrices * 1.1 - 4 * 256 * 256)
  const tight = training(model, { budget: after.total })
  expect(tight.plan(shapes).bytes.total).toBe(after.total)
  expect(tight.memory).toEqual([])
  expect(total).toBeGreaterThan(after.total)
  const smaller = training(model, { budget: after.total - 4096 })
  expect(smaller.plan(shapes).bytes.total).toBeLessThanOrEqual(after.total - 4096)
  expect(smaller.memory.length).toBeGreaterThan(0)
  for (const s of [step, tight, smaller]) s.close()
  model.dispose()
})

test('of a table only the rows that are looked up are read', () => {
  for (const [features, rows] of [
    [256, 24],
    [96, 512],
  ])
    for (const format of formats) {
      seed(4)
      const table = new nn.Embedding(512, features).freeze().store(format)
      const look = compile({ model: table, forward: ({ i }) => table.forward(i) })
      const plan = look.plan({ i: { shape: [3, 8], dtype: 'i32' } })
      const read = plan.ops.find((op) => op.op === (format === 'bf16' ? 'cast' : 'dequantize'))!
      expect(read.bytes).toBe(4 * features * (format === 'bf16' ? 24 : rows))
      const values = look.runSync({ i: batch.tokens })
      const all = table.weight.dataSync() as Float32Array
      const taken = [...batch.tokens.data].flatMap((i) => [...all.subarray(i * features, (i + 1) * features)])
      expect(bytes(values.data)).toBe(bytes(Float32Array.from(taken)))
      look.close()
      table.dispose()
    }
})

test('convolutions, recurrent layers and a weight that is read in two places, turned', async () => {
  class Net extends nn.Module {
    conv = new nn.Conv2d(16, 32, 3, { padding: 1 })
    lstm = new nn.LSTM(32, 48)
    table = new nn.Embedding(20, 48)
    bias = new nn.Parameter(zeros([20]))
    forward(x: Tensor): Tensor {
      const rows = this.conv.forward(x).relu().mean(1)
      const { output } = this.lstm.forward(rows)
      const near = output.add(this.table.forward(output.select(2, 0).gt(0).cast('i32')))
      return near.matmul(this.table.weight.transpose()).add(this.bias)
    }
  }
  seed(6)
  const model = new Net()
  model.freeze().unfreeze('bias').store('q8')
  const same = new Net()
  same.freeze().unfreeze('bias').loadState(model.state())
  const x = host(generator(7), [2, 5, 6, 16])
  const record = (m: Net) => gradientsOf(m, (b) => m.forward(b.x).square().mean(), { x })
  const [a, b] = [await record(model), await record(same)]
  expect(a.gradients).toEqual(b.gradients)
  expect(a.result).toEqual(b.result)
})

test('a run is resumed bit for bit, in the same format alone', async () => {
  const file = at('run.ckpt')
  const begin = (format: StoreFormat) => ({ step: training(adapted(format)) })
  for (const format of ['bf16', 'q8'] as const) {
    const [first, second] = [begin(format), begin(format)]
    for (let i = 0; i < 3; i++) await first.step.run(batch)
    await train.saveTraining(file, first)
    ;(second.step.model as nn.Module).freeze('head')
    await train.loadTraining(file, second)
    expect(snapshot(second.step.model as nn.Module)).toEqual(snapshot(first.step.model as nn.Module))
    expect([...second.step.stateTensors()].length).toBeLessThan(80) // of what is stored there is none
    for (let i = 0; i < 2; i++) expect(await second.step.run(batch)).toEqual(await first.step.run(batch))
    await expect(train.loadTraining(file, begin(format === 'q8' ? 'bf16' : 'q8'))).rejects.toThrow(
      /missing model\.\S*tokens\.weight/,
    )
  }
})

test('weight files: bf16 as such, codes as float32; a bf16 file is never float32 as a whole', async () => {
  const file = at('weights.safetensors')
  const model = adapted('bf16')
  await train.saveWeights(file, model)
  const { tensors } = await io.readSafetensors(file)
  expect(tensors.get('blocks.0.fc1.weight')!.dtype).toBe('BF16')
  expect(tensors.get('blocks.0.fc1.bias')!.dtype).toBe('F32')
  for (const other of [adapted(), adapted('bf16')]) {
    for (const [, p] of other.namedParameters()) p.assign(new Float32Array(p.size))
    resetPeakMemory()
    const { live } = memory()
    await train.loadWeights(file, other)
    // What is read waits until all of it fits.
    const held = [...other.state().values()].reduce((n, t) => n + t.storage!.bytes, 0)
    expect(memory().peak - live).toBeLessThan(held + 64 * other.state().size)
    expect(snapshot(other)).toEqual(snapshot(model))
  }
  const coded = adapted('q8')
  resetPeakMemory()
  const { live } = memory()
  await train.loadWeights(file, coded)
  expect(memory().peak - live).toBeLessThan(matrices * 1.02 + 4 * 256 * 256 + 120e3) // codes, one weight, adapters and vectors
  expect(snapshot(coded)).toEqual(snapshot(adapted('q8').loadState(model.state())))
  await train.saveWeights(file, coded)
  const again = adapted()
  await train.loadWeights(file, again)
  expect(snapshot(again)).toEqual(snapshot(coded))
})

test('in the layout of PyTorch convolutions are turned on their way', async () => {
  const make = (format: StoreFormat | 'f32') =>
    new nn.Sequential(new nn.Conv2d(8, 16, 3), new nn.Conv1d(8, 16, 5)).freeze().store(format)
  for (const format of ['bf16', 'q8'] as const) {
    const file = at('conv.safetensors')
    const model = make(format)
    await train.saveWeights(file, model, { layout: 'torch' })
    expect((await io.readSafetensors(file)).tensors.get('0.weight')!.shape).toEqual([16, 8, 3, 3])
    for (const other of [make(format), make('f32')]) {
      await train.loadWeights(file, other, { layout: 'torch' })
      if (format === 'bf16' || other.parameters()[0].stored === 'f32') expect(snapshot(other)).toEqual(snapshot(model))
    }
  }
})

test('adapters merge into what is stored, rounded once more', () => {
  const model = adapted('bf16')
  const lora = [...model.namedModules()].map(([, m]) => m).find((m) => m instanceof nn.LoRA)!
  const x = host(generator(8), [4, 256])
  const predict = compile({ model: lora, forward: (b) => lora.forward(b.x) })
  const before = predict.runSync({ x }).data
  lora.merge()
  const after = predict.runSync({ x }).data
  const norm = (d: ArrayLike<number>) => Math.sqrt(Array.from(d).reduce((n, v) => n + v * v, 0))
  expect(norm(before.map((v, i) => v - after[i]))).toBeLessThan(0.005 * norm(before))
  expect(lora.weight.stored).toBe('bf16')
  predict.close()
})

test('an average and a text follow', async () => {
  const model = adapted('q8')
  const average = new train.WeightAverage(adapted('q8'), model, { decay: 0.5 })
  await average.update()
  expect(snapshot(average.average)).toEqual(snapshot(model))
  const write = async (m: models.GPT) => {
    const text: number[] = []
    for await (const token of models.generate(m, [1, 2, 3], { window: 8, count: 8, topK: 1 })) text.push(token)
    return text
  }
  expect(await write(model)).toEqual(await write(adapted().loadState(model.state())))
})

const on = process.platform === 'win32' ? describe.skip : describe
on('on a device', () => {
  test('it trains as here and takes the bytes that its plan states', async () => {
    useHostDevice()
    for (const format of ['bf16', 'q8'] as const) {
      const [model, same] = [adapted(format), adapted(format)]
      const [step, other] = [training(model), training(same)]
      const there = memory('cuda').live
      model.to('cuda')
      resetPeakMemory('cuda')
      const { bytes } = step.plan(shapes)
      for (let i = 0; i < 2; i++) expect(await step.run(batch)).toEqual(await other.run(batch))
      expect(memory('cuda').peak - there).toBe(bytes.total)
      expect(snapshot(model)).toEqual(snapshot(same))
      step.close()
      other.close()
      for (const m of [model, same]) m.dispose()
      step.optimizer.forget!(model.blocks[0].fc1.weight)
    }
  })
})

test('what cannot be is refused, and nothing changes', async () => {
  const layer = new nn.Linear(64, 64)
  expect(() => layer.store('q8')).toThrow(/freeze\(\) it first/)
  layer.freeze()
  expect(() => layer.store('q3' as never)).toThrow(refused)
  expect(() => layer.store('q8', 'other')).toThrow(refused)
  layer.store('q8')
  expect(() => layer.unfreeze()).toThrow(/weight is stored in q8 and cannot learn; store\('f32', 'weight'\)/)
  expect(layer.bias!.trainable).toBe(false)
  expect(() => (layer.weight.trainable = true)).toThrow(refused)
  expect(() => layer.weight.assign([1, 2])).toThrow(withCode('AUX_SHAPE_MISMATCH'))
  const change = compile({ model: layer, forward: ({ x }) => (layer.weight.assign(x), x.sum()) })
  expect(() => change.plan({ x: [64, 64] })).toThrow(/stored in q8 cannot be changed by a step/)
  layer.unfreeze('bias')
  const step = compile({ model: layer, loss: ({ x }) => layer.forward(x).sum(), optimizer: new optim.SGD({ lr: 1 }) })
  const running = step.run({ x: host(generator(1), [2, 64]) })
  expect(() => layer.store('f32')).toThrow(refused)
  await running
  layer.store('f32').unfreeze()
  await step.run({ x: host(generator(1), [2, 64]) })
  const shared = new nn.Parameter(new nn.Linear(64, 64).freeze().store('q8').weight)
  expect(shared.stored).toBe('f32')
  const view = new nn.Parameter(normal([64, 32]).transpose())
  view.trainable = false
  view.store('q8')
  expect(view.stored).toBe('f32')
})

test('a part of a model is not stored otherwise while a step of the model runs: what it learns then would be lost', async () => {
  const model = new nn.Sequential(new nn.Linear(64, 64), new nn.Linear(64, 64))
  const step = compile({ model, loss: ({ x }) => model.forward(x).sum(), optimizer: new optim.SGD({ lr: 1 }) })
  const running = step.run({ x: host(generator(1), [2, 64]) })
  expect(() => model[0].store('bf16')).toThrow(withCode('AUX_INVALID_ARGUMENT', /run of their model is under way/))
  await running
  model[0].store('bf16')
  expect(model[0].parameters()[0].stored).toBe('bf16')
})

test('a step that reads another model notices that it is stored otherwise', async () => {
  seed(9)
  const [student, teacher] = [new nn.Linear(64, 64), new nn.Linear(64, 64).freeze()]
  const step = compile({
    model: student,
    loss: ({ x }) => student.forward(x).sub(teacher.forward(x)).square().mean(),
    optimizer: new optim.SGD({ lr: 0 }),
  })
  const x = host(generator(1), [2, 64])
  const before = [await step.run({ x }), step.plan({ x: [2, 64] }).bytes] as const
  teacher.store('q4')
  const after = [await step.run({ x }), step.plan({ x: [2, 64] }).bytes] as const
  expect(after[1].parameters).toBeLessThan(before[1].parameters)
  expect(after[0].loss).not.toBe(before[0].loss)
  teacher.weight.assign(student.weight)
  teacher.bias!.assign(student.bias!)
  expect((await step.run({ x })).loss).toBeLessThan(0.01 * after[0].loss)
  step.close()
})

test('a model can be made of stored weights, never being float32 as a whole', () => {
  resetPeakMemory()
  const { live } = memory()
  const model = nn.frozen('q8', () => new models.GPT(sizes))
  expect(memory().peak - live).toBeLessThan(1.1 * matrices + 2 * 4 * 256 * 256)
  expect(model.parameters().some((p) => p.trainable)).toBe(false)
  expect(model.head.weight.stored).toBe('q8')
  expect(nn.adapt(model, 'blocks.*.fc1')).toHaveLength(2)
  expect(model.parameters().filter((p) => p.trainable)).toHaveLength(4)
  expect(() => nn.frozen('q9' as never, () => model)).toThrow(refused)
  expect(new nn.Linear(32, 32).weight.trainable).toBe(true)
})

test('a large weight is read in pieces by products of few rows', async () => {
  seed(2)
  const make = () => new nn.Sequential(new nn.Linear(16, 1024), new nn.Linear(1024, 5000))
  const [model, same] = [make(), make()]
  for (const m of [model, same]) m.freeze('1')
  model.store('q8')
  same.loadState(model.state())
  const x = host(generator(3), [4, 16])
  const record = (m: typeof model) => gradientsOf(m, (b) => m.forward(b.x).square().mean(), { x })
  const [a, b] = [await record(model), await record(same)]
  expect(a.plan.stored).toEqual([{ layer: '1', format: 'q8', shape: [5000, 1024], bytes: 5000 * (1024 + 16) }])
  expect(a.plan.arenaBytes).toBeLessThan(17.5 * 2 ** 20) // 19.5 at once
  expect(a.plan.ops.filter((op) => op.op === 'dequantize')).toHaveLength(4)
  expect(Math.abs(a.result.loss / b.result.loss - 1)).toBeLessThan(1e-6)
  for (const name of ['0.weight', '0.bias']) expect(distance(a.gradients[name], b.gradients[name])).toBeLessThan(1e-6)
  for (const m of [model, same]) m.dispose()
})

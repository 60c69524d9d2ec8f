import { execFileSync } from 'node:child_process'
import path from 'node:path'
import {
  ara,
  asa,
  checkpoint,
  compile,
  data,
  memory,
  models,
  nn,
  optim,
  q2,
  quantized,
  resetPeakMemory,
  seed,
  train,
  type MemoryAssignment,
  type Tensor,
} from '../../src'
import { binaryPath } from '../../src/native'
import { roundInto } from '../../src/ops/store'
import { fromBf16, toBf16 } from '../../src/tensor/dtype'
import { Tensor as Eager } from '../../src/tensor/tensor'
import { distance, host } from '../support/arrays'
import { useHostDevice } from '../support/device'
import { scratchFolder } from '../support/folder'
import { gradientsOf, snapshot } from '../support/record'
import { bytes, eachSetting, generator } from '../support/run'

// Weights that learn and lie in memory as bfloat16: updates round stochastically.

const folder = scratchFolder()
const at = (name: string) => path.join(folder, name)

/** Distance of neighbours in bf16 where x lies. */
const unit = (x: number) => 2 ** (Math.floor(Math.log2(Math.max(Math.abs(x), 2 ** -126))) - 7)

test('a number is rounded down or up, with a mean that is the number; what bf16 can say stays', () => {
  const random = generator(1)
  const given = Float32Array.from({ length: 1000 }, () => (2 * random() - 1) * 2 ** Math.floor(40 * random() - 20))
  given.set([0, -0, Infinity, -Infinity, NaN, 1, -2.5, 2 ** -130])
  const stays = fromBf16(toBf16(given)).map((v, i) => Number(Object.is(v, given[i])))
  let sums = new Float64Array(given.length)
  const draws = 200
  for (let k = 0; k < draws; k++) {
    const x = Eager.from(given, [given.length], 'f32')
    const y = Eager.allocate([given.length], 'bf16')
    const key = Eager.from(Int32Array.of(1, 2, k, 0), [4], 'i32')
    roundInto({ patterns: y, key, id: 3 }, x)
    const values = y.dataSync() as Float32Array
    const right = (x: number, v: number, i: number) => (stays[i] ? Object.is(v, x) : Math.abs(v - x) < unit(x))
    expect([...given].filter((x, i) => !right(x, values[i], i))).toEqual([])
    sums = sums.map((s, i) => s + values[i])
    for (const t of [x, y, key]) t.dispose()
  }
  // Over all numbers, in units: each mean has the variance share (1 - share) / draws.
  let [off, far] = [0, 0]
  let variance = 0
  given.forEach((x, i) => {
    if (!(Math.abs(x) < Infinity)) return
    const share = Math.abs(x) / unit(x) - Math.floor(Math.abs(x) / unit(x))
    const error = ((sums[i] / draws - x) / unit(x)) * Math.sign(x || 1)
    far += Number(Math.abs(error) > 6 * Math.sqrt((share * (1 - share)) / draws + 1e-9))
    off += error
    variance += (share * (1 - share)) / draws
  })
  expect(far).toBe(0)
  expect(Math.abs(off)).toBeLessThan(5 * Math.sqrt(variance))
})

const optimizers: Record<string, () => optim.Base> = {
  SGD: () => new optim.SGD({ lr: 0.1 }),
  'SGD, momentum': () => new optim.SGD({ lr: 0.1, momentum: 0.9, nesterov: true, weightDecay: 0.01 }),
  'SGD, dampening': () => new optim.SGD({ lr: 0.1, momentum: 0.9, dampening: 0.1 }),
  AdamW: () => new optim.AdamW({ lr: 1e-3, groups: [{ match: '**.weight', lrScale: 0.5, weightDecay: 0.1 }] }),
  'AdamW, 8 bits': () => new optim.AdamW({ lr: 1e-3, bits: 8 }),
  amsgrad: () => new optim.Adam({ lr: 1e-3, amsgrad: true }),
  RMSprop: () => new optim.RMSprop({ lr: 1e-3, momentum: 0.9, centered: true }),
  Adagrad: () => new optim.Adagrad({ lr: 1e-2 }),
  Lion: () => new optim.Lion({ lr: 1e-4, weightDecay: 0.1 }),
  'Lion, bf16': () => new optim.Lion({ lr: 1e-4, momentum: 'bf16' }),
  Adafactor: () => new optim.Adafactor({ weightDecay: 0.1 }),
  SM3: () => new optim.SM3({ lr: 1e-2, momentum: 0.9 }),
  Adadelta: () => new optim.Adadelta({ lr: 1 }),
  Adamax: () => new optim.Adamax({ lr: 1e-3 }),
  NAdam: () => new optim.NAdam({ lr: 1e-3 }),
  RAdam: () => new optim.RAdam({ lr: 1e-3 }),
}

class Net extends nn.Module {
  readonly table = new nn.Embedding(50, 96)
  readonly fc1 = new nn.Linear(96, 130)
  readonly fc2 = new nn.Linear(130, 96)
  readonly bias = new nn.Parameter(Eager.from(new Float32Array(50), [50], 'f32'))
  /** The table is the head, too. */
  forward(i: Tensor): Tensor {
    const x = this.table.forward(i)
    const y = x.add(this.fc2.forward(this.fc1.forward(x).relu()))
    return y.matmul(this.table.weight.transpose()).add(this.bias)
  }
}
const labels = (n: number) => {
  const random = generator(n)
  return { data: Int32Array.from({ length: 40 }, () => Math.floor(50 * random())), shape: [40], dtype: 'i32' as const }
}
const batch = { i: labels(1), y: labels(2) }
const shapes = { i: { shape: [40], dtype: 'i32' }, y: { shape: [40], dtype: 'i32' } } as const
const training = (optimizer: optim.Base, options: { accumulate?: number; clip?: { norm: number } } = {}) => {
  seed(5)
  const model = new Net().store('bf16')
  const loss = ({ i, y }: Record<string, Tensor>) => nn.crossEntropy(model.forward(i), y)
  return { model, step: compile({ model, loss, optimizer, seed: 9, ...options }) }
}

test.each(Object.keys(optimizers))('%s: a step is that of float32, rounded to one of two neighbours', async (name) => {
  const { model, step } = training(optimizers[name](), { clip: { norm: 0.5 } })
  seed(5)
  const whole = new Net()
  const other = compile({
    model: whole,
    loss: ({ i, y }) => nn.crossEntropy(whole.forward(i), y),
    optimizer: optimizers[name](),
    clip: { norm: 0.5 },
  })
  expect(model.parameters().map((p) => p.stored)).toEqual(['f32', 'bf16', 'bf16', 'f32', 'bf16', 'f32'])
  let between = 0
  for (let k = 0; k < 3; k++) {
    whole.loadState(model.state())
    expect((await step.run(batch)).loss).toBe((await other.run(batch)).loss)
    for (const [path, p] of whole.namedParameters()) {
      const [exact, got] = [p.dataSync() as Float32Array, model.state().get(path)!.dataSync() as Float32Array]
      // Of Adafactor's sums over a parameter the order differs.
      const most = (x: number) => (p.rank > 1 ? 1.001 * unit(x) : 1e-6 * Math.abs(x))
      expect(exact.filter((x, i) => !(Math.abs(got[i] - x) <= most(x)))).toHaveLength(0)
      if (p.rank > 1) between += exact.filter((x, i) => x !== got[i]).length
    }
  }
  expect(between).toBeGreaterThan(1000)
  const plan = step.plan(shapes)
  expect(plan.bytes.optimizer).toBe(other.plan(shapes).bytes.optimizer)
  expect(plan.stored.map(({ format }) => format)).toEqual(['bf16', 'bf16', 'bf16'])
  // What is read is float32, the largest at a time. Kernels that update in one pass need no more; where an update is made of
  // several operations, it reads twice and assigns once.
  const passes = ['SGD, dampening', 'amsgrad', 'Adadelta', 'Adamax', 'NAdam', 'RAdam'].includes(name) ? 3 : 1
  expect(plan.bytes.parameters).toBeLessThan(other.plan(shapes).bytes.parameters / 2 + 2048)
  expect(step.measuredArenaBytes).toBe(plan.arenaBytes)
  expect(plan.liveBytes).toBeLessThanOrEqual(other.plan(shapes).liveBytes + passes * 4 * 130 * 96 + 1024)
  for (const s of [step, other]) s.close()
})

test('the same bits for any number of threads, with any kernels, and when a run is resumed', async () => {
  const once = (name: string) => {
    const { model, step } = training(optimizers[name](), { accumulate: 2 })
    for (let k = 0; k < 4; k++) step.runSync(batch)
    return JSON.stringify(snapshot(model))
  }
  for (const name of ['AdamW', 'AdamW, 8 bits', 'Adafactor', 'SM3', 'Adamax']) {
    const seen = new Map<string, Set<string>>()
    eachSetting((isa) => void (seen.get(isa) ?? seen.set(isa, new Set()).get(isa)!).add(once(name)))
    for (const results of seen.values()) expect(results.size).toBe(1)
    const [first, second] = [
      training(optimizers[name](), { accumulate: 2 }),
      training(optimizers[name](), { accumulate: 2 }),
    ]
    for (let k = 0; k < 3; k++) await first.step.run(batch)
    await train.saveTraining(at('run.ckpt'), first)
    await train.loadTraining(at('run.ckpt'), second)
    for (const { step } of [first, second]) for (let k = 0; k < 3; k++) await step.run(batch)
    expect(snapshot(second.model)).toEqual(snapshot(first.model))
  }
  // Another seed rounds otherwise.
  const run = (of: number) => {
    seed(5)
    const model = new Net().store('bf16')
    const loss = ({ i, y }: Record<string, Tensor>) => nn.crossEntropy(model.forward(i), y)
    compile({ model, loss, optimizer: new optim.SGD({ lr: 0.1 }), seed: of }).runSync(batch)
    return snapshot(model)['fc1.weight']
  }
  expect(run(1)).not.toBe(run(2))
  expect(run(1)).toBe(run(1))
})

test('a plan file takes the planned bytes and makes the next steps, bit for bit', async () => {
  for (const name of ['AdamW, 8 bits', 'Adafactor', 'NAdam']) {
    const { model, step } = training(optimizers[name]())
    const { total } = step.plan(shapes).bytes
    await step.save(at('step.plan'), batch)
    const program = path.join(path.dirname(binaryPath()), `auxgrad_run${process.platform === 'win32' ? '.exe' : ''}`)
    const out = execFileSync(program, [at('step.plan'), '--json', '--steps', '3'], { encoding: 'utf8' })
    const report = JSON.parse(out.trim().split('\n').at(-1)!)
    expect([report.plannedBytes, report.measuredBytes]).toEqual([total, total])
    for (const { values } of report.steps) expect((await step.run(batch)).loss).toBe(Math.fround(values.loss))
    step.close()
    model.dispose()
  }
})

test.each([
  ['backpropagation', []],
  ['asa', { '**': asa() }],
  ['q2', { '**': q2() }],
  ['quantized', { '**': quantized({ rounding: 'nearest' }) }],
  ['checkpoint', { 'layers.*': checkpoint() }],
  ['ara', { 'layers.1': ara(), 'layers.2': ara() }],
] as [string, MemoryAssignment][])(
  '%s: gradients are those of a float32 model with the rounded weights',
  async (_, rule) => {
    const make = () => {
      seed(8)
      return new models.MLP([64, 64, 64, 64, 10])
    }
    const [model, same] = [make().store('bf16'), make()]
    same.loadState(model.state())
    const x = host(generator(3), [16, 64])
    const y = { data: Int32Array.from({ length: 16 }, (_, i) => i % 10), shape: [16], dtype: 'i32' as const }
    const record = (m: models.MLP) => gradientsOf(m, (b) => nn.crossEntropy(m.forward(b.x), b.y), { x, y }, rule)
    const [a, b] = [await record(model), await record(same)]
    expect(a.result.loss).toBe(b.result.loss)
    expect(a.gradients).toEqual(b.gradients)
    expect(a.plan.bytes.kept).toBe(b.plan.bytes.kept)
  },
)

test('of a sparse table in bf16 the rows that are looked up change, and no others', async () => {
  seed(2)
  const table = new nn.Embedding(64, 48, { sparse: true })
  table.store('bf16')
  seed(2)
  const whole = new nn.Embedding(64, 48, { sparse: true })
  whole.loadState(table.state())
  const index = { data: Int32Array.from([3, 9, 3, 60, 9]), shape: [5], dtype: 'i32' as const }
  const make = (model: nn.Embedding) =>
    compile({ model, loss: ({ i }) => model.forward(i).square().sum(), optimizer: new optim.AdamW({ lr: 1e-3 }) })
  const before = table.weight.dataSync() as Float32Array
  await make(table).run({ i: index })
  await make(whole).run({ i: index })
  const [got, exact] = [table.weight.dataSync(), whole.weight.dataSync()]
  const right = (v: number, i: number) =>
    [3, 9, 60].includes(Math.floor(i / 48)) ? Math.abs(v - exact[i]) < unit(exact[i]) : v === before[i]
  const all = Array.from(got)
  expect(all.filter((v, i) => !right(v, i))).toEqual([])
  expect(all.filter((v, i) => v !== before[i]).length).toBeGreaterThan(40)
})

test('a model is stored and brought back between runs: its optimizer goes on', async () => {
  const optimizer = new optim.AdamW({ lr: 1e-3 })
  const { model, step } = training(optimizer)
  await step.run(batch)
  const remembered = () => [...step.stateTensors()].map(([name, t]) => [name, bytes(t.rawSync())])
  const [state, values] = [remembered(), snapshot(model)]
  expect(String(model)).toMatch(/weight \[50, 96\] bf16/)
  model.store('f32')
  expect(model.parameters().every((p) => p.stored === 'f32' && p.trainable)).toBe(true)
  expect(snapshot(model)).toEqual(values)
  const before = memory().live
  model.store('bf16')
  expect(memory().live).toBeLessThan(before - 2 * (50 * 96 + 2 * 96 * 130) + 512)
  expect([remembered(), snapshot(model)]).toEqual([state, values])
  await step.run(batch)
  expect(remembered()).not.toEqual(state)
  // Frozen it may be in codes; these are left where something learns, and do not learn again.
  model.freeze('fc1').store('q8')
  expect(model.parameters().map((p) => p.stored)).toEqual(['f32', 'bf16', 'q8', 'f32', 'bf16', 'f32'])
  expect(() => model.unfreeze('fc1')).toThrow(/fc1.weight is stored in q8 and cannot learn/)
  model.store('bf16', 'fc1').unfreeze()
  await step.run(batch)
})

test('assign of a step and optimizers of one’s own round so, too; in the mean nothing is lost', async () => {
  seed(3)
  const model = new nn.Linear(64, 64, { bias: false }).store('bf16')
  class Plain extends optim.Base {
    readonly name = 'plain'
    protected readonly slots = []
    protected apply(w: Tensor, _: unknown, gradient: Tensor, { lr }: optim.UpdateInputs) {
      w.assign(w.sub(gradient.mul(lr)))
    }
  }
  const before = model.weight.dataSync() as Float32Array
  const steps = 400
  // The gradient is 1; a step is a fraction of a unit.
  const step = compile({
    model,
    loss: ({ x }) => model.weight.sum().add(x.sum().mul(0)),
    optimizer: new Plain({ lr: 1e-5 }),
  })
  for (let k = 0; k < steps; k++) step.runSync({ x: host(generator(1), [1]) })
  const after = model.weight.dataSync() as Float32Array
  const mean = after.reduce((sum, v, i) => sum + v - before[i], 0) / before.length
  // A weight moves by a unit (2^-10 at most) or not: the variance of a step is at most lr · unit.
  expect(Math.abs(mean / (-1e-5 * steps) - 1)).toBeLessThan(
    (5 * Math.sqrt((2 ** -10 * 1e-5 * steps) / before.length)) / (1e-5 * steps),
  )
  const add = compile(({ x }: Record<string, Tensor>) => (model.weight.assign(model.weight.add(x)), x))
  const tiny = { data: Float32Array.of(2 ** -14), shape: [1] }
  const sum = () => (model.weight.dataSync() as Float32Array).reduce((s, v) => s + v, 0)
  const start = sum()
  for (let k = 0; k < 64; k++) add.runSync({ x: tiny })
  const moved = (sum() - start) / before.length
  expect(Math.abs(moved - 2 ** -8)).toBeLessThan(5 * Math.sqrt((64 * 2 ** -10 * 2 ** -14) / before.length))
  // A plan that only writes follows it when it comes to lie elsewhere.
  const put = compile(({ x }: Record<string, Tensor>) => (model.weight.assign(x), x.sum()))
  const values = host(generator(4), [64, 64])
  for (const format of ['bf16', 'f32', 'bf16'] as const) {
    model.store(format)
    put.runSync({ x: values })
    const got = model.weight.dataSync()
    expect(Array.from(values.data).filter((v, i) => !(Math.abs(v - got[i]) <= unit(v)))).toEqual([])
  }
})

test('a moving average may be kept in bf16, or in float32 of a model in bf16', async () => {
  const run = async (format: 'bf16' | 'f32') => {
    const { model, step } = training(new optim.SGD({ lr: 0.2 }))
    const other = new Net()
    if (format === 'bf16') other.store('bf16')
    const average = new train.WeightAverage(other, model, { decay: 0.9 })
    let exact = [...(model.fc1.weight.dataSync() as Float32Array)]
    for (let k = 0; k < 20; k++) {
      await step.run(batch)
      await average.update()
      const now = model.fc1.weight.dataSync()
      exact = exact.map((a, i) => 0.9 * a + 0.1 * now[i])
    }
    const got = other.fc1.weight.dataSync()
    expect(other.fc1.weight.stored).toBe(format)
    return distance(got, exact)
  }
  expect(await run('f32')).toBeLessThan(1e-6)
  expect(await run('bf16')).toBeLessThan(0.01)
})

/** What rounding to the nearest does to weights that learn. */
class Nearest extends optim.Base {
  readonly name = 'nearest'
  protected readonly slots = []
  protected apply(w: Tensor, _: unknown, gradient: Tensor, { lr }: optim.UpdateInputs) {
    const next = w.sub(gradient.mul(lr))
    w.assign(w.rank > 1 ? next.cast('bf16').cast('f32') : next)
  }
}

// One epoch of 8000 images, the same five seeds: mean losses on 2000 others were 1.667, 1.666 and, to the nearest, 1.789.
test('a classifier of digits learns as in float32, where rounding to the nearest leaves it behind', async () => {
  const { train: all } = await data.mnist()
  const [digits, others] = [all.slice(0, 8000), all.slice(8000, 10000)]
  const lossOf = async (format: 'bf16' | 'f32', optimizer: () => optim.Base) => {
    let sum = 0
    for (const run of [1, 2, 3, 4, 5]) {
      seed(run)
      const model = new models.MLP([784, 64, 10]).store(format)
      const loss = ({ x, y }: Record<string, Tensor>) => nn.crossEntropy(model.forward(x), y)
      const step = compile({ model, loss, optimizer: optimizer(), seed: run })
      for await (const batch of new data.DataLoader(digits, { batchSize: 32, shuffle: true, seed: run }))
        step.runSync(batch)
      const held = compile({ model, forward: loss })
      for await (const batch of new data.DataLoader(others, { batchSize: 2000 })) sum += held.runSync(batch).data[0]
      for (const s of [step, held]) s.close()
    }
    return sum / 5
  }
  const lr = 0.01
  const [exact, stochastic, nearest] = [
    await lossOf('f32', () => new optim.SGD({ lr })),
    await lossOf('bf16', () => new optim.SGD({ lr })),
    await lossOf('f32', () => new Nearest({ lr })),
  ]
  expect(Math.abs(stochastic - exact)).toBeLessThan(0.01)
  expect(nearest).toBeGreaterThan(exact + 0.08)
})

const on = process.platform === 'win32' ? describe.skip : describe
on('on a device', () => {
  test('it trains as here and takes the bytes that its plan states', async () => {
    useHostDevice()
    const [here, there] = [training(new optim.AdamW({ lr: 1e-2 })), training(new optim.AdamW({ lr: 1e-2 }))]
    const held = memory('cuda').live
    there.model.to('cuda')
    resetPeakMemory('cuda')
    const { total } = there.step.plan(shapes).bytes
    for (let k = 0; k < 3; k++) expect(await there.step.run(batch)).toEqual(await here.step.run(batch))
    expect(memory('cuda').peak - held).toBe(total)
    expect(snapshot(there.model)).toEqual(snapshot(here.model))
  })
})

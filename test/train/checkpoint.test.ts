import { writeFileSync } from 'node:fs'
import path from 'node:path'
import {
  asa,
  checkpoint,
  compile,
  data,
  io,
  memory,
  nn,
  optim,
  q2,
  quantized,
  seed,
  train,
  type MemoryAssignment,
  type Tensor,
} from '../../src'
import { generator } from '../support/run'
import { scratchFolder } from '../support/folder'
import { withCode } from '../support/refusals'

class Net extends nn.Module {
  conv1 = new nn.Conv2d(1, 4, 3, { padding: 1 })
  norm = new nn.BatchNorm2d(4)
  conv2 = new nn.Conv2d(4, 6, 3, { stride: 2 })
  dropout = new nn.Dropout(0.3)
  fc = new nn.Linear(6 * 3 * 3, 5)
  forward(x: Tensor): Tensor {
    x = this.norm.forward(this.conv1.forward(x)).relu()
    x = this.conv2.forward(x).relu().flatten(1)
    return this.fc.forward(this.dropout.forward(x))
  }
}

const random = generator(3)
const rows = data.fromArrays({
  x: { data: Float32Array.from({ length: 40 * 64 }, random), shape: [40, 8, 8, 1], dtype: 'f32' },
  y: Int32Array.from({ length: 40 }, () => Math.floor(5 * random())),
})

function begin(memory?: MemoryAssignment, accumulate = 1) {
  seed(5)
  const model = new Net()
  const step = compile({
    model,
    loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y),
    optimizer: new optim.AdamW({ lr: optim.schedule.cosine(1e-2, { steps: 30, warmUp: 4 }) }),
    memory,
    accumulate,
    seed: 9,
  })
  const loader = new data.DataLoader(rows, { batchSize: 7, shuffle: true, seed: 2 })
  return { model, step, loader }
}

type Run = ReturnType<typeof begin>

/** Trains until so many steps are done, leaving the loader in the middle of an epoch. */
async function until(run: Run, steps: number): Promise<number[]> {
  const losses: number[] = []
  for await (const event of train.fit({ step: run.step, loader: run.loader, epochs: 9 })) {
    if (event.type === 'step') losses.push(event.result.loss)
    if (run.step.runs >= steps) break
  }
  return losses
}

const everything = ({ model, step }: Run): string =>
  [...model.state(), ...step.stateTensors()]
    .map(([name, t]) => `${name} ${Buffer.from(t.dataSync().buffer).toString('hex')}`)
    .join('\n')

const folder = scratchFolder()

test.each([
  ['backpropagation', undefined, 1],
  ['asa', { conv2: asa(), fc: asa() }, 1],
  ['q2', { conv2: q2(), fc: q2() }, 1],
  ['codes rounded at random', quantized({ bits: 2 }), 1],
  ['checkpointing', checkpoint(), 1],
  ['accumulation in mid-sum', undefined, 3],
] as const)('a resumed run is bit-identical to one that never stopped: %s', async (name, memory, accumulate) => {
  const whole = begin(memory, accumulate)
  const losses = await until(whole, 20)

  const file = path.join(folder, `${name}.safetensors`)
  const first = begin(memory, accumulate)
  const before = await until(first, 10) // epochs have 6 steps: in mid-epoch, and in mid-sum
  await train.saveTraining(file, first, { extra: { note: 'x' } })

  seed(77)
  const second = begin(memory, accumulate)
  for (const p of second.model.parameters()) p.assign(new Float32Array(p.size).fill(0.5)) // what is not loaded shows
  expect(await train.loadTraining(file, second)).toEqual({ note: 'x' })
  const after = await until(second, 20)

  expect([...before, ...after]).toEqual(losses)
  expect(everything(second)).toBe(everything(whole))
})

test('of what is frozen only what has learnt before has state', async () => {
  const file = path.join(folder, 'frozen')
  const batch = {
    x: { data: Float32Array.from({ length: 7 * 64 }, random), shape: [7, 8, 8, 1] },
    y: new Int32Array(7),
  }
  const runs = async (...of: Run[]): Promise<void> => {
    for (const { step } of of) for (let i = 0; i < 3; i++) await step.run(batch)
  }
  const frozen = (): Run => {
    const run = begin()
    run.model.freeze().unfreeze('fc')
    return run
  }
  const first = frozen()
  await runs(first)
  const { live } = memory()
  await train.saveTraining(file, first)
  expect(memory().live).toBe(live)
  const moments = (name: string): string[] => [`optimizer.m.${name}`, `optimizer.v.${name}`]
  const names = Array.from(first.step.stateTensors(), ([name]) => name)
  expect(names).toEqual([...moments('fc.weight'), ...moments('fc.bias')])
  // What learns from now on has moments in the file, and goes on with them though it was frozen meanwhile.
  first.model.unfreeze('conv2')
  await runs(first)
  first.model.freeze('conv2')
  await train.saveTraining(file, first)
  const second = frozen()
  await train.loadTraining(file, second)
  expect(everything(second)).toBe(everything(first))
  for (const { model } of [first, second]) model.unfreeze('conv2')
  await runs(first, second)
  expect(everything(second)).toBe(everything(first))
  // A file from before it learnt: its moments are zeros again.
  await train.saveTraining(file, frozen())
  first.model.freeze('conv2')
  await train.loadTraining(file, first)
  const state = [...first.step.stateTensors()]
  expect(state.map(([name]) => name)).toContain('optimizer.m.conv2.weight')
  for (const [name, t] of state) expect([name, t.dataSync().some((v) => v !== 0)]).toEqual([name, false])
})

test('early stopping goes on where it stood, also when it has ended', async () => {
  const file = path.join(folder, 'stopping')
  const given = [3, 1, 2, 2, 2, 0.5, 2, 2, 2]
  /** Epochs until it ends, or `most` of them have been; what was best at each. */
  const epochs = async (run: Run & { stopping?: train.EarlyStopping }, most = 9): Promise<boolean[]> => {
    const { step, loader, stopping } = run
    const best: boolean[] = []
    const validate = (): number => given[loader.epoch - 1]
    for await (const event of train.fit({ step, loader, stopping, epochs: 9, validate, patience: 2 }))
      if (event.type === 'epoch' && best.push(event.best!) === most) break
    return best
  }
  const started = () => ({ ...begin(), stopping: new train.EarlyStopping() })
  const whole = await epochs(started())
  expect(whole).toEqual([true, true, false, false, false])
  for (const done of [1, 2, 3, 5]) {
    const first = started()
    await epochs(first, done)
    await train.saveTraining(file, first)
    const second = started()
    second.stopping.observe(-1) // what is not put back shows
    await train.loadTraining(file, second)
    expect([done, await epochs(second)]).toEqual([done, whole.slice(done)])
  }
  // A file of before knows nothing of it.
  const first = begin()
  await epochs(first, 3)
  await train.saveTraining(file, first)
  const { tensors, state } = await io.loadCheckpoint(file)
  const { stopping: _, ...before } = state as Record<string, io.Json>
  await io.saveCheckpoint(file, { tensors, state: before })
  const second = started()
  await train.loadTraining(file, second)
  expect(second.stopping.state()).toEqual({ best: null, waited: 0 })
  expect(await epochs(second)).toEqual([true, false, true, false, false, false])
  for (const state of [undefined, { best: '1', waited: 0 }, { best: 1, waited: -1 }])
    expect(() => second.stopping.restore(state as never)).toThrow(/expected a state that state\(\) gave/)
})

test('a run is saved between two steps, whichever are under way or asked for', async () => {
  const batch = { x: { data: new Float32Array(7 * 64).fill(0.5), shape: [7, 8, 8, 1] }, y: new Int32Array(7) }
  const file = path.join(folder, 'autosave')
  const whole = begin()
  for (let i = 0; i < 3; i++) await whole.step.run(batch)
  const run = begin()
  const { model } = run
  const state = model.state.bind(model)
  model.state = () => {
    const end = performance.now() + 50 // in which a step under way would change what is read next
    while (performance.now() < end);
    return state()
  }
  const asked = [0, 1, 2].map(() => run.step.run(batch))
  const saved = train.saveTraining(file, run)
  await Promise.all([...asked, saved, run.step.run(batch)])
  const other = begin()
  await train.loadTraining(file, other)
  expect(other.step.runs).toBe(3)
  expect(everything(other) === everything(whole)).toBe(true)
  expect(everything(other) === everything(run)).toBe(false)
})

test('a file that does not fit changes nothing', async () => {
  const file = path.join(folder, 'misfit')
  const saved = begin()
  await train.saveTraining(file, saved)
  class Other extends Net {
    override fc = new nn.Linear(54, 6)
  }
  const model = new Other()
  const step = compile({
    model,
    loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y),
    optimizer: new optim.AdamW({ lr: 1e-3 }),
  })
  const before = model.fc.weight.dataSync()
  await expect(train.loadTraining(file, { step })).rejects.toMatchObject({
    code: 'AUX_BAD_FILE',
    message: expect.stringContaining('model.fc.weight'),
  })
  expect(model.fc.weight.dataSync()).toEqual(before)
  const sgd = compile({
    model: saved.model,
    loss: ({ x, y }) => nn.crossEntropy(saved.model.forward(x), y),
    optimizer: new optim.SGD({ lr: 1 }),
  })
  await expect(train.loadTraining(file, { step: sgd })).rejects.toMatchObject({ code: 'AUX_BAD_FILE' })
  const loader = new data.DataLoader(rows, { batchSize: 8, shuffle: true, seed: 2 })
  const stopping = new train.EarlyStopping()
  stopping.observe(1)
  await expect(train.loadTraining(file, { step: saved.step, loader, stopping })).rejects.toEqual(
    withCode('AUX_BAD_FILE', /misfit: DataLoader.restore: expected a state with batchSize 8 as in this loader, got 7/),
  )
  expect(stopping.state()).toEqual({ best: 1, waited: 0 })
  await train.saveTraining(file, { step: saved.step })
  await expect(train.loadTraining(file, saved)).rejects.toEqual(
    withCode('AUX_BAD_FILE', /misfit: expected the place of a loader, got a run that was saved without one/),
  )
  writeFileSync(file, 'no checkpoint')
  await expect(train.loadTraining(file, saved)).rejects.toMatchObject({ code: 'AUX_BAD_FILE' })
})

test('weights go to a file and back, also in the order of PyTorch', async () => {
  const a = new Net()
  const b = new Net()
  for (const layout of ['auxgrad', 'torch'] as const) {
    const file = path.join(folder, `weights-${layout}.safetensors`)
    await train.saveWeights(file, a, { layout, name: (p) => `net.${p}` })
    for (const p of b.parameters()) p.assign(new Float32Array(p.size))
    await train.loadWeights(file, b, { layout, name: (p) => `net.${p}` })
    for (const [name, t] of a.state()) expect(b.state().get(name)!.dataSync()).toEqual(t.dataSync())
  }
  await expect(train.loadWeights(path.join(folder, 'weights-torch.safetensors'), b)).rejects.toMatchObject({
    code: 'AUX_BAD_FILE',
    message: expect.stringContaining('conv1.weight'),
  })
})

test('weights are written and loaded between runs, however many were asked for', async () => {
  const file = path.join(folder, 'between.safetensors')
  const batch = { x: { data: new Float32Array(7 * 64).fill(0.5), shape: [7, 8, 8, 1] }, y: new Int32Array(7) }
  const steps = async ({ step }: Run, n: number): Promise<unknown> =>
    Promise.all(Array.from({ length: n }, () => step.run(batch)))
  const run = begin()
  const asked = [steps(run, 3), train.saveWeights(file, run.model), steps(run, 3)]
  await Promise.all(asked)
  const other = begin()
  await steps(other, 3)
  const loaded = new Net()
  await train.loadWeights(file, loaded)
  const hex = (m: Net): string[] => [...m.state()].map(([, t]) => Buffer.from(t.dataSync().buffer).toString('hex'))
  expect(hex(loaded)).toEqual(hex(other.model))
  // A prediction under way is of the old weights.
  const predict = compile({ model: loaded, forward: ({ x }) => loaded.forward(x) })
  const { x } = batch
  const before = await predict.run({ x })
  await train.saveWeights(file, run.model)
  const during: Promise<{ data: ArrayLike<number> }>[] = []
  const loading = train.loadWeights(file, loaded).then(() => 'loaded')
  while ((await Promise.race([loading, ...during.slice(-1)])) !== 'loaded') during.push(predict.run({ x }))
  const after = await predict.run({ x })
  const [a, b] = [Array.from(before.data).join(), Array.from(after.data).join()]
  expect(a).not.toBe(b)
  for (const { data } of await Promise.all(during)) expect([a, b]).toContain(Array.from(data).join())
})

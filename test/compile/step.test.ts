import { execFileSync } from 'node:child_process'
import { getEventListeners } from 'node:events'
import fc from 'fast-check'
import {
  asa,
  backprop,
  checkpoint,
  compile,
  grad,
  hostArray,
  memory,
  models,
  nn,
  optim,
  tensor,
  train,
  valueAndGrad,
  type MemoryAssignment,
  type Tensor,
} from '../../src'
import { trace } from '../../src/compile/trace'
import { binaryPath, native } from '../../src/native'
import { constant } from '../../src/ops/constant'
import { Tensor as Eager } from '../../src/tensor/tensor'
import { check, liveBytes } from '../support/property'
import { snapshot } from '../support/record'
import { sizeOf } from '../support/reference'
import { generator } from '../support/run'
import { withCode } from '../support/refusals'

const random = generator(1)
const host = (shape: number[]) =>
  hostArray(
    Float32Array.from({ length: sizeOf(shape) }, () => 2 * random() - 1),
    shape,
  )
const batchOf = (n: number) => ({ x: host([n, 6]), y: Int32Array.from({ length: n }, (_, i) => i % 3) })
class Net extends nn.Module {
  readonly hidden = [new nn.Linear(6, 16), new nn.Linear(16, 16)]
  readonly norm = new nn.BatchNorm1d(16)
  readonly drop = new nn.Dropout(0.2)
  readonly fc = new nn.Linear(16, 3)
  forward(x: Tensor): Tensor {
    for (const layer of this.hidden) x = layer.forward(x).relu()
    return this.fc.forward(this.drop.forward(this.norm.forward(x)))
  }
}
const make = (options: Partial<Parameters<typeof compile>[0]> = {}) => {
  const model = new Net()
  const optimizer = new optim.AdamW({ lr: 0.01 })
  const step = compile({
    model,
    loss: ({ x, y }: Record<string, Tensor>) => nn.crossEntropy(model.forward(x), y),
    optimizer,
    ...options,
  })
  return { model, optimizer, step }
}

test('while a step runs, another model answers at once; the same one refuses', async () => {
  const [trained, copy] = [make(), make()]
  copy.model.loadState(trained.model.state())
  const predict = ({ model }: typeof copy) => compile({ model, forward: ({ x }) => model.forward(x) })
  const [own, other] = [predict(trained), predict(copy)]
  const { x } = batchOf(4)
  const before = other.runSync({ x })
  const step = trained.step.run(batchOf(64))
  expect(() => own.runSync({ x })).toThrow(withCode('AUX_INVALID_ARGUMENT', /under way/))
  expect(other.runSync({ x })).toEqual(before)
  await step
  expect(own.runSync({ x })).not.toEqual(before)
})

test('synchronous steps are those of run, bit for bit, and refused while one is under way', async () => {
  const options = { accumulate: 2, clip: { norm: 0.5 } }
  const [a, b] = [make(options), make(options)]
  b.model.loadState(a.model.state())
  for (let i = 0; i < 6; i++) {
    const batch = batchOf(3 + (i % 3))
    expect(a.step.runSync(batch)).toEqual(await b.step.run(batch))
  }
  expect([a.step.runs, a.optimizer.steps]).toEqual([6, 3])
  expect(snapshot(a.model)).toEqual(snapshot(b.model))
  const running = a.step.run(batchOf(64))
  expect(() => a.step.runSync(batchOf(4))).toThrow(withCode('AUX_INVALID_ARGUMENT', /under way/))
  await running
  expect(a.step.runs).toBe(7)
  expect(() => a.step.runSync({ x: new Float32Array(3) })).toThrow()
  expect([a.step.runs, a.optimizer.steps]).toEqual([7, 3])
  a.step.close()
  expect(() => a.step.runSync(batchOf(4))).toThrow(withCode('AUX_DISPOSED'))
})

test('sixteen shapes keep their plans, of values whose dtype is open too', () => {
  let traced = 0
  const f = compile(({ x }) => {
    traced++
    return x.mul(2)
  })
  for (let round = 0; round < 2; round++) for (let n = 1; n <= 16; n++) f.runSync({ x: new Float32Array(n) })
  expect(traced).toBe(16)
})

test('runs that are not awaited follow each other and give what awaited runs give', async () => {
  const [a, b] = [make(), make()]
  b.model.loadState(a.model.state())
  const batches = Array.from({ length: 8 }, (_, i) => batchOf(3 + (i % 3)))
  const losses: number[] = []
  for (const batch of batches) losses.push((await a.step.run(batch)).loss)
  const all = batches.map((batch) => b.step.run(batch))
  expect((await Promise.all(all)).map((r) => r.loss)).toEqual(losses)
  expect(snapshot(b.model)).toEqual(snapshot(a.model))
  expect(b.step.runs).toBe(8)
})

test('runs of several models follow each other as they were asked for, not one of each in turn', async () => {
  const [asking, training] = [make(), make()]
  const predict = compile({ model: asking.model, forward: ({ x }) => asking.model.forward(x) })
  const order: string[] = []
  const note = (name: string) => (): void => void order.push(name)
  const batch = batchOf(4)
  const predictions = (name: string) => Array.from({ length: 5 }, () => predict.run({ x: batch.x }).then(note(name)))
  const before = predictions('before')
  const step = training.step.run(batch).then(note('step'))
  const after = predictions('after')
  await Promise.all([...before, step, ...after])
  expect(order.join(' ')).toBe('before before before before before step after after after after after')
})

test('an average that is moved between runs of both models is waited for, and waits for neither for ever', async () => {
  const { model, step } = make()
  const copy = new Net()
  const average = new train.WeightAverage(copy, model, { decay: 0.5 })
  const predict = compile({ model: copy, forward: ({ x }) => copy.forward(x) })
  const batch = batchOf(4)
  const { x } = batch
  const round = () => [step.run(batch), average.update(), step.run(batch), predict.run({ x }), predict.run({ x })]
  await Promise.all([...round(), ...round()])
  expect([step.runs, average.updates]).toEqual([4, 2])
})

test('a rejected run does not stop those behind it', async () => {
  const { step, model } = make()
  const before = snapshot(model)
  const bad = { ...batchOf(4), y: Int32Array.of(0, 1, 9, 2) }
  const results = await Promise.allSettled([
    step.run(bad),
    step.run({ x: host([4, 5]), y: Int32Array.of(0, 1, 1, 2) }),
    step.run(bad),
  ])
  expect(results.map((r) => (r as PromiseRejectedResult).reason.code)).toEqual([
    'AUX_INDEX_OUT_OF_RANGE',
    'AUX_SHAPE_MISMATCH',
    'AUX_INDEX_OUT_OF_RANGE',
  ])
  expect((results[0] as PromiseRejectedResult).reason.message).toMatch(/9/)
  expect(snapshot(model)).toEqual(before)
  expect([step.runs, step.optimizer.steps]).toEqual([0, 0])
  expect((await step.run(batchOf(4))).loss).toBeGreaterThan(0)
})

test('batches: missing, wrong and additional fields', async () => {
  const { step } = make()
  const { x, y } = batchOf(4)
  await expect(step.run({ x })).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT', /"y".*x/))
  await expect(step.run({ x: host([4, 7]), y })).rejects.toEqual(withCode('AUX_SHAPE_MISMATCH', /6.*\[4, 7\]/))
  await expect(step.run({ x, y: Float32Array.of(0, 1, 2, 0.5) })).rejects.toEqual(
    withCode('AUX_INVALID_ARGUMENT', /input y.*i32.*0\.5/),
  )
  await expect(step.run({ x: hostArray(new Int32Array(24), [4, 6]), y })).rejects.toEqual(
    withCode('AUX_DTYPE_MISMATCH', /f32/),
  )
  await expect(step.run({ x, y: Int32Array.of(0, 1) })).rejects.toEqual(withCode('AUX_SHAPE_MISMATCH', /\[4\].*\[2\]/))
  await expect(step.run({ x: 'no' as never, y })).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT', /input x.*"no"/))
  expect((await step.run({ y, name: [1, 2, 3, 4], x })).loss).toBeGreaterThan(0)
})

test('values whose memory is given away before the turn of their run are missed, not those of a run before taken', async () => {
  const { step } = make()
  const { x, y } = batchOf(4)
  const asked = [step.run(batchOf(4)), step.run({ x, y })]
  structuredClone(x.data, { transfer: [x.data.buffer as ArrayBuffer] })
  await asked[0]
  await expect(asked[1]).rejects.toEqual(
    withCode('AUX_INVALID_ARGUMENT', /input x: expected 24 values when the run begins, got 0: .* before its turn/),
  )
  expect(step.runs).toBe(1)
  step.close()
})

test('plans: what was planned from shapes is what runs; nothing is planned twice', async () => {
  const { step, model, optimizer } = make()
  let traces = 0
  const forward = model.forward.bind(model)
  model.forward = (x) => {
    traces++
    return forward(x)
  }
  step.plan({ x: [5, 6], y: [5] })
  const { x, y } = batchOf(5)
  await step.run({ x, y })
  await step.run({ y, x })
  optimizer.lr = 0.5
  await step.run({ x, y: hostArray(y) })
  expect(traces).toBe(1)
  await step.run(batchOf(6))
  await step.run(batchOf(5))
  expect(traces).toBe(2)
  model.eval()
  await step.run({ x, y })
  model.train()
  model.freeze('hidden')
  await step.run({ x, y })
  model.unfreeze()
  await step.run({ x, y })
  expect(traces).toBe(4)
})

test('dropping plans, closing steps and disposing models give every byte back', async () => {
  const first = make() // and what is made once per process
  await first.step.run(batchOf(3))
  first.step.close()
  first.model.dispose()
  first.optimizer.dispose()
  const start = await liveBytes()
  const { step, model, optimizer } = make({ clip: { norm: 1 }, accumulate: 2 } as never)
  await step.run(batchOf(40))
  await step.run(batchOf(40))
  const full = native().memory()
  for (let n = 2; n < 40; n++) {
    await step.run(batchOf(n))
    await step.run(batchOf(n))
  }
  expect(native().memory()).toMatchObject({ live: full.live, blocks: full.blocks })
  await expect(step.run({ ...batchOf(4), y: Int32Array.of(0, 0, 0, 7) })).rejects.toBeDefined()
  step.plan({ x: [50, 6], y: [50] })
  expect(native().memory().live).toBe(full.live)
  step.close()
  model.dispose()
  optimizer.dispose()
  expect(await liveBytes()).toBe(start)
})

test('a step that sums gradients has none to save once it is closed, and makes none', async () => {
  const { step } = make({ accumulate: 2 } as never)
  step.close()
  const { live } = native().memory()
  expect(() => [...step.stateTensors()]).toThrow(withCode('AUX_DISPOSED', /was closed, its sums are gone/))
  expect(native().memory().live).toBe(live)
})

test('a plan of shapes whose run has been planned before leaves none behind', async () => {
  const start = await liveBytes()
  const { step, model, optimizer } = make()
  await step.run(batchOf(3))
  step.plan({ x: [3, 6], y: [3] })
  await step.run(batchOf(3))
  step.close()
  model.dispose()
  optimizer.dispose()
  expect(native().memory().live).toBe(start)
})

test('a model evaluated where it is not trained follows the memory it is said to have been trained with', async () => {
  const { step, model } = make({ memory: asa({ epsilon: 0.5 }) } as never)
  const { x } = batchOf(4)
  await step.run(batchOf(64))
  const logits = async (m: typeof model, memory?: MemoryAssignment) =>
    Array.from((await compile({ model: m, forward: ({ x }) => m.forward(x), memory }).run({ x })).data)
  const served = make().model.loadState(model.state())
  const trained = await logits(model)
  expect(await logits(served)).not.toEqual(trained)
  expect(await logits(served, asa({ epsilon: 0.5 }))).toEqual(trained)
  expect(await logits(served)).toEqual(trained) // what holds for one evaluation of a model holds for all
  expect(() => compile({ model, forward: ({ x }) => model.forward(x), memory: 'asa' as never })).toThrow(
    withCode('AUX_INVALID_ARGUMENT', /expected memory to be a policy/),
  )
})

test('evaluation between steps: other shapes, many of them, not awaited; no leak', async () => {
  const { step, model } = make({ memory: asa() } as never)
  const evaluate = compile({
    model,
    forward: ({ x }) => ({ logits: model.forward(x), best: model.forward(x).argmax() }),
  })
  await step.run(batchOf(64))
  const before = native().memory()
  const sizes = Array.from({ length: 40 }, (_, i) => 1 + i)
  const results = await Promise.all(sizes.map((n) => evaluate.run({ x: batchOf(n).x })))
  results.forEach((r, i) => expect(r.logits.shape).toEqual([sizes[i], 3]))
  expect(native().memory().live).toBe(before.live)
  // Dropout is off, running statistics count, signs are added still.
  const again = evaluate.runSync({
    x: hostArray(results[3].logits.data.length ? new Float32Array(24).fill(0.5) : new Float32Array(), [4, 6]),
  })
  expect([...again.logits.data.subarray(0, 3)]).toEqual([...again.logits.data.subarray(9, 12)])
  evaluate.close()
  expect((await step.run(batchOf(8))).loss).toBeGreaterThan(0)
})

test('abort: before, in the queue, during a run; parameters are unchanged or those of a whole step', async () => {
  const { step, model } = make()
  const { x, y } = batchOf(64)
  await step.run({ x, y })
  const before = snapshot(model)
  const done = new AbortController()
  done.abort(new Error('no'))
  await expect(step.run({ x, y }, { signal: done.signal })).rejects.toThrow('no')
  const controllers = Array.from({ length: 4 }, () => new AbortController())
  const queued = controllers.map((c) => step.run({ x, y }, { signal: c.signal }))
  controllers.slice(1).forEach((c) => c.abort())
  const results = await Promise.allSettled(queued)
  expect(results.slice(1).every((r) => r.status === 'rejected')).toBe(true)
  expect(step.runs).toBe(results[0].status === 'fulfilled' ? 2 : 1)
  if (results[0].status === 'rejected') expect(snapshot(model)).toEqual(before)
  // Runs leave nothing on a signal that outlives them.
  const { signal } = new AbortController()
  for (let i = 0; i < 3; i++) await step.run({ x, y }, { signal })
  await expect(step.run({ x }, { signal })).rejects.toEqual(withCode('AUX_INVALID_ARGUMENT'))
  expect(getEventListeners(signal, 'abort')).toEqual([])
  // At random moments of a run: what came out is exactly what no or one step gives.
  for (let i = 0; i < 30; i++) {
    const [from, runs] = [snapshot(model), step.runs]
    const controller = new AbortController()
    const run = step.run({ x, y }, { signal: controller.signal })
    for (let k = 0; k < i * 40; k++) Math.sqrt(k)
    controller.abort(new Error('enough'))
    const result = await Promise.allSettled([run])
    if (result[0].status === 'rejected') {
      expect(result[0].reason.message).toBe('enough')
      expect(snapshot(model)).toEqual(from)
      expect(step.runs).toBe(runs)
    } else expect(step.runs).toBe(runs + 1)
  }
})

test('closing during a run lets it finish; runs behind it are refused', async () => {
  const { step, model } = make()
  await step.run(batchOf(16))
  const before = await liveBytes()
  const [first, second] = [step.run(batchOf(64)), step.run(batchOf(64))]
  step.close()
  expect((await first).loss).toBeGreaterThan(0)
  await expect(second).rejects.toEqual(withCode('AUX_DISPOSED'))
  await expect(step.run(batchOf(3))).rejects.toEqual(withCode('AUX_DISPOSED'))
  await new Promise((resolve) => setImmediate(resolve))
  expect(await liveBytes()).toBeLessThan(before)
  model.dispose()
})

test('no memory for a larger arena: the run is refused, nothing has changed, the next one works', async () => {
  const { step, model } = make()
  await step.run(batchOf(4))
  const before = snapshot(model)
  for (const persistent of [false, true]) {
    step.plan({ x: [100, 6], y: [100] })
    native().setFault(1, persistent)
    await expect(step.run(batchOf(100))).rejects.toEqual(withCode('AUX_OUT_OF_MEMORY', /arena.*\d+ bytes/))
    native().setFault(0, false)
    expect(snapshot(model)).toEqual(before)
  }
  expect((await step.run(batchOf(4))).loss).toBeGreaterThan(0)
  expect((await step.run(batchOf(100))).loss).toBeGreaterThan(0)
})

test('every allocation of compilation and a first run may fail: an error, no leak, and it works afterwards', async () => {
  const { step, model, optimizer } = make()
  const batch = batchOf(9)
  const parameters = snapshot(model)
  let failures = 0
  for (let k = 1; ; k++) {
    native().setFault(k, false)
    const result = await Promise.allSettled([step.run(batch)])
    native().setFault(0, false)
    if (result[0].status === 'fulfilled') break
    failures++
    expect(result[0].reason.code).toBe('AUX_OUT_OF_MEMORY')
    expect(snapshot(model)).toEqual(parameters)
  }
  expect(failures).toBeGreaterThan(5)
  step.close()
  optimizer.dispose()
  model.dispose()
})

test('budget: refused before anything runs, naming the bytes and the smallest alternative', async () => {
  const model = new models.MLP([6, 256, 256, 256, 3])
  const options = {
    model,
    memory: backprop(), // nothing is computed again
    loss: ({ x, y }: Record<string, Tensor>) => nn.crossEntropy(model.forward(x), y),
    optimizer: new optim.SGD({ lr: 0.1 }),
  }
  const shapes = { x: [2048, 6], y: [2048] }
  const free = compile(options)
  const { total } = free.plan(shapes).bytes
  free.close()
  const exact = compile({ ...options, budget: total })
  expect(exact.plan(shapes).bytes.total).toBe(total)
  exact.close()
  const tight = compile({ ...options, budget: total - 1 })
  expect(() => tight.plan(shapes)).toThrow(
    withCode('AUX_BUDGET_TOO_SMALL', new RegExp(`${total} bytes.*${total - 1} bytes.*smallest.*asa`)),
  )
  const before = native().memory().live
  await expect(tight.run({ x: host([2048, 6]), y: new Int32Array(2048) })).rejects.toEqual(
    withCode('AUX_BUDGET_TOO_SMALL'),
  )
  expect(native().memory().live).toBe(before)
  expect((await tight.run(batchOf(4))).loss).toBeGreaterThan(0)
  tight.close()
  expect(() => make({ budget: 'lots' } as never)).toThrow(withCode('AUX_INVALID_ARGUMENT'))
})

test('two models in turns, each step through both (a GAN)', async () => {
  const generatorNet = new nn.Sequential(new nn.Linear(2, 8), new nn.ReLU(), new nn.Linear(8, 2))
  const critic = new nn.Sequential(new nn.Linear(2, 8), new nn.BatchNorm1d(8), new nn.ReLU(), new nn.Linear(8, 1))
  const fake = (z: Tensor): Tensor => critic.forward(generatorNet.forward(z)).sigmoid()
  const g = compile({
    model: generatorNet,
    loss: ({ z }) => fake(z).log().mean().neg(),
    optimizer: new optim.Adam({ lr: 0.01 }),
  })
  const d = compile({
    model: critic,
    loss: ({ x, z }) => critic.forward(x).sigmoid().log().mean().neg().sub(fake(z).neg().add(1.0001).log().mean()),
    optimizer: new optim.Adam({ lr: 0.01 }),
  })
  const runs: Promise<{ loss: number }>[] = []
  for (let i = 0; i < 20; i++) runs.push(d.run({ x: host([16, 2]), z: host([16, 2]) }), g.run({ z: host([16, 2]) }))
  for (const { loss } of await Promise.all(runs)) expect(Number.isFinite(loss)).toBe(true)
  const [gBefore, dBefore] = [snapshot(generatorNet), snapshot(critic)]
  await g.run({ z: host([16, 2]) })
  const after = snapshot(critic)
  for (const name of Object.keys(after)) if (!name.includes('running')) expect(after[name]).toBe(dBefore[name])
  expect(snapshot(generatorNet)).not.toEqual(gBefore)
  // The critic's mode is not the generator's, but the generator's plans depend on it.
  critic.eval()
  const running = snapshot(critic)
  await g.run({ z: host([16, 2]) })
  expect(snapshot(critic)).toEqual(running)
  critic.train()
  await g.run({ z: host([16, 2]) })
  expect(snapshot(critic)).not.toEqual(running)
})

test('grad and valueAndGrad agree with finite differences', async () => {
  await check(20, fc.nat(), fc.integer({ min: 1, max: 5 }), async (start, n) => {
    const r = generator(start)
    const data = [n * 3, 12].map((k) => Float32Array.from({ length: k }, () => 2 * r() - 1))
    const f = (x: Tensor, w: Tensor): Tensor => x.matmul(w).tanh().add(x.sum()).square().mean()
    const at = (a: Float32Array, b: Float32Array): [Eager, Eager] => [tensor(a, [n, 3]), tensor(b, [3, 4])]
    const inputs = at(data[0], data[1])
    const { value, grads } = valueAndGrad(f)(...inputs)
    expect(value.item()).toBeCloseTo(f(...inputs).item(), 5)
    expect(grad(f)(...inputs).map((g) => [...g.dataSync()])).toEqual(grads.map((g) => [...g.dataSync()]))
    data.forEach((values, k) =>
      values.forEach((v, i) => {
        const moved = (d: number): number =>
          f(
            ...at(
              ...(data.map((a, j) => (j === k ? a.map((u, l) => (l === i ? v + d : u)) : a)) as [
                Float32Array,
                Float32Array,
              ]),
            ),
          ).item()
        expect(Math.abs((moved(1e-2) - moved(-1e-2)) / 2e-2 - grads[k].dataSync()[i])).toBeLessThan(2e-2)
      }),
    )
  })
  expect(() => grad((x) => x)(tensor([1, 2]))).toThrow(withCode('AUX_SHAPE_MISMATCH', /one f32 element.*\[2\]/))
  expect(
    grad((x) =>
      x
        .detach()
        .sum()
        .add(tensor([1]).sum()),
    )(tensor([1, 2])).map((g) => [...g.dataSync()]),
  ).toEqual([[0, 0]])
})

test('grad: inputs are independent of one another, and those that f reads by itself count; eager and compiled alike', async () => {
  const three = tensor([3])
  const weight = new nn.Parameter(tensor([2]))
  const cases: [name: string, f: (x: Tensor) => Tensor[], expected: number[]][] = [
    ['one tensor twice', (x) => grad((a, b) => a.mul(b.square()).sum())(x, x), [9, 18]],
    [
      'one made of another',
      (x) => {
        const y = x.mul(2)
        return grad((a, b) => a.mul(b).sum())(x, y)
      },
      [6, 3],
    ],
    [
      'one output of two',
      (x) => {
        const [a] = x.expand([2]).split(1)
        return grad((a, x) => a.mul(x).sum())(a, x)
      },
      [3, 3],
    ],
    ['of a parameter, read by the model', (x) => grad(() => weight.mul(x).square().sum())(weight), [36]],
    ['of a captured input', (x) => grad(() => x.square().sum())(x), [6]],
    ['twice', (x) => grad((x) => grad((a, b) => a.mul(b.square()).sum())(x, x)[1].sum())(x), [12]],
  ]
  for (const [name, f, expected] of cases) {
    expect([name, f(three).map((t) => t.item())]).toEqual([name, expected])
    const compiled = compile(({ x }) => Object.fromEntries(f(x).map((t, i) => [`d${i}`, t])))
    const values = Object.values(await compiled.run({ x: [3] })).map(({ data }) => data[0])
    expect([name, values]).toEqual([name, expected])
  }
})

test('what looks for open handles finds none that is not in use', () => {
  const program = `
    const handles = []
    const init = (id, type, trigger, resource) => type === 'auxgrad' && handles.push(resource)
    require('node:async_hooks').createHook({ init }).enable()
    require(process.argv[1])
    console.log(handles.map((handle) => handle.hasRef()).join())`
  expect(execFileSync(process.execPath, ['-e', program, binaryPath()], { encoding: 'utf8' })).toBe('false\n')
})

test('grad leaves nothing behind', async () => {
  const x = tensor([1, 2, 3])
  const f = grad((t) => t.mul(t).sum())
  f(x).forEach((g) => g.dispose())
  const before = native().memory()
  for (let i = 0; i < 20; i++) f(x).forEach((g) => g.dispose())
  expect(native().memory()).toMatchObject({ live: before.live, blocks: before.blocks })
})

test('numbers of traced functions, always other ones, are forgotten', async () => {
  const x = tensor([1, 2, 3])
  const collected = async (): Promise<number> => {
    for (let i = 0; i < 3; i++) {
      globalThis.gc!()
      await new Promise((resolve) => setTimeout(resolve, 10)) // finalizers run in a task of their own
    }
    return process.memoryUsage().heapUsed
  }
  const numberOf = (n: number): Tensor => tensor([n])
  const run = (first: number): void => {
    const { graph } = trace(() => {
      for (let i = 0; i < 1000; i++) constant(numberOf, first + i / 1000).dispose()
      return x.add(1)
    }, new Map())
    graph.dispose()
  }
  run(0)
  const before = await collected()
  for (let i = 1; i <= 30; i++) run(i)
  expect((await collected()) - before).toBeLessThan(2e6) // 30,000 numbers, of more than 200 bytes each
})

test('reading a traced value is an error that names the layer; so is a traced tensor of another compilation', async () => {
  class Reads extends nn.Module {
    readonly fc = new nn.Linear(6, 3)
    readonly inner = new (class extends nn.Module {
      forward(x: Tensor): Tensor {
        return x.item() > 0 ? x : x.neg()
      }
    })()
    forward(x: Tensor): Tensor {
      return this.inner.forward(this.fc.forward(x).sum())
    }
  }
  const model = new Reads()
  const step = compile({ model, loss: ({ x }) => model.forward(x), optimizer: new optim.SGD({ lr: 0.1 }) })
  await expect(step.run({ x: host([2, 6]) })).rejects.toEqual(withCode('AUX_TRACED_VALUE', /\(in inner\)/))
  let leaked: Tensor | undefined
  const first = compile(({ x }) => (leaked = x.mul(2)))
  first.runSync({ x: host([2, 2]) })
  const second = compile(({ x }) => x.add(leaked!))
  expect(() => second.runSync({ x: host([2, 2]) })).toThrow(withCode('AUX_TRACED_VALUE', /another compilation/))
  expect(() => leaked!.dataSync()).toThrow(withCode('AUX_TRACED_VALUE'))
  expect(() => compile(({ x }) => ({ x, n: 3 as never })).runSync({ x: host([2]) })).toThrow(
    withCode('AUX_INVALID_ARGUMENT', /"n"/),
  )
  expect(() => compile(() => 3 as never).runSync({ x: host([2]) })).toThrow(withCode('AUX_INVALID_ARGUMENT'))
})

test('eager tensors in a closure are inputs by reference', async () => {
  const factor = tensor([2])
  const f = compile(({ x }) => x.mul(factor))
  expect([...f.runSync({ x: Float32Array.of(1, 3) }).data]).toEqual([2, 6])
  factor.assign([10])
  expect([...f.runSync({ x: Float32Array.of(1, 3) }).data]).toEqual([10, 30])
  factor.dispose() // the plan holds it still
  expect([...f.runSync({ x: Float32Array.of(1, 3) }).data]).toEqual([10, 30])
  f.close()
})

test('control flow, shared modules and modules in arrays', async () => {
  class Odd extends nn.Module {
    readonly shared = new nn.Linear(6, 6)
    readonly twice = this.shared
    readonly list = [[new nn.Linear(6, 6)], [new nn.Linear(6, 6), new nn.Linear(6, 6)]]
    forward(x: Tensor): Tensor {
      for (const row of this.list)
        for (const layer of row) x = x.shape[0] > 4 ? layer.forward(x).tanh() : layer.forward(x)
      return this.twice.forward(this.shared.forward(x).relu())
    }
  }
  const model = new Odd()
  expect([...model.namedModules()].map(([name]) => name)).toEqual(['', 'shared', 'list.0.0', 'list.1.0', 'list.1.1'])
  const policies: MemoryAssignment[] = [
    [],
    { shared: asa() },
    checkpoint(),
    { 'list.1.*': checkpoint(), 'list.0.0': asa() },
  ]
  for (const memory of policies) {
    const step = compile({
      model,
      loss: ({ x }) => model.forward(x).square().mean(),
      optimizer: new optim.SGD({ lr: 0.05 }),
      memory,
    })
    const x = host([7, 6])
    const losses: number[] = []
    for (let i = 0; i < 20; i++) losses.push((await step.run({ x })).loss)
    expect(losses[19]).toBeLessThan(losses[0])
    expect((await step.run({ x: host([3, 6]) })).loss).toBeGreaterThan(0)
    step.close()
  }
})

test('constants that JSON does not tell apart are not taken for one another', () => {
  const f = compile(({ x }) => ({ a: x.add(Infinity), b: x.add(-Infinity), c: x.mul(0), d: x.mul(-0) }))
  const { a, b, c, d } = f.runSync({ x: Float32Array.of(1) })
  expect([a.data[0], b.data[0], c.data[0], d.data[0]]).toEqual([Infinity, -Infinity, 0, -0])
})

test('accumulation over k runs is one step on the large batch', async () => {
  const data = Array.from({ length: 4 }, () => host([5, 6]))
  const whole = hostArray(Float32Array.from(data.flatMap((d) => [...d.data])), [20, 6])
  const losses =
    (model: models.MLP) =>
    ({ x }: Record<string, Tensor>) =>
      model.forward(x).square().mean()
  const [a, b] = [new models.MLP([6, 8, 2]), new models.MLP([6, 8, 2])]
  b.loadState(a.state())
  const options = { clip: { norm: 0.05 } }
  const large = compile({ model: a, loss: losses(a), optimizer: new optim.SGD({ lr: 0.1, momentum: 0.9 }), ...options })
  const small = compile({
    model: b,
    loss: losses(b),
    optimizer: new optim.SGD({ lr: 0.1, momentum: 0.9 }),
    accumulate: 4,
    ...options,
  })
  for (let round = 0; round < 3; round++) {
    const { gradNorm } = await large.run({ x: whole })
    let last
    for (const x of data) last = await small.run({ x })
    expect(last!.gradNorm).toBeCloseTo(gradNorm!, 5)
  }
  expect([large.optimizer.steps, small.optimizer.steps, small.runs]).toEqual([3, 3, 12])
  for (const [name, t] of a.state())
    t.dataSync().forEach((v, i) => expect(Math.abs(v - b.state().get(name)!.dataSync()[i])).toBeLessThan(2e-6))
})

test('a replaced module or parameter is noticed at the next run, and what was kept for the old one goes', async () => {
  class Changing extends nn.Module {
    hidden = [new nn.Linear(6, 16), new nn.Linear(16, 16)]
    norm = new nn.BatchNorm1d(16)
    extra: nn.Linear | null = null
    last: Tensor | null = null
    fc = new nn.Linear(16, 3)
    traces = 0
    forward(x: Tensor): Tensor {
      this.traces++
      for (const layer of this.hidden) x = layer.forward(x).relu()
      this.last = this.extra ? this.extra.forward(x).relu() : x // a traced tensor: no part of the model
      return this.fc.forward(this.norm.forward(this.last))
    }
  }
  const model = new Changing()
  const optimizer = new optim.SGD({ lr: 0.1, momentum: 0.5 })
  const loss = ({ x, y }: Record<string, Tensor>): Tensor => nn.crossEntropy(model.forward(x), y)
  const step = compile({ model, loss, optimizer })
  const evaluate = compile({ model, forward: ({ x }) => model.forward(x) })
  const batch = batchOf(8)
  const linear = (inputs: number, outputs: number): nn.Linear => new nn.Linear(inputs, outputs)
  const changes: Record<string, () => { dispose(): void } | undefined> = {
    'a module': () => {
      const old = model.fc
      model.fc = linear(16, 3)
      return old
    },
    'a parameter': () => {
      const old = model.fc.weight
      ;(model.fc as { weight: nn.Parameter }).weight = new nn.Parameter(tensor(host([3, 16]).data, [3, 16]))
      return old
    },
    'a module in a list': () => {
      const old = model.hidden[1]
      model.hidden[1] = linear(16, 16)
      return old
    },
    'a longer list': () => void model.hidden.push(linear(16, 16)),
    'a shorter list': () => model.hidden.pop(),
    'a module where none was': () => void (model.extra = linear(16, 16)),
    'no module where one was': () => {
      const old = model.extra!
      model.extra = null
      return old
    },
    'a buffer': () => {
      const norm = model.norm as unknown as Record<string, Tensor>
      const [name] = [...model.norm.namedBuffers()][0]
      const old = norm[name]
      norm[name] = nn.buffer(tensor(host([16]).data))
      return old
    },
    layers: () => {
      model.hidden = [linear(6, 16), linear(16, 16)]
      return undefined
    },
  }
  const runAll = async (): Promise<number[]> => {
    const { data } = await evaluate.run({ x: batch.x })
    await step.run(batch)
    return [...data]
  }
  await runAll()
  for (const [name, change] of Object.entries(changes)) {
    const { traces } = model
    const old = change()
    const before = snapshot(model)
    const values = await runAll()
    expect([name, model.traces]).toEqual([name, traces + 2])
    old?.dispose()
    const after = snapshot(model)
    for (const [path] of model.namedParameters())
      expect([name, path, after[path] === before[path]]).toEqual([name, path, false])
    expect(values.every(Number.isFinite)).toBe(true)
    await runAll()
    expect(model.traces).toBe(traces + 2)
    expect((await step.run(batchOf(5))).loss).toBeGreaterThan(0)
    await runAll()
    expect(model.traces).toBe(traces + 3) // the other shape alone
  }
  // The values are those of a model that was so from the beginning.
  const values = await runAll()
  const fresh = compile({ model, forward: ({ x }) => model.forward(x) })
  const again = await evaluate.run({ x: batch.x })
  expect([...(await fresh.run({ x: batch.x })).data]).toEqual([...again.data])
  expect([...again.data]).not.toEqual(values)
  step.close()
  evaluate.close()
  fresh.close()
  model.dispose()
  optimizer.dispose()
})

test('replacing a layer over and over holds no more memory than one', async () => {
  const { step, model } = make({ accumulate: 2 } as never)
  const changing = model as { fc: nn.Linear }
  const replace = async (): Promise<number> => {
    changing.fc.dispose()
    changing.fc = new nn.Linear(16, 3)
    await step.run(batchOf(4))
    await step.run(batchOf(4))
    return liveBytes()
  }
  await step.run(batchOf(4))
  await step.run(batchOf(4))
  const first = await replace()
  for (let i = 0; i < 5; i++) expect(await replace()).toBe(first)
  step.close()
})

test('a gradient summed before its layer was frozen is not added later', async () => {
  const { step, model } = make({ accumulate: 3, optimizer: new optim.SGD({ lr: 1 }) } as never)
  const other = make({ accumulate: 3, optimizer: new optim.SGD({ lr: 1 }) } as never)
  other.model.loadState(model.state())
  for (const m of [model, other.model]) m.drop.eval()
  const [large, small] = [batchOf(12), batchOf(4)]
  // One model runs on a batch before its first layer is frozen, the other is frozen from the beginning.
  await step.run(large)
  other.model.freeze('hidden.0')
  await other.step.run(large)
  model.freeze('hidden.0')
  for (const s of [step, other.step]) for (let i = 0; i < 2; i++) await s.run(small)
  expect(snapshot(model)).toEqual(snapshot(other.model))
  for (const m of [model, other.model]) m.unfreeze()
  for (const s of [step, other.step]) for (let i = 0; i < 3; i++) await s.run(small)
  expect(snapshot(model)).toEqual(snapshot(other.model))
  // Frozen and thawed with no run between them is as if nothing had been.
  await step.run(large)
  await other.step.run(large)
  model.freeze('hidden.0')
  model.unfreeze('hidden.0')
  for (const s of [step, other.step]) for (let i = 0; i < 2; i++) await s.run(small)
  expect(snapshot(model)).toEqual(snapshot(other.model))
  step.close()
  other.step.close()
})

test('a step and an evaluation of a model that was disposed are errors, and hold nothing of it', async () => {
  const { live } = memory()
  const model = new nn.Linear(4, 2)
  const step = compile({
    model,
    loss: ({ x }) => model.forward(x).square().sum(),
    optimizer: new optim.SGD({ lr: 0.1 }),
  })
  const evaluation = compile({ model, forward: ({ x }) => model.forward(x) })
  const x = [[1, 2, 3, 4]]
  await step.run({ x })
  await evaluation.run({ x })
  model.dispose()
  await expect(step.run({ x })).rejects.toMatchObject({ code: 'AUX_DISPOSED' })
  await expect(evaluation.run({ x })).rejects.toMatchObject({ code: 'AUX_DISPOSED' })
  expect(() => evaluation.runSync({ x })).toThrow(/was disposed/)
  step.close()
  expect(memory().live).toBeLessThanOrEqual(live)
})

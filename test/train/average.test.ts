import { compile, memory, nn, optim, seed, tensor, train, type Tensor } from '../../src'

class Net extends nn.Module {
  readonly fc = new nn.Linear(3, 4)
  readonly norm = new nn.BatchNorm1d(4)
  readonly counts = nn.buffer(tensor(Int32Array.of(0)))
  forward(x: Tensor): Tensor {
    return this.norm.forward(this.fc.forward(x))
  }
}
const values = (m: nn.Module): number[][] => [...m.state()].map(([, t]) => [...t.dataSync()])
const x = { data: Float32Array.from({ length: 24 }, (_, i) => Math.sin(i * i)), shape: [8, 3] }

function begin(decay: number | ((n: number) => number)) {
  seed(1)
  const model = new Net()
  const average = new train.WeightAverage(new Net(), model, { decay })
  const step = compile({
    model,
    loss: ({ x }) => model.forward(x).mul(3).sub(1).square().mean(),
    optimizer: new optim.SGD({ lr: 0.1 }),
  })
  return { model, average, step }
}

test('an average begins as a copy and follows parameters and buffers, in the order asked for', async () => {
  const { model, average, step } = begin(0.9)
  expect(values(average.average)).toEqual(values(model))
  let expected = values(model)
  for (let i = 0; i < 5; i++) {
    model.counts.assign([i])
    const ran = step.run({ x }) // not waited for
    await average.update()
    await ran
    const now = values(model)
    expected = expected.map((list, k) => list.map((v, j) => 0.9 * v + 0.1 * now[k][j]))
  }
  expect(average.updates).toBe(5)
  const names = [...model.state().keys()]
  values(average.average).forEach((list, k) =>
    list.forEach((v, j) => {
      if (names[k] === 'counts') expect(v).toBe(4)
      else expect(Math.abs(v - expected[k][j])).toBeLessThan(1e-6)
    }),
  )
  expect([...average.average.fc.weight.dataSync()]).not.toEqual([...model.fc.weight.dataSync()])
})

test('a decay by the updates done: the mean of all', async () => {
  const { model, average, step } = begin((n) => n / (n + 1))
  const seen: number[] = []
  for (let i = 0; i < 4; i++) {
    await step.run({ x })
    await average.update()
    seen.push(model.fc.weight.dataSync()[0])
  }
  expect(average.average.fc.weight.dataSync()[0]).toBeCloseTo(seen.reduce((a, b) => a + b) / 4, 6)
})

test('without decay it is a copy, bit for bit, made between the runs of both', async () => {
  const { model, average, step } = begin(0)
  const predict = compile({ model: average.average, forward: ({ x }) => average.average.forward(x) })
  const before = [...(await predict.run({ x })).data]
  const [old] = await Promise.all([predict.run({ x }), step.run({ x }), average.update()])
  expect([...old.data]).toEqual(before)
  expect([...(await predict.run({ x })).data]).not.toEqual(before)
  expect(values(average.average)).toEqual(values(model))
})

test('averages of each other wait for the runs of both, not for one another', async () => {
  const { model, average, step } = begin(0.5)
  const back = new train.WeightAverage(model, average.average, { decay: 0.5 })
  const predict = compile({ model: average.average, forward: ({ x }) => average.average.forward(x) })
  await Promise.all([predict.run({ x }), step.run({ x }), average.update(), back.update(), step.run({ x })])
  expect([average.updates, back.updates, step.runs]).toEqual([1, 1, 2])
})

test('many updates take no more memory; mistakes are named', async () => {
  const { model, average } = begin(0.5)
  await average.update()
  const { live } = memory()
  for (let i = 0; i < 50; i++) await average.update()
  expect(memory().live).toBeLessThanOrEqual(live)
  expect(() => new train.WeightAverage(model, model, { decay: 0.9 })).toThrow(/two modules/)
  expect(() => new train.WeightAverage(undefined as never, model, { decay: 0.9 })).toThrow(/two modules, got undefined/)
  expect(() => new train.WeightAverage(new Net(), model, { decay: 9 })).toThrow(/decay in \[0, 1\], got 9/)
  expect(() => new train.WeightAverage(new Net(), model, {} as never)).toThrow(/decay/)
  expect(() => new train.WeightAverage(new nn.Linear(3, 4) as never, model, { decay: 0.9 })).toThrow(/fc.weight/)
  const bad = new train.WeightAverage(new Net(), model, { decay: () => NaN })
  await expect(bad.update()).rejects.toThrow(/got NaN/)
  expect(bad.updates).toBe(0)
  bad.close()
})

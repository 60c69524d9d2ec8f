import { compile, data, nn, optim, seed, train, type Tensor } from '../../src'
import { withCode } from '../support/refusals'

const rows = (n: number) =>
  data.fromArrays({
    x: { data: Float32Array.from({ length: n * 2 }, (_, i) => Math.sin(i * i)), shape: [n, 2] },
    y: { data: Float32Array.from({ length: n }, (_, i) => Math.cos(i)), shape: [n, 1] },
  })

class Net extends nn.Module {
  fc = new nn.Linear(2, 1)
  forward(x: Tensor): Tensor {
    return this.fc.forward(x)
  }
}

function begin(lr = 0.05) {
  seed(0)
  const model = new Net()
  const step = compile({
    model,
    loss: ({ x, y }) => nn.mse(model.forward(x), y),
    optimizer: new optim.SGD({ lr }),
  })
  const validation = compile({ model, forward: ({ x, y }) => nn.mse(model.forward(x), y) })
  return { model, step, validation, loader: new data.DataLoader(rows(20), { batchSize: 5 }) }
}

test('evaluate gives means over rows, whatever the batches', async () => {
  const { model, step, validation } = begin()
  const both = compile({
    model,
    forward: ({ x, y }) => {
      const z = model.forward(x)
      return { loss: nn.mse(z, y), each: z.sub(y).square().squeeze(1), positive: z.gt(0).cast('i32') }
    },
  })
  const at = (batchSize: number) => new data.DataLoader(rows(23), { batchSize })
  const loss: number = await train.evaluate(validation, at(23))
  const uneven = await train.evaluate(both, at(5))
  expect(uneven.loss).toBeCloseTo(loss, 6)
  expect(uneven.each).toBeCloseTo(loss, 6)
  const all = await both.run(await rows(23).batch(Array.from({ length: 23 }, (_, i) => i)))
  expect(uneven.positive).toBeCloseTo(all.positive.data.filter(Boolean).length / 23, 12)
  const wide = compile({ model, forward: ({ x }) => ({ x: x.mul(2) }) })
  await expect(train.evaluate(wide, at(5))).rejects.toThrow(/expected x to be one number or one a row, of 5 rows/)
  expect(await train.evaluate(validation, [{ x: [[0, 1]], y: [[2]] }])).toBeGreaterThan(0) // plain numbers
  const scaled = compile({ model, forward: ({ k, x, y }) => nn.mse(model.forward(x), y).mul(k) })
  const twice = await train.evaluate(scaled, [{ k: 2, ...(await rows(23).batch([0, 1])) }]) // a number is no row
  expect(twice).toBeCloseTo(2 * (await train.evaluate(validation, [await rows(23).batch([0, 1])])), 5)
  await expect(train.evaluate(both, [{}])).rejects.toThrow(/a field of rows, got none/)
  await expect(train.evaluate(step as never, at(5))).rejects.toThrow(/expected an evaluation.*got TrainingStep/)
  await expect(train.evaluate(both, [])).rejects.toThrow(/at least one row/)
})

test('accuracy gives the model all fields but the labels', async () => {
  const set = data.fromArrays({ a: [[0, 1], [2, 1], [1, 1]], b: [[0, 0], [0, 2], [3, 0]], y: [1, 1, 1] }) // prettier-ignore
  const predict = compile(({ a, b }) => a.add(b).argmax())
  expect(await train.accuracy(predict, new data.DataLoader(set, { batchSize: 2 }))).toBeCloseTo(2 / 3)
})

test('predict gathers what an evaluation gives for every row, in the order of the batches', async () => {
  const { model, step } = begin()
  const set = rows(23)
  const at = (batchSize: number) => new data.DataLoader(set, { batchSize })
  const all = await set.batch(Array.from({ length: 23 }, (_, i) => i))
  const sole = compile({ model, forward: ({ x }) => model.forward(x) })
  const got = await train.predict(sole, at(5))
  expect([got.shape, got.dtype]).toEqual([[23, 1], 'f32'])
  expect(got.data).toEqual((await sole.run({ x: all.x })).data)
  const both = compile({ model, forward: ({ x }) => ({ z: model.forward(x), sign: x.gt(0) }) })
  const { z, sign } = await train.predict(both, at(4))
  expect(z.data).toEqual(got.data)
  expect([sign.shape, sign.dtype]).toEqual([[23, 2], 'bool'])
  expect(Array.from(sign.data, Boolean)).toEqual(Array.from(all.x.data, (v) => v > 0))
  const mean = compile({ model, forward: ({ x }) => model.forward(x).mean() })
  await expect(train.predict(mean, at(5))).rejects.toThrow(
    withCode('AUX_SHAPE_MISMATCH', /expected value of shape \[5\], a row for each of the batch, got \[\]/),
  )
  await expect(train.predict(step as never, at(5))).rejects.toThrow(/predict: expected an evaluation/)
  await expect(train.predict(sole, [])).rejects.toThrow(/predict: expected at least one row/)
})

test('a confusion matrix counts labels by what they are taken for', async () => {
  const set = data.fromArrays({ x: [[0, 1, 0], [2, 1, 0], [0, 3, 0], [1, 0, 0], [0, 0, 1]], y: [1, 1, 1, 0, 1] }) // prettier-ignore
  const predict = compile(({ x }) => x.argmax())
  const loader = new data.DataLoader(set, { batchSize: 2 })
  const matrix = await train.confusionMatrix(predict, loader, { classes: ['cat', 'dog', 'a < b'] })
  expect(matrix.counts).toEqual([[1, 0, 0], [1, 2, 1], [0, 0, 0]]) // prettier-ignore
  expect(matrix.accuracy).toBeCloseTo(await train.accuracy(predict, loader), 12)
  expect(matrix.scores).toEqual([
    { name: 'cat', precision: 1 / 2, recall: 1, f1: 2 / 3, support: 1 },
    { name: 'dog', precision: 1, recall: 1 / 2, f1: 2 / 3, support: 4 },
    { name: 'a < b', precision: 0, recall: 0, f1: 0, support: 0 },
  ])
  expect(matrix.macroF1).toBeCloseTo(4 / 9, 12)
  expect(String(matrix)).toBe(
    [
      '       cat  dog  a < b  precision  recall     F1  rows',
      'cat      1    0      0      0.500   1.000  0.667     1',
      'dog      1    2      1      1.000   0.500  0.667     4',
      'a < b    0    0      0      0.000   0.000  0.000     0',
      'accuracy 0.600, mean F1 0.444',
    ].join('\n'),
  )
  const picture = matrix.toSVG()
  expect(picture.match(/<title>.*?<\/title>/g)).toEqual([
    '<title>cat taken for cat: 1 of 1</title>',
    '<title>dog taken for cat: 1 of 4</title>',
    '<title>dog taken for dog: 2 of 4</title>',
    '<title>dog taken for a &lt; b: 1 of 4</title>',
  ])
  expect(picture).toMatch(/^<svg[^]*<\/svg>\n$/)

  const counted = new train.ConfusionMatrix(2).add([0, 1], Int32Array.of(1, 1))
  expect([counted.names, counted.counts]).toEqual([['0', '1'], [[0, 1], [0, 1]]]) // prettier-ignore
  expect(() => counted.add([0, 1], [0, 2])).toThrow(withCode('AUX_INDEX_OUT_OF_RANGE', /predicted in \[0, 2\), got 2/))
  expect(() => counted.add([0, 1], [0])).toThrow(withCode('AUX_SHAPE_MISMATCH', /got 2 labels, but 1 predicted/))
  expect(counted.counts).toEqual([[0, 1], [0, 1]]) // prettier-ignore
  expect(() => new train.ConfusionMatrix([])).toThrow(/expected names of classes/)
  expect(() => new train.ConfusionMatrix(0)).toThrow(/expected classes to be a whole number >= 1/)
})

test('a signal ends a fit whose validate never answers; the next one asks again', async () => {
  const { step, loader } = begin()
  const stop = new AbortController()
  const seen: string[] = []
  const never = () => new Promise<number>(() => setTimeout(() => stop.abort(), 20))
  for await (const event of train.fit({ step, loader, epochs: 2, validate: never, signal: stop.signal }))
    seen.push(event.type)
  expect(seen).toEqual(['step', 'step', 'step', 'step'])
  expect([loader.epoch, loader.state().position]).toEqual([0, 4])
  for await (const event of train.fit({ step, loader, epochs: 2, validate: () => 1 }))
    seen.push(event.type === 'epoch' ? `epoch ${event.epoch}: ${event.validation}` : event.type)
  expect(seen.slice(4)).toEqual(['epoch 0: 1', 'step', 'step', 'step', 'step', 'epoch 1: 1'])
  expect(step.runs).toBe(8)

  // An error that comes after the signal is nobody's.
  const again = new AbortController()
  const late = () =>
    new Promise<number>((_, reject) => setTimeout(() => (again.abort(), reject(new Error('late'))), 20))
  for await (const event of train.fit({ step, loader, epochs: 3, validate: late, signal: again.signal }))
    expect(event.type).toBe('step')
})

test('fit validates after each epoch, tells of the best and stops when none comes', async () => {
  const { step, loader, validation } = begin()
  const given = [3, 2, 2.5, 1, 1, 1.5, 0]
  const seen: [number | undefined, boolean | undefined][] = []
  const validate = () => given[seen.length]
  for await (const event of train.fit({ step, loader, epochs: 9, validate, patience: 1 }))
    if (event.type === 'epoch') seen.push([event.validation, event.best])
  expect(seen).toEqual([
    [3, true],
    [2, true],
    [2.5, false],
    [1, true],
    [1, false],
    [1.5, false],
  ])
  let before = Infinity
  const others = new data.DataLoader(rows(9), { batchSize: 4 })
  const own = () => train.evaluate(validation, others)
  for await (const event of train.fit({ step, loader, epochs: 17, validate: own }))
    if (event.type === 'epoch') {
      expect(event.best).toBe(event.validation! < before)
      before = Math.min(before, event.validation!)
    }
  expect(before).toBeLessThan(Infinity)
})

test('mistakes are named', async () => {
  const { step, loader, validation } = begin()
  const first = (options: object) => train.fit({ step, loader, epochs: 1, ...options } as never).next()
  await expect(first({ validate: 3 })).rejects.toThrow(/validate to be a function, got 3/)
  await expect(first({ patience: 3 })).rejects.toThrow(/validate to be a function, got undefined/)
  await expect(first({ stopping: new train.EarlyStopping() })).rejects.toThrow(/validate to be a function/)
  await expect(first({ validate: () => 1, stopping: 3 })).rejects.toThrow(
    /stopping to be a train\.EarlyStopping, got 3/,
  )
  await expect(first({ validate: () => 1, patience: -1 })).rejects.toThrow(/patience >= 0/)
  const none = new data.DataLoader(data.fromArrays({ x: [], y: [] }), { batchSize: 4 })
  await expect(first({ loader: none })).rejects.toThrow(/expected batches/)
  const all = async (validate: () => unknown): Promise<void> => {
    for await (const event of train.fit({ step, loader, epochs: 19, validate: validate as () => number })) void event
  }
  await expect(all(() => undefined)).rejects.toThrow(/validate to give a number, got undefined/)
  await expect(all(() => train.evaluate(validation, loader))).rejects.toThrow(/a loader of its own/)
})

test('fit ends at its signal while a loader waits, and goes on with the very batch that was not trained on', async () => {
  const { step } = begin()
  let release = (): void => {}
  const stuck = new Promise<void>((resolve) => (release = resolve))
  const read: number[] = []
  const samples = data.fromSamples(async function* () {
    for (let i = 0; i < 12; i++) {
      if (i === 6) await stuck
      read.push(i)
      yield { x: [i, 1], y: [1] }
    }
  })
  const loader = new data.DataLoader(samples, { batchSize: 3, prefetch: 1 })
  const controller = new AbortController()
  let steps = 0
  for await (const event of train.fit({ step, loader, epochs: 2, signal: controller.signal }))
    if (event.type === 'step' && ++steps === 2) setTimeout(() => controller.abort(), 20)
  expect([steps, read.length, step.runs]).toEqual([2, 6, 2])
  const place = loader.state()
  expect(place).toMatchObject({ epoch: 0, position: 2 })
  release()
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(loader.state()).toEqual(place) // the batch that came too late does not count
  const told: string[] = []
  for await (const event of train.fit({ step, loader, epochs: 1 }))
    told.push(event.type === 'step' ? `step ${event.step}` : `epoch of ${event.rows}`)
  expect(told).toEqual(['step 3', 'step 4', 'epoch of 6'])
})

test('fit that was ended after a step goes on behind it', async () => {
  const { step, loader } = begin()
  const controller = new AbortController()
  for await (const event of train.fit({ step, loader, epochs: 1, signal: controller.signal }))
    if (event.type === 'step') controller.abort()
  expect(loader.state()).toMatchObject({ epoch: 0, position: 1 })
  let steps = 0
  for await (const event of train.fit({ step, loader, epochs: 1 })) if (event.type === 'step') steps++
  expect(steps).toBe(3)
})

import fc from 'fast-check'
import { compile, data, hostArray, interpolate, models, nn, optim, seed, train, type Tensor } from '../../src'
import { host } from '../support/arrays'
import { check } from '../support/property'
import { gradientsOf } from '../support/record'
import { generator } from '../support/run'

const refused = (message: RegExp): Error =>
  expect.objectContaining({ code: 'AUX_INVALID_ARGUMENT', message: expect.stringMatching(message) as string }) as Error

/** Layers of a frozen network for images [N, 8, 8, channels], with statistics and factors that are not those of a new one. */
function network(random: () => number, layers: readonly string[], channels: number): nn.Sequential {
  const side = 8 / 2 ** layers.filter((l) => l === 'pool').length
  const model = new nn.Sequential(
    ...layers.map((layer) => {
      if (layer === 'conv') return new nn.Conv2d(channels, channels, 3, { padding: 1 })
      if (layer === 'norm') return new nn.BatchNorm2d(channels)
      if (layer === 'pool') return new nn.MaxPool2d(2)
      return new nn.ReLU()
    }),
    new nn.Flatten(),
    new nn.Linear(side * side * channels, 5),
  )
  for (const [name, t] of model.state())
    t.assign(Float32Array.from({ length: t.size }, () => (/Var|norm/.test(name) ? 0.5 + random() : random() - 0.5)))
  return model.eval()
}

test('biases alone: gradients are those of full backpropagation, and of what frozen layers read nothing is kept', async () => {
  await check(
    25,
    fc.nat(),
    fc.array(fc.constantFrom<'conv' | 'norm' | 'relu' | 'pool'>('conv', 'norm', 'relu'), {
      minLength: 1,
      maxLength: 7,
    }),
    fc.nat(2),
    fc.integer({ min: 1, max: 9 }),
    fc.integer({ min: 1, max: 5 }),
    async (start, layers, pools, channels, rows) => {
      const random = generator(start)
      for (let i = 0; i < pools; i++) layers.splice(Math.floor(random() * (layers.length + 1)), 0, 'pool')
      const model = network(random, layers, channels)
      const batch = { x: host(random, [rows, 8, 8, channels]), r: host(random, [rows, 5]) }
      const loss = (b: Record<string, Tensor>): Tensor => model.forward(b.x).mul(b.r).sum()
      const full = await gradientsOf(model, loss, batch)
      model.freeze().unfreeze('**.bias')
      const { plan, gradients, result } = await gradientsOf(model, loss, batch)
      expect(result.loss).toBe(full.result.loss)
      const biases = Object.keys(full.gradients).filter((name) => name.endsWith('.bias'))
      expect(Object.keys(gradients)).toEqual(biases)
      for (const name of biases) {
        const scale = Math.max(1, ...full.gradients[name].map(Math.abs))
        gradients[name].forEach((g, i) => expect(Math.abs(g - full.gradients[name][i])).toBeLessThan(1e-5 * scale))
      }
      // Bits of ReLU, winners of max pools, a number a channel of norms.
      for (const { layer, dtype, shape } of plan.kept)
        if (layer !== '') expect(dtype === 'f32' ? shape : []).toEqual(dtype === 'f32' ? [channels] : [])
      model.dispose()
    },
  )
})

test('a norm whose factor learns needs its input, and so does one with the statistics of its batch', async () => {
  const random = generator(1)
  const model = network(random, ['conv', 'norm', 'conv'], 4)
  const batch = { x: host(random, [3, 8, 8, 4]), r: host(random, [3, 5]) }
  const loss = (b: Record<string, Tensor>): Tensor => model.forward(b.x).mul(b.r).sum()
  const kept = async (): Promise<number> => {
    const { plan } = await gradientsOf(model, loss, batch)
    return plan.kept.filter(({ layer }) => layer === '1').reduce((n, { bytes }) => n + bytes, 0)
  }
  model.freeze().unfreeze('**.bias')
  expect(await kept()).toBeLessThan(200)
  model.unfreeze('1.weight')
  expect(await kept()).toBeGreaterThan(3 * 8 * 8 * 4 * 4)
  model.freeze('1.weight')
  model[1].train()
  expect(await kept()).toBeGreaterThan(3 * 8 * 8 * 4 * 4)
})

class Block extends nn.Module {
  conv: nn.Conv2d
  constructor(inputs: number, outputs: number, stride: number) {
    super()
    this.conv = new nn.Conv2d(inputs, outputs, 3, { stride, padding: 1 })
  }
  forward(x: Tensor): Tensor {
    return this.conv.forward(x).relu()
  }
}

test('a lite residual module changes nothing at first, whatever the sizes; then it learns from averages of the input', async () => {
  const side = fc.integer({ min: 3, max: 11 })
  await check(
    20,
    fc.nat(),
    side,
    side,
    fc.constantFrom(1, 2),
    fc.constantFrom(1, 2, 3),
    fc.constantFrom(1, 3, 5),
    fc.integer({ min: 1, max: 6 }),
    async (start, height, width, stride, pool, kernel, channels) => {
      const random = generator(start)
      const block = new Block(channels, 4, stride)
      const lite = new nn.LiteResidual(block, channels, 4, { pool, kernel })
      const batch = { x: host(random, [2, height, width, channels]) }
      const run = (m: nn.Layer): Float32Array => {
        using f = compile({ model: m, forward: (b: Record<string, Tensor>) => m.forward(b.x) })
        return f.runSync(batch).data as Float32Array
      }
      const before = run(block)
      run(lite).forEach((v, i) => expect(v).toBe(before[i] + 0))
      // A factor of ones: what is added is the small image of the lite layers, enlarged.
      lite.norm2.weight!.assign(new Float32Array(4).fill(1))
      const size = [height, width].map((n) => Math.ceil(n / stride)) as [number, number]
      const low = [height, width].map((n, i) => Math.min(Math.ceil(n / pool), size[i])) as [number, number]
      const small = ({ x }: Record<string, Tensor>): Tensor => {
        const z = lite.norm1.forward(lite.conv1.forward(x.adaptiveAvgPool2d(low))).relu()
        return interpolate(lite.norm2.forward(lite.conv2.forward(z)), { size, mode: 'bilinear' })
      }
      using alone = compile({ model: lite, forward: small })
      const expected = alone.runSync(batch).data
      run(lite).forEach((v, i) => expect(v - before[i]).toBeCloseTo(expected[i], 4))
      const { gradients } = await gradientsOf(lite, (b) => lite.forward(b.x).square().sum(), batch)
      expect(Object.values(gradients).every((g) => g.every(Number.isFinite))).toBe(true)
      expect(gradients['norm2.weight'].some((g) => g !== 0)).toBe(true)
      lite.dispose()
    },
  )
})

test('addLiteResiduals wraps the blocks that are meant, wherever they stand, and freezes the rest', () => {
  const model = new models.ResNet({ depth: 18, classes: 3, width: 4 })
  const paths = nn.addLiteResiduals(model, 'stage*.*', { groups: 4 })
  expect(paths).toHaveLength(8)
  expect(model.stage2[0]).toBeInstanceOf(nn.LiteResidual)
  expect([...model.namedParameters()].filter(([, p]) => p.trainable).map(([name]) => name)).toEqual(
    paths.flatMap((path) =>
      ['conv1.weight', 'norm1.weight', 'norm1.bias', 'conv2.weight', 'norm2.weight', 'norm2.bias'].map(
        (name) => `${path}.${name}`,
      ),
    ),
  )
  const training = new Map([...model.namedModules()].map(([path, m]) => [path, m.training]))
  expect([training.get('stage1.0.block.norm1'), training.get('stage1.0.norm1')]).toEqual([false, true])
  const step = compile({ model, loss: ({ x }) => model.forward(x).sum(), optimizer: new optim.SGD({ lr: 1 }) })
  const plan = step.plan({ x: [2, 16, 16, 3] })
  expect(
    plan.kept.filter(({ layer, dtype, shape }) => layer.includes('block') && dtype === 'f32' && shape.length > 1),
  ).toEqual([])
  step.close()
  expect(() => nn.addLiteResiduals(model, 'stage9')).toThrow(refused(/no module inside the model is named by stage9/))
  expect(() => nn.addLiteResiduals(model, 'fc')).toThrow(refused(/no convolution inside fc/))
  for (const options of [{ pool: 0 }, { kernel: 4 }, { expand: 0 }])
    expect(() => new nn.LiteResidual(new nn.ReLU(), 2, 2, options)).toThrow(refused(/LiteResidual: expected/))
})

test('transfer between digits: biases and lite residuals beat a new head on the frozen network', async () => {
  const { test: digits } = await data.mnist()
  const all = await digits.batch(Array.from({ length: 10000 }, (_, i) => i))
  const rows = (classes: (label: number) => boolean): number[] =>
    [...all.y.data].flatMap((label, i) => (classes(label) ? [i] : []))
  const [old, young] = [rows((label) => label < 5).slice(0, 2560), rows((label) => label >= 5)]
  const set = (indices: number[]): data.Dataset =>
    digits.select(indices).map(({ x, y }) => ({
      x,
      y: hostArray(
        Int32Array.from(y.data, (l) => l % 5),
        y.shape,
      ),
    }))
  const [first, few, held] = [set(old), set(young.slice(0, 640)), set(young.slice(640, 2640))]
  const network = (): models.CNN => {
    seed(1)
    return new models.CNN({ width: 8, classes: 5 })
  }
  const learn = async (model: models.CNN, from: data.Dataset, epochs: number): Promise<number> => {
    const step = compile({
      model,
      loss: ({ x, y }) => nn.crossEntropy(model.forward(x), y),
      optimizer: new optim.Adam({ lr: 5e-3 }),
    })
    const loader = new data.DataLoader(from, { batchSize: 32, shuffle: true, seed: 1 })
    for await (const event of train.fit({ step, loader, epochs })) if (event.type === 'epoch') continue
    const { kept } = step.plan({ x: [32, 28, 28, 1], y: [32] }).bytes
    step.close()
    return kept
  }
  const score = async (model: models.CNN): Promise<number> => {
    using predict = compile({ model, forward: (b: Record<string, Tensor>) => model.forward(b.x).argmax(1) })
    return await train.accuracy(predict, new data.DataLoader(held, { batchSize: 200 }))
  }
  const source = network()
  await learn(source, first, 1)
  const pretrained = (): models.CNN => network().loadState(source.state())
  const head = pretrained()
  head.freeze().unfreeze('fc')
  await learn(head, few, 3)
  const tiny = pretrained()
  nn.addLiteResiduals(tiny, 'stage*.*')
  tiny.unfreeze('**.bias', 'fc')
  const kept = await learn(tiny, few, 3)
  const full = pretrained()
  const all32 = await learn(full, few, 3)
  const [bySole, byTiny, byAll] = [await score(head), await score(tiny), await score(full)]
  // 0.60, 0.91 and 0.92 here.
  expect(byTiny).toBeGreaterThan(bySole + 0.15)
  expect(byTiny).toBeGreaterThan(byAll - 0.05)
  expect(kept).toBeLessThan(0.3 * all32)
}, 120000)

import fc from 'fast-check'
import { compile, nn, normal, optim, seed, tensor, valueAndGrad, type Tensor } from '../../src'
import { check } from '../support/property'
import { generator } from '../support/run'

const random = generator(3)
const values = (...shape: number[]): Tensor =>
  tensor(
    Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 6 * random() - 3),
    shape,
  )
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
const relu6 = (x: number): number => Math.min(Math.max(x, 0), 6)

const functions: [string, nn.Layer, (x: number) => number][] = [
  ['ReLU6', new nn.ReLU6(), relu6],
  ['PReLU', new nn.PReLU(), (x) => (x > 0 ? x : x / 4)],
  ['PReLU of a slope', new nn.PReLU(1, { slope: -0.5 }), (x) => (x > 0 ? x : -x / 2)],
  ['Mish', new nn.Mish(), (x) => x * Math.tanh(Math.log1p(Math.exp(x)))],
  ['Hardsigmoid', new nn.Hardsigmoid(), (x) => relu6(x + 3) / 6],
  ['Hardswish', new nn.Hardswish(), (x) => (x * relu6(x + 3)) / 6],
  ['SELU', new nn.SELU(), (x) => 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * Math.expm1(x))],
  ['CELU', new nn.CELU(2), (x) => (x > 0 ? x : 2 * Math.expm1(x / 2))],
  ['Softsign', new nn.Softsign(), (x) => x / (1 + Math.abs(x))],
  ['Hardtanh', new nn.Hardtanh(-2, 1), (x) => Math.min(Math.max(x, -2), 1)],
  ['Threshold', new nn.Threshold(0.5, -3), (x) => (x > 0.5 ? x : -3)],
  ['Softshrink', new nn.Softshrink(0.7), (x) => Math.sign(x) * Math.max(Math.abs(x) - 0.7, 0)],
  ['Hardshrink', new nn.Hardshrink(), (x) => (Math.abs(x) > 0.5 ? x : 0)],
  ['Tanhshrink', new nn.Tanhshrink(), (x) => x - Math.tanh(x)],
  ['LogSigmoid', new nn.LogSigmoid(), (x) => -Math.log1p(Math.exp(-x))],
]
test.each(functions)('%s and its slope', (_, layer, f) => {
  const x = values(4, 50).mul(2) // beyond all bends
  const { value, grads } = valueAndGrad((x: Tensor) => layer.forward(x).sum())(x)
  const y = layer.forward(x).dataSync()
  const h = 1e-6
  x.dataSync().forEach((v, i) => {
    expect(Math.abs(y[i] - f(v))).toBeLessThan(2e-6 * (1 + Math.abs(v)))
    expect(Math.abs(grads[0].dataSync()[i] - (f(v + h) - f(v - h)) / (2 * h))).toBeLessThan(2e-5)
  })
  value.dispose()
})

test('the padding row of an embedding begins with zeros and stays so', async () => {
  for (const paddingIdx of [2, -2]) {
    const model = new nn.Embedding(4, 3, { paddingIdx })
    const rows = (): number[][] => model.weight.toArray() as number[][]
    const before = rows()
    expect(before.map((row) => row.every((v) => v === 0))).toEqual([false, false, true, false])
    const step = compile({ model, loss: ({ i }) => model.forward(i).sum(), optimizer: new optim.SGD({ lr: 1 }) })
    await step.run({ i: { data: Int32Array.of(2, 1, 2), shape: [3] } })
    expect(rows()).toEqual(before.map((row, i) => (i === 1 ? row.map((v) => Math.fround(v - 1)) : row)))
  }
  expect(() => new nn.Embedding(4, 3, { paddingIdx: 4 })).toThrow(/paddingIdx.*4/)
})

test('PReLU learns a slope for each channel', async () => {
  const model = new nn.PReLU(3)
  const step = compile({
    model,
    loss: ({ x, y }) => nn.mse(model.forward(x), y),
    optimizer: new optim.SGD({ lr: 0.3 }),
  })
  const rows = Array.from({ length: 30 }, () => [0, 1, 2].map(() => 4 * random() - 2))
  const y = rows.map((row) => row.map((v, c) => (v > 0 ? v : v * c)))
  for (let i = 0; i < 200; i++) await step.run({ x: rows, y })
  model.weight.dataSync().forEach((w, c) => expect(w).toBeCloseTo(c, 3))
})

test('GLU and LogSoftmax take an axis', () => {
  const x = values(2, 4, 6)
  const [at, data] = [(i: number, j: number, k: number) => 24 * i + 6 * j + k, x.dataSync()]
  const last = new nn.GLU().forward(x)
  expect(last.shape).toEqual([2, 4, 3])
  const middle = new nn.GLU(1).forward(x)
  expect(middle.shape).toEqual([2, 2, 6])
  for (let i = 0; i < 2; i++)
    for (let j = 0; j < 2; j++)
      for (let k = 0; k < 3; k++) {
        const gate = (g: number): number => data[at(i, j, k)] * sigmoid(data[g])
        expect(last.dataSync()[12 * i + 3 * j + k]).toBeCloseTo(gate(at(i, j, k + 3)), 5)
        expect(middle.dataSync()[12 * i + 6 * j + k]).toBeCloseTo(gate(at(i, j + 2, k)), 5)
      }
  expect(() => new nn.GLU(2).forward(values(2, 3, 5))).toThrow(
    /^GLU: expected an even size of axis 2, got shape \[2, 3, 5\]/,
  )
  const sums = new nn.LogSoftmax(1).forward(x).exp().sum(1).dataSync()
  sums.forEach((s) => expect(s).toBeCloseTo(1, 5))
})

test('an instance norm is, for each sample and channel, 0 on average, 1 in variance', async () => {
  for (const [layer, shape] of [
    [new nn.InstanceNorm1d(3), [2, 40, 3]],
    [new nn.InstanceNorm2d(3), [2, 8, 5, 3]],
    [new nn.InstanceNorm3d(3, { affine: true }), [2, 4, 2, 5, 3]],
  ] as [nn.InstanceNorm2d, number[]][]) {
    const x = values(...shape)
    const y = layer.forward(x).reshape([2, 40, 3])
    y.mean(1)
      .dataSync()
      .forEach((v) => expect(Math.abs(v)).toBeLessThan(1e-5))
    y.var(1, { correction: 0 })
      .dataSync()
      .forEach((v) => expect(v).toBeCloseTo(1, 3))
    const planned = compile({ model: layer, forward: ({ x }) => layer.forward(x) })
    expect((await planned.run({ x })).data).toEqual(layer.forward(x).dataSync())
  }
  expect([...new nn.InstanceNorm2d(3).namedParameters()]).toEqual([])
  expect([...new nn.InstanceNorm2d(3, { affine: true }).namedParameters()].length).toBe(2)
})

test('pixels and channels: there and back, as PyTorch orders them', async () => {
  // Of two channels and a factor of 2: channel c, row i and column j of a square lie at 4 c + 2 i + j.
  const x = tensor([0, 1, 2, 3, 4, 5, 6, 7], [1, 1, 1, 8])
  expect(new nn.PixelShuffle(2).forward(x).toArray()).toEqual([
    [
      [
        [0, 4],
        [1, 5],
      ],
      [
        [2, 6],
        [3, 7],
      ],
    ],
  ])
  const size = fc.integer({ min: 1, max: 4 })
  await check(30, size, size, size, size, fc.integer({ min: 1, max: 3 }), async (n, h, w, c, r) => {
    const x = values(n, h, w, c * r * r)
    const y = new nn.PixelShuffle(r).forward(x)
    expect(y.shape).toEqual([n, h * r, w * r, c])
    expect(new nn.PixelUnshuffle(r).forward(y).toArray()).toEqual(x.toArray())
  })
  expect(() => new nn.PixelShuffle(2).forward(values(1, 2, 2, 6))).toThrow(/^PixelShuffle: expected channels that 4/)
  expect(() => new nn.PixelUnshuffle(2).forward(values(1, 3, 2, 6))).toThrow(/^PixelUnshuffle: expected sides that 2/)
})

test('Dropout2d drops whole channels of samples', async () => {
  seed(5)
  const layer = new nn.Dropout2d(0.25)
  const count = (data: ArrayLike<number>): number => {
    let dropped = 0
    for (let n = 0; n < 40; n++)
      for (let c = 0; c < 16; c++) {
        const own = Array.from({ length: 6 }, (_, at) => data[(n * 6 + at) * 16 + c])
        expect([0, 4 / 3].some((v) => own.every((o) => Math.abs(o - v) < 1e-6))).toBe(true)
        dropped += Number(own[0] === 0)
      }
    return dropped
  }
  const x = tensor(new Float32Array(40 * 6 * 16).fill(1), [40, 2, 3, 16])
  expect(Math.abs(count(layer.forward(x).dataSync()) / 640 - 0.25)).toBeLessThan(0.06)
  class Net extends nn.Module {
    readonly drop = layer
    readonly scale = new nn.Parameter(normal([16]).mul(0).add(1))
    forward(x: Tensor): Tensor {
      return this.drop.forward(x).mul(this.scale)
    }
  }
  const model = new Net()
  const step = compile({
    model,
    loss: ({ x }) => ({ loss: model.forward(x).mean(), y: model.forward(x) }),
    optimizer: new optim.SGD({ lr: 0 }),
  })
  const runs = [await step.run({ x }), await step.run({ x })].map(({ y }) => y.data)
  runs.forEach((data) => expect(Math.abs(count(data) / 640 - 0.25)).toBeLessThan(0.06))
  expect(runs[0]).not.toEqual(runs[1])
  const evaluation = compile({ model, forward: ({ x }) => model.forward(x) })
  expect((await evaluation.run({ x })).data.every((v) => v === 1)).toBe(true)
})

test('AlphaDropout leaves mean and variance', async () => {
  seed(6)
  const model = new nn.AlphaDropout(0.3)
  const x = normal([200, 500])
  const y = model.forward(x)
  expect(Math.abs(y.mean().item() - x.mean().item())).toBeLessThan(0.01)
  expect(y.var().item()).toBeCloseTo(x.var().item(), 1)
  // Linear in what is kept; the rest has one value.
  const [scale, low] = [1 / Math.sqrt(0.7 * (1 + 0.3 * 1.7580993408473766 ** 2)), -1.7580993408473766]
  const data = x.dataSync()
  const dropped = y.dataSync().filter((v, i) => {
    const kept = scale * (data[i] - 0.3 * low)
    if (Math.abs(v - kept) < 1e-5) return false
    expect(Math.abs(v - scale * 0.7 * low)).toBeLessThan(1e-5)
    return true
  })
  expect(dropped.length / 1e5).toBeCloseTo(0.3, 2)
  expect(model.eval().forward(x)).toBe(x)
  expect(new nn.AlphaDropout(1).forward(x).abs().sum().item()).toBe(0)
  expect(() => new nn.AlphaDropout(1.5)).toThrow(/AlphaDropout/)
})

test('channels of groups are interleaved; an axis is made several', () => {
  const x = tensor([0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15], [1, 2, 6])
  expect(new nn.ChannelShuffle(2).forward(x).dataSync()).toEqual(
    Float32Array.of(0, 3, 1, 4, 2, 5, 10, 13, 11, 14, 12, 15),
  )
  // With as many channels a group as there were groups, it is undone.
  expect(new nn.ChannelShuffle(3).forward(new nn.ChannelShuffle(2).forward(x)).dataSync()).toEqual(x.dataSync())
  expect(() => new nn.ChannelShuffle(4).forward(x)).toThrow(/4 groups divide, got \[1, 2, 6\]/)
  const parts = new nn.Unflatten(-1, [2, -1]).forward(x)
  expect(parts.shape).toEqual([1, 2, 2, 3])
  expect(new nn.Unflatten(1, [1, 2]).forward(x).shape).toEqual([1, 1, 2, 6])
  expect(() => new nn.Unflatten(1, [3]).forward(x)).toThrow(/reshape/)
})

test('paddings of images, and maxima of bins', () => {
  const x = values(2, 3, 4, 2)
  const around = (n: number): [number, number] => [n, n]
  const pairs = [around(0), around(1), around(1), around(0)]
  for (const [layer, fill] of [
    [new nn.ZeroPad2d(1), 0],
    [new nn.ReflectionPad2d(1), 'reflect'],
    [new nn.ReplicationPad2d(1), 'replicate'],
    [new nn.CircularPad2d([around(1), around(1)]), 'circular'],
  ] as const)
    expect(layer.forward(x).dataSync()).toEqual(x.pad(pairs, fill).dataSync())
  expect(() => new nn.ZeroPad2d([around(1)])).toThrow(/^ZeroPad2d: expected a number or 2 pairs/)
  expect(() => new nn.ZeroPad2d(1).forward(values(2, 3, 4))).toThrow(/^ZeroPad2d: expected input with 4 axes/)

  expect(new nn.AdaptiveMaxPool2d([2, 3]).forward(x).dataSync()).toEqual(x.adaptiveMaxPool2d([2, 3]).dataSync())
  expect(new nn.AdaptiveMaxPool1d(2).forward(values(2, 5, 3)).shape).toEqual([2, 2, 3])
  expect(new nn.AdaptiveMaxPool3d(1).forward(values(1, 2, 3, 4, 5)).shape).toEqual([1, 1, 1, 1, 5])
})

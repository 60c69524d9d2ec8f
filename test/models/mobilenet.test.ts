import { asa, compile, hostArray, models, nn, optim, seed, type Tensor } from '../../src'
import { add, batchNorm, crossEntropy, expectDefinition, linear, unsettle, type Weights } from '../support/networks'
import { gradientsOf } from '../support/record'
import * as ref from '../support/reference'
import { generator } from '../support/run'

const count = (model: nn.Module): number => model.parameters().reduce((n, p) => n + p.size, 0)

test('it has the 3,504,872 weights of its description, and half as wide 1,968,680', () => {
  for (const [width, weights] of [
    [1, 3504872],
    [0.5, 1968680],
  ]) {
    const model = new models.MobileNetV2({ classes: 1000, width })
    expect(count(model)).toBe(weights)
    expect(model.blocks.length).toBe(17)
    expect(model.blocks.filter((b) => b.residual).length).toBe(10)
    const f = compile({ model, forward: ({ x }) => model.forward(x) })
    expect(f.plan({ x: [2, 64, 64, 3] }).outputs.map((o) => o.shape)).toEqual([[2, 1000]])
    f.close()
    model.dispose()
  }
})

const images = (random: () => number, shape: number[]) =>
  hostArray(
    Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => 2 * random() - 1),
    shape,
  )

test.each([
  ['with a shortcut', 4, 4, 1, 3],
  ['that shrinks the image', 3, 5, 2, 2],
  ['as narrow inside', 4, 6, 1, 1],
] as const)(
  'a block %s: loss and gradients are those of the definition',
  async (_, inputs, outputs, stride, expand) => {
    const random = generator(31)
    class Net extends nn.Module {
      readonly block = new models.InvertedResidual(inputs, outputs, { stride, expand })
      readonly fc = new nn.Linear(outputs, 3)
      forward(x: Tensor): Tensor {
        return this.fc.forward(this.block.forward(x).mean([1, 2]))
      }
    }
    const model = unsettle(new Net(), random)
    const x = images(random, [3, 6, 5, inputs])
    const y = Int32Array.of(0, 1, 2)
    const conv = (t: ref.Arr, p: Weights, name: string, o: { stride?: number; padding?: number; groups?: number }) =>
      batchNorm(ref.conv2d(t, p[`block.${name}.conv.weight`], o), p, `block.${name}.norm`)
    const relu6 = (t: ref.Arr): ref.Arr => ref.map(t, (v) => Math.min(6, Math.max(0, v)))
    await expectDefinition(
      model,
      (b) => nn.crossEntropy(model.forward(b.x), b.y),
      { x, y: hostArray(y, [3]) },
      (p) => {
        const whole: ref.Arr = { shape: [...x.shape], data: Float64Array.from(x.data) }
        const wide = expand === 1 ? whole : relu6(conv(whole, p, 'widen', {}))
        const deep = relu6(conv(wide, p, 'depthwise', { stride, padding: 1, groups: inputs * expand }))
        const narrow = conv(deep, p, 'narrow', {})
        const z = inputs === outputs && stride === 1 ? add(whole, narrow) : narrow
        const flat = ref.reshape(z, [3, z.shape[1] * z.shape[2], outputs])
        const mean = ref.reshape(
          ref.lines(flat, 1, (line) => [ref.mean(line)]),
          [3, outputs],
        )
        return crossEntropy(linear(mean, p, 'fc'), y)
      },
    )
    model.dispose()
  },
)

/** Squares and crosses of any brightness, somewhere in an image with noise. */
function shapes(random: () => number, n: number) {
  const data = Float32Array.from({ length: n * 16 * 16 }, () => 0.3 * random())
  const y = Int32Array.from({ length: n }, () => Math.floor(2 * random()))
  for (let i = 0; i < n; i++) {
    const [row, column, light] = [Math.floor(10 * random()), Math.floor(10 * random()), 0.7 + random()]
    for (let r = 0; r < 6; r++)
      for (let c = 0; c < 6; c++) {
        const on = y[i] ? r === c || r === 5 - c : r === 0 || r === 5 || c === 0 || c === 5
        if (on) data[(i * 16 + row + r) * 16 + column + c] += light
      }
  }
  return { x: hostArray(data, [n, 16, 16, 1]), y: hostArray(y, [n]) }
}

test.each([
  ['backpropagation', undefined],
  ['ASA on what widens', { 'blocks.*.widen': asa() }],
] as const)('%s tells squares from crosses', async (_, memory) => {
  seed(3)
  const model = new models.MobileNetV2({ classes: 2, channels: 1, width: 0.25, stem: 'small' })
  const optimizer = new optim.Adam({ lr: 3e-3 })
  const step = compile({ model, loss: (b) => nn.crossEntropy(model.forward(b.x), b.y), optimizer, memory })
  const random = generator(12)
  for (let i = 0; i < 80; i++) await step.run(shapes(random, 16))
  const f = compile({ model, forward: ({ x }) => model.forward(x).argmax(-1) })
  const { x, y } = shapes(random, 100)
  const { data } = await f.run({ x })
  expect(Array.from(data).filter((v, i) => v === y.data[i]).length).toBeGreaterThan(85)
  f.close()
  step.close()
  optimizer.dispose()
  model.dispose()
})

test('transfer with lite residuals: what it computes is the same at first, and little is kept', async () => {
  seed(3)
  const model = new models.MobileNetV2({ classes: 2, channels: 1, width: 0.25, stem: 'small' })
  const batch = shapes(generator(1), 8)
  const loss = (b: Record<string, Tensor>): Tensor => nn.crossEntropy(model.forward(b.x), b.y)
  const full = await gradientsOf(model, loss, batch)
  model.eval()
  const before = await gradientsOf(model, loss, batch)
  expect(nn.addLiteResiduals(model, 'blocks.*').length).toBe(17)
  model.unfreeze('**.bias', 'fc')
  const tiny = await gradientsOf(model, loss, batch)
  expect(tiny.result.loss).toBeCloseTo(before.result.loss, 6)
  expect(tiny.plan.bytes.kept).toBeLessThan(0.35 * full.plan.bytes.kept)
  // Frozen blocks keep what ReLU6 let through, no activation.
  for (const k of tiny.plan.kept) if (/\.block\./.test(k.layer) && k.dtype === 'f32') expect(k.shape.length).toBe(1)
  const learns = Object.keys(tiny.gradients)
  expect(learns.some((n) => n.startsWith('blocks.16.conv1.weight'))).toBe(true)
  expect(learns.some((n) => /block\..*conv\.weight/.test(n))).toBe(false)
  model.dispose()
})

test('mistakes are named', () => {
  expect(() => new models.MobileNetV2({ classes: 2, widht: 1 } as never)).toThrow(
    /^MobileNetV2: there is no option widht/,
  )
  expect(() => new models.MobileNetV2({ classes: 2, width: 0 })).toThrow(/^MobileNetV2: expected a width > 0, got 0/)
  expect(() => new models.MobileNetV2({ classes: 2, stem: 'medium' as never })).toThrow(
    /'small' or 'large', got medium/,
  )
})

import { compile, hostArray, models, nn, optim, q2, quantized, seed } from '../../src'
import { add, crossEntropy, expectDefinition, gelu, layerNorm, linear, unsettle } from '../support/networks'
import * as ref from '../support/reference'
import { generator } from '../support/run'

const options = { image: [8, 12], patch: 4, channels: 2, layers: 2, features: 10, classes: 3, tokenHidden: 7 } as const

function small(n: number) {
  seed(7)
  const random = generator(21)
  const model = unsettle(new models.Mixer({ ...options, hidden: 12 }), random)
  const x = hostArray(
    Float32Array.from({ length: n * 8 * 12 * 2 }, () => 2 * random() - 1),
    [n, 8, 12, 2],
  )
  const y = Int32Array.from({ length: n }, (_, i) => i % 3)
  return { model, x, y }
}

test('Mixer-B/16 has the 59,880,472 weights of its description', () => {
  const model = new models.Mixer({ image: 224, patch: 16, layers: 12, features: 768, classes: 1000 })
  expect(model.parameters().reduce((n, p) => n + p.size, 0)).toBe(59880472)
  model.dispose()
})

test('loss and gradients are those of the definition in doubles', async () => {
  const { model, x, y } = small(2)
  const images: ref.Arr = { shape: [...x.shape], data: Float64Array.from(x.data) }
  await expectDefinition(
    model,
    (b) => nn.crossEntropy(model.forward(b.x), b.y),
    { x, y: hostArray(y, [2]) },
    (p) => {
      const patches = add(ref.conv2d(images, p['patches.weight'], { stride: 4 }), p['patches.bias'])
      let h = ref.reshape(patches, [2, 6, 10])
      const mlp = (t: ref.Arr, name: string): ref.Arr => linear(gelu(linear(t, p, `${name}.fc1`)), p, `${name}.fc2`)
      for (const block of ['blocks.0', 'blocks.1']) {
        const turned = ref.permute(layerNorm(h, p, `${block}.norm1`, 1e-6), [0, 2, 1])
        h = add(h, ref.permute(mlp(turned, `${block}.tokens`), [0, 2, 1]))
        h = add(h, mlp(layerNorm(h, p, `${block}.norm2`, 1e-6), `${block}.channels`))
      }
      const mean = ref.lines(layerNorm(h, p, 'norm', 1e-6), 1, (line) => [ref.mean(line)])
      return crossEntropy(linear(ref.reshape(mean, [2, 10]), p, 'head'), y)
    },
  )
  model.dispose()
})

test.each([
  ['backpropagation', undefined],
  ['ASA4', (m: models.Mixer) => models.asaPlacement(m, 4)],
  ['two bits', (m: models.Mixer) => models.asaPlacement(m, 4, q2())],
  [
    'eight bits of all, signs in the channels',
    (m: models.Mixer) => ({ '**': quantized(), ...models.asaPlacement(m, 2) }),
  ],
] as const)('a few steps of %s learn a batch', async (_, placed) => {
  const { model, x, y } = small(6)
  const optimizer = new optim.AdamW({ lr: 3e-3 })
  const loss = (b: { x: import('../../src').Tensor; y: import('../../src').Tensor }) =>
    nn.crossEntropy(model.forward(b.x), b.y)
  const step = compile({ model, loss, optimizer, memory: placed?.(model) })
  const losses: number[] = []
  for (let i = 0; i < 40; i++) losses.push((await step.run({ x, y })).loss)
  expect(losses.at(-1)!).toBeLessThan(0.5 * losses[0])
  step.close()
  optimizer.dispose()
  model.dispose()
})

test('sizes that do not fit are refused by name', () => {
  expect(() => new models.Mixer({ ...options, patch: 3 })).toThrow(
    /^Mixer: expected a patch that divides.*8 x 12, got 3/,
  )
  expect(() => new models.Mixer({ ...options, feature: 3 } as never)).toThrow(/^Mixer: there is no option feature/)
})

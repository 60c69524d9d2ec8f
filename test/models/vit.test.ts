import { asa, compile, hostArray, models, nn, optim, seed, tensor } from '../../src'
import {
  add,
  attention,
  crossEntropy,
  expectDefinition,
  gelu,
  layerNorm,
  linear,
  unsettle,
  type Weights,
} from '../support/networks'
import { snapshot } from '../support/record'
import * as ref from '../support/reference'
import { generator } from '../support/run'

const options = {
  image: [8, 12],
  patch: 4,
  channels: 2,
  layers: 2,
  features: 8,
  heads: 2,
  hidden: 12,
  classes: 3,
} as const

/** A model whose every parameter is away from its initial 0 or 1, and images with labels for it. */
function small(n: number) {
  seed(7)
  const random = generator(21)
  const model = unsettle(new models.ViT(options), random)
  const uniform = (size: number): Float32Array => Float32Array.from({ length: size }, () => 2 * random() - 1)
  const x = hostArray(uniform(n * 8 * 12 * 2), [n, 8, 12, 2])
  const y = Int32Array.from({ length: n }, (_, i) => i % 3)
  return { model, x, y }
}

/** Mean cross entropy of the model, by its definition and in doubles. */
function lossOf(p: Weights, x: ref.Arr, labels: Int32Array): number {
  const { patch, heads, features: f, layers } = options
  const n = x.shape[0]
  const patches = add(ref.conv2d(x, p['patches.weight'], { stride: patch }), p['patches.bias'])
  const count = patches.shape[1] * patches.shape[2]
  const flat = ref.reshape(patches, [n, count, f])
  const tokens = ref.make([n, 1 + count, f], ([b, t, c]) => (t === 0 ? p.token.data[c] : ref.get(flat, [b, t - 1, c])))
  let h = add(tokens, p.positions)
  for (let i = 0; i < layers; i++) {
    const block = `blocks.${i}`
    const a = layerNorm(h, p, `${block}.norm1`, 1e-6)
    h = add(h, attention(a, a, p, `${block}.attention`, heads))
    const wide = linear(layerNorm(h, p, `${block}.norm2`, 1e-6), p, `${block}.fc1`)
    h = add(h, linear(gelu(wide), p, `${block}.fc2`))
  }
  const first = ref.make([n, f], ([b, c]) => ref.get(h, [b, 0, c]))
  return crossEntropy(linear(layerNorm(first, p, 'norm', 1e-6), p, 'head'), labels)
}

test('ViT-Tiny has the 5,717,416 weights of its description, and a logit for each class', () => {
  const tiny = new models.ViT({ image: 224, patch: 16, layers: 12, features: 192, heads: 3, classes: 1000 })
  expect(tiny.parameters().reduce((n, p) => n + p.size, 0)).toBe(5717416)
  const shapes = Object.fromEntries([...tiny.namedParameters()].map(([name, p]) => [name, p.shape]))
  expect(shapes).toMatchObject({
    'patches.weight': [192, 16, 16, 3],
    token: [192],
    positions: [197, 192],
    'blocks.11.attention.out.weight': [192, 192],
    'blocks.11.fc1.weight': [768, 192],
    'head.weight': [1000, 192],
  })
  const f = compile({ model: tiny, forward: ({ x }) => tiny.forward(x) })
  expect(f.plan({ x: [2, 224, 224, 3] }).outputs.map((o) => o.shape)).toEqual([[2, 1000]])
  f.close()
  tiny.dispose()
})

test('loss and gradients are those of the definition in doubles', async () => {
  const { model, x, y } = small(2)
  const images: ref.Arr = { shape: [...x.shape], data: Float64Array.from(x.data) }
  const batch = { x, y: hostArray(y, [2]) }
  await expectDefinition(
    model,
    (b) => nn.crossEntropy(model.forward(b.x), b.y),
    batch,
    (p) => lossOf(p, images, y),
  )
  model.dispose()
})

test.each([
  ['backpropagation', undefined],
  ['ASA in the blocks', { 'blocks.*': asa() }],
] as const)('a few steps of %s learn a batch', async (_, memory) => {
  const { model, x, y } = small(6)
  const optimizer = new optim.AdamW({ lr: 3e-3 })
  const step = compile({ model, loss: (b) => nn.crossEntropy(model.forward(b.x), b.y), optimizer, memory })
  const plan = step.plan({ x: x.shape, y: { shape: [6], dtype: 'i32' } })
  const layers = plan.kept.filter((k) => k.policy === 'asa').map((k) => k.layer)
  // q, k and v read one input, of which one holds the signs.
  expect(new Set(layers.map((l) => l.split('.').slice(0, 2).join('.'))).size).toBe(memory ? 2 : 0)
  expect(layers.length).toBe(memory ? 2 * 4 : 0)
  const losses: number[] = []
  for (let i = 0; i < 40; i++) losses.push((await step.run({ x, y })).loss)
  expect(losses.at(-1)!).toBeLessThan(0.5 * losses[0])
  expect(step.measuredArenaBytes).toBe(plan.arenaBytes)
  step.close()
  optimizer.dispose()
  model.dispose()
})

test('dropout works in training alone, and the same seed makes the same model', () => {
  const build = (): models.ViT => {
    seed(5)
    return new models.ViT({ ...options, dropout: 0.3 })
  }
  const [a, b] = [build(), build()]
  expect(snapshot(a)).toEqual(snapshot(b))
  const random = generator(9)
  const x = tensor(Float32Array.from({ length: 2 * 8 * 12 * 2 }, random)).reshape([2, 8, 12, 2])
  const logits = (model: models.ViT): number[] => [...model.forward(x).dataSync()]
  expect(logits(a)).not.toEqual(logits(a))
  expect(logits(a.eval())).toEqual(logits(b.eval()))
  expect(logits(a)).toEqual(logits(a))
  a.dispose()
  b.dispose()
})

test('sizes that do not fit are refused by name', () => {
  for (const patch of [3, 0, 16])
    expect(() => new models.ViT({ ...options, patch })).toThrow(
      expect.objectContaining({
        code: 'AUX_INVALID_ARGUMENT',
        message: `ViT: expected a patch that divides an image of 8 x 12, got ${patch}`,
      }),
    )
  const model = new models.ViT(options)
  // As many patches, but not the image's.
  const x = tensor(new Float32Array(12 * 8 * 2)).reshape([1, 12, 8, 2])
  expect(() => model.forward(x)).toThrow(
    expect.objectContaining({
      code: 'AUX_SHAPE_MISMATCH',
      message: 'ViT: expected images [N, 8, 12, channels], got [1, 12, 8, 2]',
    }),
  )
  model.dispose()
})

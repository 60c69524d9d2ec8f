import { asa, checkpoint, nn, seed, tensor, valueAndGrad, zeros, type Tensor } from '../../src'
import { near, pytorch, wave } from '../support/pytorch'
import { gradientsOf, snapshot } from '../support/record'
import { withCode } from '../support/refusals'

const { losses, spectral } = pytorch<{
  losses: Record<string, { loss: number[]; gradient: number[] }>
  spectral: Record<string, number[]>
}>()

/** A layer that computes with these tensors in the place of its parameters. */
const using = <L>(layer: L, tensors: Record<string, Tensor>): L => Object.assign(layer as object, tensors) as L
const ids = () => tensor(Int32Array.of(1, 3, 0, 2, 0, 0, 0, 0, 0, 3, 3, 2), [4, 3])
const bag = (mode: nn.BagMode, paddingIdx?: number) => () => {
  const layer = new nn.EmbeddingBag(4, 3, { mode, paddingIdx })
  return (weight: Tensor) => using(layer, { weight }).forward(ids())
}
const bagsAt = (mode: nn.BagMode, paddingIdx?: number) => () => {
  const layer = new nn.EmbeddingBag(4, 3, { mode, paddingIdx })
  const [flat, starts] = [Int32Array.of(1, 3, 0, 2, 0, 3, 3), Int32Array.of(0, 2, 2, 4, 5)].map((v) => tensor(v))
  return (weight: Tensor) => using(layer, { weight }).forward(flat, starts)
}
const seen = () => tensor(Uint8Array.of(1, 1, 0, 1, 0, 0), [2, 1, 1, 3], 'bool')

const cases: [string, () => (...x: Tensor[]) => Tensor, number[][]][] = [
  [
    'Bilinear',
    () => {
      const layer = new nn.Bilinear(2, 3, 5)
      return (x, y, weight, bias) => using(layer, { weight, bias }).forward(x, y)
    },
    [[4, 2], [4, 3], [5, 2, 3], [5]],
  ],
  [
    'LayerNorm of two axes',
    () => {
      const layer = new nn.LayerNorm([2, 3])
      return (x, weight, bias) => using(layer, { weight, bias }).forward(x)
    },
    [
      [4, 2, 3],
      [2, 3],
      [2, 3],
    ],
  ],
  ['EmbeddingBag, mean', bag('mean', 0), [[4, 3]]],
  ['EmbeddingBag, sum', bag('sum', 0), [[4, 3]]],
  ['EmbeddingBag, max', bag('max', 0), [[4, 3]]],
  ...(['mean', 'sum'] as const).map((mode): (typeof cases)[number] => [
    `EmbeddingBag, ${mode} of offsets`,
    bagsAt(mode),
    [[4, 3]],
  ]),
  ['EmbeddingBag, mean of offsets, padding', bagsAt('mean', 0), [[4, 3]]],
  ['EmbeddingBag without padding', bag('mean'), [[4, 3]]],
  [
    'WeightNorm',
    () => {
      const norm = new nn.WeightNorm(new nn.Linear(4, 3, { bias: false }))
      return (x, weight, g) => {
        using(norm.layer, { weight })
        return using(norm, { g }).forward(x)
      }
    },
    [
      [2, 4],
      [3, 4],
      [3, 1],
    ],
  ],
  [
    'MultiHeadAttention',
    () => {
      const layer = new nn.MultiHeadAttention(4, 2, { bias: false, contextFeatures: 3 })
      return (x, context, q, k, v, out) => {
        Object.entries({ q, k, v, out }).forEach(([name, weight]) => using(layer[name as 'q'], { weight }))
        return layer.forward(x, { context, mask: seen() })
      }
    },
    [
      [2, 2, 4],
      [2, 3, 3],
      [4, 4],
      [4, 3],
      [4, 3],
      [4, 4],
    ],
  ],
]
test.each(cases)("%s: values and gradients are PyTorch's", (name, make, shapes) => {
  const f = make()
  const xs = shapes.map((shape, k) => wave(shape, 0.5 + k, 1.5))
  const { grads } = valueAndGrad((...x: Tensor[]) => f(...x).sum())(...xs)
  near(f(...xs).dataSync(), losses[name].loss)
  near(
    grads.flatMap((g) => [...g.dataSync()]),
    losses[name].gradient,
  )
})

test("SpectralNorm: iterations, values and gradients are PyTorch's", async () => {
  const unit = (t: Tensor): Tensor => t.div(t.norm())
  const norm = new nn.SpectralNorm(new nn.Linear(4, 3))
  norm.layer.weight.assign(wave([3, 4], 0.2))
  norm.layer.bias!.assign(wave([3], 1))
  norm.u.assign(unit(wave([3], 0.1)))
  norm.v.assign(unit(wave([4], 0.3)))
  const x = wave([2, 4], 0.4)
  const loss = ({ x }: Record<string, Tensor>) => {
    const y = norm.forward(x)
    return { loss: y.mul(wave([2, 3], 0.7)).sum(), y }
  }
  await gradientsOf(norm, loss, { x })
  const { result, gradients } = await gradientsOf(norm, loss, { x })
  near(result.y.data, spectral.y)
  near(gradients['layer.weight'], spectral.gradient)
  near(norm.u.dataSync(), spectral.u)
  near(norm.v.dataSync(), spectral.v)
  expect(Object.keys(gradients)).toEqual(['layer.weight', 'layer.bias'])
  near(norm.eval().forward(x).dataSync(), spectral.eval)
  near(norm.u.dataSync(), spectral.u)
})

/** Two convolutions, the first of which is normalised. */
class Net extends nn.Module {
  readonly last = new nn.Conv2d(4, 1, 3)
  constructor(readonly first: nn.WeightNorm<nn.Conv2d> | nn.SpectralNorm<nn.Conv2d>) {
    super()
  }
  forward(x: Tensor): Tensor {
    return this.last.forward(this.first.forward(x).relu())
  }
}
test.each([
  ['WeightNorm', () => new nn.WeightNorm(new nn.Conv2d(2, 4, 3))],
  ['SpectralNorm', () => new nn.SpectralNorm(new nn.Conv2d(2, 4, 3), { iterations: 2 })],
] as const)('%s under policies: computed again it is the same, and signs stand in for its input', async (_, make) => {
  const run = async (memory?: Parameters<typeof gradientsOf>[3]) => {
    seed(4)
    const model = new Net(make())
    const x = wave([2, 8, 8, 2], 0.3)
    const { gradients, plan, measured } = await gradientsOf(
      model,
      ({ x }) => model.forward(x).square().mean(),
      { x },
      memory,
    )
    expect(measured).toBe(plan.arenaBytes)
    const bytes = Object.entries(gradients).map(([name, g]) => [name, [...g]])
    return { bytes, state: snapshot(model), kept: plan.bytes.kept }
  }
  const plain = await run()
  const again = await run({ first: checkpoint() })
  expect(again.bytes).toEqual(plain.bytes)
  expect(again.state).toEqual(plain.state)
  const signs = await run({ last: asa() })
  expect(signs.kept).toBeLessThan(plain.kept)
  expect(signs.state).toEqual(plain.state)
})

test('norms of weights: what the layer computes first, and the largest singular value after long', () => {
  const x = wave([1, 5, 5, 2], 0)
  const conv = new nn.Conv2d(2, 4, 3)
  const y = conv.forward(x).dataSync()
  const norm = new nn.WeightNorm(conv)
  near(norm.forward(x).dataSync(), [...y])
  expect([...norm.namedParameters()].map(([name, p]) => [name, p.shape])).toEqual([
    ['g', [4, 1, 1, 1]],
    ['layer.weight', [4, 3, 3, 2]],
    ['layer.bias', [4]],
  ])

  // A diagonal: the largest entry is the largest singular value, of outputs that are the last axis.
  const up = new nn.ConvTranspose2d(3, 3, 1, { bias: false })
  up.weight.assign(Float32Array.of(1, 0, 0, 0, -4, 0, 0, 0, 2))
  const spectral = new nn.SpectralNorm(up, { axis: -1, iterations: 30 })
  near(spectral.forward(tensor([[[[1, 1, 1]]]])).dataSync(), [0.25, -1, 0.5])

  const wrong = (what: RegExp) => withCode('AUX_INVALID_ARGUMENT', what)
  expect(() => new nn.WeightNorm(new nn.ReLU() as never)).toThrow(wrong(/^WeightNorm: expected a layer with a weight/))
  expect(() => new nn.SpectralNorm(new nn.Linear(2, 2), { iterations: 0 })).toThrow(wrong(/iterations/))
  expect(() => new nn.SpectralNorm(new nn.Linear(2, 2), { eps: 0 })).toThrow(wrong(/eps > 0, got 0/))
  expect(() => new nn.WeightNorm(new nn.BatchNorm1d(2) as never)).toThrow(withCode('AUX_SHAPE_MISMATCH', /got \[2\]/))
})

test('what cannot be', () => {
  const shape = (what: RegExp) => withCode('AUX_SHAPE_MISMATCH', what)
  const wrong = (what: RegExp) => withCode('AUX_INVALID_ARGUMENT', what)
  expect(() => new nn.Bilinear(2, 3, 5).forward(zeros([4, 2]), zeros([3, 3]))).toThrow(
    shape(/^Bilinear: .*second input/),
  )
  expect(() => new nn.LayerNorm([2, 3]).forward(zeros([4, 3, 2]))).toThrow(shape(/\[\.\.\., 2, 3\], got \[4, 3, 2\]/))
  expect(() => new nn.LayerNorm([])).toThrow(wrong(/at least one size/))
  expect(() => new nn.EmbeddingBag(4, 3, { mode: 'median' as never })).toThrow(wrong(/got median/))
  expect(() => new nn.EmbeddingBag(4, 3, { paddingIdx: 4 })).toThrow(wrong(/paddingIdx/))
  expect(() => new nn.EmbeddingBag(4, 3).forward(tensor(Int32Array.of(1), []))).toThrow(shape(/\[\.\.\., T\]/))
  const [one, two] = [tensor(Int32Array.of(1)), tensor(Int32Array.of(1), [1, 1])]
  const largest = new nn.EmbeddingBag(4, 3, { mode: 'max', paddingIdx: 0 })
  expect(() => largest.forward(one, one)).toThrow(wrong(/in rows \[\.\.\., T\] for mode 'max', got offsets/))
  expect(() => new nn.EmbeddingBag(4, 3).forward(two, one)).toThrow(shape(/indices with offsets with 1 axes/))
  // A bag that begins behind the first index leaves one of none.
  expect(() => new nn.EmbeddingBag(4, 3).forward(one, one)).toThrow(withCode('AUX_INDEX_OUT_OF_RANGE', /index -1/))
  expect(() => new nn.MultiHeadAttention(4, 2, { contextFeatures: 0 })).toThrow(wrong(/contextFeatures/))
})

import { cosineSimilarity, grad, nn, tensor, valueAndGrad, zeros, type Tensor } from '../../src'
import { pytorch } from '../support/pytorch'
import { withCode } from '../support/refusals'

const { losses } = pytorch<{
  losses: Record<string, { loss: number[]; gradient: number[] }>
}>()

const pair = [4, 3]
const row = [4]
const wide = [4, 5]
const labels = () => tensor(Int32Array.of(2, 0, 4, 1))
const factors = () => tensor([0.5, 1, 2, 0.25, 1.5])
const several = () => tensor(Int32Array.of(3, 0, -1, 1, 2, -1, 1, 0, 2, 3, 0, 1, 2, 3, 4, 4, -1, -1, 2, -1), [4, 5])
type Last = (x: number) => number
const sign: Last = (x) => (x > 0 ? 1 : -1)
const one: Last = (x) => Number(x > 0)

const cases: [string, (...x: Tensor[]) => Tensor, number[][], Last | undefined][] = [
  ['poissonNll', (x, t) => nn.poissonNll(x, t), [pair, pair], (t) => Math.round(3 * Math.abs(t))],
  [
    'poissonNll of rates',
    (x, t) => nn.poissonNll(x.exp(), t, { logInput: false, reduction: 'sum' }),
    [pair, pair],
    Math.abs,
  ],
  ['gaussianNll', (x, v, t) => nn.gaussianNll(x, t, v.square().add(0.1)), [pair, pair, pair], Math.sin],
  [
    'gaussianNll, one variance',
    (x, v, t) => nn.gaussianNll(x, t, v.square().add(0.1), { reduction: 'none' }),
    [pair, [4, 1], pair],
    Math.sin,
  ],
  ['focal', (x, t) => nn.focal(x, t), [pair, pair], one],
  ['focal, other', (x, t) => nn.focal(x, t, { alpha: 0.6, gamma: 1.5, reduction: 'none' }), [pair, pair], one],
  ['cosineEmbedding', (x, y, t) => nn.cosineEmbedding(x, y, t), [pair, pair, row], sign],
  [
    'cosineEmbedding, margin',
    (x, y, t) => nn.cosineEmbedding(x, y, t.cast('i32'), { margin: 0.3, reduction: 'none' }),
    [pair, pair, row],
    sign,
  ],
  ['tripletMargin', (a, p, n) => nn.tripletMargin(a, p, n), [pair, pair, pair], undefined],
  [
    'tripletMargin, swapped',
    (a, p, n) => nn.tripletMargin(a, p, n, { margin: 2, p: 1, swap: true, reduction: 'none' }),
    [pair, pair, pair],
    undefined,
  ],
  ['tripletMargin, cubes', (a, p, n) => nn.tripletMargin(a, p, n, { margin: 2, p: 3 }), [pair, pair, pair], undefined],
  ['marginRanking', (x, y, t) => nn.marginRanking(x, y, t, { margin: 0.5 }), [row, row, row], sign],
  ['multiMargin', (x) => nn.multiMargin(x, labels()), [wide], undefined],
  [
    'multiMargin, all',
    (x) => nn.multiMargin(x, labels(), { p: 2, margin: 0.7, weight: factors(), reduction: 'none' }),
    [wide],
    undefined,
  ],
  ['multilabelMargin', (x) => nn.multilabelMargin(x, several()), [wide], undefined],
  ['multilabelMargin of each', (x) => nn.multilabelMargin(x, several(), { reduction: 'none' }), [wide], undefined],
  ['multilabelSoftMargin', (x, t) => nn.multilabelSoftMargin(x, t), [wide, wide], one],
  [
    'multilabelSoftMargin, weighted',
    (x, t) => nn.multilabelSoftMargin(x, t, { weight: factors(), reduction: 'sum' }),
    [wide, wide],
    one,
  ],
  ['softMargin', (x, t) => nn.softMargin(x, t), [pair, pair], sign],
  [
    'crossEntropy, weighted and smoothed',
    (x) => nn.crossEntropy(x, labels(), { weight: factors(), labelSmoothing: 0.2, ignoreIndex: 4 }),
    [wide],
    undefined,
  ],
  [
    'crossEntropy, weighted and smoothed, of each',
    (x) => nn.crossEntropy(x, labels(), { weight: factors(), labelSmoothing: 0.2, reduction: 'none' }),
    [wide],
    undefined,
  ],
  ['nll, weighted', (x) => nn.nll(x, labels(), { weight: factors(), ignoreIndex: 4 }), [wide], undefined],
  ['nll, weighted, of each', (x) => nn.nll(x, labels(), { weight: factors(), reduction: 'none' }), [wide], undefined],
  [
    'crossEntropy of weighted probabilities',
    (x, t) => nn.crossEntropy(x, t.softmax().detach(), { weight: factors(), labelSmoothing: 0.1 }),
    [wide, wide],
    (t) => t,
  ],
  ['hingeEmbedding', (x, t) => nn.hingeEmbedding(x, t, { reduction: 'none' }), [pair, pair], sign],
]
test.each(cases)("%s: value and gradient are PyTorch's", (name, f, shapes, last) => {
  const xs = shapes.map((shape, k) => {
    const n = shape.reduce((a, b) => a * b)
    const wave = Array.from({ length: n }, (_, i) => 1.5 * Math.sin(1.3 * i + 0.5 + k))
    return tensor(last && k === shapes.length - 1 ? wave.map(last) : wave).reshape(shape)
  })
  const rest = last ? xs.slice(-1) : []
  const { grads } = valueAndGrad((...x: Tensor[]) => f(...x, ...rest).sum())(...(last ? xs.slice(0, -1) : xs))
  const near = (got: number[], expected: number[]): void => {
    expect(got.length).toBe(expected.length)
    got.forEach((v, i) => expect(Math.abs(v - expected[i])).toBeLessThan(2e-6 * (1 + Math.abs(expected[i]))))
  }
  near([...f(...xs).dataSync()], losses[name].loss)
  near(
    grads.flatMap((g) => [...g.dataSync()]),
    losses[name].gradient,
  )
})

test('vectors of no length have a similarity, and gradients', () => {
  const f = (x: Tensor, y: Tensor): Tensor => cosineSimilarity(x, y, { axis: 0 }).sum()
  const { value, grads } = valueAndGrad(f)(
    zeros([3, 2]),
    tensor([
      [1, 0],
      [2, 0],
      [2, 0],
    ]),
  )
  expect(value.item()).toBe(0)
  for (const g of grads) expect([...g.dataSync()].every(Number.isFinite)).toBe(true)
})

test('focal with gamma 0 is half of the binary cross entropy', () => {
  const [x, t] = [tensor([-2, 0.5, 3]), tensor([0, 1, 1])]
  expect(nn.focal(x, t, { alpha: 0.5, gamma: 0 }).item()).toBeCloseTo(nn.bceWithLogits(x, t).item() / 2, 6)
})

test('bceWithLogits has all digits of small losses', () => {
  const x = [16, -16, 30, -30, 0.25]
  const losses = nn.bceWithLogits(tensor(x), tensor([1, 0, 1, 0, 0]), { posWeight: 3, reduction: 'none' }).dataSync()
  const exact = x.map((v, i) => (i % 2 || i === 4 ? 1 : 3) * Math.log1p(Math.exp(i === 4 ? v : -Math.abs(v))))
  exact.forEach((v, i) => expect(Math.abs(losses[i] - v)).toBeLessThan(5e-7 * v))
})

test('focal has gradients where the probability of the target is 1 and gamma below 1', () => {
  const targets = tensor([1, 0, 1])
  const [dx] = grad((x) => nn.focal(x, targets, { gamma: 0.5, reduction: 'sum' }))(tensor([40, -40, 0]))
  // -alpha (1 - p)^gamma (1 - p - gamma p log p), of p = 1/2.
  const middle = (-0.25 * Math.SQRT1_2 * (1 + 0.5 * Math.LN2)) / 2
  ;[0, 0, middle].forEach((expected, i) => expect(dx.dataSync()[i]).toBeCloseTo(expected, 6))
})

test('mistakes are named', () => {
  const [x, y] = [zeros([2, 3]), zeros([2])]
  const shape = (what: RegExp) => withCode('AUX_SHAPE_MISMATCH', what)
  expect(() => nn.poissonNll(x, y)).toThrow(shape(/^poissonNll: expected target of shape \[2, 3\]/))
  expect(() => nn.gaussianNll(x, x, zeros([3, 2, 3]))).toThrow(shape(/^gaussianNll: expected a variance/))
  expect(() => nn.cosineEmbedding(x, x, x)).toThrow(shape(/^cosineEmbedding: expected labels of shape \[2\]/))
  expect(() => nn.tripletMargin(x, x, y)).toThrow(shape(/^tripletMargin: expected negative of shape/))
  expect(() => nn.marginRanking(y, y, x)).toThrow(shape(/^marginRanking: expected labels/))
  const wrong = (what: RegExp) => withCode('AUX_INVALID_ARGUMENT', what)
  expect(() => nn.focal(x, x, { alpha: 2 })).toThrow(wrong(/alpha.*got 2/))
  expect(() => nn.gaussianNll(x, x, x, { eps: 0 })).toThrow(wrong(/eps > 0/))
  expect(() => nn.hingeEmbedding(y, y, { margin: NaN })).toThrow(wrong(/margin.*NaN/))
  expect(() => nn.tripletMargin(x, x, x, { p: 0.5 })).toThrow(wrong(/p to be a number >= 1, got 0.5/))
  expect(() => nn.tripletMargin(x, x, x, { marge: 3 } as never)).toThrow(wrong(/no option marge/))
  const two = tensor(Int32Array.of(0, 3))
  expect(() => nn.multiMargin(x, x)).toThrow(withCode('AUX_DTYPE_MISMATCH', /^multiMargin: expected labels/))
  expect(() => nn.multiMargin(x, two)).toThrow(withCode('AUX_INDEX_OUT_OF_RANGE', /3/))
  expect(() => nn.multiMargin(x, two, { p: 3 as 2 })).toThrow(wrong(/p to be 1 or 2, got 3/))
  expect(() => nn.multiMargin(x, two, { weight: y })).toThrow(shape(/weight of shape \[3\], got \[2\]/))
  expect(() => nn.multilabelMargin(x, two)).toThrow(shape(/^multilabelMargin: expected targets of shape \[2, 3\]/))
  expect(() => nn.multilabelSoftMargin(x, y)).toThrow(shape(/^multilabelSoftMargin: expected targets/))
  expect(() => nn.softMargin(x, y)).toThrow(shape(/^softMargin: expected labels/))
  expect(() => nn.crossEntropy(x, two, { weight: y })).toThrow(shape(/^crossEntropy: expected weight of shape \[3\]/))
  expect(() => nn.nll(x, two, { weight: y })).toThrow(shape(/^nll: expected weight of shape \[3\]/))
  expect(() => nn.poissonNll(x, [1] as never)).toThrow(wrong(/expected a tensor/))
})

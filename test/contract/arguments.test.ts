import {
  arange,
  AuxgradError,
  batchNorm,
  compile,
  concat,
  conv1d,
  conv3d,
  convTranspose2d,
  data,
  dot,
  dropout,
  embedding,
  grad,
  groupNorm,
  interpolate,
  layerNorm,
  memory as held,
  models,
  nn,
  ones,
  optim,
  outer,
  rmsNorm,
  scaledDotProductAttention,
  shuffle,
  stack,
  tensor,
  tidy,
  train,
  velocity,
  zeros,
} from '../../src'
import { withCode } from '../support/refusals'

// What JavaScript lets through where TypeScript would not: each argument in turn is something of another kind. What comes
// is an error of the library, never one of JavaScript or the end of the process.

const others = (): unknown[] => {
  const disposed = zeros([2])
  disposed.dispose()
  return [
    ...[undefined, null, NaN, -1, 0, 1.5, 17, Infinity, '2', '', true, new Date(0), () => 1],
    ...[[], [-1], ['2'], [NaN], [null], [[1], [2, 3]], {}, { bogus: 1 }, Float64Array.of(1, 2)],
    ...[zeros([2, 3]), zeros([0]), tensor(Int32Array.of(0, 1)), tensor([true, false]), disposed],
  ]
}

const rows = (): ReturnType<typeof zeros> => zeros([2, 3])
const state = () => ({ runningMean: zeros([3]), runningVar: ones([3]), momentum: 0.1 })
const q = () => zeros([1, 1, 2, 4])
const layer = () => new nn.Linear(3, 2)
const model = () => new nn.Sequential(layer())
const method =
  (self: () => object, name: string) =>
  (...args: unknown[]) =>
    (self() as Record<string, (...args: unknown[]) => unknown>)[name](...args)
const made =
  (Kind: new (...args: never[]) => unknown) =>
  (...args: unknown[]) =>
    new Kind(...(args as never[]))

/** Calls that are right, made anew for each try. */
const calls: Record<string, [f: (...args: never[]) => unknown, args: () => unknown[]]> = {
  arange: [arange, () => [0, 4, 1, 'f32']],
  batchNorm: [batchNorm, () => [rows(), ones([3]), zeros([3]), state(), true, 1e-5]],
  'batchNorm, evaluation': [batchNorm, () => [rows(), ones([3]), zeros([3]), state(), false, 1e-5]],
  groupNorm: [groupNorm, () => [zeros([1, 4, 2]), 1, ones([2]), zeros([2]), 1e-5]],
  layerNorm: [layerNorm, () => [rows(), ones([3]), zeros([3]), 1e-5]],
  rmsNorm: [rmsNorm, () => [rows(), ones([3]), 1e-6]],
  conv1d: [conv1d, () => [zeros([1, 4, 2]), zeros([2, 3, 2]), zeros([2]), { stride: 1, padding: 1, groups: 1 }]],
  conv3d: [conv3d, () => [zeros([1, 2, 4, 4, 2]), zeros([2, 1, 3, 3, 2]), zeros([2]), { stride: 1, padding: 1 }]],
  convTranspose2d: [
    convTranspose2d,
    () => [zeros([1, 4, 4, 2]), zeros([2, 3, 3, 2]), zeros([2]), { stride: 2, outputPadding: 1 }],
  ],
  dot: [dot, () => [zeros([2]), zeros([2])]],
  outer: [outer, () => [zeros([2]), zeros([2])]],
  dropout: [dropout, () => [rows(), 0.5, true]],
  embedding: [embedding, () => [tensor(Int32Array.of(0, 1)), rows(), { paddingIdx: 0 }]],
  interpolate: [interpolate, () => [zeros([1, 4, 4, 2]), { size: [8, 8], mode: 'bilinear' }]],
  'interpolate, scale': [interpolate, () => [zeros([1, 4, 4, 2]), { scale: 2 }]],
  nll: [nn.nll, () => [rows(), tensor(Int32Array.of(0, 1)), { ignoreIndex: -1 }]],
  klDivergence: [nn.klDivergence, () => [rows(), rows(), { reduction: 'sum' }]],
  attention: [scaledDotProductAttention, () => [q(), q(), q(), { mask: zeros([2, 2]), scale: 1, dropoutP: 0 }]],
  velocity: [velocity, () => [rows(), rows(), 0.9]],
  concat: [concat, () => [[rows(), rows()], 0]],
  stack: [stack, () => [[rows(), rows()], 0]],
  shuffle: [shuffle, () => [rows(), 0]],
  tidy: [tidy, () => [() => 1]],
  grad: [(f: never, x: never) => grad(f)(x), () => [(x: ReturnType<typeof zeros>) => x.sum(), rows()]],
  plan: [(x: never) => compile(({ x }) => x.relu()).plan({ x }), () => [{ shape: [2], dtype: 'f32' }]],
  'memory of compile': [
    (memory: never) => {
      const m = model()
      return compile({ model: m, forward: ({ x }) => m.forward(x), memory }).plan({ x: [2, 3] })
    },
    () => [[]],
  ],
  copyTo: [method(rows, 'copyTo'), () => [rows()]],
  assign: [method(rows, 'assign'), () => [rows()]],
  split: [method(rows, 'split'), () => [1, 0]],
  freeze: [method(model, 'freeze'), () => ['0']],
  frozen: [nn.frozen, () => ['q8', layer]],
  adapt: [nn.adapt, () => [model(), '**', { rank: 1 }]],
  asaPlacement: [models.asaPlacement, () => [new models.TransformerBlock({ features: 4, heads: 2 }), 1]],
  xavierUniform: [nn.init.xavierUniform, () => [[2, 2]]],
  orthogonal: [nn.init.orthogonal, () => [[2, 2], 1]],
  ConfusionMatrix: [made(train.ConfusionMatrix), () => [2]],
  'ConfusionMatrix, add': [method(() => new train.ConfusionMatrix(2), 'add'), () => [[0], [1]]],
  kFold: [method(() => data.fromArrays({ a: [1, 2, 3] }), 'kFold'), () => [2, { seed: 0 }]],
  LayerNorm: [made(nn.LayerNorm), () => [[2], { eps: 1e-5 }]],
  RNNCell: [made(nn.RNNCell), () => [2, 3, { nonlinearity: 'relu' }]],
  LSTM: [made(nn.LSTM), () => [2, 3, { layers: 1, dropout: 0 }]],
  Parameter: [made(nn.Parameter), () => [rows(), { table: true, sparse: false }]],
  TransformerBlock: [made(models.TransformerBlock), () => [{ features: 4, heads: 2, dropout: 0 }]],
  GPT: [made(models.GPT), () => [{ vocabulary: 5, length: 4, layers: 1, features: 4, heads: 2 }]],
  InvertedResidual: [made(models.InvertedResidual), () => [2, 2, { stride: 1, expand: 2 }]],
  SGD: [made(optim.SGD), () => [{ lr: 0.1, momentum: 0.9, weightDecay: 0.1, groups: [{ match: '**' }] }]],
  Adafactor: [made(optim.Adafactor), () => [{ lr: 0.1, least: 1, eps: 1 }]],
  randomCrop: [data.randomCrop, () => [2, { padding: 1 }]],
  permutation: [data.permutation, () => [4, 1, 0]],
  scalarsOf: [train.scalarsOf, () => [{ type: 'epoch', loss: 1 }]],
}

/** The arguments, with something else in one place: an argument, or an option of one. */
function* wrong(args: () => unknown[]): Iterable<unknown[]> {
  const count = args().length
  for (let i = 0; i < count; i++) {
    const given = args()[i]
    const names =
      typeof given === 'object' && given !== null && Object.getPrototypeOf(given) === Object.prototype
        ? Object.keys(given)
        : []
    for (const [k] of others().entries()) {
      yield args().map((a, j) => (j === i ? others()[k] : a))
      for (const name of [...names, 'bogus'])
        if (names.length) yield args().map((a, j) => (j === i ? { ...(a as object), [name]: others()[k] } : a))
    }
  }
}

test('a refused plan leaves nothing behind, of the optimizer neither; what was there before stays', async () => {
  const m = layer()
  const optimizer = new optim.Adam({ lr: 0.1 })
  const before = held().live
  const loss = ({ x }: Record<string, ReturnType<typeof zeros>>) => m.forward(x).mean()
  for (const accumulate of [1, 2]) {
    const tight = compile({ model: m, loss, optimizer, budget: 64, accumulate })
    expect(() => tight.plan({ x: [2, 3] })).toThrow(withCode('AUX_BUDGET_TOO_SMALL'))
    expect(held().live).toBe(before)
    tight.close()
  }
  const step = compile({ model: m, loss, optimizer })
  await step.run({ x: [[1, 2, 3]] })
  const moments = [...step.stateTensors()].map(([, t]) => t.toArray())
  const tight = compile({ model: m, loss, optimizer, budget: 64 })
  expect(() => tight.plan({ x: [2, 3] })).toThrow(withCode('AUX_BUDGET_TOO_SMALL'))
  expect([...step.stateTensors()].map(([, t]) => t.toArray())).toEqual(moments)
  for (const s of [tight, step]) s.close()
  for (const t of [optimizer, m]) t.dispose()
})

test('a signal may have any reason', async () => {
  const m = layer()
  const step = compile({ model: m, loss: ({ x }) => m.forward(x).mean(), optimizer: new optim.SGD({ lr: 0.1 }) })
  await expect(step.run({ x: [[1, 2, 3]] }, { signal: AbortSignal.abort('enough') })).rejects.toBe('enough')
  expect(step.runs).toBe(0)
})

test.each(Object.entries(calls))('%s: what is of another kind is an error that says so', (_, [f, args]) => {
  tidy(() => void f(...(args() as never[])))
  let refused = 0
  for (const given of tidy(() => [...wrong(args)]))
    try {
      tidy(() => void f(...(given as never[])))
    } catch (error) {
      if (!(error instanceof AuxgradError)) throw error
      refused++
    }
  expect(refused).toBeGreaterThan(5)
})

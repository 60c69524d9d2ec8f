import { compile, nn, optim, tensor, type Tensor } from '../../src'
import { pytorch } from '../support/pytorch'
import { withCode } from '../support/refusals'

const { optimizers, schedules } = pytorch<{
  optimizers: Record<string, number[][]>
  schedules: Record<string, number[]>
}>()

const wave = (n: number, phase: number, scale = 1): Float32Array =>
  Float32Array.from({ length: n }, (_, i) => scale * Math.sin(1.3 * i + phase))

class Line extends nn.Module {
  readonly w = new nn.Parameter(tensor(wave(4, 0), [4]))
  forward(x: Tensor): Tensor {
    return this.w.mul(x).sum() // its gradient is x
  }
}

const cases: [string, optim.Base][] = [
  ['RMSprop', new optim.RMSprop({ lr: 0.05 })],
  ['RMSprop, momentum', new optim.RMSprop({ lr: 0.05, alpha: 0.9, momentum: 0.8, eps: 1e-3 })],
  ['RMSprop, centered', new optim.RMSprop({ lr: 0.05, alpha: 0.9, centered: true, weightDecay: 0.1 })],
  ['RMSprop, all', new optim.RMSprop({ lr: 0.05, momentum: 0.5, centered: true, weightDecay: 0.01 })],
  ['Adagrad', new optim.Adagrad({ lr: 0.05 })],
  [
    'Adagrad, all',
    new optim.Adagrad({ lr: 0.1, lrDecay: 0.1, weightDecay: 0.1, initialAccumulatorValue: 0.5, eps: 1e-3 }),
  ],
  ['Adam, amsgrad', new optim.Adam({ lr: 0.05, betas: [0.8, 0.9], weightDecay: 0.1, amsgrad: true })],
  ['AdamW, amsgrad', new optim.AdamW({ lr: 0.05, weightDecay: 0.1, amsgrad: true })],
  ['Adamax', new optim.Adamax({ lr: 0.05 })],
  ['Adamax, all', new optim.Adamax({ lr: 0.05, betas: [0.8, 0.9], eps: 1e-3, weightDecay: 0.1 })],
  ['NAdam', new optim.NAdam({ lr: 0.05 })],
  ['NAdam, all', new optim.NAdam({ lr: 0.05, betas: [0.8, 0.9], eps: 1e-3, weightDecay: 0.1, momentumDecay: 0.1 })],
  ['RAdam', new optim.RAdam({ lr: 0.05 })],
  ['RAdam, all', new optim.RAdam({ lr: 0.05, betas: [0.8, 0.9], eps: 1e-3, weightDecay: 0.1 })],
  ['RAdam, momentum alone', new optim.RAdam({ lr: 0.05, betas: [0.9, 0.5] })],
  ['Adadelta', new optim.Adadelta({ lr: 1 })],
  ['Adadelta, all', new optim.Adadelta({ lr: 0.5, rho: 0.8, eps: 1e-3, weightDecay: 0.1 })],
  ['SGD, dampening', new optim.SGD({ lr: 0.05, momentum: 0.9, dampening: 0.3, weightDecay: 0.1 })],
]
test.each(cases)("%s: 20 steps are PyTorch's", async (name, optimizer) => {
  const model = new Line()
  const step = compile({ model, loss: ({ x }) => model.forward(x), optimizer })
  for (const [k, expected] of optimizers[name].entries()) {
    await step.run({ x: wave(4, 0.7 * k + 0.4, 10 ** ((k % 3) - 1)) })
    model.w.dataSync().forEach((w, i) => expect(Math.abs(w - expected[i])).toBeLessThan(3e-6))
  }
  step.close()
})

const { cosine, cosineRestarts, cyclic, linear, oneCycle, polynomial, sequence, stepDecay } = optim.schedule
const rates: [string, (step: number) => number][] = [
  ['StepLR', stepDecay(0.5, { every: 5, gamma: 0.3 })],
  ['MultiStepLR', stepDecay(0.5, { at: [3, 10, 11], gamma: 0.3 })],
  ['ExponentialLR', stepDecay(0.5, { every: 1, gamma: 0.9 })],
  ['LinearLR', linear(0.5 / 3, { steps: 8, end: 0.5 })],
  ['PolynomialLR', polynomial(0.5, { steps: 20, power: 2.5 })],
  ['CosineAnnealingLR', cosine(0.5, { steps: 23, end: 0.1 })],
  ['CosineAnnealingWarmRestarts', cosineRestarts(0.5, { period: 5, end: 0.1 })],
  ['CosineAnnealingWarmRestarts, longer', cosineRestarts(0.5, { period: 3, factor: 2 })],
  ['CyclicLR', cyclic(0.5, { low: 0.1, rise: 4 })],
  ['CyclicLR, triangular2', cyclic(0.5, { low: 0.1, rise: 2, fall: 5, gamma: 0.5 })],
  ['OneCycleLR', oneCycle(0.5, { steps: 25 })],
  ['OneCycleLR, all', oneCycle(0.5, { steps: 25, rise: 0.4, divide: 10, finalDivide: 100 })],
  ['SequentialLR', sequence([linear(0.05, { steps: 6, end: 0.5 }), cosine(0.5, { steps: 20 })], [6])],
]
test.each(rates)("%s: the rates are PyTorch's", (name, schedule) => {
  schedules[name].forEach((rate, step) => expect(schedule(step)).toBeCloseTo(rate, 8))
})

test('a warm-up before restarts, a sequence of rates, and what cannot be', () => {
  const warm = cosineRestarts(1, { period: 4, warmUp: 2 })
  expect([0, 1, 2, 4, 6].map(warm).map((v) => Number(v.toFixed(9)))).toEqual([0.5, 1, 1, 0.5, 1])
  expect([0, 1, 2, 4, 5, 99].map(sequence([1, 2, (n) => n], [2, 5]))).toEqual([1, 1, 2, 2, 0, 94])
  const refused = (what: RegExp) => withCode('AUX_INVALID_ARGUMENT', what)
  expect(() => stepDecay(1, { every: 2, at: [3] } as never)).toThrow(refused(/^stepDecay: expected every, or at/))
  expect(() => stepDecay(1, { at: 3 } as never)).toThrow(refused(/at to be an array, got 3/))
  expect(() => polynomial(1, { steps: 3, power: -1 })).toThrow(refused(/^polynomial: expected power >= 0, got -1/))
  expect(() => polynomial(1, undefined as never)).toThrow(refused(/^polynomial: expected an object of options/))
  expect(() => cosineRestarts(1, { period: 0 })).toThrow(refused(/period and factor >= 1, got 0 and 1/))
  expect(() => cosineRestarts(1, { period: 2, factor: 0.5 })).toThrow(refused(/got 2 and 0.5/))
  expect(() => cyclic(1, { low: 0, rise: 0 })).toThrow(refused(/^cyclic: expected rise and fall > 0/))
  expect(() => cyclic(1, { rise: 2 } as never)).toThrow(refused(/^cyclic: expected low >= 0, got undefined/))
  expect(() => sequence([1, 2], [])).toThrow(refused(/^sequence: expected schedules/))
  expect(() => sequence([1, 2, 3], [4, 4])).toThrow(refused(/increasing .* got 4, 4/))
  expect(() => sequence(undefined as never, [])).toThrow(refused(/got undefined/))
})

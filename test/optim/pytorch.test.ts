import { readFileSync } from 'node:fs'
import path from 'node:path'
import { compile, nn, optim, tensor, type Tensor } from '../../src'

/** Made by `pytorch.py` beside it. */
const { optimizers } = JSON.parse(readFileSync(path.join(__dirname, '..', 'fixtures', 'pytorch.json'), 'utf8')) as {
  optimizers: Record<string, number[][]>
}

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

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

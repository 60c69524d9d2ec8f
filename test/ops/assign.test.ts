import {
  backprop,
  checkpoint,
  compile,
  nn,
  optim,
  seed,
  tensor,
  zeros,
  type MemoryPolicy,
  type Tensor,
} from '../../src'
import { withCode } from '../support/refusals'

/** What an optimizer of one's own looks like. */
class RMSprop extends optim.Base {
  readonly name = 'rmsprop'
  protected readonly slots = ['square']

  protected apply(w: Tensor, { square }: Record<string, Tensor>, g: Tensor, { lr, scale }: optim.UpdateInputs): void {
    if (scale) g = g.mul(scale)
    square.assign(square.mul(0.9).add(g.square().mul(0.1)))
    w.assign(w.sub(g.div(square.sqrt().add(1e-6)).mul(lr)))
  }
}

test("an optimizer of one's own reads what it has assigned", async () => {
  class Line extends nn.Module {
    w = new nn.Parameter(tensor([1, -2, 3]))
    forward(x: Tensor): Tensor {
      return this.w.mul(x).sum()
    }
  }
  const model = new Line()
  const optimizer = new RMSprop({ lr: 0.1 })
  const step = compile({ model, loss: ({ x }) => model.forward(x), optimizer, clip: { norm: 1 } })
  const [w, square] = [
    [1, -2, 3],
    [0, 0, 0],
  ]
  for (let k = 1; k < 6; k++) {
    const x = [k, 0.1 * k - 1, -1 / k]
    await step.run({ x })
    const norm = Math.max(1, Math.hypot(...x))
    x.forEach((v, i) => {
      square[i] = 0.9 * square[i] + 0.1 * (v / norm) ** 2
      w[i] -= (0.1 * v) / norm / (Math.sqrt(square[i]) + 1e-6)
    })
  }
  model.w.dataSync().forEach((v, i) => expect(v).toBeCloseTo(w[i], 5))
  expect(step.plan({ x: [3] }).bytes.optimizer).toBe(64)
})

/** A mean over all batches, as batch norms have one; called twice a step. */
class Centre extends nn.Module {
  mean = nn.buffer(zeros([2]))
  fc = new nn.Linear(2, 2)
  forward(x: Tensor): Tensor {
    if (this.training) this.mean.assign(this.mean.mul(0.5).add(x.mean([0]).mul(0.5)))
    return this.fc.forward(x.sub(this.mean)).tanh()
  }
}

test.each<[string, MemoryPolicy]>([
  ['backpropagation', backprop()],
  ['checkpointing', checkpoint()],
])('a buffer that forward assigns to changes from run to run: %s', async (_, memory) => {
  seed(0)
  const model = new Centre()
  const step = compile({
    model,
    loss: ({ x }) => {
      const centred = model.forward(x)
      return { loss: model.forward(centred).square().mean(), second: model.mean, first: centred.mean([0]) }
    },
    optimizer: new optim.SGD({ lr: 0.1 }),
    memory,
  })
  let mean = [0, 0]
  for (const x of [[[1, 2]], [[3, -4]], [[0.5, 6]]]) {
    const [weight, bias] = [model.fc.weight.toArray() as number[][], model.fc.bias!.toArray() as number[]]
    const { second, first } = await step.run({ x })
    for (const row of [x[0], [...first.data]]) mean = mean.map((m, i) => 0.5 * m + 0.5 * row[i])
    second.data.forEach((v, i) => expect(v).toBeCloseTo(mean[i], 5))
    model.mean.dataSync().forEach((v, i) => expect(v).toBeCloseTo(mean[i], 5))
    const before = mean.map((m, i) => 2 * m - first.data[i])
    first.data.forEach((v, i) =>
      expect(v).toBeCloseTo(Math.tanh(weight[i].reduce((s, w, j) => s + w * (x[0][j] - before[j]), bias[i])), 5),
    )
  }
  const kept = model.mean.toArray()
  await compile({ model, forward: ({ x }) => model.forward(x) }).run({ x: [[9, 9]] })
  expect(model.mean.toArray()).toEqual(kept)
})

test('tensors change places, each with what the other held', () => {
  const [a, b] = [tensor([1, 2]), tensor([3, 4])]
  const swap = compile(({ x }) => {
    const old = a.mul(1)
    a.assign(b)
    b.assign(old)
    return x.add(a).add(b.mul(10))
  })
  expect([...swap.runSync({ x: [0, 0] }).data]).toEqual([13, 24])
  expect([a.toArray(), b.toArray()]).toEqual([
    [3, 4],
    [1, 2],
  ])
  const shift = compile(({ x }) => {
    a.assign(b)
    b.assign(x)
    return a.add(0)
  })
  shift.runSync({ x: [7, 8] })
  expect([...shift.runSync({ x: [9, 9] }).data]).toEqual([7, 8])
  expect([a.toArray(), b.toArray()]).toEqual([
    [7, 8],
    [9, 9],
  ])
})

test('what cannot be assigned to is an error while the step is compiled', () => {
  const model = new nn.Linear(2, 2)
  const train = (loss: (x: Tensor) => Tensor) =>
    compile({ model, loss: ({ x }) => loss(x), optimizer: new optim.SGD({ lr: 1 }) }).plan({ x: [1, 2] })
  const learning = (x: Tensor): Tensor => {
    model.weight.assign(model.weight.clamp(-1, 1))
    return model.forward(x).mean()
  }
  expect(() => train(learning)).toThrow(withCode('AUX_INVALID_ARGUMENT', /weight is changed by the optimizer/))
  model.freeze('weight')
  train(learning)
  const refused: [(x: Tensor) => Tensor, RegExp][] = [
    [(x) => x.assign(x.mul(2)), /expected a parameter or a buffer/],
    [(x) => model.bias!.narrow(0, 0, 1).assign(x.sum([0]).narrow(0, 0, 1)), /expected a parameter or a buffer/],
    [(x) => model.weight.assign(x), /expected values of shape \[2, 2\], got \[1, 2\]/],
    [(x) => model.weight.assign(model.weight.gt(x.sum())), /expected values of dtype f32, got bool/],
  ]
  for (const [f, message] of refused) expect(() => compile(({ x }) => f(x)).plan({ x: [1, 2] })).toThrow(message)
})
